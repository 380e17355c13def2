"""Networks of the built-in zoo, :mod:`models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import models
from exporter.errors import UsageError
from exporter.sources.factory import call
from exporter.sources.origin import Made, did_you_mean


@dataclass(frozen=True)
class Zoo:
    """An entry of the zoo."""

    name: str

    weight_names = ()

    def make(self, arguments: Mapping[str, Any], weights: str | None) -> Made:
        """Make the network; weights that ship with it belong to the network without arguments."""
        known = models.names()
        if self.name not in known:
            hint = did_you_mean(self.name, known, f" The zoo has {', '.join(known)}.")
            raise UsageError(
                f"--model {self.name!r} is not in the zoo.{hint} "
                "Other networks: torchvision:NAME, timm:NAME, package.module:factory, path/to/file.py:factory."
            )
        entry = models.entry(self.name)
        shipped = None if arguments else entry.weights
        return Made(
            model=call(self.name, entry.factory, arguments),
            name=entry.name,
            random=True,
            sample_shape=entry.input_shape,
            preprocessing=entry.preprocessing,
            classes=entry.classes if shipped else None,
            shipped=shipped,
        )
