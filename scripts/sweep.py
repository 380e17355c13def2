"""``python scripts/sweep.py``: export what torchvision and timm have, and write down what works and what does not.

Each network is exported and proven by :func:`exporter.export`, in a process of its own with a limit of time and one of
memory. Results go to a file, one line each as they come; a second run does only what is not in there yet. The networks
stand in ``scripts/sweep.toml``. Exit status 1: a bar was missed, or one of a subset failed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import re
import resource
import statistics
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.commands import as_given

BARS = {"torchvision": 0.95, "timm, convolutional": 0.85}
"""Share of each group that must be exported and proven."""

DEVIATION = 0.02
"""Of the normal distribution that parameters come from which a library initialises with zeros."""

SELECTION = Path(__file__).with_suffix(".toml")
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["exporter.pipeline", "timm", "torchvision"])  # imported once, not by every process


@dataclass(frozen=True)
class Network:
    """What to export.

    Attributes:
        name: ``torchvision:resnet18`` or ``timm:resnet18``.
        group: Which bar counts it.
        family: The library's own file of it.
        image: Height and width of its images.
        arguments: For its factory.
    """

    name: str
    group: str
    family: str
    image: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What became of one network.

    Attributes:
        name: See :class:`Network`.
        parameters: How many it has.
        ops: ATen operators of the exported graph, forward and backward.
        float64: Worst relative L2 error of the attribution in float64, of both files' graphs.
        skipped: Why there is no proof in float64, or empty.
        float32: The runtimes' median and worst relative L2 errors of the attribution in float32.
        zero: Whether every attribution that the proof compared was zero throughout, and so proved little.
        seconds: What the export took, its proof included.
        mib: The process's largest resident memory.
        reason: Why it failed, in one line; empty where it did not.
        clear: Whether the failure is one that Saliport reports on purpose, and not a crash or a limit.
    """

    name: str
    parameters: int = 0
    ops: tuple[str, ...] = ()
    float64: float | None = None
    skipped: str = ""
    float32: dict[str, tuple[float, float]] = field(default_factory=dict)
    zero: bool = False
    seconds: float = 0.0
    mib: int = 0
    reason: str = ""
    clear: bool = True


UNTRIED = Result("", reason="not tried yet", clear=False)


@click.command()
@click.option("--subset", type=click.Choice(["ci"]), help="A fixed few; default: everything.")
@click.option("--library", type=click.Choice(["torchvision", "timm"]), help="Of one library only.")
@click.option("--only", multiple=True, metavar="NAME", help="These only, for example timm:resnet18; repeatable.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="How many at once.")
@click.option("--seconds", type=click.IntRange(min=1), default=600, show_default=True, help="Limit of one export.")
@click.option("--gib", type=click.IntRange(min=1), default=16, show_default=True, help="Memory limit of one export.")
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("artifacts/sweep.jsonl"),
    show_default=True,
    help="Where results are kept; what is in there is not done again.",
)
@click.option("--retry", is_flag=True, help="Do again what failed.")
@click.option("--known", is_flag=True, help="Export nothing, report what is known.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write a table, docs/coverage.md.")
def main(
    subset: str | None,
    library: str | None,
    only: tuple[str, ...],
    jobs: int,
    seconds: int,
    gib: int,
    results: Path,
    retry: bool,
    known: bool,
    report: Path | None,
) -> None:
    """Export and prove the networks of torchvision and timm."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    everything = list(selection())
    names = set(only) or (set(_settings()[subset]) if subset else {network.name for network in everything})
    if unknown := names - {network.name for network in everything}:
        raise click.UsageError(f"not in {SELECTION.name}: {', '.join(sorted(unknown))}")
    chosen = [n for n in everything if n.name in names and library in (None, n.name.partition(":")[0])]

    done = {name: result for name, result in read(results).items() if not (retry and result.reason)}
    missing = [network for network in chosen if network.name not in done and not known]
    results.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as threads, results.open("a") as file:
        futures = [threads.submit(attempt, network, seconds, gib) for network in missing]
        try:
            for future in as_completed(futures):
                result = future.result()
                done[result.name] = result
                file.write(json.dumps(asdict(result)) + "\n")
                file.flush()
                click.echo(f"{len(done):>4}  {result.name:<44}{result.seconds:>7.1f} s  {result.reason or 'proven'}")
        finally:
            threads.shutdown(cancel_futures=True)  # interrupted: what runs may end, the rest is for the next time

    found = [(network, done.get(network.name, UNTRIED)) for network in chosen]
    for line in totals(found):
        click.echo(line)
    if report:
        report.write_text(document(found))
    sys.exit(0 if passed(found, every=bool(subset or only)) else 1)


def _settings() -> dict[str, Any]:
    return tomllib.loads(SELECTION.read_text())


def selection() -> Iterator[Network]:
    """Return every network of the sweep: all of torchvision's, of timm's those in ``sweep.toml``."""
    import torchvision

    settings = _settings()

    def network(name: str, group: str, family: str) -> Network:
        arguments = dict(settings["arguments"].get(name, {}))
        image = arguments.pop("image", settings["image"])
        if name in settings["fixed_size"]:
            arguments["img_size"] = image
        return Network(name, group, family, image, arguments)

    for name in torchvision.models.list_models(module=torchvision.models):
        family = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        yield network(f"torchvision:{name}", "torchvision", family)
    for kind in ("convolutional", "others"):
        for family, names in settings["timm"][kind].items():
            for name in names:
                yield network(f"timm:{name}", f"timm, {kind}", family)


def read(results: Path) -> dict[str, Result]:
    """Return what is known already; a network's last line counts."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {result.name: result for result in (Result(**json.loads(line)) for line in lines)}


# -- one export ------------------------------------------------------------------------------------------------


def attempt(network: Network, seconds: int, gib: int) -> Result:
    """Export one network in a process of its own, and stop it where it takes too long."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(network, gib, sender))
    start = time.perf_counter()
    process.start()
    sender.close()
    failed = Result(network.name, clear=False)
    if not receiver.poll(seconds):
        process.kill()
        result = replace(failed, reason=f"took more than {seconds} s")
    else:
        try:
            result = receiver.recv()
        except EOFError:
            process.join()
            result = replace(failed, reason=f"the process died, exit status {process.exitcode}")
    process.join()
    return replace(result, seconds=round(time.perf_counter() - start, 1))


def _work(network: Network, gib: int, sender: Connection) -> None:
    """Send the result of one export."""
    warnings.simplefilter("ignore")  # of what libraries and torch will change one day
    resource.setrlimit(resource.RLIMIT_DATA, (gib << 30, gib << 30))
    from exporter.errors import SaliportError, VerificationFailed

    try:
        result = export(network)
    except (SaliportError, VerificationFailed) as error:
        result = Result(network.name, reason=_reason(error))
    except Exception as error:
        traceback.print_exc()
        result = Result(network.name, reason=_reason(error), clear=False)
    sender.send(replace(result, mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10))


def _reason(error: Exception) -> str:
    text = re.sub(r"[^\s(]*/site-packages/", "", str(error))  # where packages lie is nobody's business
    lines = text.strip().splitlines() or [""]
    return f"{type(error).__name__}: {' '.join(line.strip() for line in lines[:2])}"


def export(network: Network) -> Result:
    """Export one network to a temporary folder, and read its figures off the certificate.

    Raises:
        SaliportError: Saliport refuses it.
        VerificationFailed: A written file disagrees with live autograd.
    """
    import torch

    import exporter

    torch.set_num_threads(1)
    model = create(network)
    with tempfile.TemporaryDirectory() as folder:
        artifact = exporter.export(model, (3, network.image, network.image), Path(folder) / "artifact")
        ops = operators(artifact.file("torchscript"))
    certificate = artifact.manifest["parity"]
    errors = {
        (parity["runtime"], parity["dtype"]): (parity["relative_l2"]["median"], parity["relative_l2"]["worst"])
        for parity in certificate["runtimes"]
    }
    return Result(
        network.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        ops=ops,
        float64=max((worst for (_, dtype), (_, worst) in errors.items() if dtype == "float64"), default=None),
        float32={runtime: error for (runtime, dtype), error in errors.items() if dtype == "float32"},
        skipped=certificate["skipped"],
        zero=certificate["zero"] == len(certificate["targets"]),
    )


def create(network: Network) -> Any:
    """Build a network with random weights, in eval mode.

    Parameters that start as zeros (a transformer's head, the last scale of a residual branch, biases) are drawn too:
    with them an attribution would be zero, or a branch would not show in it.
    """
    import torch

    torch.manual_seed(0)
    library, _, name = network.name.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how torchvision will initialise one day
        if library == "torchvision":
            import torchvision

            model = torchvision.models.get_model(name, weights=None, **network.arguments)
        else:
            import timm

            model = timm.create_model(name, **network.arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=DEVIATION)
    return model.eval()


def operators(file: Path) -> tuple[str, ...]:
    """Return the ATen operators of a TorchScript file."""
    import torch

    kinds = {node.kind() for node in torch.jit.load(file).inlined_graph.nodes()}
    return tuple(sorted(kind.removeprefix("aten::") for kind in kinds if kind.startswith("aten::")))


# -- the report ------------------------------------------------------------------------------------------------

Found = Sequence[tuple[Network, Result]]


def by_group(found: Found) -> dict[str, list[tuple[Network, Result]]]:
    """Sort results by group."""
    groups: dict[str, list[tuple[Network, Result]]] = {}
    for network, result in found:
        groups.setdefault(network.group, []).append((network, result))
    return groups


def _proven(found: Found) -> int:
    return sum(not result.reason for _, result in found)


def passed(found: Found, every: bool) -> bool:
    """Tell whether each group reaches its bar, or whether every single network was proven."""
    bars = dict.fromkeys(by_group(found), 1.0) if every else BARS
    return all(_proven(members) >= bars.get(group, 0.0) * len(members) for group, members in by_group(found).items())


def totals(found: Found) -> list[str]:
    """Say how many of each group were proven."""
    return [
        f"{group}: {_proven(members)} of {len(members)} proven ({_proven(members) / len(members):.1%}), "
        f"{len({network.family for network, _ in members})} families"
        for group, members in by_group(found).items()
    ]


def document(found: Found) -> str:
    """Return the coverage table in Markdown."""
    ops = Counter(op for _, result in found for op in result.ops)
    untried = [network.name for network, result in found if result is UNTRIED]
    failed = [(network, result) for network, result in found if result.reason and result is not UNTRIED]
    refused = [[n.name, _cell(r.reason), "yes" if r.clear else "no"] for n, r in failed]
    reserved = [[n.name, _cell(f"float32 only: {r.skipped}")] for n, r in found if r.skipped]
    reserved += [[n.name, "its attribution is zero throughout, which proves little"] for n, r in found if r.zero]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    parts = [
        "# Coverage",
        INTRODUCTION.format(command=as_given("sweep.py"), versions=versions, python=platform.python_version()),
        _table(
            ["", "families", "networks", "tried", "proven", "share", "bar", "seconds, median"],
            [_total(group, members) for group, members in by_group(found).items()],
        ),
        "## Not exported",
        _table(["network", "reason", "clear message"], refused) or "None.",
        *(["## Not tried yet", ", ".join(untried) + "."] if untried else []),
        "## Proven with a reservation",
        _table(["network", "reservation"], reserved) or "None.",
        *(
            f"## {group[0].upper()}{group[1:]}\n\n{_table(HEAD, [_row(*member) for member in members])}"
            for group, members in by_group([member for member in found if member[1] is not UNTRIED]).items()
        ),
        "## Operators",
        f"The {len(ops)} ATen operators of these graphs, forward and backward, and how many networks have each: "
        + ", ".join(f"`{op}` {count}" for op, count in sorted(ops.items(), key=lambda item: (-item[1], item[0])))
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
Networks of torchvision and timm, exported to TorchScript and ONNX and proven against live autograd, each in a process
of its own with one thread. Written by `{command}`, with Python {python}, {versions}.

Torchvision's are all that it has for classification. Of timm there is one network or more of each family (a file of
`timm/models`), the smallest variant of each kind: *convolutional* are those without attention between positions and
without linear layers that mix them, *others* are transformers, hybrids and mixers, and have no bar to reach.

Weights are random (seed 0): coverage says whether the graph is right, not what a network has learnt. Parameters that a
library initialises with zeros, such as a transformer's head or the last scale of a residual branch, are drawn from a
normal distribution with standard deviation 0.02, or attributions would be zero. Images are small, most 64x64, which
changes sizes but no operator.

The columns: *ops* counts the different ATen operators of the exported graph, forward and backward. *float64* is the
worst relative L2 error of an attribution in double precision, of the TorchScript file and of the graph that the ONNX
file was written from. *onnxruntime* and *torchscript* are relative L2 errors of the files in float32, median and worst.
There an attribution is discontinuous where a rectifier's input is within rounding of zero, so a single sample may
differ as far as live autograd differs from itself ([what the proof is](../README.md#what-the-proof-is)). *seconds* is
the whole export with its proof."""

RUNTIMES = ("onnxruntime", "torchscript")
HEAD = ["network", "image", "parameters", "ops", "float64", *RUNTIMES, "seconds"]


def _total(group: str, members: Found) -> list[str]:
    families = {network.family for network, _ in members}
    tried = sum(result is not UNTRIED for _, result in members)
    seconds = [result.seconds for _, result in members if not result.reason] or [0.0]
    bar = f"{BARS[group]:.0%}" if group in BARS else "none"
    share = f"{_proven(members) / len(members):.1%}"
    median = f"{statistics.median(seconds):.0f}"
    return [group, str(len(families)), str(len(members)), str(tried), str(_proven(members)), share, bar, median]


def _row(network: Network, result: Result) -> list[str]:
    name = network.name.partition(":")[2]
    if result.reason:
        return [name, str(network.image), "not exported, see above", *[""] * (len(HEAD) - 3)]
    return [
        name,
        str(network.image),
        f"{result.parameters:,}",
        str(len(result.ops)),
        "none" if result.float64 is None else f"{result.float64:.0e}",
        *(" / ".join(f"{error:.0e}" for error in result.float32[runtime]) for runtime in RUNTIMES),
        f"{result.seconds:.0f}",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
