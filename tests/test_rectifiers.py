"""Which calls are rectifiers, and what each method does there, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.methods import METHODS
from exporter.pipeline import build
from exporter.program import to_module
from exporter.rectifiers import RANGES, active, rectifier_ceiling
from exporter.reference import live
from tests.oracle import attribute

aten = torch.ops.aten
inf = math.inf

CALLS = [
    (aten.relu.default, (), {}, inf),
    (aten.relu6.default, (), {}, 6),
    (aten.hardtanh.default, (0, 6), {}, 6),
    (aten.hardtanh.default, (0.0, 1.5), {}, 1.5),
    (aten.hardtanh.default, (-0.0, 6), {}, 6),
    (aten.hardtanh.default, (), {}, None),
    (aten.hardtanh.default, (-1, 1), {}, None),
    (aten.hardtanh.default, (0.5, 6), {}, None),
    (aten.hardtanh.default, (-6, 0), {}, None),
    (aten.clamp.default, (0,), {}, inf),
    (aten.clamp.default, (0.0, None), {}, inf),
    (aten.clamp.default, (), {"min": 0}, inf),
    (aten.clamp.default, (0, 6), {}, 6),
    (aten.clamp.default, (), {"min": 0, "max": 6}, 6),
    (aten.clamp.default, (0,), {"max": 6}, 6),
    (aten.clamp.default, (None, 6), {}, None),
    (aten.clamp.default, (None, 0), {}, None),
    (aten.clamp.default, (), {"max": 6}, None),
    (aten.clamp.default, (-1, 6), {}, None),
    (aten.clamp.default, (1e-6,), {}, None),
    (aten.clamp.default, (0, 0), {}, None),
    (aten.clamp.default, (0, -1), {}, None),
    (aten.clip.default, (0,), {}, inf),
    (aten.clip.default, (None, 6), {}, None),
    (aten.clamp_min.default, (0,), {}, inf),
    (aten.clamp_min.default, (), {"min": 0}, inf),
    (aten.clamp_min.default, (-1,), {}, None),
    (aten.threshold.default, (0, 0), {}, inf),
    (aten.threshold.default, (0.0, -0.0), {}, inf),
    (aten.threshold.default, (0, 1), {}, None),
    (aten.threshold.default, (1, 0), {}, None),
    (aten.threshold.default, (1, 1), {}, None),
    (aten.clamp_max.default, (0,), {}, None),
    (aten.leaky_relu.default, (0.0,), {}, None),
    (aten.abs.default, (), {}, None),
]


@pytest.mark.parametrize(("op", "args", "kwargs", "ceiling"), CALLS)
def test_rectifier_ceiling(
    op: torch._ops.OpOverload, args: tuple[float, ...], kwargs: dict[str, float], ceiling: float | None
) -> None:
    assert rectifier_ceiling(op, *args, **kwargs) == ceiling


def test_every_range_has_a_call() -> None:
    assert set(RANGES) - {op for op, *_ in CALLS} == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_active_is_strict_at_both_ends(dtype: torch.dtype) -> None:
    """Of the rectifier's output: 0 < x < ceiling, and -0.0 is 0.0."""
    tiny = torch.finfo(dtype).tiny
    y = torch.tensor([0.0, -0.0, tiny, 1.0, 6.0, 7.0, inf], dtype=dtype)
    assert active(y, inf).tolist() == [False, False, True, True, True, True, True]
    below = torch.nextafter(torch.tensor(6.0, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
    y = torch.tensor([0.0, -0.0, tiny, 1.0, below, 6.0], dtype=dtype)
    assert active(y, 6.0).tolist() == [False, False, True, True, True, False]


# -- the methods, by hand ----------------------------------------------------------------------------------------

# the rectifier's input x, the cotangent g that arrives, and what guided, gradient and deconvnet send on
RELU = [
    (-2.0, 1.0, 0, 0, 1),
    (-2.0, -1.0, 0, 0, 0),
    (-2.0, 0.0, 0, 0, 0),
    (-0.0, 1.0, 0, 0, 1),
    (-0.0, -1.0, 0, 0, 0),
    (0.0, 1.0, 0, 0, 1),
    (0.0, -1.0, 0, 0, 0),
    (3.0, 2.0, 2, 2, 2),
    (3.0, -2.0, 0, -2, 0),
    (3.0, 0.0, 0, 0, 0),
    (6.0, 2.0, 2, 2, 2),
    (7.0, 2.0, 2, 2, 2),
    (7.0, -2.0, 0, -2, 0),
]
RELU6 = [
    *RELU[:10],
    (6.0, 2.0, 0, 0, 2),
    (6.0, -2.0, 0, 0, 0),
    (7.0, 2.0, 0, 0, 2),
    (7.0, -2.0, 0, 0, 0),
]
COLUMN = {"guided": 2, "gradient": 3, "deconvnet": 4}


def test_the_table_knows_every_method() -> None:
    assert set(METHODS) == set(COLUMN)


@pytest.mark.parametrize("method", COLUMN)
@pytest.mark.parametrize("row", RELU)
def test_a_methods_formula(method: str, row: tuple[float, ...]) -> None:
    x, g = torch.tensor(row[:2])
    assert METHODS[method].rule(g, x > 0).item() == row[COLUMN[method]]
    assert METHODS[method].rule(g.double(), x > 0).dtype == torch.float64
    # the formula that the manifest prints is the rule
    assert eval(METHODS[method].formula, {"g": g, "x": x}).item() == row[COLUMN[method]]


class Rectified(nn.Module):
    """One score: the rectified input weighted with the cotangents that the table asks for."""

    def __init__(self, rectify: Callable[[Tensor], Tensor], g: Tensor) -> None:
        super().__init__()
        self.rectify = rectify
        self.register_buffer("g", g)

    def forward(self, x: Tensor) -> Tensor:
        return (self.rectify(x) * self.g).sum(1, keepdim=True)


class Twice(nn.Module):
    """One ReLU object used twice, in place the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.relu(x * 1))


def _in_two_parts(x: Tensor) -> Tensor:
    x[:, :4].relu_()
    x[:, 4:].relu_()
    return x


SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], list[tuple[float, ...]]]] = {
    "nn.ReLU": (nn.ReLU(), RELU),
    "nn.ReLU in place": (nn.ReLU(inplace=True), RELU),
    "one nn.ReLU twice": (Twice(), RELU),
    "F.relu": (F.relu, RELU),
    "F.relu in place": (lambda x: F.relu(x, inplace=True), RELU),
    "torch.relu": (torch.relu, RELU),
    "torch.relu_": (torch.relu_, RELU),
    "x.relu": (lambda x: x.relu(), RELU),
    "x.relu_": (lambda x: x.relu_(), RELU),
    "clamp(min=0)": (lambda x: x.clamp(min=0), RELU),
    "clamp_(min=0)": (lambda x: x.clamp_(min=0), RELU),
    "torch.clamp": (lambda x: torch.clamp(x, 0.0), RELU),
    "torch.clip": (lambda x: torch.clip(x, 0), RELU),
    "clip(min=0)": (lambda x: x.clip(min=0.0), RELU),
    "clip_": (lambda x: x.clip_(0), RELU),
    "a part in place": (lambda x: _in_two_parts(x * 1), RELU),
    "clamp_min": (lambda x: x.clamp_min(0), RELU),
    "clamp_min_": (lambda x: x.clamp_min_(0), RELU),
    "F.threshold": (lambda x: F.threshold(x, 0, 0), RELU),
    "F.threshold in place": (lambda x: F.threshold(x, 0, 0, inplace=True), RELU),
    "nn.Threshold": (nn.Threshold(0, 0), RELU),
    "torch.threshold_": (lambda x: torch.threshold_(x, 0.0, 0.0), RELU),
    "nn.ReLU6": (nn.ReLU6(), RELU6),
    "F.relu6": (F.relu6, RELU6),
    "F.hardtanh": (lambda x: F.hardtanh(x, 0, 6), RELU6),
    "nn.Hardtanh in place": (nn.Hardtanh(0, 6, inplace=True), RELU6),
    "torch.clip(0, 6)": (lambda x: torch.clip(x, 0, 6), RELU6),
    "clamp(0, 6)": (lambda x: x.clamp(0, 6), RELU6),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_rectifier_however_it_is_written(spelling: str) -> None:
    rectify, table = SPELLINGS[spelling]
    x, g, *_ = (torch.tensor(column) for column in zip(*table, strict=True))
    program = canonicalize(capture(Rectified(rectify, g), x[None]))
    for method, column in COLUMN.items():
        logits, attribution = to_module(differentiate(program, METHODS[method]))(x[None].clone(), torch.tensor([0]))
        assert attribution[0].tolist() == [row[column] for row in table]
        ceiling = 6 if table is RELU6 else inf
        assert logits.item() == sum(min(max(row[0], 0), ceiling) * row[1] for row in table)


def test_a_clip_that_is_no_rectifier_is_differentiated_alike_by_every_method() -> None:
    """hardtanh(-1, 1) passes negative cotangents; its own derivative is 1 strictly between the bounds."""
    x = torch.tensor([[-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]])
    program = canonicalize(capture(Rectified(F.hardtanh, torch.full((7,), -3.0)), x))
    for method in METHODS.values():
        _, attribution = to_module(differentiate(program, method))(x, torch.tensor([0]))
        assert attribution.tolist() == [[0, 0, -3, -3, -3, 0, 0]]


UNJUDGED = {"a part in place", "one nn.ReLU twice"}
"""The backward graph hides a write into a part; and autograd refuses to overwrite what a ReLU has returned."""


@pytest.mark.parametrize("spelling", sorted(set(SPELLINGS) - UNJUDGED))
def test_the_judge_of_the_other_tests_knows_every_spelling(spelling: str) -> None:
    """By the same tables: tests/oracle.py reads rectifiers off the backward graph that PyTorch built."""
    rectify, table = SPELLINGS[spelling]
    x, g, *_ = (torch.tensor(column) for column in zip(*table, strict=True))
    for method, column in COLUMN.items():
        _, attribution = attribute(Rectified(rectify, g), x[None], torch.tensor([0]), method)
        assert attribution[0].tolist() == [row[column] for row in table]


@pytest.mark.parametrize(
    "clip",
    [F.hardtanh, lambda x: x.clamp(-1, 1), lambda x: x.clamp(max=1), lambda x: F.threshold(x, 1, 0)],
    ids=["hardtanh", "clamp", "clamp from above", "threshold"],
)
def test_the_judge_leaves_other_clips_alone(clip: Callable[[Tensor], Tensor]) -> None:
    x, target = torch.tensor([[-2.0, -0.5, 0.0, 0.5, 2.0]]), torch.tensor([0])
    model = Rectified(clip, torch.full((5,), -3.0))
    _, plain = attribute(model, x, target, "gradient", rectified=False)
    for method in METHODS:
        assert torch.equal(attribute(model, x, target, method, rectified=False)[1], plain)


def test_bounds_of_a_logit_are_no_rectifier() -> None:
    """``torch.logit(p, eps=0)`` clamps to [0, 1], and autograd's derivative of it is its own under every method."""

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(-torch.logit(x.sigmoid(), eps=0.0))

    image, target = torch.randn(2, 5), torch.tensor([0, 2])
    model = Logits().eval()
    _, attribution = build(model, image)(image, target)
    _, (expected,), _ = live(model, image, target, "guided")
    torch.testing.assert_close(attribution, expected)
