"""The page, ``docs/runtimes.md``, and what of the results is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.matrix.installed import OLDEST
from scripts.matrix.opsets import OPSETS, Opsets
from scripts.matrix.trials import METHODS, TOLERANCE, Row


def line(row: Row) -> str:
    """Say what came of one run."""
    head = f"{row.runtime} {row.version}".ljust(56) + f"{row.model} {row.image} {row.method}".ljust(34)
    if row.reason:
        return head + row.reason[:120]
    ratio = (
        "" if not (row.explained and row.forward) else f"  {row.explained:.2f} ms, {row.explained / row.forward:.2f}x"
    )
    return f"{head}{row.median:.1e} {row.worst:.1e}{ratio}"


def disagreements(found: Mapping[str, Any]) -> list[str]:
    """Say which runtimes ran and are not close to live autograd."""
    rows = [Row(**row) for row in found["rows"]]
    ran = [row for row in rows if row.median is not None]
    return [line(row) for row in ran if not (row.median <= TOLERANCE and (row.decided or 0.0) <= TOLERANCE)]


def document(found: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    rows = [Row(**row) for row in found["rows"]]
    measured = [row for row in rows if row.method == METHODS[0]]
    parts = [
        "# Runtimes",
        INTRODUCTION.format(**found),
        "## Latency and size",
        LATENCY,
        _table(
            ["runtime", "version", "MiB", *dict.fromkeys(f"{row.model} {row.image}" for row in measured)],
            [_latencies(rows) for rows in _by_runtime(measured)],
        ),
        "## Parity",
        PARITY,
        *(_parity(method, [row for row in rows if row.method == method]) for method in METHODS),
    ]
    if found["opsets"]:
        parts += ["## Opsets", OPSETS_TEXT.format(oldest=OLDEST), _opsets([Opsets(**row) for row in found["opsets"]])]
    notes = dict.fromkeys(f"- {row.runtime}: {_cell(row.reason)}" for row in rows if row.reason)
    if notes:
        parts += ["## Not run", "\n".join(notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """\
The same artifacts in every runtime that the examples have, with Python {python} and torch {torch}, on one thread of
this processor: {processor}. Written by

```bash
{command}
```"""

LATENCY = """\
Median milliseconds of a call that predicts and explains one image, and in brackets how many times as long that is as
the same runtime's forward-only model takes: what `torch.onnx.export(dynamo=True)` writes of the network, or a traced
module; TorchScript is frozen after it is loaded. The two take turns, one call each, or for programs of their own one
process each. *MiB* is the runtime as it lies on the disk: the installed package without what it depends on; of a C++
program itself and the libraries that it loads beside the system's; of onnxruntime-web what a page fetches of it."""

PARITY = """\
Relative L2 errors of the attribution against live autograd, median / worst of 6 random images in batches of 1 and 5,
half of them explained for the class predicted. In float32 an attribution is discontinuous where a rectifier's input is
within rounding of zero ([what the proof is](../README.md#what-the-proof-is)); a star marks an error above 1e-5 of a
sample in which rounding can flip such a comparison, so that it may differ as far as live autograd differs from itself.

A class that does not exist is an error in each of them but OpenVINO, which checks no index: there the caller must, as
[the example](../examples/openvino/README.md) does, which says what else OpenVINO does differently. Its rows are of the
example's settings."""

OPSETS_TEXT = """\
For each onnxruntime the last opset and IR version that it takes a file of, which it was asked with files of one
operator; and for each opset that an export can write (`--opset`) the worst relative L2 error of guided maps against
live autograd. {oldest} is the oldest that PyPI has for Python 3.11."""


def _by_runtime(rows: Sequence[Row]) -> list[list[Row]]:
    """Sort rows of one method into the table's lines, in the order of the first network's runtimes."""
    places = list(dict.fromkeys((row.model, row.image) for row in rows))
    columns = [[row for row in rows if (row.model, row.image) == place] for place in places]
    return [list(members) for members in zip(*columns, strict=True)]


def _latencies(rows: Sequence[Row]) -> list[str]:
    ran = [row for row in rows if not row.reason]
    cells = []
    for row in rows:
        if row.reason:
            cells.append("not run")
        elif row.explained is None or row.forward is None:
            cells.append("not measured")
        else:
            cells.append(f"{row.explained:.2f} ({row.explained / row.forward:.2f}x)")
    return [rows[0].runtime, ran[0].version if ran else "", f"{ran[0].mib:.0f}" if ran else "", *cells]


def _parity(method: str, rows: Sequence[Row]) -> str:
    head = [method, "version", *dict.fromkeys(f"{row.model} {row.image}" for row in rows)]
    body = []
    for members in _by_runtime(rows):
        cells = [_errors(row) for row in members]
        body.append([members[0].runtime, next((row.version for row in members if row.version), ""), *cells])
    return _table(head, body)


def _errors(row: Row) -> str:
    if row.median is None or row.worst is None:
        return "not run"
    star = "\\*" if row.worst > max(TOLERANCE, row.decided or 0.0) else ""
    return f"{row.median:.0e} / {row.worst:.0e}{star}"


def _opsets(rows: Sequence[Opsets]) -> str:
    body, notes = [], []
    for row in rows:
        cells = []
        for opset in OPSETS:
            error = row.errors.get(str(opset), "")
            if isinstance(error, str) and error:
                notes.append(f"{row.version}, opset {opset}: {_cell(error)}")
                error = f"fails [{len(notes)}]"
            cells.append(error if isinstance(error, str) else f"{error:.0e}")
        body.append([row.version, str(row.claims), str(row.ir), *cells])
    table = _table(["onnxruntime", "last opset", "last IR", *map(str, OPSETS)], body)
    return "\n\n".join([table, *(f"[{index}] {note}" for index, note in enumerate(notes, 1))])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
