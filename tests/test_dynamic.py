"""One artifact for many image sizes: equal to autograd at each, in both formats, or a reason why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import sympy
import torch
from torch import nn
from torch.utils._sympy import functions

import exporter
import models
from exporter import dynamic
from exporter.dynamic import implied
from exporter.network import Network
from exporter.runtime import RUNTIMES
from exporter.signature import Dimension, Input, Signature
from tests import networks
from tests.oracle import attribute
from tests.test_artifact import SCHEMA_FILE

SIZES = ("batch", "height", "width")

CASES = {
    "U-Net": (networks.Unet, 8, (4, 2, 2)),
    "strided": (networks.Strided, 8, (3, 1, 1)),
    "sliced": (networks.Sliced, 12, (6, 2, 1)),
    "ceil mode": (networks.CeilPooled, 8, (2, 1, 1)),
    "segmentation": (networks.Segmenter, 8, (1, 1, 1)),
    "resnet": (lambda: models.resnet.resnet18(num_classes=5, width=4), 48, (33, 1, 1)),
    "cifar_resnet": (models.entry("cifar_resnet20").factory, 16, (5, 1, 1)),
}
"""Name -> factory, side of the sample, and what the manifest should name: smallest side, step of height and width."""


@pytest.mark.parametrize("name", CASES)
def test_other_sizes(name: str, tmp_path: Path) -> None:
    factory, side, (smallest, step, step_across) = CASES[name]
    key = "out" if name == "segmentation" else None
    torch.manual_seed(0)
    model = factory().eval()
    artifact = exporter.export(model, (3, side, side), tmp_path / "a", dynamic=SIZES, output_key=key)
    bounds = [(one["name"], one["min"], one["multiple_of"]) for one in artifact.manifest["dynamic"]]
    assert bounds == [("batch", 1, 1), ("height", smallest, step), ("width", smallest, step_across)]
    assert artifact.manifest["inputs"][0]["shape"] == ["batch", 3, "height", "width"]
    shapes = [tuple(case["image"]) for case in artifact.manifest["parity"]["cases"]]
    assert len({shape[2:] for shape in shapes}) >= 3, "the proof itself tries other sizes"

    network = Network(model.double(), Signature((Input("image", (3, side, side)),), key))
    exact = torch.jit.load(tmp_path / "a" / "model.pt").double()
    runtime = exporter.load(tmp_path / "a")
    for height, width in ((side + 5 * step, side - step_across), (side + 2 * step, 3 * side), (smallest, smallest)):
        images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height)).double()
        target = torch.tensor([-1, 1])
        logits, expected = attribute(network, images, target, "guided")
        for found, wanted in zip(exact(images, target), (logits, expected), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        found = runtime(images.numpy().astype(np.float32), target.numpy())
        assert found.attribution.shape == images.shape
        far, norm = np.linalg.norm(found.attribution - expected.numpy()), np.linalg.norm(expected)
        assert norm > 0
        assert far < norm * (5e-3 if name in ("resnet", "cifar_resnet") else 1e-5)  # in deep networks a mask may flip


OTHERS = {
    "signal": (networks.Signal, [Input("image", (2, 128))], ("length",), ((25, 1),)),
    "wave": (networks.Wave, [Input("image", (32,))], ("length",), ((12, 1),)),
    "ward": (networks.Ward, [Input("signal", (2, 24)), Input("features", (5,))], ("length",), ((6, 1),)),
    "padded": (networks.Padded, [Input("signal", (2, 24)), Input("mask", (24,))], ("length",), ((1, 1),)),
    "sequence": (networks.Sequence, [Input("sequence", (16, 5)), Input("mask", (16,))], ("steps",), ((1, 1),)),
    "restored signal": (lambda: networks.Restored(1), [Input("image", (2, 11))], ("length",), ((3, 1),)),
    "restored volume": (
        lambda: networks.Restored(3),
        [Input("image", (2, 6, 7, 8))],
        ("depth", "height", "width"),
        ((3, 1), (3, 1), (3, 1)),
    ),
    "volume": (networks.Volume, [Input("image", (1, 6, 8, 8))], ("depth", "height", "width"), ((2, 2), (2, 2), (2, 2))),
}
"""Name -> factory, inputs, what varies beside the batch, and the smallest value and the step of each."""


def one_of_several(network: Network, images: list[torch.Tensor], index: int, image: torch.Tensor) -> torch.Tensor:
    return network(*images[:index], image, *images[index + 1 :])


@pytest.mark.parametrize("name", OTHERS)
def test_signals_and_volumes_of_other_sizes(name: str, tmp_path: Path) -> None:
    factory, inputs, dynamic, expected_bounds = OTHERS[name]
    torch.manual_seed(0)
    model = factory().eval()
    artifact = exporter.export(model, inputs, tmp_path / "a", dynamic=("batch", *dynamic))
    bounds = [(one["name"], one["min"], one["multiple_of"]) for one in artifact.manifest["dynamic"]]
    assert bounds == [("batch", 1, 1), *((size, *rest) for size, rest in zip(dynamic, expected_bounds, strict=True))]

    jsonschema.validate(json.loads((tmp_path / "a" / "manifest.json").read_text()), json.loads(SCHEMA_FILE.read_text()))
    assert artifact.manifest["model"].get("reduction") == (
        "sum over depth, height and width" if name == "volume" else None
    )

    network = Network(model.double(), Signature(tuple(inputs), dynamic=("batch", *dynamic)))
    exact = torch.jit.load(tmp_path / "a" / "model.pt").double()
    runtime = exporter.load(tmp_path / "a")
    for grown in (5, 2):
        shapes = [list(given.shape) for given in inputs]
        assert set(artifact.manifest["inputs"][0]["shape"]) >= set(dynamic)
        for shape, given in zip(shapes, artifact.manifest["inputs"], strict=False):
            for number, (size, (_, step)) in enumerate(zip(dynamic, expected_bounds, strict=True), start=1):
                if size in given["shape"]:
                    shape[given["shape"].index(size) - 1] += grown * number * step
        images = [torch.randn(2, *shape, generator=torch.Generator().manual_seed(grown)).double() for shape in shapes]
        target = torch.tensor([-1, 1])
        alone = [partial(one_of_several, network, images, index) for index in range(len(images))]
        answers = [attribute(run, image, target, "guided") for run, image in zip(alone, images, strict=True)]
        logits, expected = answers[0][0], [attribution for _, attribution in answers]
        for found, wanted in zip(exact(*images, target), (logits, *expected), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        given = {one.name: image.numpy().astype(np.float32) for one, image in zip(inputs, images, strict=True)}
        found = runtime(given, target.numpy()).attribution
        for one, wanted in zip(found.values() if isinstance(found, dict) else [found], expected, strict=True):
            assert np.linalg.norm(one - wanted.numpy()) < 1e-5 * np.linalg.norm(wanted)


class Positions(nn.Module):
    """Adds a part of a table of positions to every second step of a signal."""

    def __init__(self, length: int = 20) -> None:
        super().__init__()
        self.body, self.head = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4, 3)
        self.table = nn.Parameter(torch.randn(1, 4, length))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).relu()[:, :, ::2]
        return self.head((x + self.table[:, :, : x.shape[-1]]).relu().mean(2))


class Causal(nn.Module):
    """Lets steps see those before them, by a part of a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 4), nn.Linear(4, 3)
        self.register_buffer("mask", torch.ones(20, 20).tril() == 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x.transpose(1, 2)).relu()
        length = x.size(1)
        seen = (x @ x.transpose(1, 2)).masked_fill(self.mask[:length, :length], float("-inf"))
        return self.head((seen.softmax(-1) @ x).relu().mean(1))


class Patches(nn.Module):
    """Crops a table of positions to the patches that an image has, 4x4 pixels each."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(2, 4, 4, stride=4), nn.Linear(4, 3)
        self.table = nn.Parameter(torch.randn(1, 4, 5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head((x + self.table[:, :, : x.shape[2], : x.shape[3]]).relu().mean((2, 3)))


class Short(nn.Module):
    """Refuses long signals itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] > 14:
            raise ValueError("too long")
        return x.relu().mean(2)


TABLES = {
    "positions": (Positions, (2, 24), [("length", 3, 1, 40)]),
    "far positions": (Positions, (2, 12), [("length", 3, 1, 40)]),
    "all positions": (Positions, (2, 40), [("length", 3, 1, 40)]),
    "long table": (lambda: Positions(5000), (2, 12), [("length", 3, 1, 10000)]),
    "mask": (Causal, (2, 12), [("length", 1, 1, 20)]),
    "all of a mask": (Causal, (2, 20), [("length", 1, 1, 20)]),
    "patches": (Patches, (2, 16, 16), [("height", 8, 1, 23), ("width", 8, 1, 19)]),
    "refusal": (Short, (2, 12), [("length", 1, 1, 14)]),
}
"""Name -> factory, shape of the sample, and name, smallest, step and largest of each size that varies."""


@pytest.mark.parametrize("name", TABLES)
def test_a_largest_size(name: str, tmp_path: Path) -> None:
    factory, shape, expected_bounds = TABLES[name]
    torch.manual_seed(0)
    model = factory().eval()
    dynamic = ("batch", *(size for size, *_ in expected_bounds))
    artifact = exporter.export(model, shape, tmp_path / "a", dynamic=dynamic)
    bounds = [
        tuple(one.get(key) for key in ("name", "min", "multiple_of", "max")) for one in artifact.manifest["dynamic"]
    ]
    assert bounds == [("batch", 1, 1, None), *expected_bounds]
    jsonschema.validate(json.loads((tmp_path / "a" / "manifest.json").read_text()), json.loads(SCHEMA_FILE.read_text()))
    again = exporter.verify(tmp_path / "a", model)
    assert again.to_json()["cases"] == artifact.manifest["parity"]["cases"]

    largest = (2, 2, *(most for *_, most in expected_bounds))
    tried = [case["image"] for case in artifact.manifest["parity"]["cases"]]
    assert any(case[2:] == list(largest[2:]) for case in tried) == (largest[2] <= 2 * shape[1])
    network = Network(model.double(), Signature((Input("image", shape),)))
    runtimes = [exporter.load(tmp_path / "a", runtime) for runtime in ("onnxruntime", "torchscript")]
    for sizes in (largest, (2, 2, *(least + 2 for _, least, *_ in expected_bounds))):
        images = torch.randn(sizes, generator=torch.Generator().manual_seed(1)).double()
        logits, expected = attribute(network, images, torch.tensor([-1, 1]), "guided")
        assert np.linalg.norm(expected) > 0
        for runtime in runtimes:
            found = runtime(images.numpy().astype(np.float32), [-1, 1])
            np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
            assert np.linalg.norm(found.attribution - expected.numpy()) < 1e-5 * np.linalg.norm(expected)

    size, least, _, most = expected_bounds[0]
    allowed = rf"image has shape .*; the artifact takes a {size} from {least} to {most}$"
    for wrong in (most + 1, least - 1):
        other = np.zeros((1, 2, wrong, *shape[2:]), np.float32)
        for runtime in runtimes:
            with pytest.raises(exporter.UsageError, match=allowed):
                runtime(other)


class Centred(nn.Module):
    """Takes the middle of a table: for more than it has, one place of it stands for all."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 2, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = (20 - x.shape[-1]) // 2
        return (x + self.table[:, :, start : start + x.shape[-1]]).relu().mean(2)


class Area(nn.Module):
    """Adds a part of a table that has a row for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, 256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2)
        return (x + self.table[:, : x.shape[2]]).relu().mean(2)


def test_sizes_that_have_a_largest_product_do_not_vary_together(tmp_path: Path) -> None:
    with pytest.raises(exporter.UnsupportedModel, match=r"asks whether height\*width <= 256, and takes another way at"):
        exporter.export(Area(), (2, 8, 8), tmp_path / "a", dynamic=SIZES)
    artifact = exporter.export(Area(), (2, 8, 8), tmp_path / "a", dynamic=("batch", "width"))
    assert artifact.manifest["dynamic"][1]["max"] == 32


class Asking(nn.Module):
    """Asks at the end of a table, where a part of it is all of it and lies in memory otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 2, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x + self.table[:, :, : x.shape[2]]).relu()
        return (x * 2 if x.shape[2] == 16 else x).mean(2)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (12, r"asks at .*test_dynamic\.py:\d+ whether Ne\(length, 16\), and takes another way at a length of 16"),
        (16, r"at 17 it raises: .*At 15 it runs: where 16 is the largest length, give a smaller sample"),
    ],
)
def test_a_question_is_the_networks_own_where_layout_asks_it_too(length: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(exporter.UnsupportedModel, match=message):
        exporter.export(Asking(), (2, length), tmp_path / "a", dynamic=("batch", "length"))


class Cropped(nn.Module):
    """Writes into what contiguous() returns: at multiples of 3 the image itself, which is read afterwards."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        positive = nn.functional.relu(x[..., : x.shape[2] // 3 * 3].contiguous(), inplace=True)
        return self.head(positive.mean(2)) + self.head(x.mean(2))


class Copied(Cropped):
    """Writes into a copy, whatever contiguous() returns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        positive = nn.functional.relu(x[..., : x.shape[2] // 3 * 3].contiguous() * 1, inplace=True)
        return self.head(positive.mean(2)) + self.head(x.mean(2))


class Plain(Cropped):
    """What both compute, in operators that write into nothing."""

    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.copied = copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        positive = x[..., : x.shape[2] // 3 * 3].relu()
        return self.head(positive.mean(2)) + self.head((x if self.copied else positive).mean(2))


@pytest.mark.parametrize(("make", "step"), [(Cropped, 3), (Copied, 1)])
def test_what_is_written_into_is_the_input_or_a_copy(make: Callable[[], nn.Module], step: int, tmp_path: Path) -> None:
    artifact = exporter.export(make().eval(), (2, 24), tmp_path / "a", dynamic=("batch", "length"))
    assert artifact.manifest["dynamic"][1]["multiple_of"] == step
    plain = Plain(make is Copied).eval()
    for length in (21, 25, 26, 30):
        image, target = torch.randn(2, 2, length), torch.tensor([0, -1])
        if length % step == 0:
            torch.testing.assert_close(plain(image), make()(image))
        logits, expected = attribute(plain, image, target, "guided")
        for runtime in RUNTIMES:
            session = exporter.load(tmp_path / "a", runtime)
            if length % step:
                with pytest.raises(exporter.UsageError, match="a length from 3"):
                    session(image.numpy(), target.numpy())
            else:
                found = session(image.numpy(), target.numpy())
                np.testing.assert_allclose(found.logits, logits.detach(), rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(found.attribution, expected, rtol=1e-5, atol=1e-6)


class Filled(nn.Module):
    """Fills up to 16 places with the last one; of what is longer it would leave the rest out."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.head = mode, nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.pad(x.relu(), (0, 16 - x.shape[2]), self.mode).flatten(1))


@pytest.mark.parametrize("mode", ["replicate", "reflect"])
def test_a_border_that_would_crop_at_some_size(mode: str, tmp_path: Path) -> None:
    with pytest.raises(exporter.UnsupportedModel, match=r"depends on 16 - length >= 0 \(pad, .*test_dynamic.py:\d+\)"):
        exporter.export(Filled(mode), (2, 10), tmp_path / "a", dynamic=("batch", "length"))


def test_a_network_that_goes_on_in_another_way_has_no_largest_size(tmp_path: Path) -> None:
    message = r"asks whether the length is at most 20, and takes another way at a length of 21: a graph has one way"
    with pytest.raises(exporter.UnsupportedModel, match=message):
        exporter.export(Centred(), (2, 12), tmp_path / "a", dynamic=("batch", "length"))


class Recurrent(nn.Module):
    """Goes over a signal step by step, each an operator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.transpose(1, 2))[0][:, -1])


def test_what_keeps_its_shape_is_named(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (image.relu() * mask[:, None]).mean((2, 3))

    inputs = [Input("image", (3, 8, 8)), Input("mask", (8, 8), "bool")]
    with pytest.raises(exporter.UnsupportedModel, match=r"at 9 while mask keeps its shape it raises: The size"):
        exporter.export(Masked(), inputs, tmp_path / "a", dynamic=SIZES)


def test_the_steps_of_a_sequence_are_no_length(tmp_path: Path) -> None:
    with pytest.raises(
        exporter.UnsupportedModel, match=r"at 7 it raises: .*the T of a sequence \[N, T, F\] is called steps"
    ):
        exporter.export(
            nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Flatten()), (4, 6), tmp_path / "a", dynamic=("batch", "length")
        )


def test_steps_over_time_do_not_vary(tmp_path: Path) -> None:
    with pytest.raises(exporter.UnsupportedModel, match=r"is for a length of 12 only.* and so do .* a recurrent layer"):
        exporter.export(Recurrent(), (2, 12), tmp_path / "a", dynamic=("batch", "length"))


def test_a_linear_layer_after_a_flatten_says_why(tmp_path: Path) -> None:
    line = next(
        number
        for number, text in enumerate(Path(networks.__file__).read_text().splitlines(), start=1)
        if text.endswith("# the linear layer")
    )
    with pytest.raises(exporter.UnsupportedModel) as error:
        exporter.export(networks.Flattened(), (3, 8, 8), tmp_path / "a", dynamic=SIZES)
    assert (
        "--dynamic height: what was captured of the network is for a height of 8 only; at 9 it raises: mat1 and mat2"
        in str(error.value)
    )
    assert f"tests/networks.py:{line}). A linear layer after a flatten fixes the size" in str(error.value)
    assert not (tmp_path / "a").exists()


def test_one_size_may_vary_alone(tmp_path: Path) -> None:
    artifact = exporter.export(networks.Strided(), (3, 8, 8), tmp_path / "a", dynamic=("batch", "width"))
    assert artifact.manifest["inputs"][0]["shape"] == ["batch", 3, 8, "width"]
    session = exporter.load(tmp_path / "a")
    assert session(np.zeros((1, 3, 8, 20), np.float32)).attribution.shape == (1, 3, 8, 20)
    for runtime in ("onnxruntime", "torchscript"):
        session = exporter.load(tmp_path / "a", runtime)
        session.signature = None  # the file itself refuses it too
        with pytest.raises(Exception, match=r"(?i)invalid|expand|dimension"):
            session(np.zeros((1, 3, 9, 20), np.float32))


class Windows(nn.Module):
    """Has as many adaptive windows as fit, of which the maximum is taken: their number and size vary."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_max_pool2d(x.relu(), (3, 3)).flatten(1)


def test_an_operator_that_needs_a_fixed_size_says_so(tmp_path: Path) -> None:
    with pytest.raises(exporter.UnsupportedOp, match=r"adaptive_max_pool needs a fixed image size.*test_dynamic\.py"):
        exporter.export(Windows(), (3, 9, 9), tmp_path / "a", dynamic=SIZES)


@pytest.mark.parametrize(
    ("dynamic", "shape", "message"),
    [
        (
            ("batch", "time"),
            (3, 8, 8),
            "unknown dynamic size 'time'; there are batch, length, steps, depth, height, width",
        ),
        (("batch", "length"), (3, 8, 8), "--dynamic length: no input has one. The length is the last size of a signal"),
        (("height",), (3, 8, 8), "the batch is always dynamic; write --dynamic batch,height"),
        (("batch", "height"), (12,), "--dynamic height: no input has one"),
        (("batch", "length", "steps"), (3, 8), "--dynamic length,steps: of signals .* the length varies, of sequences"),
    ],
)
def test_wrong_sizes(dynamic: tuple[str, ...], shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(exporter.UsageError, match=message):
        exporter.export(nn.Linear(shape[-1], 3), shape, tmp_path / "a", dynamic=dynamic)


HEIGHT, WIDTH = sympy.symbols("height width", integer=True, positive=True)


@pytest.mark.parametrize(
    "guard",
    [
        sympy.Eq(4 * WIDTH * functions.FloorDiv(HEIGHT - 1, 2), 256),
        sympy.Eq(-3 * functions.FloorDiv(HEIGHT, -2) - functions.FloorDiv(WIDTH * HEIGHT, 5), 1),
        sympy.Ne(functions.Mod(HEIGHT + 1, 7), 3),
        functions.PythonMod(HEIGHT, 4) < 2,
        sympy.Eq(functions.ModularIndexing(HEIGHT, 2, 3), 1),
        functions.TruncToInt(functions.ToFloat(HEIGHT) * 0.5) >= 3,
        functions.CeilToInt(functions.ToFloat(HEIGHT) / 3.0) < 7,
        functions.IntTrueDiv(HEIGHT, 3) > 2.0,
        functions.PowByNatural(HEIGHT, 2) > 5,
        sympy.Eq(functions.Max(HEIGHT, WIDTH), functions.Min(9, WIDTH)),
        sympy.And(HEIGHT > 3, sympy.Or(WIDTH < 5, sympy.Not(sympy.Eq(HEIGHT, WIDTH)))),
    ],
    ids=str,
)
def test_a_condition_runs_as_its_formula_says(guard: sympy.Basic) -> None:
    """What is implied by nothing is tried with the hints and the eight sizes above them, of every symbol."""
    for height in range(1, 30, 7):
        sizes = [{HEIGHT: height + more, WIDTH: 3 + across} for more in range(9) for across in range(9)]
        true = all(bool(guard.xreplace({symbol: sympy.Integer(size) for symbol, size in one.items()})) for one in sizes)
        assert implied(guard, [], sizes[0]) == true
        assert implied(guard, [guard], sizes[0])


def test_sizes_that_are_good_unevenly_have_the_smallest_even_step() -> None:
    guard = sympy.Eq(functions.Mod(HEIGHT, 2) * functions.Mod(HEIGHT, 3), 0)  # 2, 3, 4, 6, 8, 9, ...
    found = dynamic._solve("height", {HEIGHT}, {guard: ""}, {HEIGHT: 12}, lambda *_: None, {HEIGHT: "height"})
    assert found == Dimension("height", 2, 2)
