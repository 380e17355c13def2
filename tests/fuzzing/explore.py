"""Draws and checks random networks from one seed; the tests and ``scripts/fuzz.py`` both do it this way."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.fuzzing.check import Disagreement, check
from tests.fuzzing.generator import networks
from tests.fuzzing.network import Network


@dataclass
class Exploration:
    """What a number of networks came to.

    Attributes:
        seed: Gives the same networks again.
        digests: One for each network.
        kinds: How many were of each kind.
        refused: Message -> how many networks were refused with it.
        operators: In how many networks each ATen operator was, in the canonical forward pass.
        templates: In how many networks each template was.
        seconds: Wall time.
        failure: What disagreed first, with the smallest network that Hypothesis found for it; or empty.
    """

    seed: int
    digests: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    templates: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what a line of the state file holds."""
        return dict(vars(self))

    def add(self, network: Network) -> None:
        """Check one more network, unless it is one of those before."""
        if network.digest() in self.digests:
            return
        outcome = check(network)
        self.digests.append(network.digest())
        self.kinds[network.kind] += 1
        self.operators.update(set(outcome.operators))
        self.templates.update(set(network.templates))
        if outcome.refused:
            self.refused[outcome.refused] += 1


def explore(
    number: int, count: int, strategy: SearchStrategy[Network] | None = None, *, shrink: bool = True
) -> Exploration:
    """Check ``count`` networks drawn from the seed ``number``; stop at the first failure, once it is small.

    Hypothesis draws some twice; these are checked once.
    """
    found = Exploration(number)

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
    )
    @given(networks() if strategy is None else strategy)
    def run(network: Network) -> None:
        found.add(network)

    start = time.perf_counter()
    try:
        run()
    except Disagreement as error:
        found.failure = str(error)
    except Exception:  # the generator's own
        found.failure = traceback.format_exc()
    found.seconds = time.perf_counter() - start
    return found
