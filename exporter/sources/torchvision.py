"""Networks of torchvision: ``torchvision:NAME``, with its weight enums as named weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from exporter.errors import UsageError
from exporter.sources import library
from exporter.sources.factory import call
from exporter.sources.origin import Made, did_you_mean


@dataclass(frozen=True)
class Torchvision:
    """A network that ``torchvision.models.list_models()`` lists."""

    name: str

    @property
    def spec(self) -> str:
        """What ``--model`` said."""
        return f"torchvision:{self.name}"

    @cached_property
    def _enum(self) -> Any:
        """The network's weights: an enum, which may be empty."""
        models = library.load("torchvision").models
        known = models.list_models()
        if self.name not in known:
            hint = did_you_mean(self.name, known, f" It has {', '.join(known[:3])}, … ({len(known)} in all).")
            raise UsageError(f"--model {self.spec!r}: torchvision has no model {self.name!r}.{hint}")
        return models.get_model_weights(self.name)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """``DEFAULT`` and the names of the enum's members."""
        return tuple(self._enum.__members__)

    def make(self, arguments: Mapping[str, Any], weights: str | None) -> Made:
        """Call torchvision's builder, with its own loader for named weights."""
        enum = self._enum
        builder = library.load("torchvision").models.get_model_builder(self.name)
        library.refuse_reserved(self.spec, arguments, ("weights", "weights_backbone", "pretrained"))
        chosen = enum[weights] if weights is not None else None
        own: dict[str, Any] = {"weights": chosen, "progress": False}
        if "weights_backbone" in inspect.signature(builder).parameters:
            own["weights_backbone"] = None  # by default it would be fetched

        def build(**arguments: Any) -> Any:
            with library.fetching(self.spec, weights):
                return builder(**own, **arguments)

        build.__name__ = self.name
        transforms = (chosen or enum.DEFAULT).transforms() if len(enum) else None
        categories = chosen.meta.get("categories") if chosen is not None else None
        return Made(
            model=call(self.spec, build, arguments),
            name=self.name,
            random=chosen is None,
            sample_shape=_sample_shape(transforms, arguments),
            preprocessing=library.preprocessing(getattr(transforms, "mean", ()), getattr(transforms, "std", ()), 3),
            classes=tuple(categories) if categories else None,
        )


def _sample_shape(transforms: Any, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of an image as a classifier's weights want it; videos and detectors have no such size."""
    if isinstance(arguments.get("image_size"), int):
        return (3, arguments["image_size"], arguments["image_size"])
    if type(transforms).__name__ != "ImageClassification":
        return None
    height, width = (transforms.crop_size * 2)[:2]
    return (3, int(height), int(width))
