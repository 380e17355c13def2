"""A network, ready to export: made from its SPEC, its weights loaded and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from exporter.errors import UsageError
from exporter.sources.origin import Made, Origin, did_you_mean
from exporter.sources.spec import origin_of
from exporter.sources.weights import check_finite, check_present, load_weights

DEFAULT_SHAPE = (3, 224, 224)


@dataclass(frozen=True)
class Source:
    """A network, ready to export, and what is known of it.

    Attributes:
        spec: What ``--model`` said.
        name: Short name for folders and tables.
        model: The network in eval mode, its weights loaded.
        sample_shape: One input's shape, without the batch.
        weights: Where the weights come from, in words.
        trained: Whether they were loaded rather than drawn from a seed; None where only the factory knows.
        preprocessing: From pixels to the input, where the origin knows it.
        classes: Names of the classes, where the origin knows them.
        arguments: What ``--model-args`` said.
    """

    spec: str
    name: str
    model: nn.Module
    sample_shape: tuple[int, ...]
    weights: str
    trained: bool | None
    preprocessing: models.Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Return what a manifest's ``model`` section says of the source."""
        described: dict[str, Any] = {"spec": self.spec, "weights": self.weights, "trained": self.trained}
        if self.arguments:
            described["args"] = dict(self.arguments)
        if self.preprocessing is not None:
            described["preprocessing"] = asdict(self.preprocessing)
        if self.classes is not None:
            described["classes"] = list(self.classes)
        return described


def resolve(
    spec: str,
    *,
    weights: str | Path | None = None,
    sample_shape: Sequence[int] | None = None,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
) -> Source:
    """Build a network from its SPEC and load its weights.

    Args:
        spec: A zoo name, ``torchvision:NAME``, ``timm:NAME``, ``path/to/file.py:factory`` or
            ``package.module:factory``.
        weights: A file with a state dict, or the name of weights that torchvision or timm load themselves; default:
            what ships with the zoo, else the seed's random ones. A name goes before a file of the same name; a
            ``Path`` is always a file.
        sample_shape: One input's shape; default: what the origin knows, else ``(3, 224, 224)``.
        seed: Of torch's generator while the network is built.
        arguments: Keyword arguments of the factory.

    Raises:
        UsageError: There is no such model, its library is missing, its factory fails, or the weights do not fit, are
            not finite or cannot be fetched.
    """
    torch.manual_seed(seed)
    arguments = arguments or {}
    origin = origin_of(spec)
    named = weights if isinstance(weights, str) and weights in origin.weight_names else None
    file = Path(weights) if weights is not None and named is None else None
    if file is not None and not os.path.exists(file):  # unlike Path's, False for a name that cannot be
        raise UsageError(f"--weights {weights}: there is no such file{_names(spec, origin, str(weights))}")
    made = origin.make(arguments, named)
    label = f"the network that {spec} makes"
    check_present(made.model, label)
    path = file or (made.shipped if named is None else None)
    taken = load_weights(made.model, path) if path is not None else ""
    check_finite(made.model, str(path or label))
    return Source(
        spec=spec,
        name=made.name,
        model=made.model.eval(),
        sample_shape=tuple(sample_shape or made.sample_shape or DEFAULT_SHAPE),
        weights=_words(spec, made, named, path, taken, seed),
        trained=True if path or named else False if made.random else None,
        preprocessing=made.preprocessing,
        classes=None if file else made.classes,
        arguments=arguments,
    )


def _names(spec: str, origin: Origin, asked: str) -> str:
    """Return the names that an origin has for weights, to end a message about one that it does not have."""
    known = origin.weight_names
    if not known:
        return "" if Path(asked).suffix else f", and {spec} has no weights by name"
    return f", and {spec} names its weights {', '.join(known)}.{did_you_mean(asked, known)}"


def _words(spec: str, made: Made, named: str | None, path: Path | None, taken: str, seed: int) -> str:
    """Say where the weights come from."""
    if named is not None:
        return f"{named} of {spec}"
    if path is not None:
        return f"{'shipped' if path == made.shipped else 'file'} {path.name}{taken}"
    return f"untrained, seed {seed}" if made.random else f"as the factory made them, seed {seed}"
