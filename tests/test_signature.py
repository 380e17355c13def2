"""Several inputs, an output among others, another dtype: what a network may take and return."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import exporter
from exporter import Input
from exporter.network import Network, draw
from exporter.signature import Dimension, Signature
from tests import networks

INPUTS = (Input("left", (1, 6, 6)), Input("right", (5,)), Input("mask", (4,), "int64"))
RUNTIMES = ("onnxruntime", "torchscript")


@pytest.fixture(scope="module")
def siamese(tmp_path_factory: pytest.TempPathFactory) -> exporter.Artifact:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("siamese") / "a"
    return exporter.export(networks.Siamese(), INPUTS, folder, method="gradient", output_key="1.scores")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_several_inputs(siamese: exporter.Artifact, runtime: str) -> None:
    """Plain autograd is the judge: under the method ``gradient`` nothing is replaced."""
    torch.manual_seed(0)
    model = networks.Siamese()
    left, right, mask = draw(INPUTS, 3, torch.Generator().manual_seed(1))
    left, right = left.requires_grad_(), right.requires_grad_()
    _, outputs = model(left, right, mask)
    target = torch.tensor([0, 2, 1])
    expected = torch.autograd.grad(outputs["scores"].gather(1, target[:, None]).sum(), [left, right])
    found = exporter.load(siamese.folder, runtime)(
        {"right": right.detach().numpy(), "mask": mask.numpy(), "left": left.detach().numpy()}, target.numpy()
    )
    np.testing.assert_allclose(found.logits, outputs["scores"].detach(), rtol=1e-5, atol=1e-6)
    assert list(found.attribution) == ["left", "right"]
    for rows, wanted in zip(found.attribution.values(), expected, strict=True):
        np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"name": "length", "min": 0},
        {"name": "length", "min": 1, "multiple_of": 0},
        {"name": "length", "min": 1, "max": "9"},
        {"name": "length", "least": 1},
        "length",
    ],
)
def test_damaged_sizes_are_refused(entry: object) -> None:
    with pytest.raises(exporter.ArtifactError, match="the manifest is damaged: its dynamic sizes cannot be read"):
        Dimension.of_manifest({"dynamic": [{"name": "batch"}, entry]})


@pytest.mark.parametrize(
    ("dimension", "allowed", "words"),
    [
        (Dimension("length", 3, 1, 6), [3, 4, 5, 6], "length from 3 to 6"),
        (Dimension("height", 4, 3, 10), [4, 7, 10], "height from 4 to 10, 4 plus a multiple of 3"),
        (Dimension("width", 5, 2), [5, 7, 9, 11], "width from 5, 5 plus a multiple of 2"),
    ],
)
def test_which_sizes_are_allowed(dimension: Dimension, allowed: list[int], words: str) -> None:
    assert [size for size in range(12) if dimension.allows(size)] == allowed
    assert str(dimension) == words
    assert Dimension.of_manifest({"dynamic": [dimension.to_json()]}) == (dimension,)


def test_the_manifest_of_several_inputs(siamese: exporter.Artifact) -> None:
    manifest = siamese.manifest
    assert [(one["name"], one["dtype"], one["shape"]) for one in manifest["inputs"]] == [
        ("left", "float32", ["batch", 1, 6, 6]),
        ("right", "float32", ["batch", 5]),
        ("mask", "int64", ["batch", 4]),
        ("target", "int64", ["batch"]),
    ]
    assert [one["name"] for one in manifest["outputs"]] == ["logits", "attribution_left", "attribution_right"]
    assert manifest["model"]["output_key"] == "1.scores"
    assert manifest["method"]["rectifiers"] == {"relu": 2}
    schema = json.loads((Path(exporter.__file__).parent / "manifest.schema.json").read_text())
    jsonschema.validate(json.loads((siamese.folder / "manifest.json").read_text()), schema)
    assert Signature.of_manifest(manifest) == Signature(INPUTS, "1.scores")
    state = torch.jit.load(siamese.folder / "model.pt").state_dict()
    assert "left_.weight" in state, "a module that has an input's name is renamed, the input is not"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_wrong_inputs(siamese: exporter.Artifact, runtime: str) -> None:
    session = exporter.load(siamese.folder, runtime)
    arrays = {one.name: x.numpy() for one, x in zip(INPUTS, draw(INPUTS, 2, torch.Generator()), strict=True)}
    with pytest.raises(exporter.UsageError, match="takes left, right, mask, not left, right"):
        session({name: arrays[name] for name in ("left", "right")})
    with pytest.raises(exporter.UsageError, match="give a mapping from names to arrays"):
        session(arrays["left"])
    with pytest.raises(Exception, match=r"(?i)invalid|size|expand|shape|broadcast|dimension"):
        session({**arrays, "right": arrays["right"][:1]})


def test_build_takes_named_examples() -> None:
    model = networks.Siamese()
    examples = dict(zip((one.name for one in INPUTS), draw(INPUTS, 2, torch.Generator()), strict=True))
    explicit = exporter.build(model, examples, output_key="1.scores")
    logits, left, right = explicit(*examples.values(), torch.tensor([-1, -1]))
    assert torch.equal(logits, model(**examples)[1]["scores"])
    assert (left.shape, right.shape) == (examples["left"].shape, examples["right"].shape)


class Ignoring(nn.Module):
    """Takes its inputs by position, under other names, and does not use the second."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a.relu() * 2


def test_an_input_that_nothing_depends_on_has_a_zero_attribution(tmp_path: Path) -> None:
    exporter.export(Ignoring(), [Input("used", (3,)), Input("idle", (2, 2))], tmp_path / "a")
    for runtime in RUNTIMES:
        ones = {"used": np.ones((1, 3), np.float32), "idle": np.ones((1, 2, 2), np.float32)}
        found = exporter.load(tmp_path / "a", runtime)(ones, 1)
        assert found.attribution["used"].tolist() == [[0, 2, 0]]
        assert found.attribution["idle"].tolist() == [[[0, 0], [0, 0]]]


def test_segmentation_is_summed_over_space(tmp_path: Path) -> None:
    model = networks.Segmenter()
    artifact = exporter.export(model, (3, 8, 8), tmp_path / "a", output_key="out", method="gradient")
    assert artifact.manifest["model"]["reduction"] == "sum over height and width"
    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    logits = model(image)["out"].sum((2, 3))
    (expected,) = torch.autograd.grad(logits[0, 2], image)
    found = exporter.load(tmp_path / "a")(image.detach().numpy(), 2)
    np.testing.assert_allclose(found.logits, logits.detach(), rtol=1e-5)
    np.testing.assert_allclose(found.attribution, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "Segmenter returns dict, not a tensor of logits [N, K]. Pick the logits with --output-key out or aux."),
        ("logits", "Segmenter returns nothing at --output-key 'logits'. Pick the logits with --output-key out or aux."),
    ],
)
def test_output_keys_of_a_dict(key: str | None, message: str) -> None:
    with pytest.raises(exporter.UnsupportedModel) as error:
        exporter.build(networks.Segmenter(), torch.zeros(1, 3, 8, 8), output_key=key)
    assert str(error.value) == message


@dataclass(slots=True)
class Slots:
    """What has no ``__dict__``."""

    logits: Tensor
    count: int


class Nested(nn.Module):
    """Returns the logits deep inside."""

    def forward(self, x: torch.Tensor) -> Any:
        y = x.relu().flatten(1)
        circle = SimpleNamespace(logits=y, kept=2)
        circle.itself = circle
        return {
            "scores": {"cls": y, "n": 3},
            "list": [y, (y, y)],
            "object": circle,
            "slots": Slots(y, 3),
            "loss": None,
            "empty": (),
        }


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("scores", "returns dict, not a tensor of logits [N, K]. Pick the logits with --output-key scores.cls."),
        (
            "cls",
            "returns nothing at --output-key 'cls'. Pick the logits with --output-key scores or list or object",
        ),
        (
            "list.1",
            "returns tuple, not a tensor of logits [N, K]. Pick the logits with --output-key list.1.0 or",
        ),
        ("list.2", "returns nothing at --output-key 'list.2'. Pick the logits with --output-key list.0 or list.1."),
        ("object", "a tensor of logits [N, K]. Pick the logits with --output-key object.logits or object.itself."),
        ("slots.x", "returns nothing at --output-key 'slots.x'. Pick the logits with --output-key slots.logits."),
        ("loss", "returns nothing at --output-key 'loss'. Pick the logits with --output-key scores or list or object"),
        ("empty", "returns tuple, not a tensor of logits [N, K]. Wrap it in a module that returns the logits alone."),
        ("scores.n.x", "returns nothing at --output-key 'scores.n.x'. 'scores.n' is of type int."),
        ("scores.cls.x", "returns nothing at --output-key 'scores.cls.x'. 'scores.cls' is one tensor."),
    ],
)
def test_output_keys_inside(key: str, message: str) -> None:
    with pytest.raises(exporter.UnsupportedModel) as error:
        exporter.build(Nested(), torch.zeros(1, 4), output_key=key)
    assert message in str(error.value)
    exporter.build(Nested(), torch.ones(1, 4), output_key="object.logits")


class Both(nn.Module):
    """Takes two tensors."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left.relu() @ right.mT).flatten(1)


class Misspelled(nn.Module):
    """Calls a function of PyTorch's wrongly, and is called rightly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dims=1)


def test_how_a_network_is_called_is_what_to_check() -> None:
    with pytest.raises(exporter.UnsupportedModel, match=r"'right'. Give one --input for each tensor that it takes.$"):
        exporter.build(Both(), torch.zeros(1, 4, 4))
    with pytest.raises(exporter.UnsupportedModel, match=r"Check the shape and the dtype of each --input, and"):
        exporter.build(Both(), {"left": torch.zeros(1, 4, 4), "right": torch.zeros(1, 4, 3)})
    with pytest.raises(exporter.UnsupportedModel, match=r"softmax.*dim.*. Check --input-shape and the weights.$"):
        exporter.build(Misspelled(), torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([Input("x", (3,)), Input("x", (3,))], "two inputs are named 'x'"),
        ([Input("target", (3,))], "cannot be named 'target': the artifact has a tensor of that name itself"),
        ([Input("attribution_x", (3,))], "cannot be named 'attribution_x'"),
        ([Input("my input", (3,))], "cannot be named 'my input'; take a name as in Python"),
        ([Input("lambda", (3,))], "cannot be named 'lambda'"),
        ([Input("x", (3,), "complex64")], "input 'x' has dtype 'complex64'; there are float32"),
        ([Input("x", (3,), "int64")], "no input is of floating point, so there is nothing to attribute to"),
    ],
)
def test_wrong_signatures(inputs: list[Input], message: str, tmp_path: Path) -> None:
    with pytest.raises(exporter.UsageError, match=message):
        exporter.export(nn.Linear(3, 2), inputs, tmp_path / "a")


# -- dtypes --------------------------------------------------------------------------------------------------------


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes(dtype: str, runtime: str, tmp_path: Path) -> None:
    model = perceptron()
    artifact = exporter.export(model, (6,), tmp_path / "a", dtype=dtype, method="gradient")
    assert next(model.parameters()).dtype == torch.float32, "the network itself is as it was"
    proven = {(one["runtime"], one["dtype"]) for one in artifact.manifest["parity"]["runtimes"]}
    assert {("torchscript", dtype), ("onnxruntime", dtype), ("torchscript", "float64")} <= proven
    image = torch.randn(2, 6, dtype=getattr(torch, dtype)).double().requires_grad_()
    # Of the same values as the artifact's: its weights are rounded to its dtype.
    logits = model.to(getattr(torch, dtype)).double()(image)
    (expected,) = torch.autograd.grad(logits[:, 1].sum(), image)
    found = exporter.load(tmp_path / "a", runtime)(image.detach().numpy().astype(dtype), 1)
    assert (found.logits.dtype, found.attribution.dtype) == (dtype, dtype)
    tolerance = {"float16": 5e-3, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(found.attribution, expected, rtol=tolerance, atol=tolerance)


def test_float64_where_onnxruntime_cannot(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(exporter.UsageError, match=r"cannot run this network in float64 \(.*Conv.*--format torchscript"):
        exporter.export(model, (1, 4, 4), tmp_path / "a", dtype="float64")
    assert not (tmp_path / "a").exists()
    artifact = exporter.export(model, (1, 4, 4), tmp_path / "a", dtype="float64", formats=["torchscript"])
    assert artifact.manifest["parity"]["runtimes"][0]["relative_l2"]["worst"] < 1e-14


def test_a_network_of_another_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(exporter.UsageError, match=r"0\.weight is torch\.float64, and the artifact would be float32"):
        exporter.export(nn.Sequential(nn.Linear(6, 3)).double(), (6,), tmp_path / "a")


def test_inputs_go_by_name_where_the_network_has_the_names() -> None:
    class Difference(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - b

    one, two = torch.ones(1, 2), 2 * torch.ones(1, 2)
    for names, sign in ((("a", "b"), -1), (("b", "a"), 1), (("x", "y"), -1)):
        network = Network(Difference(), Signature(tuple(Input(name, (2,)) for name in names)))
        assert network(one, two).tolist() == [[sign, sign]]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (torch.zeros(1, 3, 4, 4), "a Tensor"),
        (48, "48"),
        ("3,4,4", "'3,4,4'"),
        ((3, 4.0, 4), r"\(3, 4\.0, 4\)"),
        ((3, 0, 4), r"\(3, 0, 4\)"),
    ],
    ids=str,
)
def test_what_is_no_shape(shape: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(
        exporter.UsageError, match=f"the shape of input 'image' is {said}; give the sizes of one sample"
    ):
        exporter.export(nn.Linear(4, 3), shape, tmp_path / "a")


def test_numpys_numbers_are_sizes() -> None:
    assert Input("image", tuple(np.array([3, 4, 4]))) == Input("image", (3, 4, 4))


@pytest.mark.parametrize(
    ("model", "said"), [(nn.ReLU, "the class ReLU"), (lambda x: x, "a function")], ids=["class", "function"]
)
def test_what_is_no_network(model: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(exporter.UsageError, match=f"the model is {said}, and must be an instance of nn.Module"):
        exporter.export(model, (4,), tmp_path / "a")
    with pytest.raises(exporter.UsageError, match=f"the model is {said}"):
        exporter.build(model, torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"formats": "onnx"}, r"formats is a sequence of names, \['onnx'\]"),
        ({"opset": "18"}, "opset '18' is not supported"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 2**63}, "seed 9223372036854775808 is out of range"),
    ],
    ids=str,
)
def test_what_is_no_option(options: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(exporter.UsageError, match=said):
        exporter.export(nn.Linear(4, 3), (4,), tmp_path / "a", **options)


def test_what_is_no_batch(tmp_path: Path) -> None:
    with pytest.raises(exporter.UsageError, match="the example of input 'image' is a tuple; give a tensor, a batch"):
        exporter.build(nn.Linear(4, 3), (1, 4))
    exporter.export(nn.Linear(4, 3), (4,), tmp_path / "a")
    for batches in ([], [1, 0]):
        with pytest.raises(exporter.UsageError, match=r"batches are .*; give a list of whole numbers, each 1"):
            exporter.verify(tmp_path / "a", nn.Linear(4, 3), batches=batches)
