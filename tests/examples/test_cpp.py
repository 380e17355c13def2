"""The C++ header and its program: parity with live autograd, every error, threads, and files that are broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import exporter
from tests.examples import doors
from tests.examples.conftest import Once, Require
from tests.networks import Siamese

SOURCES = doors.ROOT / "examples" / "cpp"
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"


@pytest.fixture(scope="session")
def arts(once: Once) -> Path:
    return once("whole", doors.export_all)


@pytest.fixture(scope="session")
def root(once: Once, require: Require) -> Path:
    doors.require_compiler(require)
    return doors.onnxruntime_root(once, require)


@pytest.fixture(scope="session")
def program(once: Once, root: Path) -> Path:
    """Build as the README says, warnings being errors."""

    def build(folder: Path) -> None:
        here = doors.checkout(folder / "checkout")
        for command in doors.readme_lines(SOURCES)[:2]:
            doors.shell(command, here, ONNXRUNTIME_ROOT=str(root), CXXFLAGS=WARNINGS)

    return once("cpp", build) / "checkout" / "build" / "cpp" / "saliport_run"


def check_program(once: Once, root: Path, name: str, flags: str) -> Path:
    line = f"c++ -std=c++17 {flags} {WARNINGS} -isystem {root}/include {SOURCES}/checks/{name}.cpp"
    link = f"-L{root}/lib -lonnxruntime -Wl,-rpath,{root}/lib -pthread" if name != "mutate" else ""
    return once(name, lambda folder: doors.shell(f"{line} {link} -o {folder}/{name}", folder)) / name


@pytest.fixture(scope="session")
def ask(once: Once, root: Path) -> Path:
    return check_program(once, root, "ask", "")


@pytest.fixture
def folder(arts: Path, tmp_path: Path) -> Path:
    """Return a copy of an artifact, for damage."""
    return Path(shutil.copytree(arts / "guided", tmp_path / "artifact"))


class TestParity(doors.Parity):
    """With onnxruntime."""


def test_what_the_header_tells_of_an_artifact(ask: Path, artifact: Path, arts: Path) -> None:
    assert doors.call(ask, artifact).output == "fine: guided RGB 10 image [3, 32, 32]\n"
    assert doors.call(ask, arts / "deconvnet", "7,3,12,11").output == "fine: deconvnet  5 image [3, 12, 11]\n"
    assert doors.call(ask, arts / "dynamic", "2,3,64,32", "1,-1").output == "fine: guided  3 image [3, -1, -1]\n"


# Every kind of error. What is done to a folder, and what the header says of it then.


def _write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def _patch(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def _say(*path: str | int, value: Any = None) -> Callable[[Path], object]:
    """Put a value into the manifest, or take an entry out, and seal it."""

    def edit(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        if value is None:
            del manifest[path[-1]]
        else:
            manifest[path[-1]] = value

    return lambda folder: doors.reseal(folder, edit)


def _model(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], object]:
    """Change the model, and make the manifest's hashes right again."""

    def damage(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        doors.reseal(folder)

    return damage


def _no_protobuf(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"\xff" * 100)
    doors.reseal(folder)


def _polyglot(folder: Path) -> None:
    """Make the model one in onnxruntime's own format, a flatbuffer, that is a harmless protobuf as well.

    A flatbuffer begins with the place of its root table and, here, the type ``ORTM``. As a protobuf these bytes are a
    number and another of eight bytes; all that follow are the name of a producer.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(folder / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(folder / "model.onnx", options)
    flat = (folder / "model.ort").read_bytes()
    start = b"\x08\x01\x09\0ORTM\0\0\0\x12"
    root, old = (int.from_bytes(data[:4], "little") for data in (start, flat))
    vtable = old - int.from_bytes(flat[old : old + 4], "little")
    count = int.from_bytes(flat[vtable + 2 : vtable + 4], "little") // 4
    moved = root + 8 + 4 * count  # all but the root table, whose place is given: it points to them
    moved += -moved % 16
    table = list(struct.unpack_from(f"<{count}I", flat, old))
    table[1:] = (offset + moved + old - root for offset in table[1:])
    rest = bytes(root - (old - vtable) - len(start) - 3) + flat[vtable:old] + struct.pack(f"<{count}I", *table)
    rest += bytes(moved - len(start) - 3 - len(rest)) + flat
    length = bytes([len(rest) & 0x7F | 0x80, len(rest) >> 7 & 0x7F | 0x80, len(rest) >> 14])
    (folder / "model.onnx").write_bytes(start + length + rest)
    doors.reseal(folder)


def _outside(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)


def _external(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        size = len(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": str(size)}.items():
            weight.external_data.add(key=key, value=value)

    return change


def _external_attribute(model: onnx.ModelProto) -> None:
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[4], name="stolen", data_location="EXTERNAL")
    tensor.external_data.add(key="location", value="secret.bin")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["stolen"], value=tensor))


def _branch(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=body, else_branch=body))


def _function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="mine")


def _custom(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def _nonsense(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nonsense"


def _renamed(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["logits"], ["scores"]))
    model.graph.output[0].name = "scores"


def _other_type(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["doubles"], to=onnx.TensorProto.DOUBLE))
    for node in model.graph.node:
        node.output[:] = ["single" if name == "attribution" else name for name in node.output]
    model.graph.node.append(helper.make_node("Cast", ["single"], ["attribution"], to=onnx.TensorProto.DOUBLE))
    model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no folder": (shutil.rmtree, "missing_file", "is not a folder: No such file or directory"),
    "a file": (lambda f: (shutil.rmtree(f), f.write_text("")), "missing_file", "is not a folder"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "missing_file", "manifest.json is missing"),
    "no model": (lambda f: (f / "model.onnx").unlink(), "missing_file", "model.onnx is missing"),
    "no onnx format": (_say("files", "onnx"), "missing_file", "holds no onnx file; export it with --format"),
    "a manifest outside": (lambda f: _outside(f, "manifest.json"), "missing_file", "manifest.json is a symbolic link"),
    "a model outside": (lambda f: _outside(f, "model.onnx"), "missing_file", "model.onnx is a symbolic link"),
    "a pipe": (
        lambda f: ((f / "model.onnx").unlink(), os.mkfifo(f / "model.onnx")),
        "missing_file",
        "model.onnx is not a regular file",
    ),
    "no JSON": (_write("manifest.json", b"{schema: 2}"), "bad_manifest", "the manifest is not JSON: [json"),
    "no text": (_write("manifest.json", b'{"a": "\xff\xfe"}'), "bad_manifest", "the manifest is not JSON: [json"),
    "empty": (_write("manifest.json", b""), "bad_manifest", "the manifest is not JSON: [json"),
    "a list": (_write("manifest.json", b"[2]"), "bad_manifest", "the manifest is not a JSON object"),
    "64 MiB": (
        _write("manifest.json", b" " * (64 << 20)),
        "bad_manifest",
        "has 67108864 bytes; at most 4194304 are read",
    ),
    "deep": (_write("manifest.json", b"[" * (4 << 20)), "bad_manifest", "the manifest is nested too deep"),
    "deep objects": (_write("manifest.json", b'{"a":' * 500_000), "bad_manifest", "the manifest is nested too deep"),
    "schema 3": (_say("schema", value=3), "bad_manifest", "schema 3; this header reads 2"),
    "schema as text": (_say("schema", value="2"), "bad_manifest", 'schema "2"; this header reads 2'),
    "no schema": (_say("schema"), "bad_manifest", "schema none; this header reads 2"),
    "a path above": (
        _say("files", "onnx", "name", value="../model.onnx"),
        "bad_manifest",
        'files.onnx names "../model.onnx" where model.onnx belongs',
    ),
    "a path from the root": (
        _say("files", "onnx", "name", value="/etc/passwd\n"),
        "bad_manifest",
        'files.onnx names "/etc/passwd?" where model.onnx belongs',
    ),
    "the other file": (
        _say("files", "onnx", "name", value="model.pt"),
        "bad_manifest",
        'files.onnx names "model.pt" where model.onnx belongs',
    ),
    "no files": (_say("files"), "bad_manifest", "the manifest is damaged: files is missing"),
    "no size": (_say("files", "onnx", "bytes"), "bad_manifest", "files.onnx.bytes is missing"),
    "a size below zero": (_say("files", "onnx", "bytes", value=-1), "bad_manifest", "files.onnx.bytes is not a whole"),
    "a huge size": (_say("files", "onnx", "bytes", value=2**64), "bad_manifest", "files.onnx.bytes is not a whole"),
    "inputs are no list": (_say("inputs", value={}), "bad_manifest", "inputs is not a list"),
    "float64": (_say("inputs", 0, "dtype", value="float64"), "bad_manifest", 'computes in "float64"; this header runs'),
    "no batch": (_say("inputs", 0, "shape", value=[3, 12, 11]), "bad_manifest", "does not begin with the batch"),
    "a size of zero": (_say("inputs", 0, "shape", value=["batch", 0]), "bad_manifest", "inputs[0].shape[1] is not a"),
    "a size without a range": (
        _say("inputs", 0, "shape", value=["batch", 3, "depth"]),
        "bad_manifest",
        'inputs[0].shape[2] is "depth", which dynamic does not describe',
    ),
    "a step of zero": (_say("dynamic", 0, "multiple_of", value=0), "bad_manifest", "dynamic[0].multiple_of is not a"),
    "a largest below the least": (_say("dynamic", 0, "max", value=0), "bad_manifest", "dynamic[0].max is not a"),
    "more classes": (_say("outputs", 0, "shape", value=["batch", 6]), "bad_manifest", "inputs[1].range is not that"),
    "a range without -1": (_say("inputs", 1, "range", value=[0, 4]), "bad_manifest", "inputs[1].range[0] is not a"),
    "too few names": (_say("model", "classes", value=["a"]), "bad_manifest", "model.classes does not name every class"),
    "names that are no text": (_say("model", "classes", value=[1] * 5), "bad_manifest", "model.classes[0] is not text"),
    "a standard deviation of zero": (
        _say("model", "preprocessing", value={"mean": [0], "std": [0], "color": "L"}),
        "bad_manifest",
        "model.preprocessing.std[0] is not greater than zero",
    ),
    "an endless mean": (
        _say("model", "preprocessing", value={"mean": [1e300], "std": [1], "color": "L"}),
        "bad_manifest",
        "model.preprocessing.mean[0] is not a finite number",
    ),
    "two means": (
        _say("model", "preprocessing", value={"mean": [0, 0], "std": [1, 1], "color": "RGB"}),
        "bad_manifest",
        "model.preprocessing has not one mean and std for each channel",
    ),
    "another colour": (
        _say("model", "preprocessing", value={"mean": [0], "std": [1], "color": "BGR"}),
        "bad_manifest",
        "model.preprocessing.color is neither RGB nor L",
    ),
    "another output": (_model(_renamed), "bad_manifest", "inputs and outputs are not those in the manifest"),
    "another dtype": (_model(_other_type), "bad_manifest", "inputs and outputs are not those in the manifest"),
    "a changed byte": (
        _patch("model.onnx", lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]),
        "changed_file",
        "model.onnx has changed since it was proven: sha256",
    ),
    "a shorter model": (
        _patch("model.onnx", lambda data: data[:-1]),
        "changed_file",
        "model.onnx has changed since it was proven:",
    ),
    "a longer model": (_patch("model.onnx", lambda data: data + b"\0"), "changed_file", "bytes, not"),
    "a changed manifest": (
        _patch("manifest.json", lambda data: data.replace(b'"guided"', b'"deconv"', 1)),
        "changed_file",
        "manifest.json: the manifest has changed since it was written: its manifest_sha256 does not match",
    ),
    "a changed seal": (
        _patch("manifest.json", lambda data: data[:-11] + b"0123456" + data[-4:]),
        "changed_file",
        "its manifest_sha256 does not match",
    ),
    "no seal": (
        _patch("manifest.json", lambda data: data[: data.rindex(b",")] + b"\n}\n"),
        "changed_file",
        "it does not end in its seal",
    ),
    "a compact manifest": (
        _patch("manifest.json", lambda data: json.dumps(json.loads(data)).encode()),
        "changed_file",
        "it does not end in its seal",
    ),
    "only a schema": (_write("manifest.json", b'{"schema": 2}'), "changed_file", "it does not end in its seal"),
    "no protobuf": (_no_protobuf, "runtime", "it is not a model of Saliport's"),
    "a file of the working directory": (
        _model(_external("secret.bin")),
        "runtime",
        "a tensor has the protobuf field 1",
    ),
    "a file above": (_model(_external("../secret.bin")), "runtime", "a tensor has the protobuf field 1"),
    "an address": (_model(_external("*/_ORT_MEM_ADDR_/*")), "runtime", "a tensor has the protobuf field 1"),
    "a file of a constant": (_model(_external_attribute), "runtime", "a tensor has the protobuf field 1"),
    "a subgraph": (_model(_branch), "runtime", "an attribute has the protobuf field 6"),
    "a function": (_model(_function), "runtime", "the model has the protobuf field 25"),
    "a custom operator": (_model(_custom), "runtime", 'a node is of domain "com.microsoft"'),
    "onnxruntime's own format": (_polyglot, "runtime", "No graph was found in the protobuf"),
    "an operator that there is not": (_model(_nonsense), "runtime", "model.onnx cannot be opened: "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_a_folder_is_named(ask: Path, folder: Path, name: str) -> None:
    damage, kind, text = FAULTS[name]
    damage(folder)
    answer = doors.call(ask, folder)
    assert answer.status == 0
    assert answer.error == ""
    assert re.fullmatch(rf"{kind}: [^\n]+\n", answer.output), answer
    assert text in answer.output


def test_an_unchanged_copy_is_fine(ask: Path, folder: Path) -> None:
    """Else the faults above could be refused for what they are not. A seal made anew is fine too."""
    assert doors.call(ask, folder, "1,3,12,11").output.startswith("fine:")
    doors.reseal(folder)
    assert doors.call(ask, folder, "1,3,12,11").output.startswith("fine:")


def test_onnxruntime_would_follow_a_model_out_of_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the header walks the model itself. When this fails, onnxruntime has become stricter: tell the README."""
    import onnxruntime

    _model(_external("secret.bin"))(folder)
    monkeypatch.chdir(folder.parent)
    Path("secret.bin").write_bytes(bytes(1 << 16))
    onnxruntime.InferenceSession((folder / "model.onnx").read_bytes())


def test_onnxruntime_would_read_a_protobuf_as_its_own_format(folder: Path) -> None:
    """Why the header names the format: what it walks must be what runs."""
    import onnxruntime

    _polyglot(folder)
    session = onnxruntime.InferenceSession((folder / "model.onnx").read_bytes())
    assert [output.name for output in session.get_outputs()] == ["logits", "attribution"]


def test_several_inputs_are_refused_by_name(ask: Path, tmp_path: Path) -> None:
    inputs = [exporter.Input("left", (1, 6, 6)), exporter.Input("right", (5,)), exporter.Input("mask", (1,))]
    exporter.export(Siamese().eval(), inputs, tmp_path / "pair", formats=["onnx"], output_key="1.scores")
    answer = doors.call(ask, tmp_path / "pair")
    assert answer.output.startswith("bad_manifest: ")
    assert "takes left, right, mask; this header runs artifacts that take one image" in answer.output


CALLS = {
    "fewer sizes": (
        "guided",
        "1,3,12",
        "bad_input",
        "image has shape [1, 3, 12]; the artifact takes [batch, 3, 12, 11]",
    ),
    "more sizes": ("guided", "1,3,12,11,1", "bad_input", "the artifact takes [batch, 3, 12, 11]"),
    "no sizes": ("guided", "", "bad_input", "image has shape []; the artifact takes"),
    "other channels": ("guided", "1,4,12,11", "bad_input", "the artifact takes [batch, 3, 12, 11]"),
    "another height": ("guided", "1,3,11,12", "bad_input", "the artifact takes [batch, 3, 12, 11]"),
    "no samples": ("guided", "0,3,12,11", "bad_input", "image has shape [0, 3, 12, 11]; its batch must be at least 1"),
    "less than none": ("guided", "-1,3,12,11", "bad_input", "its batch must be at least 1"),
    "an overflow": ("guided", f"{2**62},3,12,11", "bad_input", "at most 268435456 values are allowed"),
    "an overflow of sizes": ("dynamic", f"1,3,{2**62},{2**62}", "bad_input", "at most 268435456 values are allowed"),
    "absurdly many": ("guided", f"{2**24},3,12,11", "bad_input", "at most 268435456 values are allowed"),
    "an odd height": ("dynamic", "1,3,9,8", "bad_input", "its height must be 4 plus a multiple of 2"),
    "an odd width": ("dynamic", "1,3,8,9", "bad_input", "its width must be 4 plus a multiple of 2"),
    "no height": ("dynamic", "1,3,0,8", "bad_input", "its height must be 4 plus a multiple of 2"),
    "the least height": ("dynamic", f"1,3,{-(2**63)},8", "bad_input", "its height must be 4 plus a multiple of 2"),
    "no width": ("dynamic", "1,3,8", "bad_input", "the artifact takes [batch, 3, height, width]"),
    "the number of classes": ("guided", "2,3,12,11 0,5", "bad_target", "target 5 of sample 1 is out of range; classes"),
    "below -1": ("guided", "1,3,12,11 -2", "bad_target", "classes are 0 to 4, and -1 is the predicted one"),
    "the least": ("guided", f"1,3,12,11 {-(2**63)}", "bad_target", "target -9223372036854775808 of sample 0"),
    "the most": ("guided", f"1,3,12,11 {2**63 - 1}", "bad_target", "target 9223372036854775807 of sample 0"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_wrong_with_a_call_is_named(ask: Path, arts: Path, name: str) -> None:
    artifact, arguments, kind, text = CALLS[name]
    answer = doors.call(ask, arts / artifact, *arguments.split(" "))
    assert answer.status == 0, answer
    assert re.fullmatch(rf"{kind}: [^\n]+\n", answer.output), answer
    assert text in answer.output


def test_a_largest_size_is_the_manifest_s(ask: Path, arts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(arts / "dynamic", tmp_path / "bounded")
    _say("dynamic", 1, "max", value=10)(folder)
    assert doors.call(ask, folder, "1,3,10,8").output.startswith("fine")
    answer = doors.call(ask, folder, "1,3,12,8").output
    assert "its height must be 4 plus a multiple of 2, at most 10" in answer


def test_options_are_checked(ask: Path, arts: Path) -> None:
    for threads in ("0", "-1", "1025"):
        answer = doors.call(ask, arts / "guided", THREADS=threads)
        assert answer.output == f"bad_input: threads is {threads}; it must be 1 to 1024\n"
    assert doors.call(ask, arts / "guided", "3,3,12,11", THREADS="3", MAX_VALUES="1188").output.startswith("fine")
    answer = doors.call(ask, arts / "guided", "3,3,12,11", MAX_VALUES="1187")
    assert answer.output == "bad_input: image has shape [3, 3, 12, 11]; at most 1187 values are allowed\n"
    # Too large for what ask would allocate: the image is null, which is looked at last.
    assert doors.call(ask, arts / "guided", "60000,3,12,11").output == "bad_input: image is null\n"


# The program's own command line, and its files.

USES = {
    "nothing": ("", 2, "give an artifact's folder and an input, or --help"),
    "no output": ("{art} image.npy", 2, "give --output, --repeat or both"),
    "an unknown option": ("{art} image.npy --what 1", 2, "unknown option --what"),
    "an option without a value": ("{art} image.npy --output", 2, "--output needs a value"),
    "a target that is no number": (
        "{art} image.npy --output o.npz --target cat",
        2,
        "--target takes whole numbers, not",
    ),
    "an endless target": ("{art} image.npy --output o.npz --target 99999999999999999999", 2, "takes whole numbers"),
    "a target with a comma": ("{art} image.npy --output o.npz --target 1,", 2, "takes whole numbers"),
    "too many targets": ("{art} image.npy --output o.npz --target 1,2", 2, "names 2 classes for 1 samples"),
    "a target out of range": ("{art} image.npy --output o.npz --target 5", 2, "target 5 of sample 0 is out of range"),
    "no repetition": ("{art} image.npy --repeat 0", 2, "--repeat takes a number from 1 to 1000000"),
    "too many threads": ("{art} image.npy --repeat 1 --threads 2000", 2, "it must be 1 to 1024"),
    "no artifact": ("{art}s image.npy --output o.npz", 2, "is not a folder: No such file or directory"),
    "no input": ("{art} nothing.npy --output o.npz", 2, "nothing.npy is missing"),
    "a folder": ("{art} . --output o.npz", 2, ". is not a file"),
    "no place": ("{art} image.npy --output nowhere/o.npz", 2, "nowhere/o.npz cannot be written"),
    "a folder in its place": ("{art} image.npy --output taken", 2, "taken cannot be written: Is a directory"),
    "an array of doubles": ("{art} doubles.npy --output o.npz", 2, "cannot be used: it holds <f8, not float32 (<f4)"),
    "another order": ("{art} fortran.npy --output o.npz", 2, "it is in Fortran order; save it with"),
    "a number": ("{art} number.npy --output o.npz", 2, "image has shape []; the artifact takes"),
    "no samples": ("{art} empty.npy --output o.npz", 2, "[0, 3, 12, 11]; its batch must be at least 1"),
    "another shape": ("{art} flat.npy --output o.npz", 2, "image has shape [1, 396]; the artifact takes"),
    "objects": ("{art} objects.npy --output o.npz", 2, "it holds |O, not float32"),
    "no array": ("{art} text.npy --output o.npz", 2, "it is no .npy file"),
}


@pytest.mark.parametrize("name", USES)
def test_a_wrong_use_says_what_is_wrong(
    program: Path, arts: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, status, text = USES[name]
    monkeypatch.chdir(tmp_path)
    image = np.zeros((1, 3, 12, 11), np.float32)
    arrays = {"image": image, "doubles": image.astype(float), "number": np.float32(1), "empty": image[:0]}
    arrays |= {"fortran": np.asfortranarray(image), "flat": image.reshape(1, -1), "objects": np.array([None])}
    for key, array in arrays.items():
        np.save(f"{key}.npy", array, allow_pickle=True)
    Path("text.npy").write_text("no array")
    Path("taken").mkdir()
    before = sorted(tmp_path.iterdir())
    answer = doors.call(program, *arguments.format(art=arts / "guided").split())
    assert answer.status == status
    assert answer.output == ""
    assert re.fullmatch(r"saliport_run: [^\n]+\n", answer.error), answer
    assert text in answer.error
    assert sorted(tmp_path.iterdir()) == before


def test_a_runtime_that_fails_is_status_1(program: Path, folder: Path, tmp_path: Path) -> None:
    _model(_nonsense)(folder)
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 12, 11), np.float32))
    answer = doors.call(program, folder, tmp_path / "image.npy", "--output", tmp_path / "out.npz")
    assert answer.status == 1
    assert re.fullmatch(r"saliport_run: \S+/model.onnx cannot be opened: [^\n]+\n", answer.error)


def test_every_version_of_the_format_is_read(program: Path, arts: Path, tmp_path: Path) -> None:
    image = doors.images(1, 3, 12, 11)
    answers = []
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(tmp_path / "image.npy", "wb") as file:
            np.lib.format.write_array(file, image.numpy(), version=version)
        answer = doors.call(program, arts / "guided", tmp_path / "image.npy", "--output", tmp_path / "out.npz")
        assert answer.status == 0, answer
        answers.append((tmp_path / "out.npz").read_bytes())
    assert answers[0] == answers[1] == answers[2]


def test_a_measurement(program: Path, arts: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((2, 3, 12, 11), np.float32))
    answer = doors.call(program, arts / "guided", tmp_path / "image.npy", "--repeat", "50", "--threads", "2")
    lines = re.fullmatch(
        r"load [\d.]+ ms; calls 1, 2, 3: [\d.]+ [\d.]+ [\d.]+ ms\n"
        r"batch 2, threads 2, 50 calls: p50 ([\d.]+), p90 ([\d.]+), p99 ([\d.]+) ms; peak memory (\d+) MiB\n",
        answer.output,
    )
    assert lines, answer
    p50, p90, p99, peak = map(float, lines.groups())
    assert 0 < p50 <= p90 <= p99
    assert 10 < peak < 500


# Threads, and what no sanitizer may see.


def test_many_threads_get_the_answers_of_one(once: Once, root: Path, arts: Path, artifact: Path) -> None:
    program = check_program(once, root, "concurrent", "-O1 -g -fsanitize=thread")
    for folder in (arts / "guided", artifact):
        answer = doors.call(program, folder, "8", "20")
        assert answer == (0, "right 160, wrong 0, refused 160\n", ""), answer


def test_broken_files_are_refused_or_read_as_what_they_say(once: Once, root: Path, arts: Path, tmp_path: Path) -> None:
    program = check_program(once, root, "mutate", "-g1 -fsanitize=address,undefined -fno-sanitize-recover=all")
    answer = doors.call(program, arts / "guided", tmp_path, "1000", ASAN_OPTIONS="max_allocation_size_mb=256")
    assert answer.status == 0, answer
    assert answer.error == ""
    counts = re.findall(r"(.*): (\d+) read, (\d+) refused", answer.output)
    assert [name for name, *_ in counts] == [".npy", ".npy header", "manifest text", "manifest values", "model"]
    for name, read, refused in counts:
        assert int(read) > 200, name
        assert int(refused) > 200, name


def test_the_hash_is_sha256(once: Once, root: Path, folder: Path, ask: Path) -> None:
    """Of texts of every length around its blocks: the seal is checked over them."""
    for length in (*range(56, 72), 1000):

        def edit(manifest: dict[str, Any], length: int = length) -> None:
            manifest["producer"] = "x" * length

        doors.reseal(folder, edit)
        assert doors.call(ask, folder).output.startswith("fine:"), length


def test_static_analysis_finds_nothing(require: Require) -> None:
    require(shutil.which("cppcheck"), "cppcheck", "on Debian, .ci/install-cpp")
    sources = [
        *SOURCES.glob("*.[ch]pp"),
        *SOURCES.glob("checks/*.cpp"),
        *(SOURCES.parent / "libtorch").rglob("*.[ch]pp"),
    ]
    options = ["--enable=warning,performance,portability", "--error-exitcode=1", "--std=c++17", "--language=c++", "-q"]
    result = subprocess.run(["cppcheck", *options, *map(str, sources)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(sources) == 11


def test_the_readme_runs(program: Path, root: Path, artifact: Path) -> None:
    here = program.parents[2]
    if not (here / "artifacts").exists():
        (here / "artifacts").symlink_to(artifact.parent)
    np.save(here / "image.npy", np.zeros((1, 3, 32, 32), np.float32))
    lines = doors.readme_lines(SOURCES)
    assert len(lines) == 4
    doors.shell(lines[2], here)
    assert (here / "explained.npz").stat().st_size > 4 * 3 * 32 * 32
    doors.shell(lines[3], here, ONNXRUNTIME_ROOT=str(root))
    assert doors.call(here / "saliport_run", "--help").output.startswith("usage: saliport_run ARTIFACT INPUT.npy")


def test_the_readme_shows_the_header_as_it_is(once: Once, root: Path, artifact: Path) -> None:
    def build(folder: Path) -> None:
        include, *lines = doors.readme_lines(SOURCES, "cpp")
        body = "\n".join(lines)
        (folder / "shown.cpp").write_text(f"{include}\nint main() {{\n{body}\nreturn found.logits.size() != 10;\n}}\n")
        line = f"c++ -std=c++17 {WARNINGS} -isystem {root}/include -I{SOURCES} shown.cpp -L{root}/lib -lonnxruntime"
        doors.shell(f"{line} -Wl,-rpath,{root}/lib -o shown", folder)
        (folder / "artifacts").symlink_to(artifact.parent)

    shown = once("shown", build)
    doors.shell("./shown", shown)
