"""The grammar of ``--model``: which origin a SPEC names."""

from __future__ import annotations

from exporter.errors import UsageError
from exporter.sources.library import LIBRARIES
from exporter.sources.origin import Origin
from exporter.sources.python import Python
from exporter.sources.timm import Timm
from exporter.sources.torchvision import Torchvision
from exporter.sources.zoo import Zoo


def origin_of(spec: str) -> Origin:
    """Return the origin that a SPEC names; nothing is imported yet.

    Args:
        spec: ``NAME`` of the zoo, ``torchvision:NAME``, ``timm:NAME``, ``path/to/file.py:factory`` or
            ``package.module:factory``.

    Raises:
        UsageError: It is none of these.
    """
    library, colon, name = spec.partition(":")
    if colon and library in LIBRARIES:
        if not name:
            raise UsageError(f"--model {spec!r}: name the network too, for example {library}:resnet18")
        return Torchvision(name) if library == "torchvision" else Timm(name)
    place, colon, factory = spec.rpartition(":")
    if spec.endswith(".py") or (colon and not (place and factory)):
        raise UsageError(f"--model {spec!r}: name the factory too, path/to/file.py:factory")
    if not colon:
        return Zoo(spec)
    if not place.endswith(".py") and not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"--model {spec!r}: {place} is neither a Python file (.py) nor the dotted name of a module")
    return Python(spec, place, factory)
