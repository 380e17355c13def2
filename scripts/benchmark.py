"""``python scripts/benchmark.py``: what a prediction with its map costs, beside the prediction alone and beside others.

Each case is measured in processes of its own and kept in ``results.json`` as soon as it is done; tables and plots are
made of that file. ``--quick`` takes two minutes. Everything takes far longer; ``--resume`` goes on where it stopped.
"""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.benchmarking import files, machine, plan, processes
from scripts.benchmarking.measure import Effort, measure
from scripts.benchmarking.records import Record, Records
from scripts.commands import as_given

RESULTS = "results.json"
DOCUMENT = "README.md"
OUTPUT = Path("docs/benchmark")
WIDTH = 160
QUICK = ("export", "speed", "session", "profile", "help")
QUICK_EFFORT = Effort(rounds=10, seconds=10, repeats=1, turns=1)
EVERYTHING = tuple(part for part in plan.PARTS if part not in plan.CUDA_PARTS)


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Positive integers, separated by commas."""

    name = "N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse ``1,8``."""
        if isinstance(value, tuple):
            return value
        if not all(one.isdecimal() and int(one) for one in value.split(",")):
            self.fail(f"{value!r} is not a list of positive integers; write for example 1,8", param, ctx)
        return tuple(int(one) for one in value.split(","))


@click.command()
@click.option("--quick", is_flag=True, help="resnet18 alone, one image at a time, few rounds, no growth: two minutes.")
@click.option("--models", metavar="SPEC,SPEC", help=f"Which networks.  [default: {','.join(plan.MODELS)}]")
@click.option("--batches", type=Numbers(), help="How many images at once.  [default: 1,8]")
@click.option("--side", type=click.IntRange(min=1), default=plan.SIDE, show_default=True, help="Of an image.")
@click.option(
    "--threads", type=Numbers(), default=plan.THREADS, help="The first for all, each for growth.  [default: 1,2]"
)
@click.option("--rounds", type=click.IntRange(min=1), help="Of a race, at most.  [default: 30; quick: 10]")
@click.option("--seconds", type=float, help="After which a race begins no new round.  [default: 120; quick: 15]")
@click.option("--repeats", type=click.IntRange(min=1), help="Processes for a session.  [default: 3; quick: 1]")
@click.option("--only", "parts", type=click.Choice(list(plan.PARTS)), multiple=True, help="A part; repeatable.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="cuda: those parts."
)
@click.option("--output", type=click.Path(path_type=Path), help=f"[default: {OUTPUT}; quick: {files.CACHE}/quick]")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=files.CACHE,
    show_default=True,
    help="Of the files, for one state of the sources.",
)
@click.option("--resume", is_flag=True, help="Leave out what these sources have been measured for already.")
@click.option("--report-only", is_flag=True, help="Measure nothing: make tables and plots of what is recorded.")
def main(
    quick: bool,
    models: str | None,
    batches: tuple[int, ...] | None,
    side: int,
    threads: tuple[int, ...],
    rounds: int | None,
    seconds: float | None,
    repeats: int | None,
    parts: tuple[str, ...],
    device: str,
    output: Path | None,
    cache: Path,
    resume: bool,
    report_only: bool,
) -> None:
    """Measure artifacts against the forward pass alone, autograd, Captum and others, and write a report."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process which measures ends too
    output = output or (files.CACHE / "quick" if quick else OUTPUT)
    try:
        records = Records(output / RESULTS)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if not report_only:
        chosen = parts or (plan.CUDA_PARTS if device == "cuda" else QUICK if quick else EVERYTHING)
        names = models.split(",") if models else plan.MODELS[:1] if quick else plan.MODELS
        wanted = plan.cases(chosen, names, batches or ((1,) if quick else plan.BATCHES), threads, side)
        effort = QUICK_EFFORT if quick else Effort()
        given = {"rounds": rounds, "seconds": seconds, "repeats": repeats, "cache": cache}
        effort = replace(effort, **{name: value for name, value in given.items() if value is not None})
        run(list(wanted), records, effort, resume)
    report(records, output)


def run(cases: list[plan.Case], records: Records, effort: Effort, resume: bool) -> None:
    """Measure cases, and keep each as soon as it is done."""
    command = as_given("benchmark.py")
    for number, case in enumerate(cases, 1):
        sources = files.sources(case.part)
        known = records.get(case)
        if resume and known is not None and not known.missing and known.sources == sources:
            continue
        start = time.perf_counter()
        try:
            result = measure(case, effort)
        except processes.Failed as error:
            result = {"missing": f"it failed: {error}"}
        missing = result.pop("missing", "")
        records.put(Record(case, command, machine.machine(), machine.versions(), sources, missing, result))
        taken = time.perf_counter() - start
        click.echo(f"{number:>3}/{len(cases)}  {case}: {missing or f'{taken:.0f} s'}", err=True)


def report(records: Records, output: Path) -> None:
    """Make tables and plots of records."""
    from rich.console import Console

    from scripts.benchmarking import plots
    from scripts.benchmarking.report import document, tables

    output.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw(records, output)
    (output / DOCUMENT).write_text(document(records, drawn))
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)  # a file has no width
    for table in tables(records):
        console.print(table.rich())
    console.print(f"Written: {output}/")


if __name__ == "__main__":
    main()
