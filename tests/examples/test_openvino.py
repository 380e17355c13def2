"""OpenVINO runs ``model.onnx`` as it is: live autograd's answers, to the bit in whole numbers, and what is refused."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

import exporter
from exporter.artifact import write_manifest
from exporter.lowering import TARGETS
from exporter.methods import METHODS
from exporter.pipeline import write
from exporter.sources import resolve
from tests.examples.conftest import Once, Require
from tests.oracle import attribute, decided_images
from tests.test_exact import NETWORKS, explicit, whole

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "openvino" / "explain.py"


@pytest.fixture(scope="module")
def example(require: Require) -> ModuleType:
    require(importlib.util.find_spec("openvino"), "openvino", "pip install openvino")
    spec = importlib.util.spec_from_file_location("saliport_openvino", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def explainer(example: ModuleType, artifact: Path):
    return example.Explainer(artifact, threads=1)


def relative_l2(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return ``|found - expected| / |expected|`` of each sample."""
    difference, size = (array.reshape(len(array), -1) for array in (found - expected, expected))
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(size, axis=1)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("method", METHODS)
def test_parity_with_live_autograd(example: ModuleType, once: Once, method: str, batch: int) -> None:
    source = resolve("digits_cnn")

    def make(folder: Path) -> None:
        exporter.export(source.model, source.sample_shape, folder / "artifact", method=method, formats=["onnx"])

    explainer = example.Explainer(once(f"digits-{method}", make) / "artifact", threads=1)
    images = decided_images(source.model, batch, source.sample_shape)
    for target in (torch.full((batch,), -1), torch.full((batch,), 7), torch.arange(-1, batch - 1)):
        logits, expected = attribute(source.model, images, target, method)
        found = explainer(images.numpy(), target.numpy())
        assert relative_l2(found[0], logits.numpy()).max() < 1e-5
        assert relative_l2(found[1], expected.numpy()).max() < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_numbers_agree_to_the_bit(example: ModuleType, name: str, tmp_path: Path) -> None:
    import openvino

    model, images = whole(name)
    target = torch.tensor([-1, 2, 0])
    for method in METHODS:
        logits, expected = attribute(model, images, target, method)
        write(explicit(name, method), "onnx", tmp_path / "model.onnx")
        hints = {**example.HINTS, "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", hints)
        found = compiled({"image": images.numpy(), "target": target.numpy()})
        assert np.array_equal(found["logits"], logits.numpy()), method
        assert np.array_equal(found["attribution"], expected.numpy()), method


class Summed(torch.nn.Module):
    """A segmentation network's logits as an artifact has them."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)["out"].sum((2, 3))


def test_a_transposed_convolution_and_its_gradient_share_a_weight(example: ModuleType, once: Once) -> None:
    """OpenVINO mixes them up unless the file keeps them apart; at sizes that vary, as the manifest allows."""
    model = resolve(f"{ROOT}/examples/roads.py:make_net", sample_shape=(3, 16, 16)).model
    dynamic = ("batch", "height", "width")

    def make(folder: Path) -> None:
        shape, formats = (3, 16, 16), ["onnx"]
        exporter.export(model, shape, folder / "artifact", formats=formats, dynamic=dynamic, output_key="out")

    folder = once("roads", make) / "artifact"
    explainer = example.Explainer(folder, threads=1)
    for shape in ((3, 16, 16), (3, 12, 20)):
        images = decided_images(Summed(model), 2, shape)
        target = torch.tensor([-1, 1])
        logits, expected = attribute(Summed(model), images, target, "guided")
        found = explainer(images.numpy(), target.numpy())
        assert relative_l2(found[0], logits.numpy()).max() < 1e-5
        assert relative_l2(found[1], expected.numpy()).max() < 1e-5
    with pytest.raises(example.Refused, match="the image is"):
        explainer(np.zeros((1, 3, 15, 16), np.float32))


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_what_was_optimized_for_any_runtime(example: ModuleType, target: str, tmp_path: Path) -> None:
    """Square weights, which OpenVINO takes for their own transposes where both come from one value."""
    torch.manual_seed(0)
    few = [nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()]
    convolutions = nn.Sequential(*few, nn.Conv2d(4, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
    square = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(convolutions, nn.MaxPool2d(2), nn.Flatten(), *square, nn.Linear(64, 5)).eval()
    exporter.export(model, (3, 16, 16), tmp_path / "artifact", formats=["onnx"], optimize_for=target)
    images, wanted = decided_images(model, 3, (3, 16, 16)), torch.tensor([-1, 2, 0])
    logits, expected = attribute(model, images, wanted, "guided")
    found = example.Explainer(tmp_path / "artifact", threads=1)(images.numpy(), wanted.numpy())
    assert relative_l2(found[0], logits.numpy()).max() < 1e-5
    assert relative_l2(found[1], expected.numpy()).max() < 1e-5


def test_the_command(example: ModuleType, artifact: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", PROGRAM, artifact, *arguments, "--threads", 1]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path)

    result = run(ROOT / "docs" / "chelsea.png", "--output", "heat.png", "--repeat", 2)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("cat 100.0%, ")
    assert "of 2 runs" in result.stdout
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.size == (32, 32)
        assert np.asarray(picture).max() == 255

    source = resolve("cifar_resnet20")
    images = decided_images(source.model, 2, (3, 32, 32))
    np.save(tmp_path / "images.npy", images.numpy())
    result = run("images.npy", "--output", "out.npz", "--target", 3, -1)
    assert result.returncode == 0, result.stderr
    logits, expected = attribute(source.model, images, torch.tensor([3, -1]), "guided")
    with np.load(tmp_path / "out.npz") as found:
        assert relative_l2(found["logits"], logits.numpy()).max() < 1e-5
        assert relative_l2(found["attribution"], expected.numpy()).max() < 1e-5

    result = run("images.npy", "--output", "bad.npz", "--target", 10)
    assert result.returncode == 1
    assert result.stderr == "explain: the target 10 is out of range: -1 (predicted) to 9\n"
    assert not (tmp_path / "bad.npz").exists()


def test_a_photograph_is_turned_as_the_camera_was_held(example: ModuleType, explainer, tmp_path: Path) -> None:
    with Image.open(ROOT / "docs" / "chelsea.png") as upright:
        sideways, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
        exif[0x0112] = 6  # Orientation: turn it to the right
        sideways.save(tmp_path / "phone.png", exif=exif)
    expected = example.read_input(ROOT / "docs" / "chelsea.png", explainer)
    assert np.array_equal(example.read_input(tmp_path / "phone.png", explainer), expected)


def test_a_photograph_of_16_bits_is_refused(example: ModuleType, explainer, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "grey.png")
    with pytest.raises(example.Refused, match=r"grey\.png has more than 8 bits a value"):
        example.read_input(tmp_path / "grey.png", explainer)


@pytest.mark.parametrize("target", [-2, 10, 2**32, 2**40, -(2**63), [0, 10], [-2, 0]])
def test_a_class_that_is_none_is_refused(example: ModuleType, explainer, target: object) -> None:
    size = len(target) if isinstance(target, list) else 1
    with pytest.raises(example.Refused, match="is out of range: -1 \\(predicted\\) to 9"):
        explainer(np.zeros((size, 3, 32, 32), np.float32), target)


def test_openvino_itself_refuses_no_class(explainer) -> None:
    """Why the program must: should this fail one day, OpenVINO has become stricter and the README can say so."""
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    found = explainer.compiled({"image": image, "target": np.array([10])})
    assert not found["attribution"].any()
    found = explainer.compiled({"image": image, "target": np.array([2**32 + 3])})
    assert np.array_equal(found["attribution"], explainer(image, 3)[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_is_refused(example: ModuleType, explainer, value: float) -> None:
    images = np.zeros((2, 3, 32, 32), np.float32)
    images[1, 0, 5, 5] = value
    with pytest.raises(example.Refused, match="the image holds NaN or infinity"):
        explainer(images)


def test_openvino_itself_makes_a_class_of_nan(explainer) -> None:
    """Why the program must refuse it; live autograd does not."""
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    image[0, 0, 5, 5] = np.nan
    assert np.isfinite(explainer.compiled({"image": image, "target": np.array([-1])})["logits"]).all()
    assert resolve("cifar_resnet20").model(torch.from_numpy(image)).isnan().all()


@pytest.mark.parametrize(
    ("shape", "dtype", "target"),
    [
        ((1, 3, 32, 33), np.float32, -1),
        ((1, 1, 32, 32), np.float32, -1),
        ((3, 32, 32), np.float32, -1),
        ((0, 3, 32, 32), np.float32, -1),
        ((1, 3, 32, 32), np.float64, -1),
        ((1, 3, 32, 32), np.uint8, -1),
        ((2, 3, 32, 32), np.float32, [1]),
        ((2, 3, 32, 32), np.float32, [1, 2, 3]),
        ((1, 3, 32, 32), np.float32, 1.0),
        ((1, 3, 32, 32), np.float32, True),
    ],
)
def test_other_inputs_are_refused(example: ModuleType, explainer, shape, dtype, target) -> None:
    with pytest.raises(example.Refused, match=r"the image is|the target is"):
        explainer(np.zeros(shape, dtype), target)


def test_varying_sizes_are_those_of_the_manifest(example: ModuleType, artifact: Path) -> None:
    explainer = example.Explainer(artifact, threads=1)
    explainer.manifest["dynamic"] = [
        {"name": "batch", "min": 1, "multiple_of": 1},
        {"name": "height", "min": 8, "multiple_of": 4},
        {"name": "width", "min": 30, "multiple_of": 1, "max": 33},
    ]
    explainer.image["shape"] = ["batch", 3, "height", "width"]
    sizes = [height for height in range(40) if explainer._fits((2, 3, height, 32))]
    assert sizes == [8, 12, 16, 20, 24, 28, 32, 36]
    assert [width for width in range(40) if explainer._fits((2, 3, 8, width))] == [30, 31, 32, 33]


def damaged(artifact: Path, folder: Path, change) -> Path:
    """Copy an artifact, change its manifest in a way, and seal it as if that were meant."""
    shutil.copytree(artifact, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["manifest_sha256"]
    change(manifest)
    write_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(schema=3), "has a manifest of schema 3; this program reads 2"),
        (lambda manifest: manifest.pop("files"), "has a damaged manifest: it lacks files"),
        (lambda manifest: manifest["files"].pop("onnx"), "has changed since it was proven"),
        (lambda manifest: manifest["inputs"].insert(0, {"name": "left"}), "takes several inputs"),
    ],
)
def test_another_manifest_is_refused(example: ModuleType, artifact: Path, tmp_path: Path, change, message: str) -> None:
    with pytest.raises(example.Refused, match=message):
        example.Explainer(damaged(artifact, tmp_path / "damaged", change))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"mean": [\n        0.4', '"mean": [\n        0.5'),
        ('"range": [\n        -1,\n        9', '"range": [\n        -1,\n        8'),
        ('"manifest_sha256"', '"manifest_sha512"'),
        ("\n}\n", "\n}"),
    ],
    ids=["mean", "classes", "no seal", "a byte less"],
)
def test_a_changed_manifest_is_refused(example: ModuleType, artifact: Path, tmp_path: Path, old: str, new: str) -> None:
    """Its numbers are used as they are: another mean explains another picture."""
    changed = tmp_path / "changed"
    shutil.copytree(artifact, changed)
    text = (changed / "manifest.json").read_text(encoding="utf-8")
    assert old in text
    (changed / "manifest.json").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(example.Refused, match=r"manifest\.json has changed since it was written: its manifest_sha256"):
        example.Explainer(changed)


def test_a_changed_model_and_an_empty_folder_are_refused(example: ModuleType, artifact: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(artifact, changed)
    with (changed / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(example.Refused, match="has changed since it was proven"):
        example.Explainer(changed)
    with pytest.raises(example.Refused, match="is not an artifact with an ONNX model"):
        example.Explainer(tmp_path)


def test_a_model_that_names_another_file_is_refused(
    example: ModuleType, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO itself reads any file below the current folder."""
    import openvino

    monkeypatch.chdir(tmp_path)

    secret = tmp_path / "secret"
    model = onnx.load(artifact / "model.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "linear.bias")
    secret.write_bytes(weight.raw_data)
    size = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", str(secret)), ("offset", "0"), ("length", str(size))):
        weight.external_data.add(key=key, value=value)
    data = model.SerializeToString()
    openvino.Core().read_model(io.BytesIO(data))

    def sign(manifest) -> None:
        manifest["files"]["onnx"]["sha256"] = hashlib.sha256(data).hexdigest()

    folder = damaged(artifact, tmp_path / "artifact", sign)
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(example.Refused, match="refers to another file"):
        example.Explainer(folder)


WEIGHT = onnx.TensorProto(dims=[4], data_type=onnx.TensorProto.FLOAT, data_location=onnx.TensorProto.EXTERNAL)
WEIGHT.external_data.add(key="location", value="secret")


def model_with(node: onnx.NodeProto, **parts: object) -> bytes:
    graph = onnx.helper.make_graph([node], "graph", [], [], **parts)
    return onnx.helper.make_model(graph).SerializeToString()


def written_otherwise(data: bytes) -> bytes:
    """Write the value before its key, whose length has two bytes: the same to whoever reads protobuf."""
    entry = b"\x0a\x08location\x12\x06secret"
    assert entry in data
    return data.replace(entry, b"\x12\x05secre\x0a\x88\x00location")


ADD = onnx.helper.make_node("Add", ["x", "y"], ["z"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (model_with(ADD, initializer=[WEIGHT]), "refers to another file"),
        (written_otherwise(model_with(ADD, initializer=[WEIGHT])), "refers to another file"),
        (model_with(onnx.helper.make_node("Constant", [], ["z"], value=WEIGHT)), "refers to another file"),
        (model_with(onnx.helper.make_node("Loop", [], [], body=onnx.GraphProto())), "attribute has protobuf field 6"),
        (model_with(ADD, sparse_initializer=[onnx.SparseTensorProto(values=WEIGHT)]), "graph has protobuf field 15"),
        (onnx.ModelProto(functions=[onnx.FunctionProto()]).SerializeToString(), "model has protobuf field 25"),
        (model_with(ADD)[:-1], "is no protobuf"),
        (b"\xff" * 20, "is no protobuf"),
        (b"\x0b", "is no protobuf"),
    ],
)
def test_only_plain_models_are_read(example: ModuleType, data: bytes, message: str) -> None:
    example.check_plain(memoryview(model_with(ADD)))
    with pytest.raises(ValueError, match=message):
        example.check_plain(memoryview(data))


class Located(nn.Module):
    """Its modules are called what the key of a tensor in another file is called."""

    def __init__(self) -> None:
        super().__init__()
        self.location = nn.Conv2d(1, 4, 3)
        self.head = nn.ModuleDict({"location": nn.Linear(64, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head["location"](torch.relu(self.location(x)).flatten(1))


def test_modules_may_have_any_name(example: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Located().eval()
    exporter.export(model, (1, 6, 6), tmp_path / "artifact", formats=["onnx"])
    assert b"\x08location" in (tmp_path / "artifact" / "model.onnx").read_bytes()
    images, target = decided_images(model, 2, (1, 6, 6)), torch.tensor([-1, 2])
    logits, expected = attribute(model, images, target, "guided")
    found = example.Explainer(tmp_path / "artifact", threads=1)(images.numpy(), target.numpy())
    assert relative_l2(found[0], logits.numpy()).max() < 1e-5
    assert relative_l2(found[1], expected.numpy()).max() < 1e-5


def test_calls_may_run_side_by_side(explainer) -> None:
    generator = np.random.default_rng(0)
    batches = [generator.standard_normal((1 + index % 3, 3, 32, 32), dtype=np.float32) for index in range(24)]
    alone = [explainer(batch, 3) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda batch: explainer(batch, 3), batches))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
