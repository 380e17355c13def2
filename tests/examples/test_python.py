"""The Python examples: no torch in the process, live autograd's answers, buffers that are used again."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.sources import resolve
from tests.oracle import attribute, decided_images

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"
TARGETS = torch.tensor([-1, 5, 0])

ALONE = """
import importlib.abc, json, runpy, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "exporter", "models"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the blocker does not block")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert "torch" not in sys.modules
installed = {name.partition(".")[0] for name, module in sys.modules.items()
             if "site-packages" in (getattr(module, "__file__", None) or "")}
print(json.dumps(sorted(name for name in installed if not name.startswith("_"))))  # _: how packages were installed
"""


def alone(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run explain.py in a process of its own that cannot import torch, and knows nothing of this checkout."""
    command = [sys.executable, "-I", "-c", ALONE, EXAMPLES / "explain.py", *arguments]
    return subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("target", [None, 5])
def test_it_explains_without_torch(artifact: Path, tmp_path: Path, target: int | None) -> None:
    pixels = np.random.default_rng(0).random((3, 3, 32, 32), dtype=np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    result = alone(tmp_path, artifact, "pixels.npy", *([] if target is None else [target]))
    assert result.returncode == 0, result.stderr
    *classes, installed = result.stdout.splitlines()
    assert json.loads(installed) == ["numpy", "onnxruntime"]

    source = resolve("cifar_resnet20")
    preprocessing = json.loads((artifact / "manifest.json").read_text())["model"]["preprocessing"]
    mean, std = (torch.tensor(preprocessing[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    images = (torch.from_numpy(pixels) - mean) / std
    logits, expected = attribute(source.model, images, torch.full((3,), -1 if target is None else target), "guided")
    with np.load(tmp_path / "explained.npz") as found:
        assert relative_l2(found["logits"], logits.numpy()).max() < 1e-5
        assert relative_l2(found["attribution"], expected.numpy()).max() < 1e-5
    assert classes == [source.classes[best] for best in logits.argmax(1)]


def relative_l2(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return ``|found - expected| / |expected|`` of each sample."""
    difference, size = (array.reshape(len(array), -1) for array in (found - expected, expected))
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(size, axis=1)


def test_it_is_short() -> None:
    body = ast.parse((EXAMPLES / "explain.py").read_text()).body
    assert ast.get_docstring(ast.Module(body, [])), "it says what it does"
    rest = [node for node in body[1:] if not isinstance(node, (ast.Import, ast.ImportFrom))]
    assert sum(node.end_lineno - node.lineno + 1 for node in rest) <= 18


def test_it_refuses_a_changed_byte_and_a_class_that_is_none(artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", np.zeros((1, 3, 32, 32), np.float32))
    result = alone(tmp_path, artifact, "pixels.npy", 10)
    assert result.returncode != 0
    assert "indices element out of data bounds" in result.stderr

    changed = tmp_path / "changed"
    shutil.copytree(artifact, changed)
    data = bytearray((changed / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (changed / "model.onnx").write_bytes(data)
    result = alone(tmp_path, changed, "pixels.npy")
    assert result.returncode == 1
    assert result.stderr.strip() == f"{changed} is not what was proven"
    assert not (tmp_path / "explained.npz").exists()


@pytest.mark.parametrize("value", [np.uint8(255), np.uint8(1), np.float32(255), np.float32(-0.1), np.float64("nan")])
def test_it_refuses_what_is_not_in_0_to_1(artifact: Path, tmp_path: Path, value: np.generic) -> None:
    """Of bytes it would explain another class, and not say so."""
    np.save(tmp_path / "pixels.npy", np.full((1, 3, 32, 32), value))
    result = alone(tmp_path, artifact, "pixels.npy")
    message = f"pixels.npy holds {value.dtype}; give floats in [0, 1], which bytes divided by 255 are"
    assert (result.returncode, result.stderr.strip()) == (1, message)
    assert not (tmp_path / "explained.npz").exists()


@pytest.fixture(scope="module")
def io_binding():
    spec = importlib.util.spec_from_file_location("saliport_io_binding", EXAMPLES / "io_binding.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("old", "new"),
    [('"mean": [\n        0.4', '"mean": [\n        0.5'), ('"cat"', '"dog"'), ('"manifest_sha256"', '"sha256"')],
    ids=["mean", "class name", "no seal"],
)
def test_they_refuse_a_changed_manifest(io_binding, artifact: Path, tmp_path: Path, old: str, new: str) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(artifact, changed)
    text = (changed / "manifest.json").read_text(encoding="utf-8")
    assert old in text
    (changed / "manifest.json").write_text(text.replace(old, new), encoding="utf-8")
    np.save(tmp_path / "pixels.npy", np.zeros((1, 3, 32, 32), np.float32))
    result = alone(tmp_path, changed, "pixels.npy")
    assert (result.returncode, result.stderr.strip()) == (1, f"{changed} is not what was proven")
    with pytest.raises(SystemExit, match="is not what was proven"):
        io_binding.open_session(changed, threads=1)


def test_io_binding_runs_in_buffers_that_stay(io_binding, artifact: Path) -> None:
    session, _ = io_binding.open_session(artifact, threads=1)
    bound = io_binding.Bound(session, (3, 3, 32, 32))
    assert (bound.target == -1).all()
    images = decided_images(resolve("cifar_resnet20").model, 6, (3, 32, 32))
    first = bound.logits, bound.attribution
    for batch in images.split(3):
        bound.image[...], bound.target[...] = batch, TARGETS
        logits, attribution = bound()
        assert logits is first[0]
        assert attribution is first[1]
        expected = attribute(resolve("cifar_resnet20").model, batch, TARGETS, "guided")
        assert relative_l2(logits, expected[0].numpy()).max() < 1e-5
        assert relative_l2(attribution, expected[1].numpy()).max() < 1e-5
        # the same session without binding: the very bits
        plain = session.run(None, {"image": batch.numpy(), "target": TARGETS.numpy()})
        assert np.array_equal(plain[0], logits)
        assert np.array_equal(plain[1], attribution)
    bound.target[1] = 10
    with pytest.raises(RuntimeError, match="out of data bounds"):
        bound()


@pytest.mark.parametrize("name", ["image", "target", "logits", "attribution"])
def test_io_binding_keeps_the_memory_that_is_bound(io_binding, artifact: Path, name: str) -> None:
    """A buffer that is replaced is freed, and the runtime would go on reading or writing it."""
    session, _ = io_binding.open_session(artifact, threads=1)
    bound = io_binding.Bound(session, (2, 3, 32, 32))
    with pytest.raises(AttributeError):
        setattr(bound, name, np.copy(getattr(bound, name)))


def test_io_binding_says_what_it_saves(artifact: Path) -> None:
    command = [sys.executable, "-I", EXAMPLES / "io_binding.py", artifact, "--rounds", "3", "--batch", "2"]
    output = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    assert re.search(r"session\.run [\d.]+ ms, IO binding [\d.]+ ms, ratio [\d.]+$", output.strip()), output
