"""``scripts/kill_exports.py`` on a few kills; the script itself counts hundreds."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import kill_exports
from scripts.kill_exports import METHODS, PERIODS, Bench, Child, Tally
from tests.test_artifact import old_artifact

SCRIPT = Path(kill_exports.__file__)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_killed_exports_leave_a_whole_artifact() -> None:
    command = [sys.executable, str(SCRIPT), "--count", "6", "--commands", "1", "--model", "mlp"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *_, summary = result.stdout.splitlines()
    assert summary.startswith("6 kills: ")
    assert summary.endswith("; 0 violations")


class Lying(Bench):
    """A bench on artifacts made by hand, that claims to have killed an export."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "artifact"
        self.known = {}
        for method in METHODS:
            self.known[method] = kill_exports._read(old_artifact(self.folder, method))
        shutil.rmtree(self.folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.pt").write_text("half"), "has changed since it was proven"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not an artifact"),
        (lambda folder: old_artifact(folder, "another"), "holds neither artifact to the byte"),
        (lambda folder: shutil.rmtree(folder), "the folder holds None, while guided was to be replaced by gradient"),
        (lambda folder: [(folder.parent / f".artifact.{i}.aside").mkdir() for i in "ab"], "2 folders lie aside"),
    ],
)
def test_what_must_not_be_is_seen(tmp_path: Path, damage, message: str) -> None:
    bench, tally = Lying(tmp_path), Tally()
    old_artifact(bench.folder, "guided")
    tally.record(bench, PERIODS[0], "guided", "gradient", set())
    assert not tally.violations
    damage(bench.folder)
    tally.record(bench, PERIODS[0], "guided", "gradient", set())
    assert len(tally.violations) == 1
    assert message in tally.violations[0]


def test_a_bench_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill counts only if the export had not ended by itself."""
    bench = Lying(tmp_path)
    monkeypatch.setattr(bench, "start", lambda start, method: subprocess.Popen(["sleep", "60"]), raising=False)
    bench.durations = {Child: {"anywhere": 0.1}}
    assert bench.kill(Child, "guided", "anywhere", random.Random(0))
    monkeypatch.setattr(bench, "start", lambda start, method: subprocess.Popen(["true"]), raising=False)
    bench.durations = {Child: {"anywhere": 60.0}}
    assert not bench.kill(Child, "guided", "anywhere", random.Random(0))
