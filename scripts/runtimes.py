"""``python scripts/runtimes.py --report docs/runtimes.md``: what each runtime makes of the same artifacts.

Parity with live autograd, latency beside a forward-only model in the same runtime, and size; and which versions of
onnxruntime load which opset. Results go to ``docs/runtimes.json``; ``--known`` writes the page anew from there. The C++
and Node programs take part where they have been built and are named. Exit status 1: a runtime that ran disagrees.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.commands import as_given
from scripts.matrix.installed import Installed
from scripts.matrix.opsets import opset_table
from scripts.matrix.report import disagreements, document, line
from scripts.matrix.runtimes import choose
from scripts.matrix.trials import MODELS, QUICK, NotRun, Row, prepare

RESULTS = Path("docs/runtimes.json")
QUICK_RESULTS = Path("artifacts/runtimes.json")


@click.command()
@click.option("--quick", is_flag=True, help="Two networks and few rounds, to see that it runs; keep no figure of it.")
@click.option("--rounds", type=click.IntRange(min=1), default=60, show_default=True, help="Measured calls of each.")
@click.option("--cpp", type=click.Path(exists=True, path_type=Path), help="saliport_run, built in examples/cpp.")
@click.option("--libtorch", type=click.Path(exists=True, path_type=Path), help="saliport_torch, of examples/libtorch.")
@click.option("--web", type=click.Path(exists=True, path_type=Path), help="examples/web, after npm ci.")
@click.option("--no-opsets", is_flag=True, help="Keep what is known of them; else pip installs many an onnxruntime.")
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Where results are kept.  [default: {RESULTS}; quick: {QUICK_RESULTS}]",
)
@click.option("--known", is_flag=True, help="Run nothing, report what is known.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the page, docs/runtimes.md.")
def main(
    quick: bool,
    rounds: int,
    cpp: Path | None,
    libtorch: Path | None,
    web: Path | None,
    no_opsets: bool,
    results: Path | None,
    known: bool,
    report: Path | None,
) -> None:
    """Compare the runtimes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    results = results or (QUICK_RESULTS if quick else RESULTS)
    for path in filter(None, (report, None if known else results)):
        make_folder_of(path)
    found = read(results) if known or results.exists() else {"opsets": []}
    if not known:
        measured = 5 if quick else rounds
        with tempfile.TemporaryDirectory() as folder:
            installed = Installed(Path(folder))
            runtimes = choose(installed, cpp, libtorch, web)
            rows = [asdict(row) for row in compare(runtimes, Path(folder), quick, measured)]
            found = {**surroundings(), "rounds": measured, "rows": rows, "opsets": found["opsets"]}
            write(results, found)
            if not no_opsets:
                found["opsets"] = [asdict(row) for row in opset_table(installed, Path(folder), quick)]
                write(results, found)
    if report:
        report.write_text(document(found))
    wrong = disagreements(found)
    for sentence in wrong:
        click.echo(sentence, err=True)
    sys.exit(1 if wrong else 0)


def make_folder_of(path: Path) -> None:
    """Make the folder of a file that will be written, before anything is measured."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from error


def read(results: Path) -> dict[str, Any]:
    """Return what an earlier run found."""
    try:
        found = json.loads(results.read_text())
    except OSError as error:
        raise click.UsageError(f"{results} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise click.UsageError(f"{results} holds no results: {error}") from error
    if not isinstance(found, dict) or not {"rows", "opsets"} <= found.keys():
        raise click.UsageError(f"{results} holds no results of this script")
    return found


def write(results: Path, found: Mapping[str, Any]) -> None:
    """Keep what was found."""
    results.write_text(json.dumps(found, indent=1) + "\n")


def surroundings() -> dict[str, str]:
    """Return what the figures hang on."""
    return {
        "command": as_given("runtimes.py"),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def compare(runtimes: Sequence[Any], folder: Path, quick: bool, rounds: int) -> Iterator[Row]:
    """Run every runtime on every trial."""
    for name, image, methods in MODELS[:QUICK] if quick else MODELS:
        for method in methods:
            trial = prepare(name, image, method, folder / f"{name}-{image}-{method}")
            for runtime in runtimes:
                try:
                    row = runtime.run(trial, rounds)
                except NotRun as error:
                    row = Row(runtime.name, "", name, image, method, reason=str(error))
                click.echo(line(row))
                yield row


if __name__ == "__main__":
    main()
