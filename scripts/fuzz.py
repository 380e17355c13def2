"""``python scripts/fuzz.py --count 10000 --jobs 2 --state fuzz.jsonl``: many random networks, each compared to the bit.

What tests/test_fuzz.py does for a few hundred networks, for as many as there is time for; see tests/fuzzing. What is
done is kept in the state file: started again with the same seed, it goes on from there.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).parents[1]))

CHUNK = 25
"""Networks that are drawn from one seed."""

CHUNKS_OF_A_WORKER = 20
"""Then a worker starts afresh: torch.export keeps some memory of each network."""

MOST_FAILURES = 20
"""Then it is enough."""

FEWEST_SHOWN = 10


@click.command()
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help=f"How many networks at least; {CHUNK} are drawn at once.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="How many processes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first networks.")
@click.option("--state", type=click.Path(path_type=Path), default="fuzz.jsonl", show_default=True, help="What is done.")
def main(count: int, jobs: int, seed: int, state: Path) -> None:
    """Draw random networks, export them, and compare every runtime with live autograd.

    A failure is printed with its seed and the smallest network that shows it. Exit status: 0 all agree; 1 some do
    not; 2 wrong use.
    """
    done = read_state(state, seed)
    distinct = {digest for one in done for digest in one["digests"]}
    console = Console(stderr=True)
    columns = (
        TextColumn("networks"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with state.open("a") as file, Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("networks", total=count, completed=min(count, len(distinct)), note="")
        known = {one["seed"] for one in done}
        seeds = (number for number in itertools.count(seed) if number not in known)
        for one in run(seeds, jobs, lambda: len(distinct) < count and failed(done) < MOST_FAILURES):
            file.write(json.dumps(one) + "\n")
            file.flush()
            done.append(one)
            distinct.update(one["digests"])
            progress.update(task, completed=min(count, len(distinct)), note=f"{failed(done)} failures")
            if one["failure"]:
                text = f"seed {one['seed']}: {one['failure']}"  # a program: "[1]" is no markup, and ":-1:" no emoji
                console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
            if not console.is_terminal and len(done) % CHUNKS_OF_A_WORKER == 0:
                console.print(f"{len(distinct)} of {count} networks, {failed(done)} failures", highlight=False)
    report(done, len(distinct))
    sys.exit(1 if failed(done) else 0)


def failed(done: list[dict[str, Any]]) -> int:
    """Count the seeds that failed."""
    return sum(bool(one["failure"]) for one in done)


def read_state(path: Path, seed: int) -> list[dict[str, Any]]:
    """Return what an earlier run has done; a last line that was cut off is done again."""
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        path.touch()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--state {path} cannot be read and written: {error}") from error
    done = []
    for number, line in enumerate(lines, 1):
        try:
            done.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines) or not line.startswith("{"):
                raise click.UsageError(f"--state {path} is no state of this script: line {number}, {error}") from error
    if not all(isinstance(one, dict) and {"seed", "digests", "failure"} <= one.keys() for one in done):
        raise click.UsageError(f"--state {path} is no state of this script")
    if done and min(one["seed"] for one in done) < seed:
        raise click.UsageError(f"{path} is of seed {min(one['seed'] for one in done)}, not of {seed}")
    if len(done) < len(lines):
        path.write_text("".join(json.dumps(one) + "\n" for one in done))
    return done


def run(seeds: Iterator[int], jobs: int, wanted: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Explore seeds in parallel, as long as more networks are wanted."""
    while wanted():
        lost = yield from run_until_broken(seeds, jobs, wanted)
        for seed in lost:  # one of them has crashed its process: alone, it shows which
            again = yield from run_until_broken(iter([seed]), 1, wanted)
            if again:
                yield {"seed": seed, "digests": [], "seconds": 0.0, "failure": "the process crashed"}


def run_until_broken(
    seeds: Iterator[int], jobs: int, wanted: Callable[[], bool]
) -> Generator[dict[str, Any], None, list[int]]:
    """Explore seeds until enough are done or a process crashes; return the seeds that were lost with it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, prepare, max_tasks_per_child=CHUNKS_OF_A_WORKER) as pool:
        running: dict[Future[dict[str, Any]], int] = {}
        while True:
            for seed in itertools.islice(seeds, jobs - len(running) if wanted() else 0):
                running[pool.submit(work, seed, CHUNK)] = seed
            if not running:
                return []
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                if isinstance(future.exception(), BrokenProcessPool):
                    return list(running.values())
                del running[future]
                yield future.result()


def prepare() -> None:
    """Set a worker up: small networks gain nothing from threads."""
    import warnings

    import torch

    import tests.fuzzing.explore  # noqa: F401

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def work(seed: int, count: int) -> dict[str, Any]:
    """Explore one seed."""
    from tests.fuzzing.explore import explore

    return explore(seed, count).to_json()


def report(done: list[dict[str, Any]], distinct: int) -> None:
    """Print the totals."""
    totals: dict[str, Counter[str]] = {
        key: sum((Counter(one.get(key, {})) for one in done), Counter())
        for key in ("kinds", "refused", "operators", "templates")
    }
    drawn = sum(len(one["digests"]) for one in done)
    click.echo(f"{drawn} networks, {distinct} of them different, {totals['kinds']['whole']} in whole numbers")
    click.echo(f"{failed(done)} failures, {sum(totals['refused'].values())} refused")
    for message, times in totals["refused"].most_common():
        click.echo(f"  {times} x {message}")
    click.echo(f"{sum(one['seconds'] for one in done) / 3600:.2f} hours of work")
    for name in ("operators", "templates"):
        rare = ", ".join(f"{key} {times}" for key, times in totals[name].most_common()[: -FEWEST_SHOWN - 1 : -1])
        click.echo(f"{len(totals[name])} {name}; the rarest, by networks: {rare}")


if __name__ == "__main__":
    main()
