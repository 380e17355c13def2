"""The command line, and what the README says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.examples import doors
from tests.examples.service.client import Service
from tests.examples.service.conftest import SOURCE

README = (SOURCE / "README.md").read_text(encoding="utf-8")


def test_help_names_every_option(binary: Path) -> None:
    answer = doors.call(binary, "--help")
    assert (answer.status, answer.error) == (0, "")
    known = set(re.findall(r'\{"(--[a-z-]+)"', (SOURCE / "options.cpp").read_text()))
    assert len(known) == 12
    assert known | {"--help"} == set(re.findall(r"^  (--[a-z-]+)", answer.output, re.MULTILINE))
    assert set(re.findall(r"`(--[a-z-]+)`", README)) <= known | {"--help"}


def test_the_readme_lists_every_error() -> None:
    sources = "".join(path.read_text() for path in SOURCE.glob("*.cpp"))
    codes = set(re.findall(r'(?:Problem\(|refuse\(|\{)\d{3}, "([a-z_]*[a-z])"', sources))
    codes |= {f"bad_{field}" for field in re.findall(r'bad\("(\w+)"', sources)} | {"bad_top", "bad_format"}
    assert {"bad_image", "timeout", "shutting_down", "bad_multipart"} <= codes
    codes |= set(re.findall(r'reply\.status, "([a-z_]+)"', sources))
    listed = set(re.findall(r"`([a-z_]+)`", README.split("## What the network is given")[0].split("| `code` |")[1]))
    assert codes == listed


WRONG = {
    "nothing": ([], "--artifact FOLDER is required; see --help"),
    "unknown option": (["--prot", "1"], "there is no option --prot; see --help"),
    "a word": (["folder"], "there is no option folder; see --help"),
    "an option without its value": (["--port"], "--port lacks its PORT"),
    "port": (["--port", "65536"], "--port 65536: it must be a number from 0 to 65535"),
    "empty number": (["--workers="], "--workers : it must be a number from 1 to 1024"),
    "negative number": (["--queue", "-1"], "--queue -1: it must be a number from 0 to 100000"),
    "unit": (["--max-body", "5T"], "--max-body 5T: it must be a number from 1 to 1073741824"),
    "beyond": (["--max-body", "2G"], "--max-body 2G: it must be a number from 1 to 1073741824"),
    "seconds": (["--timeout", "nan"], "--timeout nan: it must be seconds from 0.1 to 3600"),
    "size": (["--size", "8"], "--size 8: it must be HEIGHTxWIDTH"),
    "limits that exclude each other": (
        ["--artifact", "x", "--max-body", "1M", "--body-memory", "512K"],
        "--max-body exceeds --body-memory, so that no body would fit",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_use_is_status_2(what: str, binary: Path) -> None:
    words, message = WRONG[what]
    assert doors.call(binary, *words) == (2, "", f"saliport_service: {message}\n")


def test_an_artifact_that_has_changed_is_not_served(binary: Path, artifact: Path, tmp_path: Path) -> None:
    missing = doors.call(binary, "--artifact", tmp_path / "nowhere")
    assert missing.status == 1
    assert "nowhere is not a folder" in missing.error
    changed = shutil.copytree(artifact, tmp_path / "changed")
    model = bytearray((changed / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (changed / "model.onnx").write_bytes(model)
    answer = doors.call(binary, "--artifact", changed)
    assert answer.status == 1
    assert "has changed since it was proven" in answer.error
    assert answer.error.count("\n") == 1


def test_a_port_is_served_once(binary: Path, artifact: Path) -> None:
    """cpp-httplib's own socket option would let two processes share it."""
    with Service(binary, artifact) as service:
        second = doors.call(binary, "--artifact", artifact, "--port", str(service.port))
        assert second == (1, "", f"saliport_service: cannot listen on 127.0.0.1:{service.port}\n")
    assert doors.call(binary, "--artifact", artifact, "--host", "no.such.host.invalid").status == 1
