"""``saliport verify``: a finished artifact is checked byte by byte, then value by value."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import exporter
from exporter import artifact, audit
from exporter.cli import main

NETS = """
import torch
from torch import nn

def make():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

def other():
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
"""


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``nets.py`` and an artifact of its network, ``made``."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "nets.py").write_text(NETS)
    spec = f"{folder}/nets.py:make"
    result = CliRunner().invoke(
        main, ["export", "--model", spec, "--input-shape", "1,6,6", "--output", str(folder / "made")]
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home / "made", tmp_path / "copy"))


def test_an_artifact_as_it_was_made(home: Path) -> None:
    result = verify(home / "made")
    assert result.exit_code == 0, result.output
    assert "every byte is as it was written" in result.stdout
    for runtime in ("onnxruntime", "torchscript"):
        assert f"{runtime}: within " in result.stdout
    assert "onnxruntime and torchscript: within " in result.stdout


def test_with_the_network(home: Path) -> None:
    result = verify(home / "made", "--model", f"{home}/nets.py:make")
    assert result.exit_code == 0, result.output
    assert "Proven against live autograd on 4 inputs" in result.stdout
    assert verify(home / "made", "--model", f"{home}/nets.py:make", "--seed", "9").exit_code == 0


def test_with_another_network(home: Path) -> None:
    result = verify(home / "made", "--model", f"{home}/nets.py:other")
    assert result.exit_code == 1
    assert "was made from other weights than the Sequential given" in result.stderr


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.pt"])
def test_any_changed_byte_is_detected(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    generator = random.Random(0)
    every = range(len(whole)) if name == "manifest.json" else generator.sample(range(len(whole)), 200)
    for place in (0, len(whole) - 1, *every):
        changed = bytearray(whole)
        changed[place] ^= 1 << generator.randrange(8)
        (copy / name).write_bytes(changed)
        with pytest.raises(exporter.VerificationFailed):
            audit.intact(copy)
    (copy / name).write_bytes(whole)
    audit.intact(copy)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.pt").unlink(), "model.pt cannot be read"),
        (lambda folder: (folder / "model.onnx").write_bytes(b""), "model.onnx has changed since it was proven"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "what its manifest does not describe: notes.txt"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "has schema None"),
        (lambda folder: (folder / "manifest.json").write_text("[1"), "is not JSON"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not an artifact"),
        (lambda folder: rewrite(folder, seal=False, seed=1), "manifest_sha256 does not match"),
    ],
)
def test_damage(copy: Path, damage, message: str) -> None:
    damage(copy)
    result = verify(copy)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert message in result.stderr


def rewrite(folder: Path, *, seal: bool = True, **changes: object) -> None:
    """Change entries of a manifest, with or without a new seal."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(changes)
    if seal:
        manifest.pop("manifest_sha256")
        artifact.write_manifest(folder, manifest)
    else:
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def test_a_file_that_computes_something_else(home: Path, copy: Path) -> None:
    """A forger who seals the folder anew still cannot make another network answer as the digests say."""
    torch.manual_seed(4)
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    exporter.export(other, (1, 6, 6), copy.parent / "other")
    shutil.copy(copy.parent / "other" / "model.onnx", copy)
    files = json.loads((copy / "manifest.json").read_text())["files"]
    rewrite(copy, files={**files, "onnx": artifact.describe(copy / "model.onnx")})
    result = verify(copy)
    assert result.exit_code == 1
    assert "onnxruntime and the certificate's digests: sample 0 differs by" in result.stderr
    assert "onnxruntime and torchscript: sample 0 differs by" in result.stderr
    result = verify(copy, "--model", f"{home}/nets.py:make")
    assert result.exit_code == 1
    assert "onnxruntime float32: logits of sample 0" in result.stderr


def test_an_artifact_of_another_version_is_not_damaged(home: Path, copy: Path) -> None:
    rewrite(copy, schema=artifact.SCHEMA - 1)
    result = verify(copy)
    assert result.exit_code == 2
    assert f"has schema {artifact.SCHEMA - 1}; this version of Saliport reads {artifact.SCHEMA}" in result.stderr
    arguments = ["--model", f"{home}/nets.py:make", "--input-shape", "1,6,6", "--output", str(copy)]
    result = CliRunner().invoke(main, ["export", *arguments])
    assert result.exit_code == 2
    assert "holds another version's artifact" in result.stderr


def test_a_certificate_without_what_bounds_need(home: Path, copy: Path) -> None:
    """As earlier versions wrote; with the network, nothing of it is needed."""
    certificate = json.loads((copy / "manifest.json").read_text())["parity"]
    for entry in certificate["runtimes"]:
        del entry["rounding"], entry["logits_sensitivity"]
    rewrite(copy, parity=certificate)
    result = verify(copy)
    assert result.exit_code == 2
    assert "another version of Saliport: it lacks logits_sensitivity, rounding. Verify it with --model" in result.stderr
    assert verify(copy, "--model", f"{home}/nets.py:make").exit_code == 0


def test_one_format(home: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    exporter.export(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,), tmp_path / "a", formats=["onnx"])
    found = exporter.recheck(tmp_path / "a")
    assert list(found.runtimes) == ["onnxruntime"]
    assert found.between is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone",), "gone is not an artifact: there is no such folder"),
        (("made", "--weights", "x.pt"), "--weights, --model-args and --seed need --model"),
        (("made", "--model", "resnet19"), "'resnet19' is not in the zoo"),
        ((), "Missing argument 'ARTIFACT'"),
    ],
)
def test_wrong_uses(home: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(home)
    result = verify(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert message in result.stderr
