"""Networks of timm: ``timm:NAME``, with ``pretrained`` as named weights; NAME may carry timm's own tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from exporter.errors import UsageError
from exporter.sources import library
from exporter.sources.factory import call
from exporter.sources.origin import Made, did_you_mean


@dataclass(frozen=True)
class Timm:
    """A network that ``timm.list_models()`` lists, such as ``resnet18`` or ``resnet18.a1_in1k``."""

    name: str

    @property
    def spec(self) -> str:
        """What ``--model`` said."""
        return f"timm:{self.name}"

    @cached_property
    def _pretrained(self) -> bool:
        """Whether timm has weights for the network; a name that it does not know is refused."""
        timm = library.load("timm")
        architecture, _, tag = self.name.partition(".")
        known = timm.list_models()
        if architecture not in known:
            hint = did_you_mean(architecture, known, f" It has {', '.join(known[:3])}, … ({len(known)} in all).")
            raise UsageError(f"--model {self.spec!r}: timm has no model {architecture!r}.{hint}")
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
        if tag and tag not in tags:
            hint = did_you_mean(tag, tags, f" It has {', '.join(tags) or 'none'}.")
            raise UsageError(f"--model {self.spec!r}: timm's {architecture} has no weights tagged {tag!r}.{hint}")
        return bool(tags)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """``pretrained``, or torchvision's word for it, where timm has weights."""
        return ("pretrained", "DEFAULT") if self._pretrained else ()

    def make(self, arguments: Mapping[str, Any], weights: str | None) -> Made:
        """Call ``timm.create_model``, with timm's own loader for named weights."""
        timm = library.load("timm")
        known = self.weight_names  # refuses a name that timm does not know
        assert weights is None or weights in known
        library.refuse_reserved(self.spec, arguments, ("pretrained", "pretrained_cfg", "checkpoint_path"))

        def build(**arguments: Any) -> Any:
            with library.fetching(self.spec, weights):
                return timm.create_model(self.name, pretrained=weights is not None, **arguments)

        build.__name__ = self.name
        if weights is not None:
            self._refuse_a_random_classifier(arguments)
        model = call(self.spec, build, arguments)
        cfg = getattr(model, "pretrained_cfg", None) or {}
        shape = _sample_shape(cfg, arguments)
        labels = cfg.get("label_names") if weights is not None else None
        return Made(
            model=model,
            name=self.name,
            random=weights is None,
            sample_shape=shape,
            preprocessing=library.preprocessing(cfg.get("mean", ()), cfg.get("std", ()), shape[0] if shape else 3),
            classes=tuple(labels) if labels else None,
        )

    def _refuse_a_random_classifier(self, arguments: Mapping[str, Any]) -> None:
        """Refuse what timm does in silence: to draw the last layer at random where the number of classes is another."""
        cfg = library.load("timm").models.get_pretrained_cfg(self.name)
        trained, asked = getattr(cfg, "num_classes", None), arguments.get("num_classes")
        if asked not in (None, 0, trained):
            raise UsageError(
                f"the pretrained weights of {self.spec} tell {trained} classes apart, not {asked}: the last layer "
                "would be random. Leave num_classes out of --model-args, or pass weights of your own."
            )


def _sample_shape(cfg: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the input size that timm gives, with the channels and the image size that the arguments ask for."""
    if "input_size" not in cfg:
        return None
    channels, height, width = cfg["input_size"]
    size = arguments.get("img_size") or (height, width)
    height, width = (size, size) if isinstance(size, int) else size
    return (int(arguments.get("in_chans") or channels), int(height), int(width))
