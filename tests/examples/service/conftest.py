"""The service, built once with and once without sanitizers, and running."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.examples import doors
from tests.examples.conftest import Once, Require
from tests.examples.service.client import Service, encoded

SOURCE = doors.ROOT / "examples" / "cpp" / "service"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", 'soak: a whole minute of load; leave it out by -m "not soak"')


@pytest.fixture(scope="session")
def build(require: Require, once: Once) -> Callable[..., Path]:
    """Give ``build(name, CXXFLAGS, *options)``: a build by the README's own command."""
    doors.require_compiler(require)
    wanted = ["pkg-config", "--exists", "cpp-httplib", "libpng", "libjpeg"]
    found = shutil.which("pkg-config") and subprocess.run(wanted).returncode == 0
    require(found, "cpp-httplib, libpng or libjpeg", "on Debian, .ci/install-service")
    root = doors.onnxruntime_root(once, require)

    def built(name: str, flags: str, options: str = "") -> Path:
        def make(folder: Path) -> None:
            (line,) = (line for line in doors.readme_lines(SOURCE) if line.startswith("cmake"))
            configure, compile = line.split(" && ")
            here = doors.checkout(folder / "checkout")
            doors.shell(f"{configure} {options}", here, ONNXRUNTIME_ROOT=str(root), CXXFLAGS=flags)
            doors.shell(f"{compile} --parallel 2", here)

        return once(name, make) / "checkout" / "build" / "service" / "saliport_service"

    return built


@pytest.fixture(scope="session")
def binary(build: Callable[..., Path]) -> Path:
    return build("service", "-Werror")


@pytest.fixture(scope="session")
def sanitized(build: Callable[..., Path]) -> Path:
    return build("service-sanitized", "-Werror -O1", "-DSALIPORT_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug")


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
    return Image.open(doors.ROOT / "docs" / "chelsea.png").convert("RGB")


@pytest.fixture(scope="session")
def cat_png() -> bytes:
    return (doors.ROOT / "docs" / "chelsea.png").read_bytes()


@pytest.fixture(scope="session")
def cat_jpeg(cat: Image.Image) -> bytes:
    return encoded(cat, "JPEG", quality=90)
