"""The collector of cycles: off for a block or blind to what is old, and afterwards as it was."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from exporter.errors import UnsupportedModel
from exporter.pipeline import build, export
from exporter.uncollected import LEAST, WAITING, leaves, uncollected, unvisited


def test_it_runs_again_after_an_error() -> None:
    @uncollected()
    def fail() -> None:
        raise ValueError(gc.isenabled())

    assert gc.isenabled()
    with pytest.raises(ValueError, match="False"):
        fail()
    assert gc.isenabled()


def test_where_it_did_not_run_it_does_not() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_blocks_within_blocks() -> None:
    @uncollected()
    def inner(depth: int) -> bool:
        return inner(depth - 1) if depth else gc.isenabled()

    assert not inner(2)
    assert gc.isenabled()


def test_a_network_runs_with_the_collector_off_only_while_it_is_traced() -> None:
    seen = set()

    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add((torch.compiler.is_exporting(), gc.isenabled()))
            return super().forward(x)

    build(Watched(3, 2), torch.zeros(1, 3))
    assert seen == {(True, False), (False, True)}
    assert gc.isenabled()


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_old_is_passed_by_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.uncollected._left", 0)  # after WAITING bytes it begins with a collection
    gc.collect()  # so that none is due before the block
    old = weakref.ref(Cycle())
    with unvisited():
        traced, new = [], weakref.ref(Cycle())
        gc.collect()
        assert new() is None
        with uncollected():
            traced.append(weakref.ref(Cycle()))
        with unvisited():
            pass
        gc.collect()
        assert all(one() is not None for one in (old, *traced))
    gc.collect()
    assert all(one() is None for one in (old, *traced))


def test_the_block_ends_with_an_error() -> None:
    with pytest.raises(ValueError, match="of its own"), unvisited():
        raise ValueError("of its own")
    assert gc.get_freeze_count() == 0


def test_what_somebody_else_has_frozen_stays_so() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with unvisited(), uncollected():
            made = [Cycle() for _ in range(99)]
        assert len(made) < gc.get_freeze_count() <= frozen
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("size", "blocks"),
    [(0, WAITING // LEAST), (WAITING // 2 - LEAST, 2), (WAITING, 1)],
    ids=["small", "resnet18", "vgg16"],
)
def test_a_block_begins_with_a_full_collection_where_much_is_left(
    size: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.uncollected._left", 0)
    left: list[weakref.ref[Cycle]] = []
    for _ in range(2 * blocks + 1):
        with unvisited(), uncollected():
            assert [one() is None for one in left].count(True) == len(left) // blocks * blocks
            left.append(weakref.ref(Cycle()))
            leaves(size)


def test_an_export_passes_by_what_is_old(tmp_path: Path) -> None:
    frozen = set()

    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            frozen.add(gc.get_freeze_count() > 0)
            if refused and torch.is_grad_enabled() and not torch.compiler.is_exporting():
                raise RuntimeError("no derivatives today")
            return super().forward(x)

    refused = False
    export(Watched(3, 2), (3,), tmp_path / "a")
    assert frozen == {True}
    assert gc.get_freeze_count() == 0
    refused = True
    with pytest.raises(UnsupportedModel, match="no derivatives today"):
        export(Watched(3, 2), (3,), tmp_path / "b")
    assert gc.get_freeze_count() == 0
