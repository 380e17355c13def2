"""What the figures should be: bars that must be met, and goals; and which of them were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from scripts.benchmarking import contenders as c
from scripts.benchmarking.plan import SIDE, Case
from scripts.benchmarking.records import Record, Records
from scripts.benchmarking.timing import Spread

RESNETS = ("resnet18", "resnet50")

FAST, SLOW = 25.0, 70.0
"""Milliseconds of resnet18's forward pass: up to the one, the fast column counts; from the other, the slow one.

The columns were set on machines where it takes about 17 and about 96 ms. Between the two both columns are shown.
"""


WRONG = 1e-2
"""Relative L2 distance to live autograd's map from which on it is another map; a flipped rectifier makes 1e-4 or so."""

WRONG_TF32 = 1e-1
"""The same where TF32 is on: so many more rectifiers decide otherwise that live autograd itself differs by 1e-2."""


@dataclass(frozen=True)
class Bar:
    """One line of the bars.

    Attributes:
        figure: What is measured, in words.
        models: For which networks; empty: for each one measured.
        bar: What must be reached.
        goal: What should be, where that is more than the bar.
        column: ``fast``, ``slow``, or ``any`` machine.
        above: Contender whose time is divided ...
        below: ... by this one's; both empty for figures that are no times of a race.
        at_least: Whether more is better.
    """

    figure: str
    models: tuple[str, ...]
    bar: float
    goal: float | None
    column: str
    above: str = ""
    below: str = ""
    at_least: bool = False

    def verdict(self, value: float) -> str:
        """Say whether a value reaches the goal, the bar or neither; equal is reached."""
        for name, limit in (("goal", self.goal), ("bar", self.bar)):
            if limit is not None and (value >= limit if self.at_least else value <= limit):
                return name
        return "no"


def _both(
    figure: str,
    models: tuple[str, ...],
    above: str,
    below: str,
    fast: tuple[float, float],
    slow: tuple[float, float],
    at_least: bool = False,
) -> list[Bar]:
    return [
        Bar(figure, models, *limits, column, above, below, at_least)
        for column, limits in (("fast", fast), ("slow", slow))
    ]


ONNXRUNTIME = "onnxruntime: artifact / forward only"
FINITE = "onnxruntime: artifact for finite values / forward only"
BY_HAND = "onnxruntime: artifact / graph written by hand"
OPENVINO = "OpenVINO: its artifact / forward only"
CAPTUM = "onnxruntime's artifact faster than Captum, times"
CAPTUM_FINITE = "onnxruntime's artifact for finite values faster than Captum, times"
TORCHSCRIPT = "TorchScript artifact faster than Captum, times"
SIZE = "model.onnx, bytes / forward only"
MEMORY = "onnxruntime: peak memory of the session / forward only"
MEMORY_FINITE = "onnxruntime, artifact for finite values: peak memory of the session / forward only"
MEMORY_LEAN = "onnxruntime, both without a memory pattern: peak memory of the session / forward only"
EXPORT = "export of both files, proven / PyTorch's ONNX export of the forward pass"
HELP = "saliport --help, seconds"


def _onnxruntime(figure: str, artifact: str) -> list[Bar]:
    """Return the bars of onnxruntime's time, which are the same for each of its artifacts."""
    limits = {
        ("resnet18",): ((2.27, 2.15), (2.12, 2.05)),
        ("resnet50",): ((2.3, 2.15), (2.10, 2.05)),
        ("vgg16",): ((2.15, 2.05), (2.05, 2.02)),
        ("mobilenet_v2", "densenet121"): ((2.6, 2.3), (2.4, 2.1)),
    }
    return [bar for models, both in limits.items() for bar in _both(figure, models, artifact, c.YARDSTICK, *both)]


BARS = (
    *_onnxruntime(ONNXRUNTIME, c.ARTIFACT),
    *_onnxruntime(FINITE, c.ARTIFACT_FINITE),
    Bar(BY_HAND, ("resnet18",), 1.0, None, "any", c.ARTIFACT, c.BY_HAND),
    *_both(OPENVINO, ("resnet18",), c.OPENVINO, c.OPENVINO_YARDSTICK, (2.2, 2.1), (2.3, 2.1)),
    *_both(CAPTUM, ("resnet18",), c.CAPTUM, c.ARTIFACT, (1.7, 1.8), (1.4, 1.5), at_least=True),
    *_both(CAPTUM_FINITE, ("resnet18",), c.CAPTUM, c.ARTIFACT_FINITE, (1.7, 1.8), (1.4, 1.5), at_least=True),
    *_both(TORCHSCRIPT, RESNETS, c.CAPTUM, c.TORCHSCRIPT, (1.15, 1.3), (1.1, 1.2), at_least=True),
    Bar(SIZE, (), 1.01, None, "any"),
    Bar(MEMORY, (), 1.8, 1.5, "any"),
    Bar(MEMORY_FINITE, (), 1.8, 1.5, "any"),
    Bar(MEMORY_LEAN, (), 1.8, 1.5, "any"),
    Bar(EXPORT, RESNETS, 1.5, 1.0, "any"),
    Bar(HELP, (), 0.3, 0.15, "any"),
)


@dataclass(frozen=True)
class Finding:
    """A bar, and what was measured for it.

    Attributes:
        bar: The bar.
        case: Which network and batch, in words.
        measured: The figure.
        wrong: Whether what was timed computes another map than live autograd.
    """

    bar: Bar
    case: str
    measured: Spread
    wrong: bool = False

    @property
    def verdict(self) -> str:
        """``goal``, ``bar`` or ``no``: by the median, not rounded; no time is good enough for a wrong map."""
        return "no" if self.wrong else self.bar.verdict(self.measured.median)

    @property
    def decided(self) -> bool:
        """Whether the quartiles have the median's verdict."""
        return self.wrong or {self.bar.verdict(one) for one in vars(self.measured).values()} == {self.verdict}


IN_BATCHES = ("speed", "by-hand", "session")
"""Parts whose cases differ in their batch."""


def columns(records: Records) -> tuple[str, ...]:
    """Return the columns of the bars that count here, by what resnet18's forward pass takes; both if unknown."""
    found = [
        median(record.result["contenders"][c.YARDSTICK]["round_ms"])
        for record in records.of("speed")
        if not record.missing and record.case == Case("speed", "resnet18")
    ]
    if found and found[0] <= FAST:
        return ("fast",)
    if found and found[0] >= SLOW:
        return ("slow",)
    return ("fast", "slow")


def findings(records: Records) -> list[Finding]:
    """Hold every bar that counts here against what was measured for it."""
    chosen = (*columns(records), "any")
    return [finding for bar in BARS if bar.column in chosen for finding in _found(bar, records)]


def _found(bar: Bar, records: Records) -> Iterator[Finding]:
    for part, figure in _FIGURES.items():
        for record in records.of(part):
            if record.missing or (bar.models and record.case.name not in bar.models):
                continue
            if record.case.side != SIDE or (part in IN_BATCHES and record.case.threads != 1):
                continue
            measured = figure(bar, record)
            if measured is not None:
                words = f"{record.case.name}, batch {record.case.batch}" if part in IN_BATCHES else ""
                wrong = any(another_map(record, name) for name in (bar.above, bar.below) if name)
                yield Finding(bar, words or record.case.name, measured, wrong)


def _speed(bar: Bar, record: Record) -> Spread | None:
    return ratio(record, bar.above, bar.below) if bar.above else None


def _by_hand(bar: Bar, record: Record) -> Spread | None:
    return ratio(record, bar.above, bar.below) if bar.figure == BY_HAND else None


def ratio(record: Record, above: str, below: str) -> Spread | None:
    """Return the ratio of two contenders of a race, None where one did not take part."""
    rows = record.result["contenders"]
    if any("round_ms" not in rows.get(name, {}) for name in (above, below)):
        return None
    return Spread.ratio(rows[above]["round_ms"], rows[below]["round_ms"])


def another_map(record: Record, name: str) -> bool:
    """Tell whether a contender's map was further from live autograd's than rounding explains."""
    limit = WRONG_TF32 if record.case.part == "cuda" else WRONG
    return record.result["contenders"].get(name, {}).get("error", 0.0) > limit


def _session(bar: Bar, record: Record) -> Spread | None:
    pairs = {
        MEMORY: (c.ARTIFACT, c.YARDSTICK),
        MEMORY_FINITE: (c.ARTIFACT_FINITE, c.YARDSTICK),
        MEMORY_LEAN: (c.ARTIFACT_LEAN, c.YARDSTICK_LEAN),
    }
    return peak_ratio(record, *pairs[bar.figure]) if bar.figure in pairs else None


def peak_ratio(record: Record, above: str, below: str) -> Spread | None:
    """Return the ratio of two sessions' peak memory, of each process to each of the other's."""
    runs = [record.result["contenders"].get(name, {}).get("runs") for name in (above, below)]
    if not all(runs):
        return None
    return Spread.of([over["peak_mib"] / under["peak_mib"] for over in runs[0] for under in runs[1]])


def _export(bar: Bar, record: Record) -> Spread | None:
    ours, theirs = record.result["artifact"], record.result["forward"]
    if bar.figure == SIZE:
        return Spread.of([ours[0]["bytes"]["model.onnx"] / sum(theirs[0]["bytes"].values())])
    if bar.figure == EXPORT:
        return Spread.ratio([one["seconds"][0] for one in ours], [one["seconds"][0] for one in theirs])
    return None


def _help(bar: Bar, record: Record) -> Spread | None:
    return Spread.of(record.result["seconds"]) if bar.figure == HELP else None


_FIGURES = {"speed": _speed, "by-hand": _by_hand, "session": _session, "export": _export, "help": _help}
