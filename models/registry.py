"""Which networks the zoo has, and what is known about each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of the weights that ship with the project."""


@dataclass(frozen=True)
class Preprocessing:
    """From an image's pixels to a network's input: scale to [0, 1], then normalise each channel.

    Attributes:
        mean: subtracted from each channel.
        std: divides each channel.
        color: the image's mode, by Pillow's name; "RGB" has three channels and "L" (grey) has one.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: Literal["RGB", "L"] = "RGB"

    def __post_init__(self) -> None:
        """Check that mean and std have one value for each channel of `color`."""
        channels = {"RGB": 3, "L": 1}[self.color]
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"{self.color} has {channels} channel(s), but mean={self.mean}, std={self.std}")

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return `(pixels - mean) / std`.

        Args:
            pixels: floating point in [0, 1], shape [..., C, H, W].

        Returns:
            The network's input, of the shape and dtype of `pixels`.
        """
        mean = torch.tensor(self.mean, dtype=pixels.dtype).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=pixels.dtype).view(-1, 1, 1)
        return (pixels - mean) / std


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What torchvision's published ImageNet weights (and akamaster's CIFAR-10 weights) were trained with."""


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        name: what `--model` takes.
        factory: builds the network, with freshly initialised weights, in training mode.
        input_shape: one sample's shape, without the batch.
        source: the paper, and whose state-dict keys the network follows.
        weights: a shipped file for `torch.load(..., weights_only=True, map_location="cpu")`: a state dict, or
            one below "state_dict", whose keys may start with "module."; None when nothing ships.
        classes: the name of each logit, where the shipped weights define them.
        preprocessing: from pixels to input, or None when the input is not an image.
    """

    name: str
    factory: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    source: str
    weights: Path | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None


_ENTRIES: dict[str, Entry] = {}


def register(entry: Entry) -> Entry:
    """Add a network to the zoo.

    Args:
        entry: the network; its name must be new.

    Returns:
        The same entry.

    Raises:
        ValueError: the name is taken.
    """
    if entry.name in _ENTRIES:
        raise ValueError(f"the zoo already has a model named {entry.name!r}")
    _ENTRIES[entry.name] = entry
    return entry


def entry(name: str) -> Entry:
    """Look a network up.

    Args:
        name: one of `names()`.

    Returns:
        What the zoo knows about it.

    Raises:
        KeyError: no network has that name; the message lists those that exist.
    """
    try:
        return _ENTRIES[name]
    except KeyError:
        raise KeyError(f"no zoo model is named {name!r}; there are {', '.join(names())}") from None


def names() -> list[str]:
    """Return the names of all networks, family by family."""
    return list(_ENTRIES)
