"""Random networks: eager, TorchScript and onnxruntime agree with live autograd; ``scripts/fuzz.py`` runs many more."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import Tensor, nn

from exporter.rectifiers import RANGES
from exporter.rules import VJPS
from scripts.fuzz import main
from tests.fuzzing.explore import Exploration, explore
from tests.fuzzing.generator import FAMILIES, networks
from tests.fuzzing.magnitudes import Magnitudes
from tests.fuzzing.network import REAL, WHOLE, Network, make
from tests.fuzzing.templates import IMAGES, TEMPLATES, Template

aten = torch.ops.aten
PARTS, NETWORKS = 5, 15

AT_ONCE, IMAGES_AT_ONCE = 8, 3
"""How many templates a network is asked to have when all of them are tried; fewer of those that make images smaller."""

IMAGES_STAY = {"convolution", "join", "norm", "pool", "product"}
"""Families of templates for images that leave the rank as it is."""

SHAPES = {2: (6,), 3: (4, 6), 4: (3, 6, 5), 5: (2, 3, 4, 4)}
"""Rank with the batch -> one input's shape, on which most templates can be written."""

NEVER_DRAWN = {
    "aten.clip.default": "canonicalize writes clamp",
    "aten.squeeze.default": "would take away the batch of one image",
    "aten.view.default": "canonicalize writes reshape",
}
"""Operators with a rule that no random network has -> why."""


def groups() -> list[tuple[str, int, tuple[Template, ...]]]:
    """Return every template, with others for the same kind and rank of network.

    Those for images, whose operator depends on the rank, once for each rank: together where none of them changes it,
    for what comes after one that does may be drawn for a value of another rank.
    """
    alike: dict[tuple[str, int, int], list[Template]] = {}
    for template in TEMPLATES.values():
        kind = WHOLE if WHOLE in template.kinds else REAL
        ranks = [rank for rank in (4, 3, 5, 2) if rank in template.ranks]
        of_images = template.ranks == IMAGES
        at_once = AT_ONCE if not of_images else IMAGES_AT_ONCE if template.family in IMAGES_STAY else 1
        for rank in ranks if of_images else ranks[:1]:
            alike.setdefault((kind, rank, at_once), []).append(template)
    found = []
    for (kind, rank, at_once), templates in alike.items():
        count = -(-len(templates) // at_once)
        found += [(kind, rank, tuple(templates[start::count])) for start in range(count)]  # families mixed
    return found


def tour() -> list[Exploration]:
    """Check networks that have every template between them; one that found no place has a network of its own."""
    found = []
    for kind, rank, templates in groups():
        if len(templates) == 1:
            found.append(alone(templates[0], rank))
            continue
        first = explore(0, 1, networks(templates, kind, SHAPES[rank]))
        left = [one for one in templates if one.name not in first.templates]
        found += [first, *(alone(template, rank) for template in left)]
    return found


def alone(template: Template, rank: int) -> Exploration:
    """Check networks of one template, of a rank, or of another where that has no place for it."""
    again = TEMPLATES["{x} * {n}"]  # so that there are two values to tell apart
    for count, other in ((1, rank), (3, rank), (3, template.ranks[-1])):
        found = explore(0, count, networks((again, template), template.kinds[0], SHAPES[other]))
        if template.name in found.templates:
            break
    return found


def agreed(found: Exploration) -> None:
    assert not found.failure, found.failure
    assert sum(found.refused.values()) <= 0.05 * len(found.digests), found.refused


@pytest.mark.parametrize("part", range(PARTS))
def test_random_networks_agree(part: int) -> None:
    agreed(explore(part, NETWORKS))


@pytest.mark.long
def test_every_template_agrees_and_every_rule_is_tried() -> None:
    """Each operator with a rule, and each that may be a rectifier, is in some network of the tour."""
    found = tour()
    for one in found:
        assert not one.failure, one.failure
        assert one.templates, one.refused
    assert set(TEMPLATES) - {name for one in found for name in one.templates} == set()
    ours = {str(op) for op, _ in VJPS} | {str(op) for op in RANGES}
    assert ours - {name for one in found for name in one.operators} == set(NEVER_DRAWN)


@pytest.mark.parametrize("rank", IMAGES)
def test_what_leaves_the_rank_does(rank: int) -> None:
    """So that each template of a network of them is tried on values of the rank that is meant."""
    for template in TEMPLATES.values():
        if template.ranks == IMAGES and template.family in IMAGES_STAY:
            check_rank(template, rank)


def check_rank(template: Template, rank: int) -> None:
    @seed(0)
    @settings(max_examples=1, phases=(Phase.generate,), database=None, deadline=None)
    @given(networks((template,), template.kinds[0], SHAPES[rank]))
    def run(network: Network) -> None:
        if template.name in network.templates:
            alone = replace(network, body=network.body[:1], result="v0")
            assert alone.module()(network.images()[0]).ndim == rank, template.name

    run()


def test_every_family_is_drawn() -> None:
    assert {template.family for template in TEMPLATES.values()} == set(FAMILIES)


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """And reported with a file that anyone can export."""
    monkeypatch.setitem(VJPS, (aten.mul.Tensor, 0), lambda ct, y, a, b: ct * a)
    found = explore(0, 20, networks((TEMPLATES["{x} * {w}"],), WHOLE), shrink=False)
    assert found.failure.startswith("eager, batch of ")
    assert "autograd's" in found.failure
    message, _, source = found.failure.partition('\n\n"""')
    assert message
    assert isinstance(make(f'"""{source}'), nn.Module)


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (lambda x: x.sum(), True),
        (lambda x: x.mean(), True),
        (lambda x: x[:5].sum() / 3, False),
        (lambda x: (x * 2.0**20).sum(), False),
        (lambda x: (x * 2.0**20).diff().sum(), False),
        (lambda x: x * 2.0**-25, False),
        (lambda x: x / 0, False),
    ],
    ids=["sum", "mean", "a third", "too large", "too large on the way", "too fine", "infinite"],
)
def test_what_float32_holds_is_known(function: Callable[[Tensor], Tensor], exact: bool) -> None:
    with Magnitudes() as seen:
        function(torch.arange(8, dtype=torch.float64))
    assert seen.exact == exact


def test_the_networks_have_ties_and_zeros() -> None:
    """Without them to agree to the bit would prove less."""
    seen: Counter[str] = Counter()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (F.relu, torch.relu, Tensor.relu_, Tensor.clamp):
                seen["zeros"] += int((args[0] == 0).sum())
            if func in (F.max_pool2d, torch.max_pool2d) and min(args[0].shape[-2:]) > 1:
                windows = F.unfold(args[0].flatten(0, 1)[:, None], 2)
                seen["ties"] += int(((windows == windows.amax(1, keepdim=True)).sum(1) > 1).sum())
            return func(*args, **(kwargs or {}))

    @seed(0)
    @settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(networks([TEMPLATES[name] for name in ("max_pool", "F.relu({x})", "max_pool")], WHOLE, SHAPES[4]))
    def run(network: Network) -> None:
        model = network.module()
        with Watch(), torch.no_grad():
            model(network.images()[0])

    run()
    assert min(seen["zeros"], seen["ties"]) > 100


def test_the_script_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.fuzz.CHUNK", 3)
    state = tmp_path / "fuzz.jsonl"
    first = run_script("--count", "1", "--state", str(state), "--seed", "7")
    assert first.exit_code == 0, first.output
    assert "0 failures, 0 refused" in first.output
    with state.open("a") as file:
        file.write('{"seed": 8, "dig')  # as a run that was stopped leaves it
    again = run_script("--count", "1", "--state", str(state), "--seed", "7")
    assert again.output == first.output
    (done,) = map(json.loads, state.read_text().splitlines())
    assert (done["seed"], len(done["digests"])) == (7, 3)
    other = run_script("--count", "1", "--state", str(state), "--seed", "8")
    assert other.exit_code == 2
    assert "is of seed 7, not of 8" in other.output


def run_script(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)
