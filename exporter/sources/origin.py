"""What every origin of networks has in common: it makes one, and says what is known of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

import models


@dataclass(frozen=True)
class Made:
    """A network fresh from its factory, and what is known of it there.

    Attributes:
        model: The network.
        name: Short name for folders and tables.
        random: Whether its weights are drawn at random; None where only the factory knows.
        sample_shape: One input's shape, without the batch.
        preprocessing: From pixels to the input.
        classes: Names of the classes that the named or shipped weights tell apart.
        shipped: A file of weights that comes with the network.
    """

    model: nn.Module
    name: str
    random: bool | None
    sample_shape: tuple[int, ...] | None = None
    preprocessing: models.Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    shipped: Path | None = None


class Origin(Protocol):
    """One network that can be made: an entry of the zoo, of a library, or a factory of the user's."""

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Names of weights that the origin loads itself, where there are any."""

    def make(self, arguments: Mapping[str, Any], weights: str | None) -> Made:
        """Make the network.

        Args:
            arguments: Keyword arguments of the factory.
            weights: One of ``weight_names``, or None for the factory's own initialisation.

        Raises:
            UsageError: The factory does not take the arguments, or fails, or the weights cannot be fetched.
        """


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return `` Did you mean resnet18 or resnet34?``, or something else where no known name is near."""
    spelled = {word.lower(): word for word in known}
    near = [spelled[word] for word in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)]
    return f" Did you mean {' or '.join(near)}?" if near else otherwise


def class_and_first_line(error: BaseException) -> str:
    """Return an error's class and the first line of its message: a message is one line long."""
    message = (str(error).strip() or "no message").splitlines()[0].rstrip(". ")
    return f"{type(error).__name__}: {message}"
