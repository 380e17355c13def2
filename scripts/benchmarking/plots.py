"""Plots of the ratios, as SVG files that are the same to the byte for the same records."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from matplotlib import rc_context
from matplotlib.figure import Figure

from scripts.benchmarking import contenders as c
from scripts.benchmarking.bars import ratio
from scripts.benchmarking.records import Records
from scripts.benchmarking.report import PAIRS, growth

LIMIT = 2.0
"""Forward and backward pass have twice the forward pass's multiply-adds."""

SETTINGS = {"svg.hashsalt": "saliport", "svg.fonttype": "none", "font.family": "sans-serif"}


def draw(records: Records, folder: Path) -> list[str]:
    """Draw what there are records for; returns the files' names."""
    with rc_context(SETTINGS):
        figures = {"ratios.svg": _ratios(records), "growth.svg": _growth(records)}
        for name, figure in figures.items():
            if figure is not None:
                figure.savefig(folder / name, metadata={"Date": None, "Creator": None})
    return [name for name, figure in figures.items() if figure is not None]


def _ratios(records: Records) -> Figure | None:
    """Draw each network's contenders as bars, one panel a batch."""
    found = [record for record in records.of("speed") if not record.missing]
    if not found:
        return None
    batches = sorted({record.case.batch for record in found})
    colors = {model: f"C{index}" for index, model in enumerate(dict.fromkeys(record.case.model for record in found))}
    names = [
        name
        for name in c.TAKING_PART["speed"]
        if name != c.YARDSTICK and any(ratio(record, name, c.YARDSTICK) for record in found)
    ]
    if not names:
        return None
    figure = Figure(figsize=(9, 0.7 + 0.32 * len(names) * len(batches) * 1.3 + 0.5), layout="constrained")
    for axes, batch in zip(figure.subplots(len(batches), 1, squeeze=False)[:, 0], batches, strict=True):
        shown = [record for record in found if record.case.batch == batch]
        height = 0.8 / len(shown)
        for index, record in enumerate(shown):
            for row, name in enumerate(names):
                value = ratio(record, name, c.YARDSTICK)
                if value is None:
                    continue
                spread = [[value.median - value.low], [value.high - value.median]]
                axes.barh(
                    row + (index - (len(shown) - 1) / 2) * height,
                    value.median,
                    height,
                    xerr=spread,
                    color=colors[record.case.model],
                    error_kw={"linewidth": 0.8},
                )
            # For the legend, whichever rows there are.
            axes.barh(0, 0, color=colors[record.case.model], label=record.case.name)
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.axvline(LIMIT, color="black", linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(f"time / forward only in onnxruntime, batch {batch}; dashed: the limit of 2.0")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def _growth(records: Records) -> Figure | None:
    """Draw the ratio over each axis, and under it the milliseconds."""
    points = growth(records)
    if not points:
        return None
    figure = Figure(figsize=(3.1 * len(points), 5.6), layout="constrained")
    grid = figure.subplots(2, len(points), squeeze=False, sharey="row")
    for column, (axis, found) in enumerate(points.items()):
        top, bottom = grid[0][column], grid[1][column]
        labels = [label for label, _ in found]
        for runtime, (above, below) in PAIRS.items():
            measured = [(i, ratio(record, above, below), record) for i, (_, record) in enumerate(found)]
            known = [(i, value, record) for i, value, record in measured if value is not None]
            if not known:
                continue
            places = [i for i, _, _ in known]
            (line,) = top.plot(places, [value.median for _, value, _ in known], marker="o", markersize=3, label=runtime)
            low, high = ([getattr(value, end) for _, value, _ in known] for end in ("low", "high"))
            top.fill_between(places, low, high, color=line.get_color(), alpha=0.2)
            for name, style in ((above, "-"), (below, ":")):
                times = [median(record.result["contenders"][name]["round_ms"]) for _, _, record in known]
                bottom.plot(places, times, style, marker="o", markersize=3, color=line.get_color())
        top.axhline(LIMIT, color="black", linewidth=0.8, linestyle="--")
        bottom.set_yscale("log")
        for axes in (top, bottom):
            axes.set_xticks(range(len(labels)), labels, rotation=30 if axis == "depth" else 0)
            axes.grid(alpha=0.3)
        bottom.set_xlabel(axis)
    grid[0][0].set_ylim(1, max(2.5, grid[0][0].get_ylim()[1]))
    grid[0][0].set_ylabel("artifact / forward only")
    grid[1][0].set_ylabel("ms (dotted: forward only)")
    grid[0][0].legend(fontsize="small")
    return figure
