"""What a network does to its gradients by itself: harmless, it exports; else it is refused with the reason."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import exporter
from exporter.patch import Patch
from exporter.precision import Throughout
from tests.oracle import attribute


class Straight(Function):
    """A straight-through estimator: rounds, and hands the cotangent on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


class Reversed(Function):
    """A gradient reversal layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return -grads[0]


class Swish(Function):
    """Keeps less than autograd would, and has the same derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grads[0] * (s + x * s * (1 - s))


class Net(nn.Module):
    """Two linear layers, and what happens between them."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self._between = between
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self._between(self, self.first(x)))


def hooked(hook: Callable[[Tensor], Tensor | None]) -> Callable[[Any, Tensor], Tensor]:
    def between(net: Any, x: Tensor) -> Tensor:
        x = F.relu(x)
        x.register_hook(hook)
        return x

    return between


def retained(net: Net, x: Tensor) -> Tensor:
    x = F.relu(x)
    x.retain_grad()
    net.kept.append(x)
    return x


def checkpointed(reentrant: bool) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, x: F.relu(checkpoint(lambda y: F.relu(y).sin(), x, use_reentrant=reentrant))


def with_module_hook(hook: Callable[..., Any]) -> Net:
    net = Net(lambda net, x: F.relu(x))
    net.second.register_full_backward_hook(hook)
    return net


HARMLESS = {
    "a function with the right derivative": lambda: Net(lambda net, x: F.relu(Swish.apply(x))),
    "a hook that looks": lambda: Net(hooked(lambda g: None)),
    "a gradient that is retained": lambda: Net(retained),
    "a module hook that looks": lambda: with_module_hook(lambda module, into, out: None),
    "a checkpoint": lambda: Net(checkpointed(False)),
    "a reentrant checkpoint": lambda: Net(checkpointed(True)),
}
TWINS = {"a reentrant checkpoint": "a checkpoint"}
"""What :func:`torch.autograd.grad` refuses -> the same function, which it does not."""


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_exports(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, twin = HARMLESS[name]().eval(), HARMLESS[TWINS.get(name, name)]().eval()
    twin.load_state_dict(model.state_dict())
    image, target = torch.randn(3, 6), torch.tensor([-1, 2, 0])
    logits, attribution = attribute(twin, image, target, "guided")
    exporter.export(model, (6,), tmp_path / "a")
    found = exporter.load(tmp_path / "a")(image.numpy(), target.numpy())
    torch.testing.assert_close(torch.from_numpy(found.attribution), attribution, rtol=1e-5, atol=1e-6)
    built = exporter.build(model, image)
    for ours, theirs in zip(built(image, target), (logits, attribution), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


HARMFUL = {
    "a gradient reversal": (lambda: Net(lambda net, x: F.relu(Reversed.apply(x))), r"autograd\.Function Reversed"),
    "a hook that changes": (
        lambda: Net(hooked(lambda g: -g)),
        r"a hook on a tensor's gradient \(\S*test_own_backward.py:\d+\)",
    ),
    "a module hook that changes": (
        lambda: with_module_hook(lambda module, into, out: (-into[0],)),
        "a backward hook on second",
    ),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_what_changes_gradients_is_refused_with_its_name(name: str, tmp_path: Any) -> None:
    factory, reason = HARMFUL[name]
    torch.manual_seed(0)
    model, message = factory(), rf"(?s)not equal to live autograd.*the network has {reason}, of which"
    with pytest.raises(exporter.VerificationFailed, match=message):
        exporter.build(model, torch.zeros(1, 6))
    with pytest.raises(exporter.VerificationFailed, match=message):
        exporter.export(model, (6,), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_where_nothing_is_left_to_attribute_the_reason_is_named() -> None:
    with pytest.raises(
        exporter.UnsupportedModel, match=r"nothing to attribute; the network has autograd\.Function Straight"
    ):
        exporter.build(Net(lambda net, x: F.relu(Straight.apply(x))), torch.zeros(1, 6))


def written_beside(fill: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def between(net: Any, x: Tensor) -> Tensor:
        x = F.relu(x)
        mask = fill(x)
        with torch.no_grad():
            mask[:, 2:].mul_(0.5)
            first, _ = mask.chunk(2, 1)
            first.add_(1)
        return x * mask

    return between


@pytest.mark.parametrize(
    "fill",
    [
        torch.ones_like,
        lambda x: torch.ones(x.shape[0], 8),
        lambda x: torch.sigmoid(x).detach().clone(),
        lambda x: torch.full_like(x, 0.5),
        lambda x: (x > 0).to(x.dtype),
    ],
    ids=["ones_like", "ones", "detached", "full_like", "compared"],
)
def test_writing_without_gradients_into_what_has_none(fill: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Net(written_beside(fill)).eval()
    image, target = torch.randn(3, 6), torch.tensor([-1, 2, 0])
    _, expected = attribute(model, image, target, "guided")
    torch.testing.assert_close(exporter.build(model, image)(image, target)[1], expected, rtol=1e-5, atol=1e-6)


def counted(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.count.add_(1)
    return F.relu(x)


def test_a_buffer_that_is_written_into_is_named() -> None:
    model = Net(counted)
    model.register_buffer("count", torch.zeros(()))
    with pytest.raises(exporter.UnsupportedModel, match=r"writes into its buffers in eval mode \(count\)"):
        exporter.build(model, torch.zeros(1, 6))


def test_looking_for_the_reason_leaves_the_network_as_it_is() -> None:
    model = Net(lambda net, x: F.relu(Straight.apply(net.norm(x))))
    model.norm = nn.BatchNorm1d(8)
    before = {name: tensor.clone() for name, tensor in model.train().state_dict().items()}
    with pytest.raises(exporter.UnsupportedModel, match=r"autograd\.Function Straight"):
        exporter.build(model, torch.zeros(1, 6))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def chunked(net: Any, x: Tensor) -> Tensor:
    x = F.relu(x)
    with torch.no_grad():
        x.chunk(2, 1)[0].clamp_(0.1, 0.5)
    return x


def overwritten(net: Any, x: Tensor) -> Tensor:
    x = F.relu(x)
    with torch.no_grad():
        x[:, 2:].clamp_(0.1, 0.5)
    return x


@pytest.mark.parametrize("between", [overwritten, chunked])
def test_writing_without_gradients_into_what_has_one_is_refused(between: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(
        exporter.UnsupportedModel,
        match=r"clamp_.default writes, under torch.no_grad\(\), into a tensor that has a gradient \(\S*.py:\d+\)",
    ):
        exporter.build(Net(between), torch.zeros(1, 6))


def overwritten_for_autograd(net: Any, x: Tensor) -> Tensor:
    return torch.sigmoid(x).mul_(2)


def test_what_autograd_refuses_is_told(tmp_path: Any) -> None:
    """A sigmoid's result, which its derivative needs, is overwritten."""
    model = Net(overwritten_for_autograd)
    for make in (lambda: exporter.build(model, torch.zeros(1, 6)), lambda: exporter.export(model, (6,), tmp_path)):
        with pytest.raises(exporter.UnsupportedModel, match=r"autograd does not run Net: .*modified by an inplace"):
            make()


def test_what_is_replaced_for_a_while_is_put_back_by_the_last() -> None:
    class Owner:
        value = "own"

    first, second = (Patch(Owner, "value", "other") for _ in range(2))
    assert Owner.value == "own"
    one, two = first(), first()
    with one:
        two.__enter__()
        assert Owner.value == "other"
    assert Owner.value == "other"
    two.__exit__(None, None, None)
    assert Owner.value == "own"
    with pytest.raises(ValueError, match="inside"), second():
        raise ValueError("inside")
    assert Owner.value == "own"


def test_what_a_twin_asks_of_float64_is_told_of_float32() -> None:
    original = torch.finfo
    with Throughout(twin=True):
        assert torch.finfo(torch.float64).eps == original(torch.float32).eps
        assert torch.finfo(torch.float16).eps == original(torch.float16).eps
        with ThreadPoolExecutor() as pool:  # another thread is no twin
            assert pool.submit(lambda: torch.finfo(torch.float64).eps).result() == original(torch.float64).eps
    assert torch.finfo is original


class Raising(Net):
    """Raises where gradients are on, as a bug in a hook does."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise ValueError("not with gradients")
        return super().forward(x)


def test_what_the_network_raises_under_autograd_is_told() -> None:
    with pytest.raises(exporter.UnsupportedModel, match=r"autograd does not run Raising: not with gradients \(.*py:"):
        exporter.build(Raising(lambda net, x: F.relu(x)), torch.zeros(1, 6))


def test_what_cannot_be_copied_is_told(tmp_path: Any) -> None:
    model = Net(lambda net, x: F.relu(x))
    model.lock = threading.Lock()
    exporter.export(model, (6,), tmp_path / "a")
    with pytest.raises(exporter.UnsupportedModel, match="Net cannot be copied for another dtype: cannot pickle"):
        exporter.export(model, (6,), tmp_path / "b", dtype="float64")


class Box:
    """Holds anything."""

    value: Any = None


def test_what_is_kept_in_an_object_of_the_users_is_no_hindrance(tmp_path: Any) -> None:
    def between(net: Any, x: Tensor) -> Tensor:
        net.box.value = F.relu(x)
        return net.box.value

    model = Net(between)
    model.box = Box()
    assert exporter.export(model, (6,), tmp_path / "a").manifest["parity"]["skipped"] == ""


def test_a_traced_part_goes_to_the_trial_and_is_named_where_it_fails(tmp_path: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = torch.jit.trace(nn.Linear(8, 8), torch.zeros(2, 8))
        rectified = torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Linear(8, 8)), torch.zeros(2, 8))
    torch.manual_seed(0)
    model = Net(lambda net, x: F.relu(net.part(x)))
    model.part = plain
    exporter.export(model, (6,), tmp_path / "a")
    model.part = rectified
    with pytest.raises(exporter.VerificationFailed, match="the network has TorchScript in part"):
        exporter.export(model, (6,), tmp_path / "b")
