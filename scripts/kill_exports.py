"""``python scripts/kill_exports.py``: ``kill -9`` exports at random moments, and look at what is left each time.

Two artifacts of one network, by two methods, are exported into one folder in turns, and killed. After each kill the
folder must hold one of the two, whole to the byte, or nothing if nothing was there before; at most one folder may lie
aside; and the export that is let through at the end must leave none.

A third of the kills falls anywhere in an export, a third after it has begun to write, and a third around the exchange
of the two folders, which is over in milliseconds and which chance alone would hardly meet. Most exports are forks
of this process, which has imported everything, and run the command's own function; some are the whole command.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import click

# imported before a child is forked, so that the child need not: PyTorch imports half of what it needs when it is needed
import onnxruntime  # noqa: F401
import torch._dynamo
import torch.export._trace  # noqa: F401

import exporter.pipeline
import exporter.sources  # noqa: F401
from exporter.artifact import MANIFEST, Artifact
from exporter.cli import export_command
from exporter.errors import ArtifactError

METHODS = ("guided", "gradient")
PERIODS = ("anywhere", "writing", "exchange")
POLL = 1e-4
"""Seconds between two looks at an export: the exchange must not slip through."""

PATIENCE = 1e-2
"""The same where nothing can: for the end of an export."""


class Child:
    """An export in a fork of this process, which has imported everything and exported nothing."""

    def __init__(self, arguments: list[str]) -> None:
        """Start it."""
        self._status: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            self._run(arguments)

    @staticmethod
    def _run(arguments: list[str]) -> NoReturn:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            export_command(arguments, standalone_mode=False)
            os._exit(0)
        finally:
            os._exit(1)

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal, or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def kill(self) -> None:
        """Kill it."""
        os.kill(self._pid, signal.SIGKILL)


class Command(subprocess.Popen[bytes]):
    """An export as a user starts it, in a process group of its own."""

    def __init__(self, arguments: list[str]) -> None:
        """Start it."""
        line = [sys.executable, str(Path(__file__).with_name("export.py")), *arguments]
        super().__init__(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def kill(self) -> None:
        """Kill the group."""
        os.killpg(self.pid, signal.SIGKILL)


Start = type[Child] | type[Command]


class Bench:
    """A folder, and exports into it.

    Attributes:
        folder: Where the exports go.
        known: Method -> the bytes of its artifact's files.
        durations: How to start an export -> how long each period of one is, in seconds.
    """

    def __init__(self, place: Path, model: str, starts: list[Start]) -> None:
        """Export both artifacts, each in a process of its own, to know them; and measure how long that takes."""
        self.folder = place / "artifact"
        self._model = model
        self.known: dict[str, dict[str, bytes]] = {}
        for method in METHODS:
            self.let_through(Child, method)
            self.known[method] = _read(self.folder)
            shutil.rmtree(self.folder)
        self.durations = {start: self._measure(start) for start in starts}

    def start(self, start: Start, method: str) -> Child | Command:
        """Start an export into the folder."""
        return start(["--model", self._model, "--method", method, "--output", str(self.folder)])

    def let_through(self, start: Start, method: str) -> None:
        """Export, and wait for it.

        Raises:
            RuntimeError: The export failed.
        """
        status = _ended(self.start(start, method))
        if status != 0:
            raise RuntimeError(f"an export that nobody killed ended with status {status}")

    def _measure(self, start: Start) -> dict[str, float]:
        before, begin, run = self.asides(), time.perf_counter(), self.start(start, METHODS[0])
        reached = {period: self._await(run, period, before) or time.perf_counter() - begin for period in PERIODS}
        _ended(run, POLL)
        return {period: time.perf_counter() - begin - moment for period, moment in reached.items()}

    def _await(self, run: Child | Command, period: str, before: set[Path]) -> None:
        """Wait until an export enters a period, or ends."""
        begun: dict[str, Callable[[], bool]] = {
            "anywhere": lambda: True,
            "writing": lambda: bool(self.asides() - before),
            "exchange": lambda: any((aside / MANIFEST).exists() for aside in self.asides() - before),
        }
        while not begun[period]() and run.poll() is None:
            time.sleep(POLL)

    def kill(self, start: Start, method: str, period: str, chance: random.Random) -> bool:
        """Kill an export at a random moment of a period; tell whether it had not ended before."""
        before, run = self.asides(), self.start(start, method)
        self._await(run, period, before)
        moment = time.perf_counter() + chance.uniform(0, self.durations[start][period])
        while time.perf_counter() < moment and run.poll() is None:
            time.sleep(POLL)
        if run.poll() is None:
            run.kill()
        return _ended(run) == -signal.SIGKILL

    def asides(self) -> set[Path]:
        """Return the folders that exports are writing, or have left."""
        return set(self.folder.parent.glob(".artifact.*.aside"))

    def held(self) -> str | None:
        """Return the method of the artifact that the folder holds, None where there is no folder.

        Raises:
            ArtifactError: It holds anything else.
        """
        if not self.folder.exists():
            return None
        artifact = Artifact.open(self.folder)
        for format in artifact.manifest["files"]:
            artifact.file(format)
        method = self._known(self.folder)
        if method is None:
            raise ArtifactError(f"the folder holds neither artifact to the byte, but {sorted(_read(self.folder))}")
        return method

    def _known(self, folder: Path) -> str | None:
        return next((method for method, files in self.known.items() if files == _read(folder)), None)

    def aside(self, old: str | None) -> str:
        """Say what lies aside, in the words of the report."""
        folders = self.asides()
        if len(folders) != 1:
            return "nothing" if not folders else f"{len(folders)} folders"
        (folder,) = folders
        method = self._known(folder)
        if method is not None:
            return "the old artifact" if method == old else "the new artifact"
        return ", ".join(sorted(_read(folder))) or "an empty folder"


def _ended(run: Child | Command, every: float = PATIENCE) -> int:
    while (status := run.poll()) is None:
        time.sleep(every)
    return status


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@dataclass
class Tally:
    """What was found after the kills.

    Attributes:
        found: (period, what the folder held, what lay aside) -> how often.
        cleaned: How many folders of killed exports a later export removed.
        violations: What must never be.
    """

    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    cleaned: int = 0
    violations: list[str] = field(default_factory=list)

    def record(self, bench: Bench, period: str, old: str | None, new: str, before: set[Path]) -> None:
        """Look at the folder, and at what lies aside, after a kill."""
        self.cleaned += len(before - bench.asides())
        try:
            held = bench.held()
        except ArtifactError as error:
            self.violations.append(str(error))
            return
        name = {old: "old" if old else "nothing", new: "new"}.get(held, "neither")
        self.found[period, name, bench.aside(old)] += 1
        if name == "neither":
            self.violations.append(f"the folder holds {held}, while {old} was to be replaced by {new}")
        if len(bench.asides()) > 1:
            self.violations.append(f"{len(bench.asides())} folders lie aside")

    def print(self, kills: int) -> None:
        """Print the report."""
        click.echo(f"{'folder':<9}{'aside':<44}" + "".join(f"{period:>11}" for period in (*PERIODS, "all")))
        for name, aside in sorted({(name, aside) for _, name, aside in self.found}):
            counts = [self.found[period, name, aside] for period in PERIODS]
            click.echo(f"{name:<9}{aside:<44}" + "".join(f"{count:>11}" for count in (*counts, sum(counts))))
        held = {name: sum(n for (_, held, _), n in self.found.items() if held == name) for name in ("old", "new")}
        click.echo(
            f"{kills} kills: the folder held the old artifact whole {held['old']} times, the new one whole "
            f"{held['new']} times, nothing {kills - sum(held.values()) - len(self.violations)} times; "
            f"{self.cleaned} folders cleaned; {len(self.violations)} violations"
        )


@click.command()
@click.option("--count", type=click.IntRange(min=1), default=200, show_default=True, help="How many kills.")
@click.option("--commands", default=20, show_default=True, help="How many of them of the whole command, started anew.")
@click.option("--model", default="digits_cnn", show_default=True, help="A zoo name, or path/to/file.py:factory.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(count: int, commands: int, model: str, seed: int) -> None:
    """Kill exports at random moments; exit status 1 if a folder was ever anything but whole."""
    chance, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as place:
        try:
            bench = Bench(Path(place), model, [Child, Command] if commands else [Child])
        except RuntimeError as error:
            raise click.UsageError(f"--model {model}: {error}") from error
        kills = 0
        while kills < count:
            if chance.random() < 0.1:  # as for the first export ever
                shutil.rmtree(bench.folder, ignore_errors=True)
            old, before = bench.held(), bench.asides()
            new = METHODS[old == METHODS[0]]
            period = PERIODS[kills % len(PERIODS)]
            if bench.kill(Command if kills < commands else Child, new, period, chance):
                kills += 1
                tally.record(bench, period, old, new, before)
            if tally.violations:
                break
        else:
            before = bench.asides()
            bench.let_through(Child, METHODS[0])
            tally.cleaned += len(before)
            if bench.held() != METHODS[0] or bench.asides():
                tally.violations.append("the last export, which nobody killed, left something aside")
    tally.print(kills)
    for violation in tally.violations:
        click.echo(f"violation: {violation}", err=True)
    sys.exit(1 if tally.violations else 0)


if __name__ == "__main__":
    main()
