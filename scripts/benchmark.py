"""``python scripts/benchmark.py``: what a prediction with its map costs, beside the prediction alone and beside others.

Each case is measured in processes of its own and kept in ``results.json`` as soon as it is done; tables and plots are
made of that file. ``--quick`` takes two minutes. Everything takes far longer; ``--resume`` goes on where it stopped.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from exporter.errors import SaliportError
from exporter.sources import resolve
from scripts.benchmarking import files, machine, plan, processes
from scripts.benchmarking.contenders import EVERYONE
from scripts.benchmarking.measure import Effort, absent, measure
from scripts.benchmarking.records import Record, Records
from scripts.commands import as_given

RESULTS = "results.json"
DOCUMENT = "README.md"
OUTPUT = Path("docs/benchmark")
CUDA_OUTPUT = OUTPUT / "cuda"
QUICK_OUTPUT = files.CACHE / "quick"
WIDTH = 160
QUICK = ("export", "speed", "session", "profile", "help")
EFFORT = Effort()
QUICK_EFFORT = Effort(rounds=10, seconds=10, repeats=1, turns=1)
NEEDED = ("jsonschema", "matplotlib", "onnxscript", "rich")
"""What no run can do without; contenders that are not installed are left out."""


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


class Seconds(click.FloatRange):
    """A time, which no comparison refuses where it is NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse ``120``."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return found


def _defaults(name: str) -> str:
    """Say how much is measured where it is not said, for the help."""
    return f"[default: {getattr(EFFORT, name):g}; quick: {getattr(QUICK_EFFORT, name):g}]"


@click.command()
@click.option("--quick", is_flag=True, help="resnet18 alone, one image at a time, few rounds, no growth: two minutes.")
@click.option("--models", metavar="SPEC,SPEC", help=f"Which networks.  [default: {','.join(plan.MODELS)}]")
@click.option("--batches", type=Numbers(), help="How many images at once.  [default: 1,8]")
@click.option("--side", type=click.IntRange(min=1), default=plan.SIDE, show_default=True, help="Of an image.")
@click.option("--threads", type=Numbers(), help="The first for all, each for growth.  [default: 1,2]")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Of a race, at most.  {_defaults('rounds')}")
@click.option("--seconds", type=Seconds(min=0), help=f"After which a race begins no new round.  {_defaults('seconds')}")
@click.option("--repeats", type=click.IntRange(min=1), help=f"Processes for a session.  {_defaults('repeats')}")
@click.option("--only", "parts", type=click.Choice(list(plan.PARTS)), multiple=True, help="A part; repeatable.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="cuda: those parts."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help=f"[default: {OUTPUT}; cuda: {CUDA_OUTPUT}; quick: {QUICK_OUTPUT}]",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
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
    threads: tuple[int, ...] | None,
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
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        raise click.UsageError(f"{', '.join(lacking)} not installed here: pip install -e '.[bench]'")
    chosen = parts or (plan.CUDA_PARTS if device == "cuda" else QUICK if quick else plan.CPU_PARTS)
    on_gpu = any(part in plan.CUDA_PARTS for part in chosen)
    output = output or (QUICK_OUTPUT if quick else CUDA_OUTPUT if on_gpu else OUTPUT)
    results = output / RESULTS
    try:
        records = Records(results)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if report_only:
        if not results.exists():
            raise click.UsageError(f"--report-only: there is no {results}")
        report(records, output)
        return
    given = tuple(dict.fromkeys(models.split(","))) if models is not None else ()
    check(records, on_gpu, given, threads or ())
    names = given or (plan.MODELS[:1] if quick else plan.MODELS)
    counts = threads or tuple(count for count in plan.THREADS if count <= processes.available())
    wanted = plan.cases(chosen, names, batches or ((1,) if quick else plan.BATCHES), counts, side)
    amounts = {"rounds": rounds, "seconds": seconds, "repeats": repeats, "cache": cache}
    effort = replace(
        QUICK_EFFORT if quick else EFFORT, **{name: value for name, value in amounts.items() if value is not None}
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"--output {output} cannot be made: {error.strerror}") from error
    try:
        failed = run(list(wanted), records, effort, resume)
    except (KeyboardInterrupt, SystemExit):
        if results.exists():
            click.echo(f"Interrupted: --report-only makes tables and plots of what {results} has by now.", err=True)
        raise
    report(records, output)
    if failed:
        click.echo(f"{failed} case(s) failed", err=True)
        sys.exit(1)


def check(records: Records, on_gpu: bool, models: Iterable[str], threads: Iterable[int]) -> None:
    """Refuse what cannot be measured, or not be kept, before anything is.

    A library of networks that is not here is no mistake in a SPEC: its cases are recorded as missing.

    Raises:
        click.UsageError: There is no GPU, there are fewer cores than threads, the records are of another processor or
            GPU, or a SPEC names no network.
    """
    gpu = ""
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            raise click.UsageError("torch finds no CUDA device here")
        gpu = torch.cuda.get_device_name()
    cores = processes.available()
    for count in threads:
        if count > cores:
            raise click.UsageError(f"--threads {count}: there are {cores} cores here")
    here = [machine.processor(machine.machine()), gpu]
    for record in records:
        there = [machine.processor(record.machine), record.result.get("gpu", gpu) if on_gpu else gpu]
        for theirs, ours in zip(there, here, strict=True):
            if theirs != ours:
                raise click.UsageError(
                    f"the records are of {theirs}; this is {ours}: keep its own with another --output"
                )
    for spec in models:
        if absent(spec):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what libraries will change one day
                resolve(spec)
        except SaliportError as error:
            raise click.UsageError(str(error)) from error


def run(cases: list[plan.Case], records: Records, effort: Effort, resume: bool) -> int:
    """Measure cases, and keep each as soon as it is done; returns how many failed."""
    command = as_given("benchmark.py")
    failed = 0
    for number, case in enumerate(cases, 1):
        sources = files.sources(case.part)
        known = records.get(case)
        if resume and known is not None and done(known, sources):
            continue
        start = time.perf_counter()
        try:
            result = measure(case, effort)
        except processes.Failed as error:
            result = {"missing": f"it failed: {error}"}
            failed += 1
        missing = result.pop("missing", "")
        record = Record(case, command, machine.machine(), machine.versions(), sources, missing, result)
        kept = records.put(record)
        taken = time.perf_counter() - start
        broken = record.broken()
        failed += bool(broken)
        said = "; ".join(filter(None, (missing or f"{taken:.0f} s", broken, kept)))
        click.echo(f"{number:>3}/{len(cases)}  {case}: {said}", err=True)
    return failed


def done(known: Record, sources: str) -> bool:
    """Say whether a case need not be measured again.

    Its record holds, all its files were made, and who was not installed still is not.
    """
    if known.missing or known.broken() or not known.holds(machine.machine(), machine.versions(), sources):
        return False
    left_out = [name for name, why in known.contenders().items() if why.endswith("not installed here")]
    return all(EVERYONE[name].absent() for name in left_out)


def report(records: Records, output: Path) -> None:
    """Make tables and plots of records; each file is written aside, so that it is the old one or the new one."""
    from rich.console import Console

    from scripts.benchmarking import plots
    from scripts.benchmarking.report import document, tables

    with tempfile.TemporaryDirectory(dir=output, prefix=".report-") as folder:
        aside = Path(folder)
        drawn = plots.draw(records, aside)
        (aside / DOCUMENT).write_text(document(records, drawn))
        for name in (*drawn, DOCUMENT):
            os.replace(aside / name, output / name)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)  # a file has no width
    for table in tables(records):
        console.print(table.rich())
    console.print(f"Written: {output}/")


if __name__ == "__main__":
    main()
