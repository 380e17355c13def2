"""The service, built once with and once without sanitizers, and running."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.examples.service.client import Service, encoded

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "examples" / "cpp" / "service"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", 'soak: a whole minute of load; leave it out by -m "not soak"')


def run(*command: object) -> None:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="session")
def onnxruntime_root(require, once) -> Path:
    require(shutil.which("apt-get"), "apt-get", "the layout of onnxruntime's release comes from Debian's packages")
    given = os.environ.get("ONNXRUNTIME_ROOT")
    if given:
        return Path(given)
    return once("onnxruntime-root", lambda folder: run(ROOT / ".ci" / "onnxruntime-root", folder, sys.executable))


@pytest.fixture(scope="session")
def build(require, once, onnxruntime_root: Path) -> Callable[[str], Path]:
    for program in ("cmake", "c++", "pkg-config"):
        require(shutil.which(program), program, "run .ci/install-service")
    found = subprocess.run(["pkg-config", "--exists", "cpp-httplib", "libpng", "libjpeg"]).returncode == 0
    require(found, "cpp-httplib, libpng or libjpeg", "run .ci/install-service")

    def built(name: str, *options: str) -> Path:
        def make(folder: Path) -> None:
            run("cmake", "-S", SOURCE, "-B", folder, f"-DONNXRUNTIME_ROOT={onnxruntime_root}", *options)
            run("cmake", "--build", folder, "--parallel", "2")

        return once(name, make) / "saliport_service"

    return built


@pytest.fixture(scope="session")
def binary(build: Callable[..., Path]) -> Path:
    return build("service", "-DCMAKE_CXX_FLAGS=-Werror")


@pytest.fixture(scope="session")
def sanitized(build: Callable[..., Path]) -> Path:
    return build("service-sanitized", "-DSALIPORT_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1")


@pytest.fixture(scope="module")
def service(binary: Path, artifact: Path) -> Iterator[Service]:
    """Give the service of the trained CIFAR network, as it is without options."""
    with Service(binary, artifact) as running:
        yield running


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def attacked(request: pytest.FixtureRequest, artifact: Path) -> Iterator[Service]:
    """Give a service that is easily at its limits; it must end well, and the sanitizers must have found nothing."""
    binary = request.getfixturevalue("binary" if request.param == "plain" else "sanitized")
    with Service(binary, artifact, "--workers", "2", "--timeout", "1.5", "--idle", "2", "--max-body", "1M") as running:
        yield running


@pytest.fixture(scope="session")
def cat() -> Image.Image:
    return Image.open(ROOT / "docs" / "chelsea.png").convert("RGB")


@pytest.fixture(scope="session")
def cat_png() -> bytes:
    return (ROOT / "docs" / "chelsea.png").read_bytes()


@pytest.fixture(scope="session")
def cat_jpeg(cat: Image.Image) -> bytes:
    return encoded(cat, "JPEG", quality=90)
