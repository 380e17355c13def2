"""``examples/web``: saliport.js in Node and the page in Chromium, held against live autograd.

The page is visited once, by ``examples/web/test/browser.mjs``, which writes down what it saw; each test judges a part.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import exporter
from exporter.artifact import write_manifest
from exporter.methods import METHODS
from exporter.sources import resolve
from tests.oracle import attribute, decided_images
from tests.test_exact import NETWORKS, whole

ROOT = Path(__file__).parents[2]
WEB = ROOT / "examples" / "web"
CHROMIUM = Path("/usr/bin/chromium")
PHOTO = ROOT / "docs" / "chelsea.png"

Node = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def node(require: Callable[[object, str, str], None]) -> Node:
    """Give ``node(script, *arguments)``, which runs a script of the example."""
    require(shutil.which("node"), "Node", "apt-get install nodejs npm, version 18 or later")
    require((WEB / "node_modules" / "onnxruntime-web").exists(), "onnxruntime-web", "npm ci --prefix examples/web")

    def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["node", str(WEB / script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    return run


def explain(node: Node, artifact: Path, images: Tensor, target: Sequence[int], folder: Path) -> tuple[Any, Any]:
    """Run an artifact by the example's command line."""
    np.save(folder / "images.npy", images.numpy())
    targets = ",".join(map(str, target))
    done = node("run.mjs", artifact, folder / "images.npy", f"--target={targets}", "--output", folder / "out")
    assert done.returncode == 0, done.stderr
    return np.load(folder / "out" / "logits.npy"), np.load(folder / "out" / "attribution.npy")


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# Node.


@pytest.mark.parametrize("target", [[-1], [3], [-1, 5, 9], [3, 3, -1]], ids=str)
def test_node_agrees_with_live_autograd(node: Node, artifact: Path, target: list[int], tmp_path: Path) -> None:
    model = resolve("cifar_resnet20").model
    images = decided_images(model, 3, (3, 32, 32))[: len(target)]
    logits, attribution = explain(node, artifact, images, target, tmp_path)
    expected_logits, expected = attribute(model.double(), images.double(), torch.tensor(target), "guided")
    assert logits.dtype == attribution.dtype == np.float32
    assert relative(logits, expected_logits.numpy()) < 1e-5
    for found, wanted in zip(attribution, expected.numpy(), strict=True):
        assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize(
    ("name", "method"), [*(("resnet stem", method) for method in METHODS), ("residual, stride 2", "guided")]
)
def test_node_agrees_to_the_bit_in_whole_numbers(node: Node, name: str, method: str, tmp_path: Path) -> None:
    model, images = whole(name)
    exporter.export(model, NETWORKS[name][1], tmp_path / "artifact", method=method, formats=("onnx",))
    target = [-1, 2, 0]
    expected_logits, expected = attribute(model, images, torch.tensor(target), method)
    assert expected.any()
    for batch in (3, 1):
        logits, attribution = explain(node, tmp_path / "artifact", images[:batch], target[:batch], tmp_path)
        assert (logits == expected_logits[:batch].numpy()).all()
        assert (attribution == expected[:batch].numpy()).all()


class Pair(nn.Module):
    """Two inputs, one of whole numbers, which has no attribution."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, left: Tensor, shift: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(left) + shift))


def test_node_runs_several_inputs(node: Node, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pair().eval()
    left, shift = torch.randn(2, 4), torch.tensor([[1, 0, 2, 1], [0, 1, 1, 3]])
    inputs = [exporter.Input("left", (4,)), exporter.Input("shift", (4,), "int64")]
    exporter.export(model, inputs, tmp_path / "artifact", method="gradient", formats=("onnx",))
    np.save(tmp_path / "left.npy", left.numpy())
    np.save(tmp_path / "shift.npy", shift.numpy())
    files = [f"{name}={tmp_path / name}.npy" for name in ("left", "shift")]
    done = node("run.mjs", tmp_path / "artifact", *files, "--target=2", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    logits = model(left.requires_grad_(), shift)
    (expected,) = torch.autograd.grad(logits[:, 2].sum(), left)  # of this method plain autograd is the oracle
    assert relative(np.load(tmp_path / "out" / "logits.npy"), logits.detach().numpy()) < 1e-6
    assert relative(np.load(tmp_path / "out" / "attribution_left.npy"), expected.numpy()) < 1e-6
    alone = node("run.mjs", tmp_path / "artifact", files[0], "--output", tmp_path / "out")
    assert (alone.returncode, alone.stderr) == (2, "run: the artifact takes left, shift, not left\n")


@pytest.mark.parametrize(
    ("target", "item"),
    [("", ""), ("3,", ""), (",3", ""), ("0x3", "0x3"), ("1e0", "1e0"), ("3.0", "3.0"), (" 3", " 3"), ("cat", "cat")],
)
def test_a_target_that_is_no_number_is_refused(
    node: Node, artifact: Path, target: str, item: str, tmp_path: Path
) -> None:
    """An empty one is not class 0."""
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 32, 32), np.float32))
    done = node("run.mjs", artifact, tmp_path / "image.npy", f"--target={target}", "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, f'run: --target takes whole numbers, not "{item}"\n')
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:9], "is cut short"),
        (lambda data: data[:40], "is cut short"),
        (lambda data: data[:-2], "is cut short"),
        (lambda data: data + b"xx", "is 2 bytes longer than its array"),
        (lambda data: b"picture", "is no .npy file"),
    ],
)
def test_a_damaged_npy_file_is_refused(
    node: Node, artifact: Path, change: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "image.npy"
    np.save(path, np.zeros((1, 3, 32, 32), np.float32))
    path.write_bytes(change(path.read_bytes()))
    done = node("run.mjs", artifact, path, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, f"run: {path} {message}\n")


@pytest.fixture(scope="module")
def calls(node: Node, artifact: Path) -> dict[str, Any]:
    done = node("test/calls.mjs", artifact)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


WRONG_CALLS = {
    "no image": "image has shape []; it must be [batch, 3, 32, 32]",
    "no sizes": "image has shape []; it must be [batch, 3, 32, 32]",
    "rank": "image has shape [3, 32, 32]; it must be [batch, 3, 32, 32]",
    "channels": "image has shape [1, 1, 32, 96]; it must be [batch, 3, 32, 32]",
    "image size": "image has shape [1, 3, 16, 64]; it must be [batch, 3, 32, 32]",
    "no batch": "image has shape [0, 3, 32, 32]; it must be [batch, 3, 32, 32], whole numbers from 1",
    "negative batch": "image has shape [-1, 3, 32, 32]; it must be [batch, 3, 32, 32], whole numbers from 1",
    "half a batch": "image has shape [0.5, 3, 32, 32]; it must be [batch, 3, 32, 32], whole numbers from 1",
    "a batch that is not there": "image has 3072 values; [1099511627776, 3, 32, 32] is 3377699720527872",
    "one value less": "image has 3071 values; [1, 3, 32, 32] is 3072",
    "doubles": "image is Float64Array; float32 takes a Float32Array",
    "a list": "image is Array; float32 takes a Float32Array",
    "target 10": "target 10 is out of range; the classes are 0 to 9, -1 the predicted one",
    "target -2": "target -2 is out of range; the classes are 0 to 9, -1 the predicted one",
    "target 2^70": "target 1180591620717411303424 is not a whole number",
    "target 1.5": "target 1.5 is not a whole number",
    "target NaN": "target NaN is not a whole number",
    "target '3'": "target 3 is not a whole number",
    "two targets": "target has 2 values; for this batch it must have 1",
    "one bad target of two": "target 10 is out of range; the classes are 0 to 9, -1 the predicted one",
}


def test_wrong_calls_are_refused(calls: dict[str, Any]) -> None:
    expected = {name: {"documented": True, "kind": "input", "message": text} for name, text in WRONG_CALLS.items()}
    assert calls["wrong"] == expected
    assert calls["graph"] == {"10": "refused", "-2": "refused"}


def test_calls_may_overlap_and_targets_come_in_many_forms(calls: dict[str, Any]) -> None:
    assert calls["classes"] == 10
    assert calls["targets"] == [True] * 5
    assert calls["overlapping"] == [True] * 10
    assert calls["distinct"]


def test_sizes_that_may_vary_are_those_of_the_manifest(calls: dict[str, Any]) -> None:
    assert calls["fitting"] == [[8, 12, 16, 20, 24, 28, 32, 36], [8, 12, 16, 20]]


def test_a_caller_may_use_one_buffer_for_calls_that_overlap(calls: dict[str, Any]) -> None:
    assert calls["refilled"] == [True] * 3


def test_an_artifact_comes_from_a_path_a_url_or_files(calls: dict[str, Any]) -> None:
    sources = calls["sources"]
    assert [sources[name] for name in ("path", "fileUrl", "webUrl", "query", "files")] == [True] * 5
    assert [url.partition("/cifar_resnet20-guided/")[2] for url in calls["asked"]] == [
        "manifest.json?y=1",
        "model.onnx?y=1",
    ]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nowhere", "artifact", "ENOENT"),
        ("notFound", "artifact", "HTTP status 404"),
        ("noFiles", "artifact", "manifest.json is missing"),
        ("nothing", "input", "openArtifact takes a folder's URL, in Node its path, or a list of its two files"),
        ("number", "input", "openArtifact takes a folder's URL"),
        ("object", "input", "openArtifact takes a folder's URL"),
        ("noFile", "input", "openArtifact takes a folder's URL"),
        ("noUrl", "input", "http://[ is not the URL of a folder"),
        ("otherHost", "artifact", "file://host/x cannot be read: "),
        ("dataUrl", "artifact", "cannot be read: ENOENT"),
    ],
)
def test_a_source_that_is_none_is_refused(calls: dict[str, Any], name: str, kind: str, message: str) -> None:
    found = calls["sources"][name]
    assert (found["documented"], found["kind"]) == (True, kind)
    assert message in found["message"]


def test_a_closed_artifact_stays_closed(calls: dict[str, Any]) -> None:
    refused = {"documented": True, "kind": "input", "message": "the artifact is closed"}
    assert calls["closed"] == ["accepted", "accepted", refused]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def instead(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Return what puts something that is no file in the place of one."""

    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def resealed(*keys: object, value: object) -> Callable[[Path], None]:
    """Return what changes one entry of a manifest, and seals it as if it were meant."""

    def change(path: Path) -> None:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        del manifest["manifest_sha256"]
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        write_manifest(path.parent, manifest)

    return change


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a changed byte": ("model.onnx", flip, "model.onnx has changed since it was proven: sha256 "),
    "a byte less": ("model.onnx", cut, "model.onnx has changed since it was proven: sha256 "),
    "a byte more": ("model.onnx", lengthen, "model.onnx is longer than "),
    "no model": ("model.onnx", Path.unlink, "model.onnx cannot be read: ENOENT"),
    "no manifest": ("manifest.json", Path.unlink, "manifest.json cannot be read: ENOENT"),
    "a device": ("manifest.json", instead(lambda path: path.symlink_to("/dev/null")), "cannot be read: it is no file"),
    "a pipe": ("manifest.json", instead(os.mkfifo), "manifest.json cannot be read: it is no file"),
    "a folder": ("model.onnx", instead(Path.mkdir), "model.onnx cannot be read: it is no file"),
    "a file without a length": (
        "model.onnx",
        instead(lambda path: path.symlink_to("/proc/version")),
        " of 1 bytes, not ",
    ),
    "half a manifest": ("manifest.json", cut, "manifest.json has changed since it was written"),
    "another class name": (
        "manifest.json",
        lambda path: path.write_text(path.read_text().replace('"cat"', '"dog"')),
        "manifest.json has changed since it was written: its manifest_sha256 does not match",
    ),
    "no JSON": ("manifest.json", lambda path: path.write_text("{"), "manifest.json is not JSON"),
    "a list": (
        "manifest.json",
        lambda path: path.write_text("[]"),
        "manifest.json has no schema; this program",
    ),
    "a later schema": ("manifest.json", resealed("schema", value=3), "has schema 3; this program reads 2"),
    "another folder": (
        "manifest.json",
        resealed("files", "onnx", "name", value="../model.onnx"),
        'the manifest is damaged: its ONNX file is "../model.onnx", not model.onnx in its own folder',
    ),
    "another length": (
        "manifest.json",
        resealed("files", "onnx", "bytes", value=-1),
        "does not say how long model.onnx",
    ),
    "no ONNX file": ("manifest.json", resealed("files", value={}), "holds no model.onnx; export it with --format onnx"),
    "a name that no tensor has": (
        "manifest.json",
        resealed("inputs", 0, "name", value="picture"),
        "maps image, target to logits, attribution, which is not what the manifest says",
    ),
    "a size that is no number": (
        "manifest.json",
        resealed("inputs", 0, "shape", 1, value=None),
        "shape of its input image",
    ),
    "no inputs": ("manifest.json", resealed("inputs", value=[None, None]), "its inputs and outputs cannot be read"),
    "no range": ("manifest.json", resealed("inputs", 1, "range", value=[0, 9]), "no target with a range of classes"),
    "half precision": ("manifest.json", resealed("inputs", 0, "dtype", value="float16"), "input image is float16; "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_artifact_is_refused(node: Node, artifact: Path, name: str, tmp_path: Path) -> None:
    file, damage, message = DAMAGE[name]
    folder = shutil.copytree(artifact, tmp_path / "artifact")
    damage(folder / file)
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 32, 32), np.float32))
    done = node("run.mjs", folder, tmp_path / "image.npy", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("run: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_lock_names_no_host() -> None:
    lock = (WEB / "package-lock.json").read_text(encoding="utf-8")
    assert '"integrity"' in lock
    assert "resolved" not in lock
    packages = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
    pinned = {**packages["dependencies"], **packages["devDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pinned.values())


# The page.


class Small(nn.Sequential):
    """Grey pictures, taller than wide, and more classes than the page's list has rows; they have no names."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 6 * 4, 12)
        )


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no parity": (resealed("parity", value=None), "its parity cannot be read"),
    "no median": (resealed("parity", "runtimes", value=[{"runtime": "onnxruntime"}]), "its parity cannot be read"),
    "no model": (resealed("model", value=None), "its model cannot be read"),
    "no parameters": (resealed("model", "parameters", value=None), "its model cannot be read"),
    "no method": (resealed("method", value={}), "its method cannot be read"),
    "another sample": (
        resealed("inputs", 0, "sample_shape", value=[3, 16, 16]),
        "a sample of [3, 16, 16] does not fit its shape [batch, 3, 32, 32]",
    ),
    "a mean too few": (
        resealed("model", "preprocessing", "mean", value=[0, 0]),
        "its preprocessing does not fit its channels",
    ),
    "a mean that is no number": (
        resealed("model", "preprocessing", "mean", value=[0, 0, None]),
        "its preprocessing does not fit its channels",
    ),
}
"""Manifests that saliport.js reads and the page cannot tell of."""


@pytest.fixture(scope="session")
def visit(
    node: Node,
    require: Callable[[object, str, str], None],
    once: Callable[[str, Callable[[Path], None]], Path],
    artifact: Path,
) -> Path:
    """Return the folder of one visit in Chromium: report.json, dropped.png and screenshots."""
    require(CHROMIUM.exists(), "Chromium", "apt-get install chromium")
    require((WEB / "node_modules" / "playwright-core").exists(), "playwright-core", "npm ci --prefix examples/web")

    def make(folder: Path) -> None:
        exporter.export(small_network(), (1, 12, 8), folder / "small", formats=("onnx",))
        flat = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
        exporter.export(flat, (5,), folder / "flat", formats=("onnx",))
        for name, (damage, _) in BROKEN.items():
            damage(shutil.copytree(artifact, folder / "broken" / name) / "manifest.json")
        mirrored = Image.open(PHOTO).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.resize((211, 400), Image.Resampling.BICUBIC).save(folder / "dropped.png")
        config = {
            "artifact": str(artifact),
            "small": str(folder / "small"),
            "flat": str(folder / "flat"),
            "picture": str(folder / "dropped.png"),
            "broken": {name: str(folder / "broken" / name) for name in BROKEN},
            "work": str(folder),
        }
        (folder / "config.json").write_text(json.dumps(config))
        done = node("test/browser.mjs", folder / "config.json", folder / "report.json")
        assert done.returncode == 0, done.stderr

    return once("web-visit", make)


@pytest.fixture(scope="session")
def report(visit: Path) -> dict[str, Any]:
    return json.loads((visit / "report.json").read_text())


@pytest.fixture(scope="session")
def cifar() -> tuple[nn.Module, Mapping[str, Any]]:
    source = resolve("cifar_resnet20")
    return source.model.double(), {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def pixels(shown: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return a canvas as [H, W, 4]."""
    return np.frombuffer(base64.b64decode(shown["rgba"]), np.uint8).reshape(shown["height"], shown["width"], 4)


def central_part(path: Path, size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    """Return what the network is to see of a picture, ``[H, W]`` or ``[H, W, 3]``; size is (width, height)."""
    photo = Image.open(path).convert(mode)
    scale = min(photo.width / size[0], photo.height / size[1])
    width, height = round(scale * size[0]), round(scale * size[1])
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    part = photo.crop((left, top, left + width, top + height))
    return np.asarray(part.resize(size, Image.Resampling.LANCZOS))


def to_input(seen: NDArray[np.uint8], mean: Sequence[float] = (0,), std: Sequence[float] = (1,)) -> Tensor:
    """Return ``[1, C, H, W]`` in float64, of float32's values."""
    planes = seen.reshape(*seen.shape[:2], -1).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    shift, scale = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
    return torch.from_numpy((planes - shift) / scale)[None].double()


def paint(attribution: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Render ``[C, H, W]`` as the example's README says, in code of its own."""
    value = attribution.sum(0)
    magnitude = np.sort(np.abs(value), axis=None)
    limit = magnitude[math.ceil(0.99 * magnitude.size) - 1] or magnitude[-1]
    strength = np.minimum(np.abs(value) / limit, 1)[..., None]
    zero, raises, lowers = np.array([17, 19, 24]), np.array([255, 146, 64]), np.array([84, 178, 255])
    return np.round(zero + strength * (np.where(value[..., None] > 0, raises, lowers) - zero)).astype(np.uint8)


def assert_shows(shown: Mapping[str, Any], attribution: Tensor) -> None:
    """Compare both canvases with autograd's map, to one level of 255."""
    expected = paint(attribution[0].numpy()).astype(int)
    assert (expected.max((0, 1)) > 200).any(), "the map is dark throughout"
    for canvas in ("map", "overlay"):
        found = pixels(shown[canvas])
        assert (found[..., 3] == 255).all()
        assert np.abs(found[..., :3] - expected).max() <= 1


def assert_answers(shown: Mapping[str, Any], logits: Tensor, names: Sequence[str]) -> None:
    """Compare class, order, probabilities and bars with autograd's forward pass."""
    shares = logits.softmax(1)[0]
    order = shares.argsort(descending=True)[:10].tolist()
    assert [row["name"] for row in shown["rows"]] == [names[index] for index in order]
    assert shown["prediction"].split("\n")[0].startswith(names[order[0]])
    assert shown["prediction"].endswith(shown["rows"][0]["share"])
    for row, index in zip(shown["rows"], order, strict=True):
        share = float(shares[index])
        assert row["bar"] == pytest.approx(share, abs=0.01)
        if row["share"].startswith(("<", ">")):
            assert (share < 0.0005) if row["share"] == "< 0.1 %" else (share > 0.9995)
        else:
            assert float(row["share"].removesuffix(" %")) == pytest.approx(100 * share, abs=0.0501)


def test_the_page_sees_what_pillow_sees(report: dict[str, Any], visit: Path) -> None:
    cases = (("first", PHOTO, (32, 32), "RGB"), ("dropped", visit / "dropped.png", (32, 32), "RGB"))
    for name, path, size, mode in (*cases, ("small", PHOTO, (8, 12), "L")):
        seen = central_part(path, size, mode)
        assert (pixels(report[name]["seen"])[..., :3] == seen.reshape(*seen.shape[:2], -1)).all(), name


@pytest.mark.parametrize(
    ("step", "target"),
    [
        ("first", -1),
        ("dog", 5),
        ("dropped", -1),
        ("sampleAgain", -1),
        ("dogAgain", 5),
        ("offline", -1),
        ("offlineDog", 5),
    ],
)
def test_the_page_shows_autograds_answer_and_map(
    report: dict[str, Any], visit: Path, cifar: tuple[nn.Module, Mapping[str, Any]], step: str, target: int
) -> None:
    model, preprocessing = cifar
    picture = visit / "dropped.png" if step == "dropped" else PHOTO
    image = to_input(central_part(picture, (32, 32), "RGB"), **preprocessing)
    logits, attribution = attribute(model, image, torch.tensor([target]), "guided")
    names = resolve("cifar_resnet20").classes
    assert names is not None
    assert_answers(report[step], logits, names)
    assert_shows(report[step], attribution)
    explained = names[target] if target >= 0 else names[int(logits.argmax())]
    assert [row["name"] for row in report[step]["rows"] if row["checked"]] == [explained]
    assert report[step]["explained"].endswith(f"{explained}.")
    assert report[step]["error"] == ""


def test_maps_of_two_classes_differ(report: dict[str, Any]) -> None:
    assert (pixels(report["first"]["map"]) != pixels(report["dog"]["map"])).any()


@pytest.mark.parametrize(("step", "target"), [("small", -1), ("smallEleven", 11), ("gpu", -1), ("gpuDeclined", -1)])
def test_another_artifact_is_shown_as_well(report: dict[str, Any], step: str, target: int) -> None:
    image = to_input(central_part(PHOTO, (8, 12), "L"))
    logits, attribution = attribute(small_network().double(), image, torch.tensor([target]), "guided")
    assert_answers(report[step], logits, [f"class {index}" for index in range(12)])
    assert_shows(report[step], attribution)
    assert report[step]["classes"] == 12


def test_the_runtime_is_named(report: dict[str, Any]) -> None:
    assert report["first"]["facts"]["runtime"] == "wasm, one thread (no WebGPU here)"
    assert re.fullmatch(r"WebGPU \(\d\.\de-\d+ from wasm on a test image\)", report["gpu"]["facts"]["runtime"])
    assert report["gpuDeclined"]["facts"]["runtime"] == "wasm, one thread (no WebGPU here)"


def test_the_slider_sets_the_opacity(report: dict[str, Any]) -> None:
    assert report["slider"] == [[0, 0, "0\u00a0%"], [30, 0.3, "30\u00a0%"], [100, 1, "100\u00a0%"]]


@pytest.mark.parametrize(
    ("step", "before", "message"),
    [
        ("notAnImage", "dropped", "words.png is not an image that this browser can read"),
        ("notForPictures", "sampleAgain", "this page shows pictures; the artifact takes image float32 [batch, 5]"),
        ("halfAnArtifact", "sampleAgain", "an artifact is manifest.json and model.onnx; model.onnx is missing"),
    ],
)
def test_an_error_is_shown_and_the_answer_stays(report: dict[str, Any], step: str, before: str, message: str) -> None:
    assert report[step]["error"] == message
    assert report[step]["map"] == report[before]["map"]
    assert report[step]["prediction"] == report[before]["prediction"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_manifest_is_told_and_the_network_stays(report: dict[str, Any], name: str) -> None:
    """The answer on show too; that the network goes on explaining, ``dogAgain`` shows."""
    shown, before = report["broken"][name], report["sampleAgain"]
    assert shown["error"] == f"the manifest is damaged: {BROKEN[name][1]}"
    for part in ("map", "seen", "prediction", "rows"):
        assert shown[part] == before[part], part
    for fact in ("network", "method", "proof", "file", "runtime"):
        assert shown["facts"][fact] == before["facts"][fact], fact


def test_a_changed_byte_is_shown(report: dict[str, Any]) -> None:
    assert report["changed"]["error"].startswith("model.onnx has changed since it was proven: sha256 ")
    assert report["changed"]["rows"] == []
    assert not pixels(report["changed"]["map"]).any()


def test_nothing_is_asked_of_another_host(report: dict[str, Any]) -> None:
    assert report["requested"] == [report["home"]]
    assert {"/good/artifact/model.onnx", "/good/ort/ort-wasm-simd-threaded.wasm"} <= set(report["served"])
    assert report["complaints"] == []  # what the policy blocks, the console tells
    assert report["offlineBefore"] == "kept on this device; needs no network from now on"


def test_the_network_runs_in_the_worker(report: dict[str, Any]) -> None:
    """The page's own thread fetches neither runtime nor model, so neither can freeze it."""
    own = [name for name in report["mainThread"] if name.endswith((".wasm", ".onnx", ".mjs"))]
    assert own == []
    assert report["mainThread"]


def test_the_keyboard_reaches_everything(report: dict[str, Any]) -> None:
    stops = [stop["name"] for stop in report["keyboard"]]
    assert stops == ["opacity", "file", "sample", "class", "summary", "artifact"]
    assert all(stop["ring"] and stop["label"] for stop in report["keyboard"])
    end = report["keyboardEnd"]
    assert end["opacity"] == "71"
    assert end["explained"] == f"The map explains {end['rows'][1]['name']}."


def test_the_answer_is_announced(report: dict[str, Any]) -> None:
    role, live, text = report["speech"]
    assert (role, live) == ("status", "polite")
    assert "cat" in text
    assert "The map explains the network's answer, cat." in text


def luminance(color: str) -> float:
    """Return WCAG 2's relative luminance of ``rgb(r, g, b)``."""
    levels = [int(level) / 255 for level in re.findall(r"\d+", color)[:3]]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["phone", "phoneDark"])
def test_a_phone_shows_it_readably(report: dict[str, Any], name: str) -> None:
    phone = report[name]
    assert phone["width"] == 390
    assert phone["touch"] >= 24  # WCAG 2.2, 2.5.8
    assert phone["size"] >= 13
    assert min(contrast(text, phone["paper"]) for text in phone["texts"]) >= 4.5  # WCAG 2.2, 1.4.3
    assert contrast(*phone["button"]) >= 4.5
    dark = luminance(phone["paper"]) < 0.1
    assert dark == (name == "phoneDark")
