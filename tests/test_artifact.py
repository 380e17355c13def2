"""The folder: what the files hold, what the manifest says of them, and how they get into place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import exporter
from exporter import artifact as artifact_module
from exporter.artifact import FILES, SCHEMA, describe, replacing, write_manifest
from exporter.lowering.torchscript import KERNELS
from exporter.sources import resolve

SCHEMA_FILE = Path(artifact_module.__file__).with_name("manifest.schema.json")


@pytest.fixture(scope="module")
def source():
    return resolve("cifar_resnet20")


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory: pytest.TempPathFactory) -> exporter.Artifact:
    folder = tmp_path_factory.mktemp("artifacts") / "deep" / "cifar"
    return exporter.export(source.model, source.sample_shape, folder, description=source.describe())


@pytest.fixture(scope="module")
def graph(finished: exporter.Artifact) -> onnx.ModelProto:
    return onnx.load(finished.folder / "model.onnx")


def test_the_folder_holds_three_files(finished: exporter.Artifact) -> None:
    assert sorted(path.name for path in finished.folder.iterdir()) == ["manifest.json", "model.onnx", "model.pt"]
    assert [path.name for path in finished.folder.parent.iterdir()] == ["cifar"]


# -- the ONNX file ------------------------------------------------------------------------------------------------


def test_onnx_passes_the_full_check_and_strict_inference(finished: exporter.Artifact, graph: onnx.ModelProto) -> None:
    onnx.checker.check_model(str(finished.folder / "model.onnx"), full_check=True)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)


def test_onnx_is_explicit(graph: onnx.ModelProto) -> None:
    assert {node.domain for node in graph.graph.node} == {""}
    assert not graph.functions
    assert not {node.op_type for node in graph.graph.node} & {"If", "Loop", "Scan", "SequenceMap"}
    assert [opset.version for opset in graph.opset_import] == [18]


def test_onnx_signature(graph: onnx.ModelProto) -> None:
    def signature(values):
        return [
            (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
            for v in values
        ]

    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    assert signature(graph.graph.input) == [("image", float32, ["batch", 3, 32, 32]), ("target", int64, ["batch"])]
    assert signature(graph.graph.output) == [
        ("logits", float32, ["batch", 10]),
        ("attribution", float32, ["batch", 3, 32, 32]),
    ]


def test_onnx_names_pair_forward_and_backward(graph: onnx.ModelProto) -> None:
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    assert {"conv1", "layer1.0.conv1", "layer1.0.relu", "linear"} <= set(names)
    for scope in ("layer1.0.conv1", "layer1.0.relu", "layer3.2.relu_1", "linear"):
        assert any(name.split("/")[0] == f"{scope}.vjp" for name in names), scope


def test_onnx_stores_weights_once(source, graph: onnx.ModelProto) -> None:
    state = source.model.state_dict()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    named = {name: array for name, array in stored.items() if name in state}
    assert set(named) == {name for name in state if not name.endswith("num_batches_tracked")}
    assert all(np.array_equal(array, state[name].numpy()) for name, array in named.items())
    assert sum(array.nbytes for name, array in stored.items() if name not in named) < 1000


# -- the TorchScript file -----------------------------------------------------------------------------------------


def test_torchscript_is_explicit(source, finished: exporter.Artifact) -> None:
    module = torch.jit.load(str(finished.folder / "model.pt"))
    kinds = {node.kind() for node in module.graph.nodes()}
    assert {kind.split("::")[0] for kind in kinds} <= {"aten", "prim"}
    assert not {
        kind
        for kind in kinds - KERNELS
        if "backward" in kind or "autograd" in kind or kind in ("prim::If", "prim::Loop")
    }
    assert not any(node.hasAttribute("Subgraph") for node in module.graph.nodes())
    state = module.state_dict()
    assert all(torch.equal(value, source.model.state_dict()[name]) for name, value in state.items())


# -- targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnxruntime", "torchscript"])
def test_targets(finished: exporter.Artifact, runtime: str) -> None:
    session = exporter.load(finished.folder, runtime)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    predicted = session(images)
    named = session(images, predicted.logits.argmax(1))
    assert np.array_equal(predicted.attribution, named.attribution)
    assert not np.array_equal(session(images, 3).attribution, session(images, 4).attribution)
    for wrong in (10, 11, -2, -10, -11, 2**40, -(2**40)):
        with pytest.raises(Exception, match=r"out of (data )?(bounds|range)"):
            session(images, [0, wrong])
    with pytest.raises(exporter.UsageError, match=r"target has shape \[3\]; for this batch it must be \[2\]"):
        session(images, [1, 2, 3])


# -- the manifest ---------------------------------------------------------------------------------------------------


def test_manifest_follows_its_schema(finished: exporter.Artifact) -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    jsonschema.validate(manifest, schema)
    assert manifest["schema"] == schema["properties"]["schema"]["const"] == SCHEMA
    manifest["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate(manifest, schema)


def test_manifest_tells_the_truth(source, finished: exporter.Artifact) -> None:
    manifest = exporter.Artifact.open(finished.folder).manifest
    for file in manifest["files"].values():
        content = (finished.folder / file["name"]).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["model"]["spec"] == "cifar_resnet20"
    assert manifest["model"]["parameters"] == sum(p.numel() for p in source.model.parameters())
    assert manifest["model"]["classes"][3] == "cat"
    assert manifest["inputs"][1]["range"] == [-1, 9]
    assert manifest["dynamic"] == [{"name": "batch", "min": 1, "multiple_of": 1}]
    assert {(p["runtime"], p["dtype"]) for p in manifest["parity"]["runtimes"]} == {
        ("torchscript", "float64"),
        ("torchscript", "float32"),
        ("eager", "float64"),
        ("onnxruntime", "float32"),
    }
    assert manifest["versions"]["torch"] == torch.__version__


def test_weights_hash_depends_on_every_value(source) -> None:
    from exporter.sources import weights_sha256

    other = resolve("cifar_resnet20").model
    assert weights_sha256(other) == weights_sha256(source.model)
    other.linear.bias.data[3] += 1e-6
    assert weights_sha256(other) != weights_sha256(source.model)


# -- loading --------------------------------------------------------------------------------------------------------


def copy_of(finished: exporter.Artifact, folder: Path) -> Path:
    folder.mkdir()
    for path in finished.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def rename_file(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["onnx"]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace(folder: Path, old: str, new: str) -> None:
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    assert old in text
    (folder / "manifest.json").write_text(text.replace(old, new), encoding="utf-8")


CHANGED = r"manifest.json has changed since it was written: its manifest_sha256 .*; put it back as it was, or export"


def test_a_changed_byte_is_noticed(finished: exporter.Artifact, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    for name, runtime in (("model.onnx", "onnxruntime"), ("model.pt", "torchscript")):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(exporter.ArtifactError, match=rf"{name} has changed since it was proven: sha256 .+, not .+"):
            exporter.load(folder, runtime)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"is not an artifact: .*manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest.json is not JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), r"has schema None; .* reads 2"),
        (lambda folder: (folder / "manifest.json").write_text('{"schema": 3}'), r"has schema 3; .* reads 2"),
        (lambda folder: (folder / "manifest.json").write_text('{"schema": 2}'), r"is damaged: it lacks model, method"),
        (lambda folder: rename_file(folder, "../x.onnx"), r"entry for 'onnx' names no file of an artifact"),
        (lambda folder: replace(folder, '"cat"', '"dog"'), CHANGED),
        (lambda folder: replace(folder, '"cat"', r'"\ud800"'), CHANGED),
        (lambda folder: replace(folder, "manifest_sha256", "sha256"), CHANGED),
        (lambda folder: (folder / "model.onnx").unlink(), r"model.onnx cannot be read \(No such file"),
    ],
)
def test_a_damaged_folder_is_refused(finished: exporter.Artifact, tmp_path: Path, damage, message: str) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    damage(folder)
    with pytest.raises(exporter.ArtifactError, match=message):
        exporter.load(folder)


def test_a_missing_format_is_named(source, tmp_path: Path) -> None:
    exporter.export(source.model, source.sample_shape, tmp_path / "a", formats=["onnx"])
    assert sorted(os.listdir(tmp_path / "a")) == ["manifest.json", "model.onnx"]
    with pytest.raises(exporter.ArtifactError, match="holds no torchscript file, only onnx; export it with --format"):
        exporter.load(tmp_path / "a", "torchscript")
    with pytest.raises(exporter.UsageError, match="unknown runtime 'tflite'; there are onnxruntime, torchscript"):
        exporter.load(tmp_path / "a", "tflite")


# -- putting in place -------------------------------------------------------------------------------------------------


def old_artifact(folder: Path, age: str = "old") -> Path:
    """Make the smallest folder that counts as an artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.onnx", "model.pt"):
        (folder / name).write_text(f"{age} {name}")
    files = {format: describe(folder / name) for format, name in FILES.items()}
    manifest = {key: {} for key in ("model", "method", "inputs", "outputs", "parity")}
    write_manifest(folder, {"schema": SCHEMA, "files": files, **manifest})
    return folder


def test_an_old_artifact_is_replaced_whole(tmp_path: Path) -> None:
    folder = old_artifact(tmp_path / "a")
    with replacing(folder) as aside:
        (aside / "manifest.json").write_text("new")
        assert (folder / "model.pt").read_text() == "old model.pt"
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert os.listdir(tmp_path) == ["a"]


def test_without_the_system_call_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module.sys, "platform", "other")
    folder = old_artifact(tmp_path / "a")
    with replacing(folder) as aside:
        (aside / "manifest.json").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_leaves_the_old_artifact(tmp_path: Path) -> None:
    folder = old_artifact(tmp_path / "a")

    def fail() -> None:
        with replacing(folder) as aside:
            (aside / "model.onnx").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "model.onnx").read_text() == "old model.onnx"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(exporter.UsageError, match=r"--output .*a cannot be written: No space left on device"):
        fail()
    assert not os.listdir(tmp_path)


def test_what_a_killed_run_left_is_cleaned(tmp_path: Path) -> None:
    left, stepped = tmp_path / ".a.abcd_123.aside", tmp_path / ".a.abcd_123.old.aside"
    for folder in (left, stepped):
        folder.mkdir()
        (folder / "model.onnx").write_text("half")
    kept = tmp_path / ".a.efgh5678.aside"
    kept.mkdir()
    (kept / "thesis.tex").write_text("not ours")
    sibling = tmp_path / ".a.v2.abcd1234.aside"
    sibling.mkdir()
    with replacing(tmp_path / "a") as aside:
        (aside / "manifest.json").write_text("new")
    assert sorted(os.listdir(tmp_path)) == [".a.efgh5678.aside", ".a.v2.abcd1234.aside", "a"]


def test_a_run_in_progress_is_left_alone(tmp_path: Path) -> None:
    """Two exports into one folder: the later one to finish wins, and neither removes what the other is writing."""
    with replacing(tmp_path / "a") as first:
        old_artifact(first, "first")
        with replacing(tmp_path / "a") as second:
            old_artifact(second, "second")
        assert (tmp_path / "a" / "model.pt").read_text() == "second model.pt"
        assert (first / "model.pt").read_text() == "first model.pt"
    assert (tmp_path / "a" / "model.pt").read_text() == "first model.pt"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda path: path.write_text("file"), "is not a folder"),
        (lambda path: path.symlink_to(path.parent), "is not a folder"),
        (lambda path: (path.mkdir(), (path / "notes.txt").write_text("mine")), r"holds other files \(notes.txt\)"),
        (
            lambda path: (path.mkdir(), (path / "model.pt").write_text("a checkpoint")),
            r"holds other files \(model.pt\)",
        ),
        (lambda path: (old_artifact(path) / "model.pt").write_text("a checkpoint"), r"holds other files \(model.pt\)"),
        (lambda path: (old_artifact(path) / "log").mkdir(), r"holds other files \(log\)"),
    ],
)
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, arrange, message: str) -> None:
    arrange(tmp_path / "a")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(exporter.UsageError, match=message), replacing(tmp_path / "a"):
        raise AssertionError("not reached")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(exporter.UsageError, match=r"lies below .*file, which is not a folder"):
        artifact_module.check_output(tmp_path / "file" / "a")


ANOTHER_DAY = """
import os, sys, time
clock, day = time.time, 86400.0 * int(sys.argv[1])
time.time = lambda: clock() + day
os.environ["TZ"] = "Asia/Kolkata" if day else "UTC"
time.tzset()
from exporter.cli import export_command
export_command(sys.argv[2:])
"""
"""Exports as the command does, some days from now."""


def test_two_exports_of_the_same_thing_are_byte_identical(tmp_path: Path) -> None:
    """On different days, in different folders, from different places, with sets in another order."""
    for name, day in (("a", 0), ("b/deeper", 400)):
        place = tmp_path / f"from {day}"
        place.mkdir()
        command = [sys.executable, "-c", ANOTHER_DAY, str(day), "--model", "digits_cnn", "--output"]
        environment = {**os.environ, "PYTHONHASHSEED": str(day), "PYTHONPATH": str(SCHEMA_FILE.parent.parent)}
        subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True, cwd=place, env=environment)
    assert_identical(tmp_path / "a", tmp_path / "b" / "deeper")


def test_two_exports_within_one_process_are_byte_identical(tmp_path: Path) -> None:
    """TorchScript numbers the classes that a process has seen, whoever scripted them."""
    for name in ("a", "b"):
        source = resolve("digits_cnn")
        exporter.export(source.model, source.sample_shape, tmp_path / name, description=source.describe())
        torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    assert_identical(tmp_path / "a", tmp_path / "b")


def assert_identical(a: Path, b: Path) -> None:
    names = sorted(path.name for path in a.iterdir())
    assert names == sorted(path.name for path in b.iterdir()) == ["manifest.json", "model.onnx", "model.pt"]
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
