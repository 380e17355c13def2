"""``scripts/benchmark.py`` as a command: what it refuses before it measures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from scripts import benchmark
from scripts.benchmarking import contenders as c
from scripts.benchmarking import files, machine, processes
from scripts.benchmarking.measure import Effort
from scripts.benchmarking.plan import Case
from scripts.benchmarking.records import Record, Records

SPEED = Case("speed", "resnet18")
ONE_CASE = ("--models", "resnet18", "--only", "speed", "--batches", "1", "--threads", "1")


def race(ms: float = 1.0) -> dict[str, Any]:
    rows: dict[str, Any] = {name: {"missing": "", "round_ms": [ms]} for name in (c.YARDSTICK, c.ARTIFACT, c.CAPTUM)}
    return {"yardstick": c.YARDSTICK, "calls": 2, "contenders": rows}


def record(result: dict[str, Any], missing: str = "") -> Record:
    """A record of :data:`SPEED` that holds here."""
    sources = files.sources(SPEED.part)
    return Record(SPEED, "python", machine.machine(), machine.versions(), sources, missing, result)


def start(*arguments: str | Path) -> Result:
    return CliRunner().invoke(benchmark.main, list(map(str, arguments)), catch_exceptions=False)


def refuse(message: str, *arguments: str | Path) -> None:
    result = start(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that were measured, in place of measuring them."""
    asked: list[Case] = []

    def fake(case: Case, effort: Effort) -> dict[str, Any]:
        asked.append(case)
        return race(ms=2.0)

    monkeypatch.setattr(benchmark, "measure", fake)
    return asked


# -- what is refused before anything is measured, or written -----------------------------------------------------


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("nonexistent", "nonexistent"),
        ("resnet18,", "--model ''"),
        ("", "--model ''"),
        ("resnet18,nowhere.py:make", "nowhere.py"),
        ("torchvision:", "name the network too, for example torchvision:resnet18"),
    ],
)
def test_a_spec_of_no_network(models: str, message: str, tmp_path: Path, measured: list[Case]) -> None:
    output = tmp_path / "out"
    refuse(message, "--models", models, "--output", output)
    assert measured == []
    assert not output.exists()


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_not_installed_is_no_wrong_use(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(processes, "run", lambda *args, **kwargs: pytest.fail("nothing is measured"))
    assert start("--models", f"{library}:resnet18", "--only", "export", "--output", tmp_path).exit_code == 0
    (found,) = Records(tmp_path / "results.json")
    assert found.missing == f"{library} is not installed here"


@pytest.mark.parametrize("package", benchmark.NEEDED)
def test_a_needed_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Case]) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refuse(f"{package} not installed here: pip install -e '.[bench]'", "--output", tmp_path / "out")
    assert measured == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [["--device", "cuda"], ["--only", "cuda"]])
def test_no_gpu(how: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Case]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    refuse("torch finds no CUDA device here", *how)
    assert measured == []
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "nan"], "'nan' is not a number of seconds"),
        (["--seconds", "-1"], "-1.0 is not in the range x>=0"),
        (["--threads", "1,3"], "--threads 3: there are 2 cores here"),
        (["--report-only"], "--report-only: there is no "),
    ],
)
def test_options_that_cannot_be(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Case]
) -> None:
    monkeypatch.setattr(processes, "available", lambda: 2)
    refuse(message, *arguments, "--output", tmp_path / "out")
    assert measured == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "message"), [("file", "is a file"), ("file/below", "cannot be made: Not a directory")]
)
def test_an_output_that_is_no_folder(place: str, message: str, tmp_path: Path, measured: list[Case]) -> None:
    (tmp_path / "file").touch()
    refuse(message, *ONE_CASE, "--output", tmp_path / place)
    assert measured == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON: "),
        ("[]", "is no file of results: $: [] is not of type 'object'"),
        ('{"schema": 1}', "is no file of results: $: 'records' is a required property"),
        ('{"records": []}', "is no file of results: $: 'schema' is a required property"),
        (f'{{"schema": 1, "records": {"x" * 9999!r}}}'.replace("'", '"'), "is not of type 'array'"),
    ],
)
def test_a_file_of_something_else(text: str, message: str, tmp_path: Path, measured: list[Case]) -> None:
    (tmp_path / "results.json").write_text(text)
    result = start(*ONE_CASE, "--output", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}/results.json is " in result.stderr
    assert message in result.stderr
    assert len(result.stderr) < 999
    assert measured == []
    assert (tmp_path / "results.json").read_text() == text


def test_a_case_with_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Records(path).put(record(race()))
    stored = json.loads(path.read_text())
    stored["records"][0]["case"]["color"] = "red"
    path.write_text(json.dumps(stored))
    refuse(
        "$.records[0].case: Additional properties are not allowed ('color' was", "--report-only", "--output", tmp_path
    )


def test_results_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    refuse("results.json cannot be read: Is a directory", "--report-only", "--output", tmp_path)


def test_one_core_is_enough_for_what_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Case]
) -> None:
    monkeypatch.setattr(processes, "available", lambda: 1)
    assert start("--models", "resnet18", "--only", "growth", "--output", tmp_path).exit_code == 0
    assert {case.threads for case in measured} == {1}


def test_the_help_has_the_defaults() -> None:
    said = " ".join(start("--help").stdout.split())
    for name in ("rounds", "seconds", "repeats"):
        usual, quick = (getattr(effort, name) for effort in (Effort(), benchmark.QUICK_EFFORT))
        assert f"[default: {usual:g}; quick: {quick:g}]" in said
