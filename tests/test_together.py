"""Calls side by side: each on its own share of PyTorch's threads, with what they return and raise in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from exporter.errors import VerificationFailed
from exporter.pipeline import export
from exporter.together import MOST, together


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_calls_run_at_the_same_time_and_share_the_threads() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def call() -> int:
        meeting.wait()  # broken, and so an error, unless the other call runs too
        return torch.get_num_threads()

    assert together([call, call]) == [2, 2]
    assert together([torch.get_num_threads] * 9) == [4 // MOST] * 9


@pytest.mark.usefixtures("threads")
def test_the_first_error_in_order_is_raised() -> None:
    late = threading.Event()

    def first() -> None:
        late.wait(30)
        raise ValueError("first")

    def second() -> None:
        late.set()
        raise KeyError("second")

    with pytest.raises(ValueError, match="first"):
        together([first, second])


def test_one_thread_runs_one_call_after_the_other() -> None:
    assert torch.get_num_threads() == 1  # set for all tests
    assert len({*together([threading.get_ident] * 3), threading.get_ident()}) == 1


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.usefixtures("threads")
def test_a_proof_on_several_threads_says_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Small().eval()
    several = export(model, (1, 6, 6), tmp_path / "several").manifest["parity"]
    torch.set_num_threads(1)
    one = export(model, (1, 6, 6), tmp_path / "one").manifest["parity"]
    torch.set_num_threads(4)
    for key in ("seed", "cases", "targets", "rejected_targets", "zero", "skipped"):
        assert several[key] == one[key]
    runtimes = [(entry["runtime"], entry["dtype"]) for entry in one["runtimes"]]
    assert [(entry["runtime"], entry["dtype"]) for entry in several["runtimes"]] == runtimes


@pytest.mark.usefixtures("threads")
def test_a_proof_on_several_threads_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporter import differentiate

    monkeypatch.setattr(differentiate, "seed", lambda logits, target: torch.ones_like(logits))
    with pytest.raises(VerificationFailed, match="torchscript float64"):
        export(Small().eval(), (1, 6, 6), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
