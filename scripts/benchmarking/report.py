"""The report: tables made of records, for the terminal and for ``README.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from scripts.benchmarking import bars, text
from scripts.benchmarking import contenders as c
from scripts.benchmarking.measure import steady
from scripts.benchmarking.plan import BATCHES, CPU_PARTS, CUDA_PARTS, DEPTHS, MODELS, SIDE, THREADS, VARIES, Case, cases
from scripts.benchmarking.records import Record, Records
from scripts.benchmarking.tables import Table
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
            "" if found.bar.goal is None else f"{found.bar.goal:g}",
            spread(found.measured) + (" †" if found.wrong else ""),
            MET[found.verdict] + ("" if found.decided else " ±"),
        ]
        for found in bars.findings(records)
    ]
    head = ["figure", "network", "bar", "goal", "measured (quartiles)", "met"]
    return Table("Bars and goals", head, rows, words=2, note=text.BARS)


def spread(value: Spread, digits: int = 3) -> str:
    """Write a median with its quartiles."""
    if value.low == value.high:
        return f"{value.median:.{digits}f}"
    return f"{value.median:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


# -- races -----------------------------------------------------------------------------------------------------


def race_tables(records: Records) -> list[Table]:
    """Show races: ratios within a runtime and to the yardstick, then milliseconds, then how near the maps are."""
    made = []
    for part, (title, note) in RACES.items():
        found = [record for record in records.of(part) if not record.missing]
        for batch in sorted({record.case.batch for record in found}):
            shown = [record for record in found if record.case.batch == batch]
            names = c.TAKING_PART[part]
            head = ["", *(_head(record.case) for record in shown)]
            title_of = f"{title}batch {batch}"
            within = [row for row in (_within(shown, *pair) for pair in WITHIN.get(part, ())) if any(row[1:])]
            ratios = [[name, *(_ratio_cell(record, name) for record in shown)] for name in names]
            ratios.append(["rounds", *(str(_rounds(record)) for record in shown)])
            ms = [[name, *(_ms_cell(record, name) for record in shown)] for name in names]
            plot = "ratios.svg" if not made else ""
            if within:
                made.append(Table(f"Artifacts beside others: {title_of}", head, within, note=text.WITHIN, plot=plot))
            made.append(Table(f"Time / forward only in onnxruntime: {title_of}", head, ratios, note=note))
            made.append(Table(f"Milliseconds: {title_of}", head, ms))
        rows = [[name, *(_error_cell(record, name) for record in found)] for name in c.TAKING_PART[part]]
        rows = [row for row in rows if any(row[1:])]
        head = ["", *(f"{_head(record.case)}, batch {record.case.batch}" for record in found)]
        name = "Relative L2 distance to live autograd's map" + (f": {title[:-2]}" if title else "")
        made.append(Table(name, head, rows, note=text.ERROR))
    return made


RACES = {
    "speed": ("", text.RATIOS),
    "by-hand": ("by hand, ", text.BY_HAND),
    "grad-cam": ("pytorch-grad-cam, ", text.GRAD_CAM),
    "cuda": ("CUDA, ", text.CUDA),
    "cuda-float32": ("CUDA without TF32, ", text.CUDA_FLOAT32),
}
"""Part -> what its tables' titles have before the batch, and the note under them."""

WITHIN_CPU = (
    ("onnxruntime: artifact / forward only", c.ARTIFACT, c.YARDSTICK),
    ("onnxruntime: artifact for finite values / forward only", c.ARTIFACT_FINITE, c.YARDSTICK),
    ("onnxruntime: artifact for finite values / artifact", c.ARTIFACT_FINITE, c.ARTIFACT),
    ("onnxruntime: artifact without a memory pattern / artifact", c.ARTIFACT_LEAN, c.ARTIFACT),
    ("OpenVINO: artifact / forward only", c.OPENVINO, c.OPENVINO_YARDSTICK),
    ("TorchScript: artifact / forward only", c.TORCHSCRIPT, c.TORCHSCRIPT_YARDSTICK),
    ("TorchScript artifact / eager forward only", c.TORCHSCRIPT, c.EAGER),
    ("guided autograd / onnxruntime's artifact", c.LIVE, c.ARTIFACT),
    ("guided autograd / TorchScript artifact", c.LIVE, c.TORCHSCRIPT),
    ("Captum / onnxruntime's artifact", c.CAPTUM, c.ARTIFACT),
    ("Captum / onnxruntime's artifact for finite values", c.CAPTUM, c.ARTIFACT_FINITE),
    ("Captum / OpenVINO's artifact", c.CAPTUM, c.OPENVINO),
    ("Captum / TorchScript artifact", c.CAPTUM, c.TORCHSCRIPT),
    ("Captum, channels last / onnxruntime's artifact", c.CAPTUM_LAST, c.ARTIFACT),
    ("Captum, channels last / TorchScript artifact", c.CAPTUM_LAST, c.TORCHSCRIPT),
)

WITHIN_CUDA = (
    ("onnxruntime: artifact for CUDA / forward only", c.ARTIFACT_CUDA, c.YARDSTICK),
    ("the same in CUDA graphs", c.ARTIFACT_CUDA_GRAPH, c.YARDSTICK_GRAPH),
    ("TorchScript artifact / eager forward only", c.TORCHSCRIPT, c.EAGER),
    ("the same in CUDA graphs", c.TORCHSCRIPT_GRAPH, c.EAGER_GRAPH),
    ("guided autograd / onnxruntime's artifact", c.LIVE, c.ARTIFACT_CUDA),
    ("guided autograd / TorchScript artifact", c.LIVE, c.TORCHSCRIPT),
    ("torch.compile of live autograd / onnxruntime's artifact", c.COMPILED, c.ARTIFACT_CUDA),
    ("the same in CUDA graphs", c.COMPILED_GRAPH, c.ARTIFACT_CUDA_GRAPH),
    ("torch.compile of live autograd / TorchScript artifact", c.COMPILED, c.TORCHSCRIPT),
    ("the same in CUDA graphs", c.COMPILED_GRAPH, c.TORCHSCRIPT_GRAPH),
)

WITHIN = {"speed": WITHIN_CPU, "cuda": WITHIN_CUDA, "cuda-float32": WITHIN_CUDA}
"""Part -> label, and the two whose ratio it is."""


def _within(records: Sequence[Record], label: str, above: str, below: str) -> list[str]:
    found = ((bars.ratio(record, above, below), _mark(record, above, below)) for record in records)
    return [label, *("" if value is None else spread(value, 2) + mark for value, mark in found)]


def _rounds(record: Record) -> int:
    return max(len(row.get("round_ms", ())) for row in record.result["contenders"].values())


def _mark(record: Record, *names: str) -> str:
    return " †" if any(bars.another_map(record, name) for name in names) else ""


def _head(case: Case) -> str:
    size = "" if case.side == SIDE else f", {case.side}x{case.side}"
    threads = f", {case.threads} threads" if case.threads > 1 else ""
    return f"{case.name}{size}{threads}"


def _row(record: Record, name: str) -> dict[str, Any]:
    return record.result["contenders"].get(name, {"missing": "not measured"})


def _ratio_cell(record: Record, name: str) -> str:
    row = _row(record, name)
    if "round_ms" not in row:
        return row["missing"]
    found = bars.ratio(record, name, record.result["yardstick"])
    return "-" if found is None else spread(found, 2) + _mark(record, name)


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
            label = [name, f"{_head(record.case)}, batch {record.case.batch}"]
            if row["missing"]:
                rows.append([*label, row["missing"], *[""] * 6])
                continue
            runs = row["runs"]
            calm = median(steady(run["call_ms"]) for run in runs)
            first, second = (median(run["call_ms"][index] for run in runs) for index in (0, 1))
            yardstick = c.OWN_YARDSTICK.get(name, c.YARDSTICK)
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
    head = ["", "", "load, ms", "first call", "second", "steady", "first / steady", "peak, MiB", "ratio", "after, MiB"]
    return Table("Each session alone in a fresh process", head, rows, words=2, note=text.SESSION)


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
        both = (
            [[one["seconds"][turn] for one in record.result[kind]] for kind in ("artifact", "forward")]
            for record in found
        )
        return [Spread.ratio(*pair).median for pair in both]

    times = [
        *(
            row(stage, (median(one["stages"][0][stage] for one in r.result["artifact"]) for r in found))
            for stage in stages
        ),
        row("both files, proven", seconds("artifact", 0)),
        row("PyTorch's ONNX export of the forward pass", seconds("forward", 0)),
        row("ratio", ratios(0)),
    ]
    if found and all(len(record.result["artifact"][0]["seconds"]) > 1 for record in found):
        times += [
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
        Table("Export, seconds", head, times if found else [], note=text.EXPORT),
        Table("Size of the files, MiB", head, sizes if found else [], note=text.SIZE),
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
        made.append(
            Table(f"Slowest nodes of {title}", ["node", "operator", "ms", "share"], slowest, words=2, note=text.PROFILE)
        )
        before, after = _by_op(forward), _by_op(artifact)
        names = sorted({*before, *after}, key=lambda op: (-after.get(op, (0, 0.0))[1], op))
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
    """Return the measured points of each axis: a label and the record. The first case measured lies on all axes."""
    found = [record for record in records.of("growth") if not record.missing]
    if not found:
        return {}
    base = records.of("growth")[0].case
    points: dict[str, list[tuple[str, Record]]] = {}
    for axis, attribute in VARIES.items():
        on_it = [one for one in found if replace(one.case, **{attribute: getattr(base, attribute)}) == base]
        if attribute == "model":  # in the order of their depth, which is that of the plan
            on_it.sort(key=lambda one: DEPTHS.index(one.case.model) if one.case.model in DEPTHS else 0)
        else:
            on_it.sort(key=lambda one: getattr(one.case, attribute))
        if len(on_it) > 1:
            points[axis] = [
                (str(one.case.name if attribute == "model" else getattr(one.case, attribute)), one) for one in on_it
            ]
    return points


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
        plot, note = ("", "") if made else ("growth.svg", text.GROWTH)
        made.append(Table(f"Growth with {axis}", head, rows, note=note, plot=plot))
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
        for name in c.TAKING_PART.get(record.case.part, ()) if "contenders" in record.result else ():
            row = _row(record, name)
            if row["missing"]:
                rows.append([f"{record.case}: {name}", row["missing"]])
    parts = CUDA_PARTS if any(record.case.device == "cuda" for record in records) else CPU_PARTS
    rows += [
        [str(case), "not run"] for case in cases(parts, MODELS, BATCHES, THREADS, SIDE) if records.get(case) is None
    ]
    return Table("Not measured", ["what", "why"], rows, words=2)


def document(records: Records, plots: Sequence[str]) -> str:
    """Return ``README.md``: the bars, the ratios, the rest, and how all of it was measured."""
    parts = ["# Benchmark", text.INTRODUCTION, where(records)]
    for table in tables(records):
        parts.append(f"## {table.title}")
        parts += [table.note] if table.note else []
        parts += [f"![{table.title}]({table.plot})"] if table.plot in plots else []
        parts.append(table.markdown())
    return "\n\n".join([*parts, text.METHOD]) + "\n"


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
