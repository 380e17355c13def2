"""The report: tables made of records, for the terminal and for ``README.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from scripts.benchmarking import bars
from scripts.benchmarking import contenders as c
from scripts.benchmarking.measure import steady
from scripts.benchmarking.plan import PARTS, Case, axes
from scripts.benchmarking.records import Record, Records
from scripts.benchmarking.tables import Table
from scripts.benchmarking.text import METHOD
from scripts.benchmarking.timing import Spread

NODES = 10
"""How many of a profile's nodes are shown."""

MIB = 2**20

MET = {"goal": "**goal**", "bar": "bar", "no": "**no**"}


def tables(records: Records) -> list[Table]:
    """Return every table that there are records for."""
    made = [
        bar_table(records),
        *race_tables(records),
        session_table(records),
        *export_tables(records),
        *profile_tables(records),
        *growth_tables(records),
        missing_table(records),
    ]
    return [table for table in made if table.rows]


# -- bars ------------------------------------------------------------------------------------------------------


def bar_table(records: Records) -> Table:
    """Show bars and goals beside what was measured, and which were reached."""
    both = len(bars.columns(records)) > 1
    rows = [
        [
            found.bar.figure + (f" ({found.bar.column} machine)" if both and found.bar.column != "any" else ""),
            found.case,
            f"{found.bar.bar:g}",
            f"{found.bar.goal:g}",
            spread(found.measured),
            MET[found.verdict],
        ]
        for found in bars.findings(records)
    ]
    return Table("Bars and goals", ["figure", "network", "bar", "goal", "measured (quartiles)", "met"], rows, words=2)


def spread(value: Spread, digits: int = 3) -> str:
    """Write a median with its quartiles."""
    if value.low == value.high:
        return f"{value.median:.{digits}f}"
    return f"{value.median:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


# -- races -----------------------------------------------------------------------------------------------------


def race_tables(records: Records) -> list[Table]:
    """Show every race twice: as ratios to the forward pass alone in onnxruntime, and in milliseconds."""
    made = []
    for part, title in (("speed", ""), ("grad-cam", ", pytorch-grad-cam"), ("cuda", ", CUDA")):
        found = [record for record in records.of(part) if not record.missing]
        for suffix, cell in (("time / forward only in onnxruntime", _ratio_cell), ("milliseconds", _ms_cell)):
            names = [name for name in c.TAKING_PART[part] if any(name in r.result["contenders"] for r in found)]
            rows = [[name, *(cell(record, name) for record in found)] for name in names]
            if part != "cuda" or found:
                head = ["", *(_head(record.case) for record in found)]
                made.append(Table(f"{suffix[0].upper()}{suffix[1:]}{title}", head, rows if found else []))
        if part == "speed":
            rows = [[name, *(_error_cell(record, name) for record in found)] for name in c.TAKING_PART[part]]
            rows = [row for row in rows if any(row[1:])] if found else []
            made.append(Table("Relative L2 distance to live autograd's map", ["", *map(_head_of, found)], rows))
    return made


def _head(case: Case) -> str:
    size = "" if case.side == 224 else f", {case.side}x{case.side}"
    threads = "" if case.threads == 1 else f", {case.threads} threads"
    return f"{case.name}, batch {case.batch}{size}{threads}"


def _head_of(record: Record) -> str:
    return _head(record.case)


def _row(record: Record, name: str) -> dict[str, Any]:
    return record.result["contenders"].get(name, {"missing": "not measured"})


def _ratio_cell(record: Record, name: str) -> str:
    row = _row(record, name)
    if "round_ms" not in row:
        return row["missing"]
    found = bars.ratio(record, name, record.result["yardstick"])
    return "-" if found is None else spread(found, 2)


def _ms_cell(record: Record, name: str) -> str:
    row = _row(record, name)
    return spread(Spread.of(row["round_ms"]), 1) if "round_ms" in row else row["missing"]


def _error_cell(record: Record, name: str) -> str:
    error = _row(record, name).get("error")
    return "" if error is None else f"{error:.1e}"


# -- sessions --------------------------------------------------------------------------------------------------


def session_table(records: Records) -> Table:
    """Show what a session costs before it is warm, and its memory."""
    rows = []
    for record in records.of("session"):
        if record.missing:
            continue
        for name, row in record.result["contenders"].items():
            label = [name, _head(record.case)]
            if row["missing"]:
                rows.append([*label, row["missing"], *[""] * 6])
                continue
            runs = row["runs"]
            calm = median(steady(run["call_ms"]) for run in runs)
            first, second = (median(run["call_ms"][index] for run in runs) for index in (0, 1))
            yardstick = c.OPENVINO_YARDSTICK if name.startswith("OpenVINO") else c.YARDSTICK
            ratio = bars.peak_ratio(record, name, yardstick)
            rows.append(
                [
                    *label,
                    f"{median(run['load_ms'] for run in runs):.0f}",
                    f"{first:.1f}",
                    f"{second:.1f}",
                    f"{calm:.1f}",
                    f"{first / calm:.1f}",
                    f"{median(run['peak_mib'] for run in runs):.0f}",
                    "" if ratio is None else f"{ratio.median:.2f}",
                    f"{median(run['resident_mib'] for run in runs):.0f}",
                ]
            )
    head = [
        "",
        "",
        "load, ms",
        "first call, ms",
        "second call, ms",
        "steady, ms",
        "first / steady",
        "peak, MiB",
        "peak / forward only",
        "after the calls, MiB",
    ]
    return Table("Each session alone in a fresh process", head, rows, words=2)


# -- export ----------------------------------------------------------------------------------------------------


def export_tables(records: Records) -> list[Table]:
    """Show what an export takes, stage by stage, and the files it makes."""
    found = [record for record in records.of("export") if not record.missing]
    stages: dict[str, None] = {}
    for record in found:
        stages |= dict.fromkeys(record.result["artifact"][0]["stages"][0])
    head = ["", *(record.case.name for record in found)]

    def row(label: str, values: Iterable[float], form: str = ".2f") -> list[str]:
        return [label, *(format(value, form) for value in values)]

    def seconds(kind: str, turn: int) -> list[float]:
        return [median(one["seconds"][turn] for one in record.result[kind]) for record in found]

    def ratios(turn: int) -> list[float]:
        return [a / b for a, b in zip(seconds("artifact", turn), seconds("forward", turn), strict=True)]

    times = [
        *(
            row(stage, (median(one["stages"][0][stage] for one in r.result["artifact"]) for r in found))
            for stage in stages
        ),
        row("both files, proven", seconds("artifact", 0)),
        row("PyTorch's ONNX export of the forward pass", seconds("forward", 0)),
        row("ratio", ratios(0)),
        row("both files, the second time in a process", seconds("artifact", 1)),
        row("PyTorch's export, the second time", seconds("forward", 1)),
        row("ratio, the second time", ratios(1)),
    ]
    theirs = [sum(record.result["forward"][0]["bytes"].values()) for record in found]
    ours = [record.result["artifact"][0]["bytes"] for record in found]
    sizes = [
        row("PyTorch's export of the forward pass", (size / MIB for size in theirs)),
        row("model.onnx", (one["model.onnx"] / MIB for one in ours)),
        row("model.pt", (one["model.pt"] / MIB for one in ours)),
        row(
            "model.onnx / forward only",
            (one["model.onnx"] / size for one, size in zip(ours, theirs, strict=True)),
            ".4f",
        ),
    ]
    return [
        Table("Export, seconds", head, times if found else []),
        Table("Size of the files, MiB", head, sizes if found else []),
    ]


# -- profile ---------------------------------------------------------------------------------------------------


def profile_tables(records: Records) -> list[Table]:
    """Show the slowest nodes of the artifact, and the time by operator beside the forward pass."""
    made = []
    for record in records.of("profile"):
        if record.missing:
            continue
        forward, artifact = (record.result["nodes"][name] for name in (c.YARDSTICK, c.ARTIFACT))
        title = f"{record.case.name}, batch {record.case.batch}, in onnxruntime's profile"
        total = sum(node["ms"] for node in artifact)
        slowest = [
            [f"`{node['name']}`", node["op"], f"{node['ms']:.3f}", f"{node['ms'] / total:.1%}"]
            for node in artifact[:NODES]
        ]
        made.append(Table(f"Slowest nodes of {title}", ["node", "operator", "ms", "share"], slowest, words=2))
        before, after = _by_op(forward), _by_op(artifact)
        names = sorted({*before, *after}, key=lambda op: -after.get(op, (0, 0.0))[1])
        rows = [[op, *_op_cells(before.get(op)), *_op_cells(after.get(op))] for op in names]
        rows.append(["all", *_op_cells(_total(before)), *_op_cells(_total(after))])
        head = ["operator", "forward only: nodes", "ms", "artifact: nodes", "ms"]
        made.append(Table(f"Time by operator of {title}", head, rows))
    return made


def _by_op(nodes: Sequence[dict[str, Any]]) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    for node in nodes:
        count, ms = found.get(node["op"], (0, 0.0))
        found[node["op"]] = (count + 1, ms + node["ms"])
    return found


def _total(ops: dict[str, tuple[int, float]]) -> tuple[int, float]:
    return sum(count for count, _ in ops.values()), sum(ms for _, ms in ops.values())


def _op_cells(found: tuple[int, float] | None) -> list[str]:
    return ["", ""] if found is None else [str(found[0]), f"{found[1]:.2f}"]


# -- growth ----------------------------------------------------------------------------------------------------

PAIRS = {"onnxruntime": (c.ARTIFACT, c.YARDSTICK), "OpenVINO": (c.OPENVINO, c.OPENVINO_YARDSTICK)}
"""Runtime -> the two whose ratio is drawn."""


def growth(records: Records) -> dict[str, list[tuple[str, Record]]]:
    """Return the measured points of each axis: a label and the record."""
    found = [record for record in records.of("growth") if not record.missing]
    if not found:
        return {}
    model, side, threads = found[0].case.model, found[0].case.side, found[0].case.threads
    points: dict[str, list[tuple[str, Record]]] = {}
    for axis, cases in axes(model, side, (threads,)).items():
        for case in cases:
            record = records.get(case)
            if record is not None and not record.missing:
                points.setdefault(axis, []).append((point(axis, case), record))
    return points


def point(axis: str, case: Case) -> str:
    """Return how a case is called on an axis."""
    value = {"batch": case.batch, "image side": case.side, "depth": case.name, "threads": case.threads}[axis]
    return str(value)


def growth_tables(records: Records) -> list[Table]:
    """Show how time and ratio grow along each axis."""
    made = []
    for axis, points in growth(records).items():
        rows = []
        for label, record in points:
            cells = [label]
            for above, below in PAIRS.values():
                found = bars.ratio(record, above, below)
                cells += ["", "", ""] if found is None else [_ms(record, below), _ms(record, above), spread(found, 2)]
            rows.append(cells)
        head = [axis]
        for runtime in PAIRS:
            head += [f"{runtime}: forward only, ms", "artifact, ms", "ratio"]
        made.append(Table(f"Growth with {axis}", head, rows))
    return made


def _ms(record: Record, name: str) -> str:
    return f"{median(record.result['contenders'][name]['round_ms']):.1f}"


# -- what is missing, and the whole ----------------------------------------------------------------------------


def missing_table(records: Records) -> Table:
    """Name what could not be measured, and why."""
    rows = []
    for record in records:
        if record.missing:
            rows.append([str(record.case), record.missing])
            continue
        for name, row in record.result.get("contenders", {}).items():
            if row["missing"]:
                rows.append([f"{record.case}: {name}", row["missing"]])
    have = {record.case.part for record in records}
    rows += [[f"{part}: {words}", "not run"] for part, words in PARTS.items() if part not in have]
    return Table("Not measured", ["what", "why"], rows, words=2)


PLOTS = {"Time / forward only in onnxruntime": "ratios.svg", "Growth with batch": "growth.svg"}
"""Title of a table -> the plot that stands before it."""


def document(records: Records, plots: Sequence[str]) -> str:
    """Return ``README.md``: the bars, the ratios, the rest, and how all of it was measured."""
    parts = ["# Benchmark", METHOD["introduction"], where(records)]
    for table in tables(records):
        parts.append(f"## {table.title}")
        words = METHOD.get(table.title)
        if words:
            parts.append(words)
        plot = PLOTS.get(table.title)
        if plot in plots:
            parts.append(f"![{table.title}]({plot})")
        parts.append(table.markdown())
    return "\n\n".join([*parts, METHOD["method"]]) + "\n"


def where(records: Records) -> str:
    """Say on which machines, with which versions and by which commands the records were made."""
    made: dict[str, list[str]] = {}
    for record in records:
        if record.missing:
            continue
        machine, versions = record.machine, record.versions
        memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
        gpu = f"; {record.result['gpu']}" if "gpu" in record.result else ""
        text = (
            f"{machine['processor']} ({machine['architecture']}), {machine['cores']} cores{memory}{gpu}, "
            f"{' '.join(machine['flags'])}; {machine['system']}; "
            + ", ".join(f"{package} {version}" for package, version in versions.items())
        )
        line = f"`{record.command}`"
        if line not in made.setdefault(text, []):
            made[text].append(line)
    return "\n\n".join(
        f"Measured on {text}, by\n" + "\n".join(f"- {line}" for line in lines) for text, lines in made.items()
    )
