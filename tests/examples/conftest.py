"""What the tests of the examples share: a missing runtime is named, and what is built is built once for all workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

Require = Callable[[object, str, str], None]
Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def require() -> Require:
    """Give ``require(found, what, how)``: without it fail in CI, and elsewhere skip and say how to install it."""

    def check(found: object, what: str, how: str) -> None:
        if not found:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not here: {how}")

    return check


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Once:
    """Give ``once(name, make)``: the folder of this name, which the first worker to ask for it lets ``make`` fill."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base  # xdist: each worker has a folder in one

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def artifact(once: Once) -> Path:
    """Return the artifact of the trained CIFAR network, guided."""
    return once("artifact", _export) / "cifar_resnet20-guided"


def _export(folder: Path) -> None:
    from click.testing import CliRunner

    from exporter.cli import main

    output = folder / "cifar_resnet20-guided"
    result = CliRunner().invoke(main, ["export", "--model", "cifar_resnet20", "--output", str(output)])
    assert result.exit_code == 0, result.output
