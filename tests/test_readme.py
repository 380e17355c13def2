"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Return the commands that follow the set-up, and the main job out of the set-up line."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    main_job = next(line for line in lines if "venv" in line and "export.py" in line).split(" && ")[-1]
    return [main_job, *(line for line in lines if line.startswith(("python scripts", "saliport")))]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks like the repository, for commands that write into it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("docs", "examples", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def shell(command: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def test_every_command_runs(checkout: Path) -> None:
    assert len(commands()) == 9
    for command in commands():
        shell(command, checkout)
    assert {path.name for path in (checkout / "artifacts").iterdir()} == {
        "resnet18-guided",
        "cifar_resnet20-guided",
        "cells",
        "pairs",
        "roads",
    }
    assert (checkout / "heatmap.png").stat().st_size > 100_000


def test_the_python_runs(checkout: Path) -> None:
    shell("python scripts/export.py --model cifar_resnet20", checkout)  # whichever test of these runs here first
    for block in blocks("python"):
        (checkout / "block.py").write_text(block)
        shell("python block.py", checkout)


def test_two_lines_do_everything() -> None:
    set_ups = [line for block in blocks("bash") for line in block.splitlines() if "python3 -m venv" in line]
    assert len(set_ups) == 2
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "python3 -m venv .*pytest" in ci
    assert "README.md" in ci


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_the_held_out_accuracy_is_the_one_measured() -> None:
    claimed = re.search(r"`digits_cnn`, ([\d.]+) % on held-out", " ".join(README.split()))
    from tests.models.test_shipped_weights import held_out_accuracy

    assert claimed is not None
    assert float(claimed[1]) == pytest.approx(100 * held_out_accuracy(), abs=0.01)
