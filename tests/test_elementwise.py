"""Values of elementwise operators that a trace does not run: they look as PyTorch's own fake tensors do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import map_arg
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from exporter import program
from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.elementwise import Elementwise, bare
from exporter.lowering import PASSES, lower
from exporter.methods import METHODS
from exporter.program import Program
from models.cifar_resnet import CifarResNet
from models.mobilenet import InvertedResidual
from tests.networks import CeilPooled, Strided, Unet

aten = torch.ops.aten


@pytest.fixture
def shapes() -> ShapeEnv:
    return ShapeEnv()


@pytest.fixture
def fake(shapes: ShapeEnv) -> Callable[..., Any]:
    """Make fake tensors whose first size varies, as one size of them all."""
    mode = FakeTensorMode(shape_env=shapes)
    batch: list[Tensor] = []

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        if not batch:
            context = StatelessSymbolicContext([DimDynamic.DYNAMIC])
            batch.append(mode.from_tensor(torch.zeros(6), symbolic_context=context))
        with mode:
            return torch.empty(batch[0].shape[0], *shape, dtype=dtype)

    return make


def look(tensor: Any) -> tuple[Any, ...]:
    """Return all that a trace reads of a fake tensor, formulas as text."""
    return (
        type(tensor),
        tensor.dtype,
        tensor.device,
        *map(str, (*tensor.shape, *tensor.stride(), tensor.storage_offset(), tensor.is_contiguous())),
        tensor.requires_grad,
    )


def asked(function: Callable[[], Tensor], mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compare what a function returns within ``Elementwise`` with what it returns without; what was PyTorch asked?"""
    operators = []
    with mode:
        expected = function()
    own = FakeTensorMode.dispatch

    def dispatch(self, func, types, args=(), kwargs=None):
        operators.append(str(func))
        return own(self, func, types, args, kwargs)

    monkeypatch.setattr(FakeTensorMode, "dispatch", dispatch)
    with mode, Elementwise():
        found = function()
    assert look(found) == look(expected)
    return operators


KNOWN = {
    "product": lambda x, y: aten.mul.Tensor(x, y),
    "sum with a factor": lambda x, y: aten.sub.Tensor(x, 2.0),
    "comparison": lambda x, y: aten.gt.Scalar(x, 0),
    "comparison of two": lambda x, y: aten.eq.Tensor(x, y),
    "rectifier": lambda x, y: aten.relu.default(x),
    "difference the other way round": lambda x, y: aten.rsub.Tensor(x, y),
    "difference of a number": lambda x, y: aten.rsub.Scalar(x, 2, 3),
    "floor division": lambda x, y: aten.floor_divide.default(x, y),
    "one-pass mask": lambda x, y: aten.leaky_relu_backward.default(x, y, 0.0, False),
    "clamp": lambda x, y: aten.clamp.default(x, 0.0, 6.0),
    "choice": lambda x, y: aten.where.self(aten.gt.Scalar(x, 0), x, y),
    "mask and number": lambda x, y: aten.mul.Tensor(x, aten.gt.Scalar(y, 0)),
    "negation": lambda x, y: aten.logical_not.default(x),
    "conversion": lambda x, y: aten._to_copy.default(aten.gt.Scalar(x, 0), dtype=torch.float64),
    "power": lambda x, y: aten.pow.Tensor_Scalar(x, 2),
    "whole numbers divided": lambda x, y: aten.div.Tensor(
        aten._to_copy.default(x, dtype=torch.int64), aten._to_copy.default(y, dtype=torch.int64)
    ),
    "whole numbers and a fraction": lambda x, y: aten.mul.Tensor(aten._to_copy.default(x, dtype=torch.int64), 0.5),
    "doubles and floats": lambda x, y: aten.add.Tensor(aten._to_copy.default(x, dtype=torch.float64), y),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 5)])
def test_known_values(name: str, shape: tuple[int, ...], fake, shapes: ShapeEnv, monkeypatch) -> None:
    x, y = fake(*shape), fake(*shape)
    assert not asked(lambda: KNOWN[name](x, y), x.fake_mode, monkeypatch)
    assert not shapes.guards


LEFT = {
    "broadcast": (aten.mul.Tensor, lambda x, y: aten.mul.Tensor(x, y[:, :, :1])),
    "one weight for all": (aten.mul.Tensor, lambda x, y: aten.mul.Tensor(y.new_ones(()), x)),
    "another order in memory": (aten.relu.default, lambda x, y: aten.relu.default(x.transpose(1, 2))),
    "channels last": (aten.mul.Tensor, lambda x, y: aten.mul.Tensor(last(x), last(y))),
    "two orders in memory": (aten.mul.Tensor, lambda x, y: aten.mul.Tensor(x, last(y))),
    "expanded": (aten.relu.default, lambda x, y: aten.relu.default(x[:, :, :1].expand(-1, -1, 4, -1))),
    "no elementwise operator": (aten.sum.dim_IntList, lambda x, y: aten.sum.dim_IntList(x, [1])),
    "rounding mode": (aten.div.Tensor_mode, lambda x, y: aten.div.Tensor_mode(x, y, rounding_mode="floor")),
}


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", LEFT)
def test_values_left_to_pytorch(name: str, fake, monkeypatch) -> None:
    x, y = fake(3, 4, 5), fake(3, 4, 5)
    op, function = LEFT[name]
    assert str(op) in asked(lambda: function(x, y), x.fake_mode, monkeypatch)


def test_a_dtype_that_depends_on_the_default(fake, monkeypatch) -> None:
    whole = fake(3, dtype=torch.int64)
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            assert not asked(lambda: aten.div.Tensor(whole, whole), whole.fake_mode, monkeypatch)
        finally:
            torch.set_default_dtype(torch.float32)


def test_traces_of_other_threads_are_described() -> None:
    def description() -> Any:
        traced = make_fx(lambda x: x * 2, tracing_mode="fake")(torch.zeros(3))
        return next(iter(traced.graph.nodes)).meta.get("tensor_meta")

    with bare(), ThreadPoolExecutor(1) as other:
        assert description() is None
        assert other.submit(description).result().shape == (3,)
    assert description().shape == (3,)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor, tuple[str, ...]]]] = {
    "inverted residuals": lambda: (
        nn.Sequential(InvertedResidual(3, 8, 2, 6), InvertedResidual(8, 8, 1, 6), nn.Flatten(), nn.Linear(512, 5)),
        torch.zeros(1, 3, 16, 16),
        ("batch",),
    ),
    "a ResNet of any size": lambda: (
        CifarResNet(1, num_classes=5, width=4),
        torch.zeros(1, 3, 32, 32),
        ("batch", "height", "width"),
    ),
    "Unet": lambda: (Unet(), torch.zeros(1, 3, 8, 8), ("batch",)),
    "Strided": lambda: (Strided(), torch.zeros(1, 3, 16, 16), ("batch",)),
    "CeilPooled": lambda: (CeilPooled(), torch.zeros(1, 3, 16, 16), ("batch",)),
}


def nodes(program: Program) -> list[Any]:
    """Return a program's nodes without their names: sizes that nothing needs in the end take part in numbering them."""
    index = {node: position for position, node in enumerate(program.graph.nodes)}
    return [
        (
            node.op,
            node.target if node.op == "call_function" else "",
            map_arg((node.args, node.kwargs), index.__getitem__),
        )
        for node in program.graph.nodes
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_programs_are_those_that_pytorch_traces_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = capture(*NETWORKS[name]())  # by PyTorch alone

    def programs() -> list[Program]:
        explicit = differentiate(canonicalize(captured), METHODS["guided"])
        return [explicit, *(lower(explicit, target) for target in PASSES)]

    found = programs()
    monkeypatch.setattr(program, "Elementwise", nullcontext)
    for ours, theirs in zip(found, programs(), strict=True):
        assert nodes(ours) == nodes(theirs)
        for node, other in zip(ours.graph.nodes, theirs.graph.nodes, strict=True):
            if isinstance(other.meta.get("val"), Tensor):
                assert look(node.meta["val"]) == look(other.meta["val"]), node
