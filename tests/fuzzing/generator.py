"""Random networks, as Hypothesis draws and shrinks them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn

from exporter.methods import METHODS
from tests.fuzzing.draft import Draft, Operand
from tests.fuzzing.magnitudes import Magnitudes
from tests.fuzzing.network import REAL, WHOLE, Network
from tests.fuzzing.templates import ANY_RANK, TEMPLATES, Template
from tests.oracle import attribute

STEPS = 2, 10
"""Fewest and most statements before the head."""

TRIES = 4
"""How often a template that is asked for is tried, on other operands and with other settings."""

FAMILIES = {
    "rectifier": 5,
    "convolution": 3,
    "join": 1,
    "product": 4,
    "shape": 4,
    "arithmetic": 3,
    "pool": 2,
    "in place": 2,
    "activation": 2,
    "reduction": 2,
    "norm": 1,
}
"""How often a statement is of a family, in relation to the others."""

CONVOLUTIONAL = {"convolution": 6, "rectifier": 4, "norm": 1, "join": 2, "pool": 1}
"""The same for a network as most that explain images are."""

_SIZES = {
    2: st.tuples(st.integers(2, 8)),
    3: st.tuples(st.integers(1, 4), st.integers(2, 8)),
    4: st.tuples(st.integers(1, 4), st.integers(2, 7), st.integers(2, 7)),
    5: st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(2, 4), st.integers(2, 4)),
}
"""Rank with the batch -> shapes without it."""

_STEADY = 2e-6
"""How far a network's logits in float32 may be from those in float64, in relative L2: a fifth of the tolerance."""

PROBES = 32
"""On how many inputs: the proof draws its own."""


@st.composite
def networks(
    draw: Any, templates: Sequence[Template] = (), kind: str | None = None, shape: tuple[int, ...] | None = None
) -> Network:
    """Draw a network.

    Args:
        draw: Hypothesis's.
        templates: What to write, each if it finds an operand; without, the network is random.
        kind: ``whole`` or ``real``; by default four of five are whole.
        shape: Of one input, without the batch.
    """
    kind = kind or draw(st.sampled_from((WHOLE, WHOLE, WHOLE, WHOLE, REAL)))
    classes = draw(st.integers(2, 5))
    batch = st.lists(st.integers(-1, classes - 1), min_size=1, max_size=3).map(tuple)
    network = Network(
        kind,
        shape or draw(_SIZES[draw(st.sampled_from((4, 2, 3, 5, 4, 4)))]),
        (),
        (),
        "x",
        draw(st.sampled_from(sorted(METHODS, reverse=True))),
        tuple(draw(st.lists(batch, min_size=1, max_size=2))),
        draw(st.integers(0, 2**16)),
    )
    families = CONVOLUTIONAL if len(network.shape) == 3 and draw(st.booleans()) else FAMILIES
    draft = Draft(draw, network)
    for template in templates:
        any(draft.add(template) for _ in range(TRIES))
    for _ in range(0 if templates else draw(st.integers(*STEPS))):
        draft.add(_template(draft, families))
    result = _finish(draft, classes)
    network = dataclasses.replace(
        network, setup=tuple(draft.setup), body=tuple(draft.body), result=result, templates=tuple(draft.templates)
    )
    assume(_decidable(network))
    return network


def _template(draft: Draft, families: Mapping[str, int]) -> Template:
    family = draft.pick(*(name for name, weight in families.items() for _ in range(weight)))
    return draft.pick(*_OF_FAMILY[draft.kind, family])


_OF_FAMILY = {
    (kind, family): [one for one in TEMPLATES.values() if one.family == family and kind in one.kinds]
    for kind in (WHOLE, REAL)
    for family in FAMILIES
}

_RECTIFIER = Template("last rectifier", "rectifier", "F.relu({x})")

_TO_VECTORS = ("{x}.flatten(1)", "{x}.flatten(2).sum(2)", "{x}.flatten(2).max(2).values", "{x}.flatten(2).mean(2)")

_HEADS = (
    "{m:nn.Linear({c}, CLASSES)}({x})",
    "{x} @ {w:{c},CLASSES}",
    "F.linear({x}, {w:CLASSES,{c}})",
    "torch.addmm({w:CLASSES}, {x}, {w:{c},CLASSES})",
)


def _finish(draft: Draft, classes: int) -> str:
    """Let every value that nothing has read yet have a say in the logits; return their expression."""
    if not any(TEMPLATES[name].family == "rectifier" for name in draft.templates if name in TEMPLATES):
        assume(draft.add(_RECTIFIER))
    vectors = [_one_of(draft, _TO_VECTORS, x) if len(x.shape) > 2 else x for x in draft.unread()]
    vector = vectors[0]
    if len(vectors) > 1:
        vector = _named(draft, f"torch.cat([{', '.join(x.name for x in vectors)}], 1)")
    heads = tuple(head.replace("CLASSES", str(classes)) for head in _HEADS)
    if vector.channels == classes and draft.chance():
        return vector.name
    return _one_of(draft, heads, vector).name


def _one_of(draft: Draft, texts: tuple[str, ...], x: Operand) -> Operand:
    text = draft.pick(*texts)
    assume(draft.write(Template("head", "head", text, ANY_RANK), x))
    return draft.operands[-1]


def _named(draft: Draft, expression: str) -> Operand:
    assume(draft.write(Template("head", "head", expression), draft.operands[0]))
    return draft.operands[-1]


def _decidable(network: Network) -> bool:
    """Tell whether the right answer is known to the last bit, or, in real numbers, to rounding; and is not zero.

    Of live autograd alone: nothing that is under test has a part in what is tested. It may refuse a batch of one: a
    normalisation has too few values then, and an operator may keep a view of its input where it would else copy, so
    that nothing must be written into it.
    """
    try:
        return _has_an_answer(network)
    except (RuntimeError, ValueError):
        return False


def _has_an_answer(network: Network) -> bool:
    model, exact = network.module(), network.module().double()
    found = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = list(zip(network.images(), map(torch.tensor, network.targets), strict=True))
        for images, target in [(image[:1], target[:1]) for image, target in cases[:1]] + cases:
            with Magnitudes() as seen:
                wanted = attribute(exact, images.double(), target, network.method, rectified=False)
            if network.kind == WHOLE and not seen.exact:
                return False
            found |= bool(wanted[1].any())
    return found and (network.kind == WHOLE or _steady(model, exact, network))


def _steady(model: nn.Module, exact: nn.Module, network: Network) -> bool:
    """Tell whether the network itself gives in float32 what it gives in float64, to a part of the tolerance.

    Its logits always, and the attribution nearly always: a rectifier's input may be within rounding of zero. One that
    is nothing but rounding, as a softmax's that is summed up again, never is.
    """
    images = torch.randn(PROBES, *network.shape, generator=torch.Generator().manual_seed(network.seed))
    target = torch.full((PROBES,), network.targets[0][0])
    rounded = attribute(model, images, target, network.method, rectified=False)
    wanted = attribute(exact, images.double(), target, network.method, rectified=False)
    logits, attribution = (
        (a - b).flatten(1).norm(dim=1) <= _STEADY * b.flatten(1).norm(dim=1)
        for a, b in zip(rounded, wanted, strict=True)
    )
    return bool(logits.all()) and attribution.double().mean().item() > 0.75
