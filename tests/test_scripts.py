"""Wrong uses of the scripts: exit status 2 and one message, before anything is computed or overwritten."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import exporter
from scripts import fuzz, kill_exports, runtimes, sanity_check, train_digits
from scripts.commands import as_given
from scripts.explain import read_image

WRONG = {
    "a state that is another file": (fuzz, ("--state", "notes.txt"), "notes.txt is no state of this script: line 1"),
    "a state of other lines": (fuzz, ("--state", "other.jsonl"), "other.jsonl is no state of this script"),
    "a state in no folder": (fuzz, ("--state", "none/f.jsonl"), "none/f.jsonl cannot be read and written"),
    "a picture of no kind": (sanity_check, ("--output", "s.xyz"), "--output s.xyz: write to one of"),
    "a picture below a file": (sanity_check, ("--output", "notes.txt/s.png"), "--output notes.txt/s.png"),
    "weights in no folder": (train_digits, ("--output", "none/d.pt"), "none is no folder to write into"),
    "no epochs": (train_digits, ("--epochs", "0"), "0 is not in the range x>=1"),
    "results that are none": (runtimes, ("--known", "--results", "none.json"), "none.json cannot be read"),
    "results of another script": (runtimes, ("--known", "--results", "other.json"), "holds no results of this script"),
    "results that are damaged": (runtimes, ("--known", "--results", "notes.txt"), "notes.txt holds no results"),
    "a page below a file": (runtimes, ("--known", "--report", "notes.txt/r.md"), "notes.txt/r.md cannot be written"),
    "a network that is none": (kill_exports, ("--model", "none"), "--model none: an export that nobody killed ended"),
}


@pytest.mark.parametrize(("script", "arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_uses(script, arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"notes.txt": "notes\n", "other.jsonl": '{"a": 1}\n', "other.json": '{"a": 1}'}
    for name, text in files.items():
        Path(name).write_text(text)
    result = CliRunner().invoke(script.main, arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.replace("│", "").split())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_quick_look_at_the_runtimes_keeps_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    known = {"rows": [], "opsets": []}
    Path("docs/runtimes.json").write_text(json.dumps(known))
    monkeypatch.setattr(runtimes, "compare", lambda *given: iter(()))
    result = CliRunner().invoke(runtimes.main, ["--quick", "--no-opsets"])
    assert result.exit_code == 0, result.output
    assert json.loads(Path("docs/runtimes.json").read_text()) == known
    assert json.loads(Path("artifacts/runtimes.json").read_text())["rounds"] == 5


def test_a_command_does_not_say_where_files_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--cpp", "/a/b/run", "--output=/a/b/c d", "docs/e", "--web=f/g"])
    assert as_given("x.py") == "python scripts/x.py --quick --cpp run '--output=c d' docs/e --web=f/g"


MANIFEST = {"inputs": [{"sample_shape": [1, 8, 8]}], "model": {}}


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_an_image_of_16_bits_is_that_of_8(dtype: type, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(256, size=(8, 8)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.tiff")
    Image.fromarray(grey.astype(dtype) * 257).save(tmp_path / "16.tiff")
    assert np.array_equal(*(read_image(tmp_path / f"{bits}.tiff", MANIFEST)[1] for bits in (8, 16)))


def test_an_image_without_a_range_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(exporter.UsageError, match="whose range is not known"):
        read_image(tmp_path / "x.tiff", MANIFEST)
