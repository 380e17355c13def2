"""Functionalisation: what is written into a tensor is read from then on, under every name that it has."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.program import Program, to_module
from tests.test_parity import network


class Computing(nn.Module):
    """A network of one function of a convolution's result."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.function = function

    def forward(self, image: Tensor) -> Tensor:
        return self.function(self, image).flatten(1)[:, :5]


@pytest.fixture
def traced_again(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    """What PyTorch had to functionalise."""
    found: list[ExportedProgram] = []
    original = ExportedProgram.run_decompositions

    def run(self, *args):
        found.append(self)
        return original(self, *args)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", run)
    return found


def answers_of(program: Program, image: Tensor) -> Tensor:
    with torch.no_grad():
        return to_module(program)(image)[0]


def in_place_then_read(net, image):
    x = net.conv(image)
    y = x.relu_()
    return x + 2 * y


def read_then_in_place(net, image):
    x = net.conv(image)
    y = torch.sigmoid(x)
    x.relu_()
    return x + y


def twice_under_both_names(net, image):
    x = net.conv(image)
    y = x.add_(1)
    x.mul_(2)
    y.relu_()
    return x * 3 + y


def with_itself(net, image):
    x = net.conv(image)
    y = x.relu_()
    x.add_(y)
    return x.add_(x)


def one_into_another(net, image):
    x, y = net.conv(image), net.norm(net.conv(image + 1))
    x.add_(y)
    y.mul_(x)
    return F.hardtanh_(x, -1, 1) + y.clamp_(min=0)


def returned_under_its_old_name(net, image):
    x = net.conv(image)
    x.relu_()
    return x


def viewed_afterwards(net, image):
    x = net.conv(image).relu_()
    return x.permute(0, 2, 3, 1) + x[:, :1].transpose(1, 2).transpose(2, 3)


def shaped_by_its_size(net, image):
    x = net.conv(image).relu_()
    return x.view(x.size(0), x.shape[1] * x.shape[2] // 2, -1) * x.size(2)


def taken_apart(net, image):
    x = net.conv(image)
    first, second = x.unflatten(1, (2, 2)).unbind(1)
    return first.narrow(2, 0, 2).expand_as(second[:, :, :2]) * torch.tensor(0.5) + torch.arange(4.0)


@pytest.mark.parametrize(
    "function",
    [
        in_place_then_read,
        read_then_in_place,
        twice_under_both_names,
        with_itself,
        one_into_another,
        returned_under_its_old_name,
        viewed_afterwards,
        shaped_by_its_size,
        taken_apart,
    ],
)
def test_what_is_written_into_fresh_tensors(function, traced_again: list[ExportedProgram]) -> None:
    check(Computing(function))
    assert not traced_again


def viewed_before(net, image):
    x = net.conv(image)
    y = x.permute(0, 2, 3, 1)
    x.relu_()
    return x + y.transpose(1, 3).transpose(2, 3)


def viewed_under_another_name(net, image):
    x = net.conv(image)
    y = x.add_(0.5)
    view = y.flatten(1)
    x.relu_()
    return view


def into_a_view(net, image):
    x = net.conv(image)
    x[:, 1].relu_()
    return x


def into_what_may_be_the_input(net, image):
    x = net.conv(image)
    F.dropout(x, 0.5, training=False).relu_()
    return x


def into_the_input(net, image):
    image.relu_()
    return net.conv(image)


@pytest.mark.parametrize(
    "function",
    [
        viewed_before,
        viewed_under_another_name,
        into_a_view,
        into_what_may_be_the_input,
        into_the_input,
    ],
)
def test_what_is_written_elsewhere(function) -> None:
    check(Computing(function))


def check(model: Computing) -> None:
    image = torch.randn(3, 3, 6, 6)
    program = capture(model, image)
    calls = [node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert calls
    assert not any(op._schema.is_mutable for op in calls)
    for captured in (program, canonicalize(program)):
        assert torch.equal(answers_of(captured, image), model.eval()(image.clone()).detach())


def operators(program: Program) -> list[tuple[str, str]]:
    """Return a program's operators, with their arguments numbered; a change of shape is one however it is spelled."""
    numbers: dict[fx.Node, int] = {}
    found = []
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            continue
        numbers[node] = len(numbers)
        reshapes = node.target in (torch.ops.aten.flatten.using_ints, torch.ops.aten.reshape.default)
        args = (node.args[:1], {}) if reshapes else (node.args, node.kwargs)
        name = "reshape" if reshapes else str(node.target) if node.op == "call_function" else node.op
        found.append((name, str(fx.map_arg(args, lambda given: f"#{numbers[given]}"))))
    return found


@pytest.mark.parametrize("name", ["mlp", "alexnet", "cifar_resnet20", "resnet18", "mobilenet_v2"])
def test_as_pytorch_does_it(name: str, traced_again: list[ExportedProgram], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no family of the zoo is anything traced again; the canonical program is the same, operator by operator."""
    model, shape = network(name)
    image = torch.zeros(1, *shape)
    program = canonicalize(capture(model, image))
    assert not traced_again
    monkeypatch.setattr("exporter.capture.functionalize", lambda exported: exported.run_decompositions({}))
    assert operators(program) == operators(canonicalize(capture(model, image)))
    assert len(traced_again) == 1


def test_batch_norm_that_trains_is_left_to_pytorch(traced_again: list[ExportedProgram]) -> None:
    """It writes into its statistics, which no alias in its schema says."""
    from exporter.functional import functionalize

    model = nn.BatchNorm2d(3).train()
    exported = torch.export.export(model, (torch.zeros(2, 3, 4, 4),), dynamic_shapes=({0: Dim("batch")},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export's own deprecations
        assert functionalize(exported).graph_signature.buffers_to_mutate
    assert len(traced_again) == 1
