"""The libtorch program: parity with live autograd, warming up, and what it refuses."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils import cpp_extension

from tests.examples import doors
from tests.examples.conftest import Once, Require

LIBTORCH = doors.ROOT / "examples" / "libtorch"


@pytest.fixture(scope="session")
def arts(once: Once) -> Path:
    return once("whole", doors.export_all)


@pytest.fixture(scope="session")
def program(once: Once, require: Require) -> Path:
    """Build as the README says, warnings being errors."""
    doors.require_compiler(require)

    def build(folder: Path) -> None:
        here = doors.checkout(folder / "checkout")
        for command in doors.readme_lines(LIBTORCH)[:2]:
            doors.shell(command, here, CXXFLAGS="-Wall -Wextra -Werror")

    return once("libtorch", build) / "checkout" / "build" / "libtorch" / "saliport_torch"


class TestParity(doors.Parity):
    """With libtorch."""


@pytest.fixture(scope="session")
def check(once: Once, require: Require) -> Callable[[str], Path]:
    """Build one of the programs beside the example, by its name."""
    doors.require_compiler(require)
    include = " ".join(f"-isystem {path}" for path in cpp_extension.include_paths())
    link = " ".join(f"-L{path} -Wl,-rpath,{path}" for path in cpp_extension.library_paths())
    link += " -Wl,--no-as-needed -ltorch_cpu -lc10 -pthread"

    def build(name: str) -> Path:
        source = f"-I{LIBTORCH.parent}/cpp {LIBTORCH}/checks/{name}.cpp"
        line = f"c++ -std=c++20 -Wall -Wextra -Werror {include} {source} {link}"
        return once(name, lambda folder: doors.shell(f"{line} -o {folder}/{name}", folder)) / name

    return build


def test_the_first_callers_do_not_wait_for_the_compiler(check: Callable[[str], Path], arts: Path) -> None:
    answer = doors.call(check("warm"), arts / "guided")
    assert (answer.status, answer.error) == (0, "")
    assert answer.output == "cold: untouched watched compiled\nafter: untouched\nwarm: compiled\n"


def test_an_artifact_may_be_opened_cold(program: Path, artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((2, 3, 32, 32), np.float32))
    answer = doors.call(program, artifact, tmp_path / "image.npy", "--repeat", "5", "--cold")
    assert re.search(r"calls 1, 2, 3: [\d.]+ [\d.]+ [\d.]+ ms", answer.output), answer


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 4)])
def test_threads_hold_in_every_thread_that_calls(
    check: Callable[[str], Path], arts: Path, threads: int, most: int
) -> None:
    """With two, the caller and whoever opened the artifact have a helper each, and so has libtorch's other pool."""
    answer = doors.call(check("threads"), arts / "guided", str(threads), OMP_NUM_THREADS="6")
    assert (answer.status, answer.error) == (0, "")
    assert threads <= int(answer.output) <= most


REFUSED = {
    "no folder": (lambda folder: shutil.rmtree(folder), (), 2, "is not a folder"),
    "no file": (lambda folder: (folder / "model.pt").unlink(), (), 2, "model.pt is missing"),
    "a changed byte": (lambda folder: _flip(folder / "model.pt"), (), 2, "has changed since it was proven: sha256"),
    "a target out of range": (lambda folder: None, ("--target", "5"), 2, "classes are 0 to 4"),
    "a target below -1": (lambda folder: None, ("--target", "-2"), 2, "target -2 of sample 0 is out of range"),
    "no threads": (lambda folder: None, ("--threads", "2000"), 2, "it must be 1 to 1024"),
}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(program: Path, arts: Path, name: str, tmp_path: Path) -> None:
    damage, options, status, text = REFUSED[name]
    folder = tmp_path / "artifact"
    shutil.copytree(arts / "guided", folder)
    damage(folder)
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 12, 11), np.float32))
    answer = doors.call(program, folder, tmp_path / "image.npy", "--output", tmp_path / "out.npz", *options)
    assert answer.status == status
    assert answer.output == ""
    assert re.fullmatch(r"saliport_torch: [^\n]+\n", answer.error)
    assert text in answer.error
    assert not (tmp_path / "out.npz").exists()


def test_a_file_that_is_no_torchscript(program: Path, arts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(arts / "guided", folder)
    (folder / "model.pt").write_bytes(b"no zip file" * 100)
    doors.reseal(folder)
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 12, 11), np.float32))
    answer = doors.call(program, folder, tmp_path / "image.npy", "--output", tmp_path / "out.npz")
    assert answer.status == 1
    assert re.fullmatch(r"saliport_torch: \S+/model.pt cannot be opened: [^\n]+\n", answer.error)


def test_the_readme_runs(program: Path, artifact: Path, tmp_path: Path) -> None:
    here = program.parents[2]
    if not (here / "artifacts").exists():
        (here / "artifacts").symlink_to(artifact.parent)
    np.save(here / "image.npy", np.zeros((1, 3, 32, 32), np.float32))
    lines = doors.readme_lines(LIBTORCH)
    assert len(lines) == 3
    doors.shell(lines[2], here)
    assert (here / "explained.npz").stat().st_size > 4 * 3 * 32 * 32
