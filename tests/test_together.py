"""Calls side by side: each on its own share of PyTorch's threads, with what they return and raise in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from exporter.errors import UnsupportedModel, VerificationFailed
from exporter.pipeline import export
from exporter.together import MOST, Step, together


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


@pytest.mark.usefixtures("threads")
def test_a_step_is_made_once_and_waited_for() -> None:
    made = []
    slow = Step(lambda: made.append(threading.Event().wait(0.2)) or len(made))
    assert together([slow, slow.result, slow.result])[1:] == [1, 1]
    assert slow.result() == 1


@pytest.mark.usefixtures("threads")
def test_who_waits_for_a_step_that_fails_gets_its_error() -> None:
    waiting, seen = threading.Event(), []

    def fail() -> None:
        waiting.wait(30)
        raise ValueError("the step's own")

    def wait() -> None:
        waiting.set()
        try:
            step.result()
        except ValueError as error:
            seen.append(str(error))

    step = Step(fail)
    with pytest.raises(ValueError, match="the step's own"):
        together([step, wait])
    assert seen == ["the step's own"]


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


class Failing(Small):
    """Runs until live autograd asks for a derivative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and not torch.compiler.is_exporting():
            raise RuntimeError("no derivatives today")
        return super().forward(x)


@pytest.mark.parametrize("several", [False, True])
def test_a_judge_that_fails_says_why_and_nobody_waits_for_it(
    several: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if several:
        request.getfixturevalue("threads")
    with pytest.raises(UnsupportedModel, match="autograd does not run Failing: no derivatives today"):
        export(Failing().eval(), (1, 6, 6), tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("threads")
def test_sessions_that_run_in_float64_where_the_network_does_not(tmp_path: Path) -> None:
    """They may be done before that is known, and then do not count."""

    class Single(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype == torch.float64:
                raise RuntimeError("expected scalar type Float")
            return super().forward(x)

    parity = export(Single().eval(), (1, 6, 6), tmp_path / "a").manifest["parity"]
    assert parity["skipped"] == "the network does not run in float64: expected scalar type Float"
    assert {entry["dtype"] for entry in parity["runtimes"]} == {"float32"}


def test_a_network_that_keeps_what_it_computed_is_tried_in_float64(tmp_path: Path) -> None:
    """After a run with gradients PyTorch alone does not copy it."""

    class Keeping(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = self[0](x)
            return super().forward(x)

    parity = export(Keeping().eval(), (1, 6, 6), tmp_path / "a").manifest["parity"]
    assert parity["skipped"] == ""
    assert {entry["dtype"] for entry in parity["runtimes"]} == {"float32", "float64"}
