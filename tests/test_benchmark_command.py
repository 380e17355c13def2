"""``scripts/benchmark.py`` as a command: what it refuses before it measures, what it keeps, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from scripts import benchmark
from scripts.benchmarking import contenders as c
from scripts.benchmarking import files, machine, plots, processes
from scripts.benchmarking.measure import Effort
from scripts.benchmarking.plan import Case
from scripts.benchmarking.records import NOT_MADE, Record, Records

SPEED = Case("speed", "resnet18")
ONE_CASE = ("--models", "resnet18", "--only", "speed", "--batches", "1", "--threads", "1")
NOT_INSTALLED = "captum is not installed here"


def race(missing: dict[str, str] | None = None, ms: float = 1.0) -> dict[str, Any]:
    """A race's result, in which some contenders have none."""
    rows: dict[str, Any] = {name: {"missing": "", "round_ms": [ms]} for name in (c.YARDSTICK, c.ARTIFACT, c.CAPTUM)}
    rows |= {name: {"missing": why} for name, why in (missing or {}).items()}
    return {"yardstick": c.YARDSTICK, "calls": 2, "contenders": rows}


def record(result: dict[str, Any], missing: str = "", **more: Any) -> Record:
    """A record of :data:`SPEED` that holds here."""
    sources = files.sources(SPEED.part)
    made = Record(SPEED, "python", machine.machine(), machine.versions(), sources, missing, result)
    return replace(made, **more)


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


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(case: Case, effort: Effort) -> dict[str, Any]:
        raise processes.Failed("MemoryError")

    monkeypatch.setattr(benchmark, "measure", fail)


def times(output: Path) -> dict[str, list[float]]:
    """The times that the one record in a file has."""
    (found,) = Records(output / "results.json")
    return {name: row["round_ms"] for name, row in found.result["contenders"].items() if not row["missing"]}


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


def test_records_of_another_processor_get_no_company(tmp_path: Path, measured: list[Case]) -> None:
    other = {**machine.machine(), "processor": "Abacus"}
    Records(tmp_path / "results.json").put(record(race(), machine=other))
    before = (tmp_path / "results.json").read_bytes()
    refuse("the records are of Abacus (", *ONE_CASE, "--output", tmp_path)
    refuse(f"this is {machine.processor(machine.machine())}: keep its own with another --output", "--output", tmp_path)
    assert measured == []
    assert (tmp_path / "results.json").read_bytes() == before
    assert start("--report-only", "--output", tmp_path).exit_code == 0


def test_records_of_another_gpu_get_no_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Case]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    Records(tmp_path / "results.json").put(record({**race(), "gpu": "GPU 1"}))
    cuda = ("--device", "cuda", "--models", "resnet18", "--output", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU 2")
    refuse("the records are of GPU 1; this is GPU 2: keep its own with another --output", *cuda)
    assert measured == []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU 1")
    assert start(*cuda).exit_code == 0
    assert measured


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


# -- what is kept ------------------------------------------------------------------------------------------------


def test_a_failure_is_the_exit_status(tmp_path: Path, failing: None) -> None:
    result = start(*ONE_CASE, "--output", tmp_path)
    assert result.exit_code == 1
    assert "1 case(s) failed" in result.stderr
    (found,) = Records(tmp_path / "results.json")
    assert found.missing == "it failed: MemoryError"
    assert (tmp_path / "README.md").exists()


def test_a_failure_is_said_where_the_earlier_record_stays(tmp_path: Path, failing: None) -> None:
    Records(tmp_path / "results.json").put(record(race()))
    result = start(*ONE_CASE, "--output", tmp_path)
    assert result.exit_code == 1
    assert "it failed: MemoryError; the earlier record stays\n" in result.stderr
    assert times(tmp_path)[c.ARTIFACT] == [1.0]


def test_a_file_that_was_not_made_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = f"{NOT_MADE}: RuntimeError: no space"
    monkeypatch.setattr(benchmark, "measure", lambda *args: race({c.ARTIFACT: why}, 2.0))
    result = start(*ONE_CASE, "--output", tmp_path)
    assert result.exit_code == 1
    assert f"; {why}\n" in result.stderr
    assert "1 case(s) failed" in result.stderr
    assert times(tmp_path) == {c.YARDSTICK: [2.0], c.CAPTUM: [2.0]}


def test_a_package_that_is_gone_takes_no_result_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Records(tmp_path / "results.json").put(record(race()))
    left = {name: version for name, version in machine.versions().items() if name != "captum"}
    monkeypatch.setattr(machine, "versions", lambda: left)
    monkeypatch.setattr(benchmark, "measure", lambda *args: race({c.CAPTUM: NOT_INSTALLED}, 2.0))
    result = start(*ONE_CASE, "--output", tmp_path)
    assert result.exit_code == 0
    assert f"the earlier record stays, for this one lacks {c.CAPTUM}\n" in result.stderr
    assert times(tmp_path) == {name: [1.0] for name in (c.YARDSTICK, c.ARTIFACT, c.CAPTUM)}


OTHERS = {
    "machine": {**machine.machine(), "memory_gib": 1},
    "versions": {**machine.versions(), "onnxruntime": "0.1"},
    "sources": "of long ago",
}
"""What a record may have that is not so here."""


@pytest.mark.parametrize("what", OTHERS)
def test_what_no_longer_holds_is_replaced(what: str, tmp_path: Path) -> None:
    records = Records(tmp_path / "results.json")
    records.put(record(race(), **{what: OTHERS[what]}))
    assert records.put(record(race({c.CAPTUM: NOT_INSTALLED}, 2.0))) == ""
    assert times(tmp_path) == {c.YARDSTICK: [2.0], c.ARTIFACT: [2.0]}


@pytest.mark.parametrize("what", [*OTHERS, ""])
def test_resuming_measures_what_no_longer_holds(what: str, tmp_path: Path, measured: list[Case]) -> None:
    Records(tmp_path / "results.json").put(record(race(), **({what: OTHERS[what]} if what else {})))
    assert start(*ONE_CASE, "--resume", "--output", tmp_path).exit_code == 0
    assert measured == ([SPEED] if what else [])


@pytest.mark.parametrize(
    ("why", "absent", "again"),
    [
        (NOT_INSTALLED, "", True),
        (NOT_INSTALLED, NOT_INSTALLED, False),
        ("it failed: no kernel", "", False),
        (NOT_MADE, "", True),
    ],
)
def test_resuming_measures_who_can_be_imported_by_now(
    why: str, absent: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Case]
) -> None:
    Records(tmp_path / "results.json").put(record(race({c.CAPTUM: why})))
    monkeypatch.setattr(c.Contender, "absent", lambda self: absent)
    assert start(*ONE_CASE, "--resume", "--output", tmp_path).exit_code == 0
    assert bool(measured) == again


def test_resuming_measures_who_was_installed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Case]
) -> None:
    before = {name: version for name, version in machine.versions().items() if name != "captum"}
    Records(tmp_path / "results.json").put(record(race(), versions=before))
    now = {**machine.versions(), "captum": "99"}
    monkeypatch.setattr(machine, "versions", lambda: now)
    assert start(*ONE_CASE, "--resume", "--output", tmp_path).exit_code == 0
    assert measured == [SPEED]


def test_records_have_the_version_of_all_that_contenders_import() -> None:
    """Otherwise a newer one would leave a record as it is."""
    installed = packages_distributions()
    modules = {need.partition(".")[0] for contender in c.EVERYONE.values() for need in contender.needs} - {"exporter"}
    for module in modules & installed.keys():
        assert set(installed[module]) & set(machine.PACKAGES), module


@pytest.mark.parametrize(("place", "parts"), [(place, ("speed", "session", "cuda")) for place in files.MEASURING])
def test_what_times_a_record_is_among_its_sources(
    place: str, parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (files.ROOT / place).is_file()
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / place).parent.mkdir(parents=True)
    found = []
    for text in ("x = 1", "x = 2"):
        (tmp_path / place).write_text(text)
        found.append({part: files.sources(part) for part in (*parts, "export")})
    assert {part for part in found[0] if found[0][part] != found[1][part]} == set(parts)


# -- how it ends -------------------------------------------------------------------------------------------------


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stop", "status"),
    [(press_ctrl_c, 1), (lambda: os.kill(os.getpid(), signal.SIGTERM), 143)],
    ids=["SIGINT", "SIGTERM"],
)
def test_who_interrupts_hears_of_the_report(
    stop: Callable[[], None], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(case: Case, effort: Effort) -> dict[str, Any]:
        if case.batch > 1:
            stop()
        return race()

    monkeypatch.setattr(benchmark, "measure", fake)
    arguments = ("--models", "resnet18", "--only", "speed", "--output", tmp_path, "--batches")
    result = start(*arguments, "8")
    assert (result.exit_code, "Interrupted" in result.stderr) == (status, False)  # nothing is recorded
    result = start(*arguments, "1,8")
    assert result.exit_code == status
    assert (
        f"Interrupted: --report-only makes tables and plots of what {tmp_path}/results.json has by now.\n"
        in result.stderr
    )
    assert start("--report-only", "--output", tmp_path).exit_code == 0


def test_a_report_that_breaks_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Records(tmp_path / "results.json").put(record(race()))
    assert start("--report-only", "--output", tmp_path).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "ratios.svg" in before

    def breaks(records: Records, folder: Path) -> list[str]:
        (folder / "ratios.svg").write_text("<svg")
        raise OSError("the disk is full")

    monkeypatch.setattr(plots, "draw", breaks)
    with pytest.raises(OSError, match="the disk is full"):
        start("--report-only", "--output", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
