"""What torchvision and timm have in common: they must be installed, and load named weights from a hub themselves."""

from __future__ import annotations

import importlib
import io
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any

import torch

import models
from exporter.errors import UsageError
from exporter.sources.origin import class_and_first_line

LIBRARIES = ("torchvision", "timm")
"""Those whose networks a SPEC names with a colon: ``timm:NAME``."""


def load(name: str) -> ModuleType:
    """Import a library.

    Raises:
        UsageError: It is not installed, or does not work beside this torch.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise _broken(name, error) from error
        raise UsageError(
            f"--model {name}:… needs {name}, which is not installed: pip install 'saliport[{name}]'"
        ) from error
    except Exception as error:  # torchvision raises RuntimeError beside a torch that it was not built for
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> UsageError:
    return UsageError(
        f"{name} is installed but cannot be imported: {class_and_first_line(error)}. "
        f"Install the build of {name} that belongs to torch {torch.__version__}."
    )


def refuse_reserved(spec: str, arguments: Mapping[str, Any], reserved: Sequence[str]) -> None:
    """Refuse arguments that would load weights behind the back of ``--weights``.

    Raises:
        UsageError: One of the reserved names is among the arguments.
    """
    found = [key for key in arguments if key in reserved]
    if found:
        raise UsageError(f"--model-args of {spec}: {found[0]!r} chooses weights; say that with --weights")


@contextmanager
def fetching(spec: str, weights: str | None) -> Iterator[None]:
    """Let a library load weights from its hub or its cache: as data, never as code, and with one message.

    Raises:
        UsageError: The hub cannot be reached and the library's cache lacks the weights, or the file is no plain data.
    """
    if weights is None:
        yield
        return
    try:
        with _data_only(), _quiet_hub():
            yield
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"--weights {weights} of {spec}: refused, the file in the library's cache is damaged, or holds more than "
            "plain tensors and would run code"
        ) from error
    except _unreachable() as error:
        raise UsageError(
            f"--weights {weights} of {spec} cannot be fetched: {class_and_first_line(error)}. Is the hub within reach? "
            "If not, fetch the file elsewhere and pass it as --weights FILE."
        ) from error


def _unreachable() -> tuple[type[Exception], ...]:
    """Return what the libraries raise where there is no hub: ``OSError``, and huggingface_hub's own by way of httpx."""
    try:
        return (OSError, importlib.import_module("httpx").HTTPError)
    except ImportError:
        return (OSError,)


@contextmanager
def _data_only() -> Iterator[None]:
    """Make every ``torch.load`` refuse code: torchvision's loader does not ask for it."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep what a hub's client prints and logs of its retries to ourselves; the error at the end says what happened."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def preprocessing(mean: Sequence[float], std: Sequence[float], channels: int) -> models.Preprocessing | None:
    """Return a library's normalisation, where it has a value for each of the network's three channels."""
    if not len(mean) == len(std) == channels == 3:
        return None
    return models.Preprocessing(mean=tuple(mean), std=tuple(std))
