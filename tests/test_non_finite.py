"""NaN and infinity in an input: what the written files return is what live autograd returns.

Nothing passes where a rectifier's input is NaN, for NaN is not greater than zero. PyTorch's own derivatives do not
agree with each other there, relu's is 1 and clamp's 0, so the judge is the methods' definition: a table by hand for one
rectifier, and :func:`exporter.reference.live` for whole networks. Weights and finite inputs are whole numbers; finite
values are compared to the bit, and NaN equals NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.lowering import DEFAULT_TARGET
from exporter.methods import METHODS
from exporter.pipeline import write
from exporter.program import Program
from exporter.reference import live
from exporter.runtime import RUNTIMES, Session, open_session
from exporter.sources import resolve
from tests.test_exact import explicit, whole
from tests.test_rectifiers import COLUMN, RELU6, SPELLINGS

nan, inf = math.nan, math.inf
NON_FINITE = (nan, inf, -inf)
SHAPE = (3, 8, 8)

# the rectifier's input x, its output, the cotangent g, and what guided, gradient and deconvnet send on
TABLE = [
    (nan, nan, 2.0, 0, 0, 2),
    (nan, nan, -2.0, 0, 0, 0),
    (inf, inf, 2.0, 2, 2, 2),
    (inf, inf, -2.0, 0, -2, 0),
    (-inf, 0.0, 2.0, 0, 0, 2),
    (-inf, 0.0, -2.0, 0, 0, 0),
    (1.0, 1.0, 2.0, 2, 2, 2),
]
SATURATED = [(6.0, 0, 0, row[-1]) if row[0] == inf else (row[1], *row[3:]) for row in TABLE]
"""The same of a ReLU6, for which infinity is above the ceiling: output, guided, gradient, deconvnet."""


def sessions(model: nn.Module, shape: tuple[int, ...], folder: Path) -> list[tuple[str, str, Session]]:
    """Compile a network by every method, for a CPU and for a GPU: (method, runtime, session).

    Spellings that are one canonical program, of which all the rest is made, are compiled once.
    """
    program = canonicalize(capture(model, torch.zeros(2, *shape)))
    tensors = tuple((name, tensor.numpy().tobytes()) for name, tensor in program.tensors.items())
    key = (str(program.graph), shape, tensors)
    if key not in _compiled:
        _compiled[key] = list(_compile(program, folder))
    return _compiled[key]


_compiled: dict[object, list[tuple[str, str, Session]]] = {}


def _compile(program: Program, folder: Path) -> Iterator[tuple[str, str, Session]]:
    for method, rule in METHODS.items():
        explicit = differentiate(program, rule)
        for runtime, optimize_for in (*((runtime, DEFAULT_TARGET) for runtime in RUNTIMES), ("onnxruntime", "cuda")):
            path = folder / f"{runtime}-{optimize_for}"
            write(explicit, RUNTIMES[runtime], path, optimize_for=optimize_for)
            yield method, runtime, open_session(path, runtime, threads=1)


def judged(model: nn.Module, images: Tensor, target: Tensor, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return live autograd's logits and attribution."""
    logits, (attribution,), _ = live(model, images, target, method, count=False)
    return logits.numpy(), attribution.numpy()


# -- one rectifier ----------------------------------------------------------------------------------------------


class Weighed(nn.Module):
    """A class for each input: ``logits = rectify(x) * g``, so that no NaN meets another input's value."""

    def __init__(self, rectify: Callable[[Tensor], Tensor], g: Tensor) -> None:
        super().__init__()
        self.rectify = rectify
        self.register_buffer("g", g)

    def forward(self, x: Tensor) -> Tensor:
        return self.rectify(x * 1) * self.g


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_rectifier_by_hand(spelling: str, tmp_path: Path) -> None:
    rectify, finite = SPELLINGS[spelling]
    x, y, g, *sent = (torch.tensor(column) for column in zip(*TABLE, strict=True))
    if finite is RELU6:
        y, *sent = (torch.tensor(column) for column in zip(*SATURATED, strict=True))
    model, images, target = Weighed(rectify, g), x.repeat(len(x), 1), torch.arange(len(x))
    for method, runtime, session in sessions(model, x.shape, tmp_path):
        result = session(images.numpy(), target.numpy())
        expected = torch.diag(sent[COLUMN[method] - 2].float())
        for found, attribution in (
            (result.logits, result.attribution),
            judged(model, images, target, method),
        ):
            np.testing.assert_array_equal(found, (y * g).expand(len(x), -1).numpy(), f"{method}, {runtime}")
            np.testing.assert_array_equal(attribution, expected.numpy(), f"{method}, {runtime}")


# -- networks ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Strided convolutions, a batch norm, an average pool, a shortcut; ``body`` comes after the first rectifier."""

    def __init__(
        self,
        rectify: Callable[[Tensor], Tensor],
        body: Callable[[Tensor], Tensor],
        head: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008  it has no state
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(16, eps=0)
        self.project = nn.Conv2d(8, 16, 1, 2)
        self.fc = nn.Linear(64, 5)
        self.rectify, self.body, self.head = rectify, body, head
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 2, parameter.shape, generator=generator).float()
            parameter.data[parameter.data >= 0] += 1  # no zeros: infinity times zero would be NaN

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.rectify(self.conv1(x)))
        y = self.rectify(self.bn2(self.conv2(y)) + self.project(y))
        return self.head(self.fc(y.flatten(1)))


def images_with(value: float) -> Tensor:
    """Return seven images of whole numbers: five with the value at one place, one with two of it, one without."""
    images = torch.randint(-2, 3, (7, *SHAPE), generator=torch.Generator().manual_seed(1)).float()
    for index, place in enumerate([(0, 0, 0), (1, 0, 7), (2, 3, 4), (0, 5, 2), (1, 7, 7)]):
        images[(index, *place)] = value
    images[5, 0, 2, 2] = images[5, 2, 5, 5] = value
    return images


TARGETS = (torch.full((7,), -1), torch.tensor([0, 1, 2, 3, 4, 0, 1]))


def assert_equal(model: nn.Module, method: str, runtime: str, session: Session, value: float) -> None:
    """Compare a session with live autograd, and the finite image's row with what it is alone."""
    images = images_with(value)
    for target in TARGETS:
        expected = judged(model, images, target, method)
        found = session(images.numpy(), target.numpy())
        alone = session(images[6:].numpy(), target[6:].numpy())
        for ours, row, theirs in zip(found, alone, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, f"{method}, {runtime}, {value}")
            np.testing.assert_array_equal(ours[6:], row, f"{method}, {runtime}, {value}: the finite image")
            assert np.isfinite(row).all()


@pytest.mark.parametrize(
    "spelling",
    ["nn.ReLU", "F.relu in place", "clamp(min=0)", "clamp_min_", "F.threshold", "F.relu6", "F.hardtanh", "clamp(0, 6)"],
)
def test_a_network_for_each_operator_that_a_rectifier_becomes(spelling: str, tmp_path: Path) -> None:
    model = Net(SPELLINGS[spelling][0], nn.AvgPool2d(2)).eval()
    for method, runtime, session in sessions(model, SHAPE, tmp_path):
        for value in NON_FINITE:
            assert_equal(model, method, runtime, session, value)


# -- max-pools: infinities everywhere, NaN in TorchScript ---------------------------------------------------------

POOLS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "after a ReLU": (F.relu, nn.MaxPool2d(2)),
    "after a ReLU6": (F.relu6, nn.MaxPool2d(2)),
    "overlapping": (F.relu, nn.MaxPool2d(3, 2, 1)),
    "before a ReLU": (F.relu, lambda y: F.relu(F.max_pool2d(y - 1, 2))),
}


@pytest.mark.parametrize("pool", POOLS)
def test_max_pools(pool: str, tmp_path: Path) -> None:
    model = Net(*POOLS[pool]).eval()
    for method, runtime, session in sessions(model, SHAPE, tmp_path):
        for value in NON_FINITE if runtime == "torchscript" else (inf, -inf):
            assert_equal(model, method, runtime, session, value)


def test_why_a_nan_in_a_max_pool_is_excepted() -> None:
    """ONNX does not say what MaxPool makes of NaN, and onnxruntime returns one or not by where in the window it is.

    Should this fail because it returns NaN for both, the exception in the README can go.
    """
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 1, s, s]) for n, s in (("x", 2), ("y", 1)))
    model = helper.make_model(
        helper.make_graph([pool], "pool", [x], [y]), ir_version=8, opset_imports=[helper.make_opsetid("", 18)]
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    windows = torch.tensor([[[[nan, 1.0], [2.0, 3.0]]], [[[3.0, 1.0], [2.0, nan]]]])
    assert F.max_pool2d(windows, 2).isnan().all()
    assert np.isnan(session.run(None, {"x": windows.numpy()})[0]).flatten().tolist() == [False, True]


def test_a_nan_is_seen_through_the_max_pools_of_the_zoo(tmp_path: Path) -> None:
    """Convolutions spread it over whole windows, so that no logit is finite, wherever in the image it is."""
    source = resolve("digits_cnn")
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[torch.arange(64), 0, torch.arange(64) // 8, torch.arange(64) % 8] = nan
    for _, _, session in sessions(source.model, source.sample_shape, tmp_path):
        assert np.isnan(session(images.numpy()).logits).all()


# -- masks by arithmetic, which do not stop NaN -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blocks", "blocks, pools and relu6", "inverted bottleneck"])
@pytest.mark.parametrize("value", NON_FINITE)
def test_for_finite_values_only_the_map_of_an_image_with_nan_differs(name: str, value: float, tmp_path: Path) -> None:
    _, images = whole(name)
    images[1, 0, 0, 0] = value
    found = []
    for target in (DEFAULT_TARGET, "onnxruntime-finite"):
        write(explicit(name, "guided"), "onnx", tmp_path / target, optimize_for=target)
        found.append(open_session(tmp_path / target, "onnxruntime", threads=1)(images.numpy(), [0, 2, 1]))
    default, finite = found
    np.testing.assert_array_equal(finite.logits, default.logits)
    np.testing.assert_array_equal(finite.attribution[[0, 2]], default.attribution[[0, 2]])
    told = ~np.isnan(finite.attribution[1])
    np.testing.assert_array_equal(finite.attribution[1][told], default.attribution[1][told])
    assert told.all() == np.isfinite(default.logits[1]).all()


# -- where a non-finite value reaches a cotangent -----------------------------------------------------------------


def test_a_softmax_may_lose_more_to_nan_but_never_returns_a_number_of_its_own(tmp_path: Path) -> None:
    """Its derivative depends on values, so cotangents become NaN, and NaN times a mask's zero is NaN, not zero."""
    model = Net(F.relu, nn.AvgPool2d(2), nn.Softmax(1)).eval()
    target = torch.zeros(7, dtype=torch.int64)
    further = 0
    for method, runtime, session in sessions(model, SHAPE, tmp_path):
        for value in NON_FINITE:
            images = images_with(value)
            logits, attribution = judged(model, images, target, method)
            found = session(images.numpy(), target.numpy())
            where = f"{method}, {runtime}, {value}"
            np.testing.assert_allclose(found.logits, logits, rtol=1e-5, atol=1e-7, err_msg=where)
            finite = np.isfinite(found.attribution)
            np.testing.assert_allclose(
                found.attribution[finite], attribution[finite], rtol=1e-4, atol=1e-6, err_msg=where
            )
            assert finite[6:].all(), f"{where}: the finite image"
            further += int((~finite & np.isfinite(attribution)).sum())
    assert further, "the exception in the README can go"


class Logits(nn.Module):
    """The input as logits, so that a test can choose them."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


def test_the_predicted_class_is_the_first_nan(tmp_path: Path) -> None:
    """As PyTorch's argmax has it, for which a NaN is larger than infinity."""
    logits = torch.tensor(
        [[1, nan, 3], [nan, 1, 3], [1, 3, nan], [inf, nan, nan], [nan, inf, 1], [-inf, inf, inf], [1, 3, 3]]
    )
    expected = F.one_hot(logits.argmax(1), 3).numpy()
    assert logits.argmax(1).tolist() == [1, 0, 2, 1, 0, 1, 1]
    for method, runtime, session in sessions(Logits(), (3,), tmp_path):
        found = session(logits.numpy())
        np.testing.assert_array_equal(found.logits, logits.numpy(), f"{method}, {runtime}")
        np.testing.assert_array_equal(found.attribution, expected, f"{method}, {runtime}")
