"""What capture makes of networks that write in place, and of networks that it has to refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.capture import capture
from exporter.errors import UnsupportedModel, UnsupportedOp
from exporter.program import SOURCE, interpret, place_of, retrace, run_operator, scope_of, to_module


def line_of(text: str) -> str:
    """Return ``test_capture.py:line`` of the one line of this file that carries a comment."""
    (number,) = (i for i, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith(f"  # {text}"))
    return f"{__file__}:{number}"


# -- networks that write in place --------------------------------------------------------------------------------


class Overwritten(nn.Module):
    """A value is read after it was overwritten, by one name and by the other."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        z = y.relu_()
        y += 1
        return y * z + y


class OverwrittenInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        y = x + 1
        x.relu_()
        return x * y


class OverwrittenView(nn.Module):
    """Writing into a view writes into its base, and the base's other views see it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        other = y[:, 1:]
        y[:, :2].relu_()
        y[:, 2] = 5
        return torch.cat([y, other], 1)


class OverwrittenFlat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 0
        flat = y.view(-1)
        flat.mul_(3)
        return y + x


class OverwrittenAfterDropout(nn.Module):
    """In eval mode a dropout returns its input itself, which sees what is written into the result."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        y = x + 0
        z = self.dropout(torch.dropout(y, 0.5, train=False))
        z += 1
        return F.dropout(y, p=0.0) * 2 + z


WRITERS = (Overwritten, OverwrittenInput, OverwrittenView, OverwrittenFlat, OverwrittenAfterDropout)


@pytest.mark.parametrize("net", [writer().eval() for writer in WRITERS])
@pytest.mark.parametrize("batch", [1, 3])
def test_writing_in_place(net: nn.Module, batch: int) -> None:
    program = capture(net, torch.zeros(1, 4))
    image = torch.randn(batch, 4, generator=torch.Generator().manual_seed(0))
    untouched = image.clone()
    (found,) = to_module(program)(image)
    assert torch.equal(image, untouched)
    assert torch.equal(found, net(image.clone()))
    assert len(program.outputs) == 1
    mutating = [node for node in program.graph.nodes if getattr(node.target, "_schema", None) and is_mutating(node)]
    assert mutating == []


def is_mutating(node: torch.fx.Node) -> bool:
    schema: torch._C.FunctionSchema = node.target._schema  # type: ignore[union-attr]
    return schema.is_mutable


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_only_the_shape_of_the_example_matters(batch: int) -> None:
    example = torch.full((batch, 4), torch.nan)
    program = capture(nn.Linear(4, 3), example)
    assert example.isnan().all()
    assert program.inputs == ("image",)
    assert isinstance(program.outputs[0].meta["val"].shape[0], torch.SymInt)
    assert program.outputs[0].meta["val"].shape[1] == 3


def test_the_example_is_not_written_to() -> None:
    example = torch.ones(2, 4)
    capture(OverwrittenInput(), example)
    assert torch.equal(example, torch.ones(2, 4))


def test_a_float64_example_gives_a_float64_program() -> None:
    program = capture(nn.Linear(4, 3).double(), torch.zeros(1, 4, dtype=torch.float64))
    assert program.outputs[0].meta["val"].dtype == torch.float64


# -- names -------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv1(x))
        y += x  # the line of the sum
        return self.drop(self.relu(y))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.relu = nn.ReLU()
        self.relu_1 = nn.ReLU()  # as the second call of relu would be named
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu_1(self.relu(self.relu(self.layer1(x))))
        return x.mean((2, 3)) + x.mean((2, 3))


def test_a_size_that_a_step_asks_for_has_its_name() -> None:
    program = capture(Block(), torch.zeros(1, 3, 8, 9), dynamic=("batch", "height", "width"))

    def asking(*values: Tensor) -> tuple[Tensor, ...]:
        def call(node: torch.fx.Node, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> Tensor:
            assert "add" not in str(node.target) or args[0].shape[3] == 9
            return run_operator(node, args, kwargs)

        return tuple(interpret(program, values, call)[node] for node in program.outputs)

    place = line_of("the line of the sum")
    with pytest.raises(
        UnsupportedOp, match=rf"aten.add.Tensor needs a fixed size: it depends on Eq\(width, 9\) \(add, {place}\)"
    ):
        retrace(program, asking)


def test_scopes_and_tensors() -> None:
    net = Named()
    program = capture(net, torch.zeros(1, 3, 2, 2))
    operators = [node for node in program.graph.nodes if node.op == "call_function"]
    block = ("conv1", "relu", "add", "relu_1")  # a dropout leaves nothing
    assert [scope_of(node) for node in operators if isinstance(node.target, torch._ops.OpOverload)] == [
        *(f"layer1.{index}.{name}" for index in (0, 1) for name in block),
        *("relu", "relu_2", "relu_1", "mean", "mean_1", "add"),
    ]
    state = net.state_dict()
    assert list(program.tensors) == [name for name in state if name.startswith("layer1")]
    assert all(torch.equal(tensor, state[name]) for name, tensor in program.tensors.items())
    (added,) = (node for node in operators if scope_of(node) == "layer1.1.add")
    assert added.meta["custom"][SOURCE] == line_of("the line of the sum")
    assert place_of(added) == f"layer1.1.add, {line_of('the line of the sum')}"


# -- modes -------------------------------------------------------------------------------------------------------


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such thing.\nSecond line.")


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_in_the_mode_that_it_was_in(fails: bool) -> None:
    frozen = nn.BatchNorm1d(4).eval()
    net = nn.Sequential(nn.Linear(4, 4), frozen, nn.Dropout(), *([Fails()] if fails else []))
    net.train()
    frozen.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    if fails:
        with pytest.raises(UnsupportedModel):
            capture(net, torch.zeros(2, 4))
    else:
        program = capture(net, torch.zeros(2, 4))
        image = torch.randn(3, 4)
        (found,) = to_module(program)(image)
        assert torch.equal(found, frozen(net[0](image)))
    assert [module.training for module in net] == [True, False, True, *([True] if fails else [])]
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


# -- refusals ------------------------------------------------------------------------------------------------------


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 4) if x.shape[0] == 1 else x.view(2, 4)


class OneRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the branch
            return x * 2
        return x


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Returns(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> object:
        values = {"dict": {"logits": x}, "tuple": (x, x), "list": [x], "None": None}
        shapes = {"sequence": x[:, None], "vector": x[:, 0], "nothing": x[:, :0], "scalar": x.sum()}
        return {**values, **shapes}[self.what]


REFUSALS = {
    "fixed batch": (
        FixedBatch(),
        "FixedBatch works with a fixed batch size only; use x.shape[0] or -1 in place of the number",
    ),
    "one row": (
        OneRow(),
        "OneRow returns 1 row(s) of logits for a batch of any size; an attribution needs logits [N, K]",
    ),
    "branch": (
        Branch(),
        f"the control flow of Branch depends on the data ({line_of('the branch')}), so no fixed graph describes it. "
        "Rewrite the branch with torch.where",
    ),
    "state": (
        Counter(),
        "Counter writes into its buffers in eval mode (calls); an artifact has no state.",
    ),
    "wrong shape": (
        nn.Linear(5, 2),
        "Linear does not run on an input of shape (1, 4) (torch.float32): mat1 and mat2 shapes cannot be multiplied "
        "(1x4 and 5x2). Check --input-shape and the weights.",
    ),
    "raises": (
        Fails(),
        "Fails does not run on an input of shape (1, 4) (torch.float32): no such thing. Check --input-shape",
    ),
    "dict": (
        Returns("dict"),
        "Returns returns dict, not a tensor of logits [N, K]. Pick the logits with --output-key logits.",
    ),
    "tuple": (
        Returns("tuple"),
        "Returns returns tuple, not a tensor of logits [N, K]. Pick the logits with --output-key 0 or 1.",
    ),
    "None": (Returns("None"), "Returns returns NoneType, not a tensor of logits [N, K]. Wrap it in a module"),
    "sequence": (
        Returns("sequence"),
        "Returns returns a tensor of shape (1, 1, 4) for one input; an attribution needs logits [N, K]",
    ),
    "vector": (Returns("vector"), "Returns returns a tensor of shape (1,) for one input"),
    "nothing": (Returns("nothing"), "Returns returns a tensor of shape (1, 0) for one input"),
    "scalar": (Returns("scalar"), "Returns returns a tensor of shape () for one input"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One message, and nothing else on the user's screen."""
    net, message = REFUSALS[name]
    with pytest.raises(UnsupportedModel, match="^" + re.escape(message)) as error:
        capture(net, torch.zeros(3, 4))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
