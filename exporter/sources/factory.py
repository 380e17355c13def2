"""Call a factory with ``--model-args``, and say in one message what is wrong if it fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from exporter.errors import UsageError
from exporter.sources.origin import class_and_first_line, did_you_mean


def call(
    spec: str,
    factory: Callable[..., Any],
    arguments: Mapping[str, Any],
    place: Callable[[BaseException], str] = lambda error: "",
) -> nn.Module:
    """Return the network that a factory makes.

    Args:
        spec: What ``--model`` said, for messages.
        factory: Any callable that takes keyword arguments.
        arguments: What ``--model-args`` said.
        place: Where an error comes from, as the end of a message: `` (file.py:12)``.

    Raises:
        UsageError: The factory does not take the arguments, raises, ends the process, or returns no network.
    """
    name = getattr(factory, "__name__", type(factory).__name__)
    if isinstance(factory, nn.Module):
        raise UsageError(f"--model {spec!r}: that is a network already; name a function that returns it")
    _check_arguments(spec, name, factory, arguments)
    called = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    try:
        model = factory(**arguments)
    except UsageError:  # a library's loader has said what is wrong
        raise
    except (Exception, SystemExit) as error:
        hint = ". Check --model-args" if arguments else ""
        raise UsageError(
            f"--model {spec!r}: {called} raised {class_and_first_line(error)}{place(error)}{hint}"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {spec!r}: {called} returned {type(model).__name__}, not an nn.Module")
    return model


def _check_arguments(spec: str, name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the factory's signature has no place for, and missing ones."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a callable written in C: calling it will tell
        return
    takes = [key for key, parameter in signature.parameters.items() if parameter.kind in _BY_NAME]
    try:
        signature.bind(**arguments)
    except TypeError as error:
        unknown = [key for key in arguments if key not in takes]
        what = (
            f"takes no {unknown[0]!r} from --model-args.{did_you_mean(unknown[0], takes)}"
            if unknown
            else f"{error}; pass it as --model-args '{{\"NAME\": VALUE}}'"
        )
        raise UsageError(f"--model {spec!r}: {name}{_shown(signature)}: {what}") from error


def _shown(signature: inspect.Signature) -> str:
    """Return a signature without its annotations, which can be long."""
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(bare))


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
