"""The table of runtimes: what is measured, what counts as wrong, and that the page can be written again."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import exporter
from exporter.sources import resolve
from scripts import runtimes
from scripts.matrix.opsets import Opsets
from scripts.matrix.report import disagreements, document
from scripts.matrix.runtimes import InPython, Node, Program, middle
from scripts.matrix.trials import NotRun, Row, Trial, prepare
from tests.examples.conftest import Once, Require

ROW = Row("onnxruntime (Python)", "1.32.0", "net", 32, "guided", 2e-7, 3e-3, 4e-7, 6.0, 2.0, 50.0)


@pytest.fixture(scope="module")
def trial(once: Once) -> Trial:
    def make(folder: Path) -> None:
        made = prepare("cifar_resnet20", 32, "guided", folder / "trial")
        (folder / "trial.pickle").write_bytes(pickle.dumps(made))

    return pickle.loads((once("runtimes", make) / "trial.pickle").read_bytes())


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_forward_only_artifact_predicts_and_hands_the_image_back(trial: Trial) -> None:
    model = resolve("cifar_resnet20").model
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for runtime in ("onnxruntime", "torchscript"):
        logits, attribution = exporter.load(trial.forward, runtime)(images.numpy(), [-1, 0, 1])
        assert np.array_equal(attribution, images.numpy())
        assert np.allclose(logits, model(images).detach().numpy(), rtol=1e-4, atol=1e-5)
    exporter.Artifact.open(trial.forward).check()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("runtime", "tuned"), [("onnxruntime", False), ("torchscript", False), ("openvino", False), ("openvino", True)]
)
def test_a_runtime_is_judged_by_live_autograd(trial: Trial, require: Require, runtime: str, tuned: bool) -> None:
    require(importlib.util.find_spec(runtime.replace("torchscript", "torch")), runtime, f"pip install {runtime}")
    file = "model.pt" if runtime == "torchscript" else "model.onnx"
    row = InPython(runtime, file, tuned=tuned).run(trial, rounds=2)
    assert row.median <= row.worst < 1e-5
    assert row.decided < 1e-5
    assert row.explained > 0
    assert row.forward > 0
    assert row.mib > 10
    wrong = dataclasses.replace(trial, expected=[1.01 * sample for sample in trial.expected])
    assert disagreements({"rows": [dataclasses.asdict(InPython(runtime, file, tuned=tuned).run(wrong, rounds=1))]})


def test_a_program_that_is_not_there_has_not_run(trial: Trial) -> None:
    for runtime in (Program("onnxruntime (C++)", "libonnxruntime", None), Node(None)):
        with pytest.raises(NotRun, match=r"^not run: "):
            runtime.run(trial, 1)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, False),
        ({"median": 1e-3}, True),
        ({"median": float("nan")}, True),
        ({"decided": 1e-3}, True),
        ({"decided": None}, False),
        ({"median": None, "worst": None, "decided": None, "reason": "not run"}, False),
    ],
)
def test_what_counts_as_wrong(change: dict, wrong: bool) -> None:
    row = dataclasses.asdict(dataclasses.replace(ROW, **change))
    assert bool(disagreements({"rows": [row]})) == wrong


def test_a_program_s_median_is_read() -> None:
    assert middle("load 3.0 ms\nbatch 1, threads 1, 60 calls: p50 12.34, p90 20.00 ms") == 12.34
    assert middle("median 3.39 ms of 20 runs") == 3.39
    with pytest.raises(NotRun, match="printed no median"):
        middle("fast")


def test_the_page_is_written_from_what_is_known(tmp_path: Path) -> None:
    rows = [
        ROW,
        dataclasses.replace(ROW, version="1.15.0"),
        Row("torchscript (C++)", "", "net", 32, "guided", reason="not run: its program was not given"),
        *(dataclasses.replace(ROW, method="gradient", explained=None, forward=None, version=v) for v in ("1", "2")),
    ]
    opsets = [Opsets("1.15.0", 19, 9, {"17": 2e-7, "18": 3e-7, "19": "net: no Pad|19"}), Opsets("2", 24, 11, {})]
    found = {
        "command": "python scripts/runtimes.py",
        "processor": "a processor",
        "python": "3.11.2",
        "torch": "2.13.0",
        "rounds": 60,
        "rows": [dataclasses.asdict(row) for row in rows],
        "opsets": [dataclasses.asdict(row) for row in opsets],
    }
    results, page = tmp_path / "runtimes.json", tmp_path / "runtimes.md"
    results.write_text(json.dumps(found))
    result = CliRunner().invoke(
        runtimes.main, ["--known", "--results", str(results), "--report", str(page)], catch_exceptions=False
    )
    assert result.exit_code == 0
    text = page.read_text()
    assert "| onnxruntime (Python) | 1.32.0 | 50 | 6.00 (3.00x) |" in text
    assert "| onnxruntime (Python) | 1.15.0 | 2e-07 / 3e-03\\* |" in text
    assert "| torchscript (C++) |  |  | not run |" in text
    assert "| 1.15.0 | 19 | 9 | 2e-07 | 3e-07 | fails [1] |  |" in text
    assert "[1] 1.15.0, opset 19: net: no Pad\\|19" in text
    assert "- torchscript (C++): not run: its program was not given" in text


def test_the_shipped_page_is_the_shipped_results() -> None:
    docs = Path(__file__).parents[2] / "docs"
    found = runtimes.read(docs / "runtimes.json")
    assert (docs / "runtimes.md").read_text() == document(found)
    assert not disagreements(found)
