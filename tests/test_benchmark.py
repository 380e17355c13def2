"""``scripts/benchmark.py`` on a network of a few weights: what it records, and what it makes of records.

No time is asserted anywhere: what is tested is that the right things are called, counted, compared and named.
"""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from exporter import reference
from exporter.sources import resolve
from scripts import benchmark
from scripts.benchmarking import bars, files, measure, networks, plan, plots, processes, report, timing, worker
from scripts.benchmarking import contenders as c
from scripts.benchmarking.bars import Bar
from scripts.benchmarking.guided import guided, has_functional_rectifiers
from scripts.benchmarking.measure import Effort
from scripts.benchmarking.plan import BY_HAND, CPU_PARTS, CUDA_PARTS, Case, axes, cases
from scripts.benchmarking.profiling import nodes
from scripts.benchmarking.records import Record, Records
from scripts.benchmarking.tables import Table
from scripts.benchmarking.timing import Spread

SCHEMA = json.loads((Path(worker.__file__).with_name("results.schema.json")).read_text())

NETWORK = """
from torch import nn

def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4),
    )
"""
SIDE = 8


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "tiny.py"
    file.write_text(NETWORK)
    return f"{file}:tiny"


def test_no_bias_is_zero(spec: str) -> None:
    """PyTorch's export would leave it out; a trained one is left alone."""
    drawn, shape = networks.network(spec, SIDE)
    assert shape == (3, SIDE, SIDE)
    biases = {name: one for name, one in drawn.named_parameters() if name.endswith("bias")}
    assert all(one.any() for one in biases.values())
    again = networks.network(spec, SIDE)[0]
    assert torch.equal(again[1].bias, biases["1.bias"])
    trained, _ = networks.network("digits_cnn", 28)
    for name, one in resolve("digits_cnn").model.named_parameters():
        assert torch.equal(one, trained.get_parameter(name))


def test_the_yardstick_has_the_biases_of_a_trained_network(tmp_path: Path) -> None:
    (tmp_path / "normed.py").write_text(
        "from torch import nn\n"
        "def normed():\n"
        "    conv = nn.Conv2d(3, 4, 3, bias=False)\n"
        "    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))\n"
    )
    model, shape = networks.network(f"{tmp_path}/normed.py:normed", SIDE)
    for bias, inputs in ((model[1].bias.clone(), 3), (torch.zeros(4), 2)):
        model[1].bias.copy_(bias)
        files.export_forward(model, shape, tmp_path / "forward.onnx")
        (conv,) = (node for node in onnx.load(tmp_path / "forward.onnx").graph.node if node.op_type == "Conv")
        assert len(conv.input) == inputs


def record(case: Case, result: dict[str, Any], missing: str = "") -> Record:
    machine = {
        "processor": "P",
        "architecture": "x86_64",
        "cores": 2,
        "flags": ["avx2"],
        "memory_gib": 8,
        "system": "L",
    }
    return Record(case, "python scripts/benchmark.py", machine, {"torch": "2"}, "0", missing, result)


def race(**round_ms: list[float]) -> dict[str, Any]:
    """A race's result by the names of the contenders' constants."""
    rows = {getattr(c, name): {"missing": "", "round_ms": times} for name, times in round_ms.items()}
    return {"yardstick": c.YARDSTICK, "calls": 2, "contenders": rows}


def session_run(peak: float) -> dict[str, Any]:
    return {
        "load_ms": 1.0,
        "call_ms": [9.0, 5.0, 3.0, 3.0],
        "imports_mib": 1.0,
        "peak_mib": peak,
        "resident_mib": peak / 2,
    }


@pytest.fixture
def full(tmp_path: Path) -> Records:
    """Records of every part, made up."""
    records = Records(tmp_path / "full" / "results.json")
    for model in ("resnet18", "torchvision:densenet121"):
        for batch in (1, 8):
            result = race(
                YARDSTICK=[10.0, 10.0, 20.0],
                ARTIFACT=[22.0, 23.0, 44.0],
                CAPTUM=[44.0, 46.0, 88.0],
                TORCHSCRIPT=[40.0, 40.0, 80.0],
            )
            result["contenders"][c.OPENVINO] = {"missing": "openvino is not installed here"}
            result["contenders"][c.ARTIFACT]["error"] = 2e-7
            records.put(record(Case("speed", model, batch), result))
    records.put(record(Case("grad-cam", "resnet18"), {}, "torchvision is not installed here"))
    rival = race(YARDSTICK=[10.0, 10.0], ARTIFACT=[18.0, 36.0], BY_HAND=[20.0, 40.0])
    records.put(record(Case("by-hand", "resnet18"), rival))
    sessions = {
        c.YARDSTICK: {"missing": "", "runs": [session_run(100.0), session_run(110.0), session_run(90.0)]},
        c.ARTIFACT: {"missing": "", "runs": [session_run(150.0)]},
        c.YARDSTICK_LEAN: {"missing": "", "runs": [session_run(80.0)]},
        c.ARTIFACT_LEAN: {"missing": "", "runs": [session_run(136.0)]},
        c.OPENVINO: {"missing": "openvino is not installed here"},
    }
    records.put(record(Case("session", "resnet18"), {"contenders": sessions}))
    theirs = {"threads": 2, "seconds": [2.0, 1.0], "stages": [], "bytes": {"model.onnx": 1000}}
    sizes = {"manifest.json": 9, "model.onnx": 1010, "model.pt": 1000}
    ours = {"threads": 2, "seconds": [3.0, 1.0], "stages": [{"capture": 1.0, "verify": 2.0}], "bytes": sizes}
    records.put(record(Case("export", "resnet18", threads=0), {"forward": [theirs], "artifact": [ours]}))
    profile = [{"name": "conv1.vjp", "op": "Conv", "ms": 3.0}, {"name": "fc", "op": "Gemm", "ms": 1.0}]
    found = {c.YARDSTICK: profile[1:], c.ARTIFACT: profile}
    records.put(record(Case("profile", "resnet18"), {"runs": 20, "nodes": found}))
    for case in cases(["growth"], ["resnet18"], (1,), (1, 2), 224):
        records.put(record(case, race(YARDSTICK=[1.0 * case.batch], ARTIFACT=[2.0 * case.batch])))
    records.put(record(Case("help"), {"seconds": [0.1, 0.2, 0.3], "command": "saliport"}))
    return records


def check_schema(path: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(path.read_text())
    jsonschema.validate(stored, SCHEMA)
    return stored


# -- measuring -------------------------------------------------------------------------------------------------


def test_a_network_is_measured(spec: str, tmp_path: Path) -> None:
    """The whole way, processes and all."""
    output = tmp_path / "out"
    options = ["--models", spec, "--side", SIDE, "--batches", 2, "--rounds", 2, "--only", "speed", "--only", "help"]
    options += ["--repeats", 1, "--threads", 1, "--cache", tmp_path / "cache", "--output", output]
    result = CliRunner().invoke(benchmark.main, list(map(str, options)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    speed, help_time = check_schema(output / "results.json")["records"]
    assert (speed["case"]["part"], speed["missing"], help_time["missing"]) == ("speed", "", "")
    rows = speed["result"]["contenders"]
    assert list(rows) == list(c.TAKING_PART["speed"])
    for name, row in rows.items():
        assert row["missing"] == c.EVERYONE[name].absent(), name
        assert row["missing"] or len(row["round_ms"]) == 2
        if not row["missing"] and "forward only" not in name:
            assert row["error"] < 1e-5, name
    assert len(help_time["result"]["seconds"]) == 5
    text = (output / "README.md").read_text()
    assert "|  | tiny, 8x8 |" in text.splitlines()
    assert (output / "ratios.svg").exists()
    assert "speed: tiny, batch 2, 8x8, 1 thread(s): " in result.output


def test_sessions_exports_and_profiles(spec: str, tmp_path: Path) -> None:
    """What processes do, in this one."""
    found = {}
    for kind, adopted in (("forward", "forward"), ("artifact", "onnxruntime")):
        wanted = {"model": spec, "side": SIDE, "kind": kind, "folder": str(tmp_path / kind), "turns": 1}
        found[kind] = [worker.export(wanted)]
        files.adopt(spec, SIDE, adopted, tmp_path / kind, tmp_path)
        assert files.facts(spec, SIDE, adopted, tmp_path) == {"shape": [3, SIDE, SIDE]}
    case = Case("session", spec, 2, SIDE)
    task = {
        "model": spec,
        "shape": [3, SIDE, SIDE],
        "batch": 2,
        "threads": 1,
        "device": "cpu",
        "tf32": True,
        "calls": 4,
    }
    task["missing"] = {}
    task["files"] = measure.paths(case, tmp_path)
    records = Records(tmp_path / "results.json")
    rows = {}
    for name in (c.YARDSTICK, c.ARTIFACT, c.TORCHSCRIPT, c.LIVE):
        run = worker.session({**task, "contenders": [name]})
        assert len(run["call_ms"]) == 4
        rows[name] = {"missing": "", "runs": [run]}
    records.put(record(case, {"contenders": rows}))

    assert list(found["forward"][0]["bytes"]) == ["model.onnx"]
    assert list(found["artifact"][0]["bytes"]) == ["manifest.json", "model.onnx", "model.pt"]
    assert "verify" in found["artifact"][0]["stages"][0]
    records.put(record(Case("export", spec, 1, SIDE, 0), found))

    profile = worker.profile({**task, "folder": str(tmp_path / "profile")})
    ops = {name: Counter(node["op"] for node in nodes) for name, nodes in profile["nodes"].items()}
    assert ops[c.YARDSTICK]["Conv"] == 2
    assert ops[c.ARTIFACT].total() > ops[c.YARDSTICK].total()
    records.put(record(Case("profile", spec, 1, SIDE), profile))
    check_schema(tmp_path / "results.json")


def test_files_are_made_once_and_again_when_sources_change(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def export(model: Any, shape: tuple[int, ...], path: Path) -> None:
        made.append(shape)
        path.write_text("a file")

    for folder in ("exporter", "models"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "code.py").write_text("x = 1")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "export_forward", export)
    cache = tmp_path / "cache"
    for _ in range(2):
        assert [*files.prepare(spec, SIDE, files.FORWARD, cache)["shape"]] == [3, SIDE, SIDE]
    assert made == [(3, SIDE, SIDE)]
    forward, artifact = files.key(files.FORWARD), files.key("onnxruntime")
    (tmp_path / "exporter" / "code.py").write_text("x = 2")
    assert files.key(files.FORWARD) == forward
    assert files.key("onnxruntime") != artifact
    (tmp_path / "models" / "code.py").write_text("x = 2")
    assert files.key(files.FORWARD) != forward
    files.prepare(spec, SIDE, files.FORWARD, cache)
    assert [*cache.rglob("model.onnx")] == [files.onnx_file(spec, SIDE, files.FORWARD, cache)]  # the old one is gone


def test_only_the_part_by_hand_is_measured_again_when_that_graph_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "scripts" / "benchmarking" / "by_hand.py"
    graph.parent.mkdir(parents=True)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    found = []
    for text in ("x = 1", "x = 2"):
        graph.write_text(text)
        found.append({part: files.sources(part) for part in ("by-hand", "speed")})
    assert found[0]["by-hand"] != found[1]["by-hand"]
    assert found[0]["speed"] == found[1]["speed"]


def test_a_broken_process_is_reported() -> None:
    with pytest.raises(processes.Failed, match="KeyError: 'kinds'"):
        processes.run("prepare", threads=1)


def test_torch_compile_has_the_map_of_live_autograd(spec: str) -> None:
    setting = c.Setting(spec, (3, SIDE, SIDE), 2, 1, "cpu", {})
    with c.quiet():
        logits, attribution = c.compiled_autograd(setting, backend="aot_eager")()
    expected = reference.live(setting.network, *setting.tensors, "guided")
    torch.testing.assert_close(logits, expected[0])
    torch.testing.assert_close(attribution, expected[1][0])
    assert attribution.any()


class Functional(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


@pytest.mark.parametrize(
    ("rectifier", "functional"), [(nn.ReLU(inplace=True), False), (nn.ReLU6(), False), (Functional(), True)]
)
def test_guided_autograd_has_the_map_of_the_judge(rectifier: nn.Module, functional: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), rectifier, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )
    images, target = 9 * torch.randn(2, 3, SIDE, SIDE), torch.tensor([0, 2])
    network(images)
    twin = guided(network.requires_grad_(False))
    expected = reference.live(network, images, target, "guided")
    logits, attribution = c.differentiate(twin, images, target)
    torch.testing.assert_close(logits, expected[0])
    assert (c.difference(attribution, expected[1][0].numpy()) > 1e-6) == functional
    assert has_functional_rectifiers(twin, images) == functional
    assert twin[0].weight is network[0].weight


def test_functional_rectifiers_are_left_to_the_judge(tmp_path: Path) -> None:
    (tmp_path / "functional.py").write_text(
        "from torch import nn\nfrom tests.test_benchmark import Functional\n"
        "def make():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), Functional(), nn.Flatten(), nn.Linear(288, 3))\n"
    )
    setting = c.Setting(f"{tmp_path / 'functional.py'}:make", (3, SIDE, SIDE), 2, 1, "cpu", {})
    _, attribution = c.EVERYONE[c.LIVE].open(setting)()
    expected = reference.live(setting.network, *setting.tensors, "guided")[1][0]
    assert attribution.any()
    torch.testing.assert_close(attribution, expected)


def test_the_graph_by_hand_has_the_map_of_live_autograd(tmp_path: Path) -> None:
    files.prepare(BY_HAND, plan.SIDE, files.BY_HAND, tmp_path)
    file = files.onnx_file(BY_HAND, plan.SIDE, files.BY_HAND, tmp_path)
    setting = c.Setting(BY_HAND, (3, plan.SIDE, plan.SIDE), 2, 1, "cpu", {"by-hand": file})
    logits, attribution = c.EVERYONE[c.BY_HAND].open(setting)()
    expected = reference.live(setting.network, *setting.tensors, "guided")
    np.testing.assert_allclose(logits, expected[0].numpy(), rtol=1e-4, atol=1e-4)
    assert c.difference(attribution, expected[1][0].numpy()) < bars.WRONG


def test_only_resnet18_is_written_by_hand() -> None:
    assert list(cases(["by-hand"], ["vgg16", "resnet50"], (1, 8), (1,), 224)) == []
    assert list(cases(["by-hand"], ["vgg16", "resnet18"], (1, 8), (2,), 96)) == [
        Case("by-hand", "resnet18", 1, 224, 2),
        Case("by-hand", "resnet18", 8, 224, 2),
    ]


def test_peers_get_the_same_weights_in_another_network(spec: str) -> None:
    setting = c.Setting(spec, (3, SIDE, SIDE), 2, 1, "cpu", {})
    assert [module.inplace for module in setting.hookable.modules() if hasattr(module, "inplace")] == [False, False]
    assert [module.inplace for module in setting.network.modules() if hasattr(module, "inplace")] == [True, False]
    for a, b in zip(setting.hookable.parameters(), setting.network.parameters(), strict=True):
        assert a is b


def test_difference() -> None:
    expected = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    assert c.difference(expected, expected) == 0
    assert c.difference(expected + np.array([[0.0, 5.0], [0.0, 2.0], [0.0, 9.0]]), expected) == 2  # of 1, 2 and 9


# -- rounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 12))
def test_each_contender_follows_each_other_equally_often(count: int) -> None:
    turns = timing.orders(count)
    assert all(sorted(order) == list(range(count)) for order in turns)
    followed = Counter(pair for order in turns for pair in pairwise(order))
    assert len(followed) == count * (count - 1)
    assert len(set(followed.values())) <= 1
    for place in range(count):
        assert len(set(Counter(order[place] for order in turns).values())) == 1


def test_a_race_is_fair() -> None:
    calls: list[str] = []
    collecting: set[bool] = set()

    def contender(name: str) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            if len(calls) > 3 * 3:
                collecting.add(gc.isenabled())

        return call

    times = timing.race({name: contender(name) for name in "abc"}, rounds=6, seconds=1e9, calls=2, warm_up=3)
    assert {name: len(values) for name, values in times.items()} == {"a": 6, "b": 6, "c": 6}
    assert Counter(calls) == dict.fromkeys("abc", 3 + 6 * 3)
    turns = calls[9::3]
    assert calls[9:] == [name for name in turns for _ in range(3)]
    assert turns == ["abc"[index] for order in timing.orders(3) for index in order]
    assert collecting == {False}
    assert gc.isenabled()


@pytest.mark.parametrize(("rounds", "expected"), [(3, 3), (100, timing.FEWEST)])
def test_a_race_without_time_has_the_fewest_rounds(rounds: int, expected: int) -> None:
    assert len(timing.race({"a": lambda: None}, rounds, seconds=0)["a"]) == expected


def test_spread() -> None:
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3, 2, 4)
    assert Spread.of([7.0]) == Spread(7, 7, 7)
    assert Spread.ratio([2.0, 40.0, 3.0], [1.0, 10.0, 1.0]) == Spread(3, 2.5, 3.5)  # 2, 4 and 3, round by round


# -- bars ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "at_least", "goal", "expected"),
    [
        (2.15, False, 2.15, "goal"),
        (2.1500001, False, 2.15, "bar"),
        (2.27, False, 2.15, "bar"),
        (2.2700001, False, 2.15, "no"),
        (2.0, False, None, "bar"),
        (2.28, False, None, "no"),
        (2.5, True, 2.5, "goal"),
        (2.4999999, True, 2.5, "bar"),
        (2.27, True, 2.5, "bar"),
        (2.2699999, True, 2.5, "no"),
    ],
)
def test_verdicts_at_the_edge(value: float, at_least: bool, goal: float | None, expected: str) -> None:
    bar = Bar("figure", (), 2.27, goal, "any", at_least=at_least)
    assert bar.verdict(value) == expected


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (17.0, ("fast",)),
        (25.0, ("fast",)),
        (25.01, ("fast", "slow")),
        (69.99, ("fast", "slow")),
        (70.0, ("slow",)),
        (None, ("fast", "slow")),
    ],
)
def test_the_machine_chooses_the_column(ms: float | None, expected: tuple[str, ...], tmp_path: Path) -> None:
    records = Records(tmp_path / "results.json")
    records.put(record(Case("speed", "resnet18", 8), race(YARDSTICK=[1.0])))  # of another batch: it does not count
    records.put(record(Case("speed", "resnet50", 1), race(YARDSTICK=[1.0])))
    if ms is not None:
        records.put(record(Case("speed", "resnet18", 1), race(YARDSTICK=[ms])))
    assert bars.columns(records) == expected


def test_findings(full: Records) -> None:
    found = {(finding.bar.figure, finding.case): finding for finding in bars.findings(full)}
    shown = {key: (finding.measured.median, finding.bar.bar, finding.verdict) for key, finding in found.items()}
    assert shown == {
        (bars.ONNXRUNTIME, "resnet18, batch 1"): (2.2, 2.27, "bar"),
        (bars.ONNXRUNTIME, "resnet18, batch 8"): (2.2, 2.27, "bar"),
        (bars.ONNXRUNTIME, "densenet121, batch 1"): (2.2, 2.6, "goal"),
        (bars.ONNXRUNTIME, "densenet121, batch 8"): (2.2, 2.6, "goal"),
        (bars.BY_HAND, "resnet18, batch 1"): (0.9, 1.0, "bar"),
        (bars.CAPTUM, "resnet18, batch 1"): (2.0, 1.7, "goal"),
        (bars.CAPTUM, "resnet18, batch 8"): (2.0, 1.7, "goal"),
        (bars.TORCHSCRIPT, "resnet18, batch 1"): (1.1, 1.15, "no"),
        (bars.TORCHSCRIPT, "resnet18, batch 8"): (1.1, 1.15, "no"),
        (bars.SIZE, "resnet18"): (1.01, 1.01, "bar"),
        (bars.MEMORY, "resnet18, batch 1"): (1.5, 1.8, "goal"),
        (bars.MEMORY_LEAN, "resnet18, batch 1"): (1.7, 1.8, "bar"),
        (bars.EXPORT, "resnet18"): (1.5, 1.5, "bar"),
        (bars.HELP, ""): (0.2, 0.3, "bar"),
    }


@pytest.mark.parametrize(("error", "verdict", "mark"), [(0.01, "goal", ""), (0.010001, "no", " †")])
def test_a_wrong_map_meets_no_bar(error: float, verdict: str, mark: str, tmp_path: Path) -> None:
    records = Records(tmp_path / "results.json")
    result = race(YARDSTICK=[10.0], ARTIFACT=[20.0])
    result["contenders"][c.ARTIFACT]["error"] = error
    records.put(record(Case("speed", "resnet18"), result))
    assert [finding.verdict for finding in bars.findings(records)] == [verdict]
    text = report.document(records, [])
    assert f"| 2.000{mark} |" in text
    assert f"| onnxruntime: artifact | 2.00{mark} |" in text


def test_other_sizes_and_threads_have_no_bars(tmp_path: Path) -> None:
    records = Records(tmp_path / "results.json")
    result = race(YARDSTICK=[1.0], ARTIFACT=[9.0])
    records.put(record(Case("speed", "resnet18", 1, 96), result))
    records.put(record(Case("speed", "resnet18", 1, 224, 2), result))
    assert bars.findings(records) == []
    assert bars.columns(records) == ("fast", "slow"), "small images do not tell how fast a machine is"


# -- records and reports ---------------------------------------------------------------------------------------


def test_a_network_has_one_color_and_one_place(tmp_path: Path) -> None:
    """Whatever was measured first, and whichever batches there are of it."""
    records = Records(tmp_path / "results.json")
    measured = [("mine", 1), ("vgg16", 8), ("resnet18", 1), ("vgg16", 1), ("mine", 8)]
    for index, (model, batch) in enumerate(measured):
        records.put(record(Case("speed", model, batch), race(YARDSTICK=[10.0], ARTIFACT=[20.0 + index])))
    models = [one.case.model for one in records.of("speed")]
    assert models == ["resnet18", "vgg16", "vgg16", "mine", "mine"]
    figure = plots._ratios(records)
    assert figure is not None
    colors = [
        {label: handle[0].get_facecolor() for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        for axes in figure.axes
    ]
    assert list(map(set, colors)) == [{"resnet18", "vgg16", "mine"}, {"vgg16", "mine"}]
    assert len(set(colors[0].values())) == 3
    assert colors[1].items() <= colors[0].items()


def test_records_are_kept_by_case(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    records = Records(path)
    one, other = Case("speed", "resnet18", 1), Case("speed", "resnet18", 8)
    records.put(record(one, race(YARDSTICK=[1.0])))
    records.put(record(other, {}, "it failed"))
    records.put(record(one, {}, "torchvision is not installed here"))  # measured before, elsewhere: that stays
    records.put(record(other, race(YARDSTICK=[2.0])))
    records.put(replace(record(other, race(YARDSTICK=[3.0])), command="again"))
    assert list(Records(path)) == list(records)
    assert [(r.case, r.result["contenders"][c.YARDSTICK]["round_ms"], r.command) for r in Records(path)] == [
        (one, [1.0], "python scripts/benchmark.py"),
        (other, [3.0], "again"),
    ]
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]
    check_schema(path)


def test_results_of_another_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"schema": 99, "records": []}')
    result = CliRunner().invoke(benchmark.main, ["--report-only", "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "has schema 99; this version reads 1" in result.output


def test_reports_are_made_of_the_file_alone(full: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_schema(tmp_path / "full" / "results.json")
    monkeypatch.setattr(benchmark, "measure", lambda *args: pytest.fail("nothing is measured"))
    before = (tmp_path / "full" / "results.json").read_bytes()
    made = []
    for _ in range(2):
        result = CliRunner().invoke(
            benchmark.main, ["--report-only", "--output", str(tmp_path / "full")], catch_exceptions=False
        )
        assert result.exit_code == 0
        made.append({path.name: path.read_bytes() for path in (tmp_path / "full").iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["README.md", "growth.svg", "ratios.svg", "results.json"]
    assert made[0]["results.json"] == before
    text = made[0]["README.md"].decode()
    assert text == report.document(full, ["ratios.svg", "growth.svg"])
    lines = text.splitlines()
    for line in (
        "| onnxruntime: artifact / forward only | resnet18, batch 1 | 2.27 | 2.15 | 2.200 (2.200 to 2.250) | bar |",
        "| onnxruntime: artifact / forward only | 2.20 (2.20 to 2.25) | 2.20 (2.20 to 2.25) |",
        "| OpenVINO: artifact | openvino is not installed here | openvino is not installed here |",
        "| onnxruntime: artifact | 23.0 (22.5 to 33.5) | 23.0 (22.5 to 33.5) |",
        "| onnxruntime: artifact | 2.0e-07 | 2.0e-07 | 2.0e-07 | 2.0e-07 |",
        "| onnxruntime: artifact | resnet18, batch 1 | 1 | 9.0 | 5.0 | 3.0 | 3.0 | 150 | 1.50 | 75 |",
        f"| {c.ARTIFACT_LEAN} | resnet18, batch 1 | 1 | 9.0 | 5.0 | 3.0 | 3.0 | 136 | 1.70 | 68 |",
        f"| {bars.BY_HAND} | resnet18, batch 1 | 1 |  | 0.900 | bar |",
        f"| {c.BY_HAND} | 3.00 (2.50 to 3.50) |",
        f"| {bars.MEMORY_LEAN} | resnet18, batch 1 | 1.8 | 1.5 | 1.700 | bar |",
        "| model.onnx / forward only | 1.0100 |",
        "| ratio | 1.50 |",
        "| ratio, the second time | 1.00 |",
        "| `conv1.vjp` | Conv | 3.000 | 75.0% |",
        "| all | 1 | 1.00 | 2 | 4.00 |",
        "| 16 | 16.0 | 32.0 | 2.00 |  |  |  |",
        "| resnet152 | 1.0 | 2.0 | 2.00 |  |  |  |",
        "| grad-cam: resnet18, batch 1, 224x224, 1 thread(s) | torchvision is not installed here |",
        "| speed: resnet18, batch 8, 224x224, 1 thread(s): OpenVINO: artifact | openvino is not installed here |",
        "| speed: resnet18, batch 8, 224x224, 1 thread(s): Captum, channels last | not measured |",
        "| session: resnet50, batch 8, 224x224, 1 thread(s) | not run |",
        "| rounds | 3 | 3 |",
        "- `python scripts/benchmark.py`",
    ):
        assert line in lines, line
    for section in (
        "Bars and goals",
        "Artifacts beside others: batch 1",
        "Time / forward only in onnxruntime: batch 8",
    ):
        assert f"## {section}" in lines
    assert lines.index("## Artifacts beside others: batch 1") < lines.index("## Milliseconds: batch 1")


def test_what_was_not_run_is_named(tmp_path: Path) -> None:
    """On a page of a CPU what needs none, on one of a GPU what needs one."""
    records = Records(tmp_path / "results.json")
    rows = report.missing_table(records).rows
    assert {words.partition(":")[0] for words, _ in rows} == set(CPU_PARTS)
    assert ["speed: vgg16, batch 8, 224x224, 1 thread(s)", "not run"] in rows
    records.put(record(Case("cuda", "resnet18", 1, 224, 0, "cuda"), race(YARDSTICK=[1.0])))
    rows = report.missing_table(records).rows
    assert ["cuda: resnet18, batch 32, 224x224, a GPU", "not run"] in rows
    assert {words.partition(":")[0] for words, _ in rows} == set(CUDA_PARTS)


@pytest.mark.parametrize(
    ("ms", "met"), [([22.0, 22.5, 23.0], "bar ±"), ([22.0, 22.5, 22.5], "bar"), ([26.0], "**no**")]
)
def test_a_verdict_that_quartiles_share_is_marked_otherwise(ms: list[float], met: str, tmp_path: Path) -> None:
    records = Records(tmp_path / "results.json")
    records.put(record(Case("speed", "resnet18"), race(YARDSTICK=[10.0] * len(ms), ARTIFACT=ms)))
    (row,) = report.bar_table(records).rows
    assert row[-1] == met


def test_plots_have_no_dates(full: Records, tmp_path: Path) -> None:
    assert plots.draw(full, tmp_path) == ["ratios.svg", "growth.svg"]
    for name in ("ratios.svg", "growth.svg"):
        text = (tmp_path / name).read_text()
        assert text.count("<svg ") == 1
        assert "dc:date" not in text
        assert str(tmp_path) not in text
    assert "resnet152" in (tmp_path / "growth.svg").read_text()


def test_growth_has_its_first_case_on_every_axis(full: Records) -> None:
    found = {axis: [label for label, _ in points] for axis, points in report.growth(full).items()}
    assert found == {
        "batch": ["1", "2", "4", "8", "16"],
        "image side": ["96", "160", "224", "288", "384"],
        "depth": ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"],
        "threads": ["1", "2"],
    }
    assert all(
        points[0] == Case("growth", "resnet18") for axis, points in axes("resnet18").items() if axis != "image side"
    )


def test_tables() -> None:
    table = Table("Title", ["", "a|b", "c"], [["x", "1", "**2**"]])
    assert table.markdown() == "|  | a\\|b | c |\n| --- | ---: | ---: |\n| x | 1 | **2** |"
    assert [column.header for column in table.rich().columns] == ["", "a|b", "c"]
    assert list(table.rich().columns[2].cells) == ["2"]


def test_profiles_are_medians_node_by_node() -> None:
    def event(name: str, us: int, cat: str = "Node") -> dict[str, Any]:
        return {"cat": cat, "name": name, "dur": us, "args": {"op_name": "Conv"}}

    warm = [event("a_kernel_time", 9000)] * 5
    events = [*warm, event("a_kernel_time", 1000), event("a_kernel_time", 3000), event("a_kernel_time", 2000)]
    events += [event("b_kernel_time", 4000), event("b_fence_before", 99), event("model_run", 99, "Session")]
    assert nodes(events) == [{"name": "b", "op": "Conv", "ms": 4.0}, {"name": "a", "op": "Conv", "ms": 2.0}]


# -- what is missing, and what is asked for --------------------------------------------------------------------


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = c.Contender("peer", ("torch", "no_such_package.part"), lambda setting: pytest.fail("not opened"))
    assert peer.absent() == "no_such_package is not installed here"
    for name in ("peer", "other"):
        monkeypatch.setitem(c.EVERYONE, name, peer)
    missing = {"other": "its file was not made"}
    task = {
        "model": "",
        "shape": [1],
        "batch": 1,
        "threads": 1,
        "device": "cpu",
        "tf32": True,
        "files": {},
        "missing": missing,
    }
    found = worker.race({**task, "contenders": ["peer", "other"], "rounds": 1, "seconds": 0})
    assert found["contenders"] == {"peer": {"missing": peer.absent()}, "other": {"missing": missing["other"]}}


def test_who_fails_does_not_stop_the_others(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(setting: c.Setting) -> c.Call:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setitem(c.EVERYONE, "broken", c.Contender("broken", (), breaks))
    monkeypatch.setattr(files, "export_forward", lambda *args: breaks(args[0]))
    made = worker.prepare({"model": spec, "side": SIDE, "kinds": [files.FORWARD], "cache": str(tmp_path)})
    assert made == {"shape": (3, SIDE, SIDE), "missing": {"forward": "its file was not made: RuntimeError: no kernel"}}
    task = {
        "model": spec,
        "shape": made["shape"],
        "batch": 1,
        "threads": 1,
        "device": "cpu",
        "tf32": True,
        "files": {},
        "missing": {},
    }
    found = worker.race({**task, "contenders": ["broken", c.EAGER], "rounds": 1, "seconds": 0})["contenders"]
    assert found["broken"] == {"missing": "it failed: RuntimeError: no kernel"}
    assert len(found[c.EAGER]["round_ms"]) == 1


def test_pytorch_grad_cam_needs_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(processes, "run", lambda *args, **kwargs: pytest.fail("nothing is measured"))
    found = measure.measure(Case("grad-cam", "resnet18"), Effort())
    assert found == {"missing": "torchvision is not installed here"}


def test_on_a_gpu_the_parts_for_it_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Case]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    monkeypatch.setattr(benchmark, "run", lambda cases, *rest: asked.append(cases))
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(benchmark.main, ["--device", "cuda"], catch_exceptions=False).exit_code == 0
    assert asked[0] == [
        Case(part, model, batch, threads=0, device="cuda")
        for part in ("cuda", "cuda-float32")
        for model in ("resnet18", "resnet50")
        for batch in (1, 32)
    ]
    assert [path.name for path in Path("docs/benchmark").iterdir()] == ["cuda"]


def test_what_runs_can_be_chosen_stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Case] = []
    failing = {Case("export", "resnet50", threads=0)}

    def fake(case: Case, effort: Effort) -> dict[str, Any]:
        asked.append(case)
        assert (effort.rounds, effort.repeats) == (7, 3)
        if case in failing:
            raise processes.Failed("MemoryError")
        if case.part == "export":
            one = {"threads": 1, "seconds": [1.0], "stages": [{}], "bytes": {"model.onnx": 1, "model.pt": 1}}
            return {"forward": [one], "artifact": [one]}
        return race(YARDSTICK=[1.0], ARTIFACT=[2.0])

    monkeypatch.setattr(benchmark, "measure", fake)
    arguments = ["--models", "resnet18,resnet50", "--batches", "1,4", "--rounds", "7", "--output", str(tmp_path)]
    arguments += ["--only", "speed", "--only", "export"]

    def start(*more: str) -> list[Case]:
        asked.clear()
        result = CliRunner().invoke(benchmark.main, [*arguments, *more], catch_exceptions=False)
        assert result.exit_code == bool(failing), result.output
        return list(asked)

    everything = [Case("speed", model, batch) for model in ("resnet18", "resnet50") for batch in (1, 4)]
    everything += [Case("export", model, threads=0) for model in ("resnet18", "resnet50")]
    assert start() == everything
    assert check_schema(tmp_path / "results.json")["records"][-1]["missing"] == "it failed: MemoryError"
    assert start("--resume") == everything[-1:]
    failing.clear()
    assert start("--resume") == everything[-1:]
    assert start("--resume") == []
    monkeypatch.setattr(files, "key", lambda kind: "other sources")
    assert start("--resume") == everything


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "1,x"], "'1,x' is not a list of positive integers; write for example 1,8"),
        (["--batches", "0"], "'0' is not a list of positive integers"),
        (["--only", "nothing"], "'nothing' is not one of"),
    ],
)
def test_wrong_uses(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(benchmark.main, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_quick_is_one_network_without_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Case]] = []
    monkeypatch.setattr(benchmark, "run", lambda cases, *rest: asked.append(cases))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(benchmark.main, ["--quick"], catch_exceptions=False)
    assert result.exit_code == 0
    assert {case.part for case in asked[0]} == {"speed", "session", "export", "profile", "help"}
    assert {(case.model, case.batch) for case in asked[0] if case.model} == {("resnet18", 1)}
    assert not (tmp_path / "docs").exists()
    assert (tmp_path / "artifacts" / "benchmark" / "quick" / "README.md").exists()
