"""What the tests of the two C++ programs share: artifacts in which float32 is exact, and the command line's answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import exporter
from exporter.artifact import describe, write_manifest
from exporter.sources import resolve
from tests.examples.conftest import Once, Require
from tests.networks import Unet
from tests.oracle import attribute, decided_images
from tests.test_exact import Residual, whole_numbers

ROOT = Path(__file__).parents[2]
CLASSES = 5
METHODS = ("guided", "gradient", "deconvnet")
TARGETS = {1: ("-1", "2"), 5: ("-1", "-1,2,0,1,2")}
"""Batch size -> what `--target` says."""


def whole(model: nn.Module) -> nn.Module:
    return whole_numbers(model.eval(), torch.Generator().manual_seed(3))


def fixed_net() -> nn.Module:
    """Return a network with ties in its pool, a projection, and one size."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Residual(8, 8, 2), nn.Flatten()]
    return whole(nn.Sequential(*layers, nn.Linear(8 * 9, CLASSES)))


def dynamic_net() -> nn.Module:
    """Return a network for any even size; means over a power of two of pixels are exact."""
    return whole(Unet())


def images(batch: int, *shape: int) -> Tensor:
    return torch.randint(-2, 3, (batch, *shape), generator=torch.Generator().manual_seed(batch)).float()


def export_all(folder: Path) -> None:
    for method in METHODS:
        exporter.export(fixed_net(), (3, 12, 11), folder / method, method=method)
    exporter.export(dynamic_net(), (3, 8, 8), folder / "dynamic", dynamic=("batch", "height", "width"))


def reseal(folder: Path, edit: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """Change a manifest and make its hashes right again, as whoever builds a hostile artifact would."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["manifest_sha256"]
    for file in manifest["files"].values():
        file.update(describe(folder / file["name"]))
    edit(manifest)
    write_manifest(folder, manifest)


class Answer(NamedTuple):
    status: int
    output: str
    error: str


def call(program: Path, *arguments: str | Path, **environment: str) -> Answer:
    result = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )
    return Answer(result.returncode, result.stdout, result.stderr)


def explain(program: Path, artifact: Path, image: Tensor, target: str, scratch: Path) -> tuple[Tensor, Tensor]:
    """Return the logits and the attribution that a program wrote."""
    np.save(scratch / "image.npy", image.numpy())
    answer = call(program, artifact, scratch / "image.npy", "--target", target, "--output", scratch / "out.npz")
    assert answer == (0, "", ""), answer
    with np.load(scratch / "out.npz") as found:
        assert sorted(found) == ["attribution", "logits"]
        return torch.from_numpy(found["logits"]), torch.from_numpy(found["attribution"])


def check_bits(program: Path, artifact: Path, model: nn.Module, image: Tensor, method: str, scratch: Path) -> None:
    """Compare a program with live autograd, to the bit, for the predicted classes and for named ones."""
    for target in TARGETS[len(image)]:
        named = torch.tensor([int(one) for one in target.split(",")]).expand(len(image))
        logits, expected = attribute(model, image, named, method)
        assert expected.any()
        found = explain(program, artifact, image, target, scratch)
        assert torch.equal(found[0], logits), target
        assert torch.equal(found[1], expected), target


def readme_lines(folder: Path, language: str = "bash") -> list[str]:
    """Return the commands of a README, as they are written."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split(f"```{language}\n")[1:]]
    return [line for block in blocks for line in block.splitlines()]


def checkout(folder: Path) -> Path:
    """Return a folder that looks like the repository, for a README's commands."""
    folder.mkdir(exist_ok=True)
    if not (folder / "examples").exists():  # an earlier build failed
        (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def shell(command: str, folder: Path, **environment: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"


def require_compiler(require: Require) -> None:
    found = shutil.which("cmake") and shutil.which("c++") and Path("/usr/include/nlohmann/json.hpp").exists()
    require(found, "a C++ compiler with CMake and nlohmann/json", "on Debian, .ci/install-cpp")


def onnxruntime_root(once: Once, require: Require) -> Path:
    """Return an unpacked onnxruntime: the one that ONNXRUNTIME_ROOT names, and in CI one made from packages."""
    if "ONNXRUNTIME_ROOT" in os.environ:
        return Path(os.environ["ONNXRUNTIME_ROOT"])
    require(os.environ.get("CI"), "onnxruntime for C++", "set ONNXRUNTIME_ROOT to its unpacked release archive")
    return once("onnxruntime", lambda folder: shell(f"{ROOT}/.ci/onnxruntime-root {folder} {sys.executable}", ROOT))


class Parity:
    """What each program must show beside live autograd, with the fixture ``program`` of its own file."""

    @pytest.mark.parametrize("batch", TARGETS)
    @pytest.mark.parametrize("method", METHODS)
    def test_whole_numbers_agree_to_the_bit(
        self, program: Path, arts: Path, method: str, batch: int, tmp_path: Path
    ) -> None:
        image = images(batch, 3, 12, 11)
        check_bits(program, arts / method, fixed_net(), image, method, tmp_path)

    @pytest.mark.parametrize("size", [(8, 8), (16, 32)])
    def test_other_sizes_agree_to_the_bit(
        self, program: Path, arts: Path, size: tuple[int, int], tmp_path: Path
    ) -> None:
        check_bits(program, arts / "dynamic", dynamic_net(), images(5, 3, *size), "guided", tmp_path)

    def test_a_trained_network_agrees(self, program: Path, artifact: Path, tmp_path: Path) -> None:
        model = resolve("cifar_resnet20").model
        image = decided_images(model, 3, (3, 32, 32))
        logits, expected = attribute(model, image, torch.tensor([-1, 3, 9]), "guided")
        found = explain(program, artifact, image, "-1,3,9", tmp_path)
        assert (found[0] - logits).norm() < 1e-5 * logits.norm()
        assert (found[1] - expected).norm() < 1e-5 * expected.norm()
