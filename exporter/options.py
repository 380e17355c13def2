"""The command line's own types, and the options that commands share. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from exporter.signature import SIZES, WHOLE, Input

METHOD_NAMES = ("guided", "gradient", "deconvnet")
FORMAT_NAMES = ("torchscript", "onnx")
TARGET_NAMES = ("onnxruntime", "onnxruntime-finite", "openvino", "cuda", "portable", "none")


class Shape(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """One sample's shape: positive integers, separated by commas."""

    name = "C,H,W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse ``3,224,224``."""
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a shape; write one sample's sizes, for example 3,224,224", param, ctx)
        if min(sizes) < 1:
            self.fail(f"{value!r} has a size below 1; leave out the batch, which is always dynamic", param, ctx)
        return sizes


class NamedInput(click.ParamType):  # type: ignore[type-arg]
    """One of several inputs: its name, one sample's shape, and a dtype if it is of no floating point."""

    name = "NAME:SHAPE[:DTYPE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Input:
        """Parse ``left:3,64,64`` or ``mask:64:bool``."""
        if isinstance(value, Input):
            return value
        name, *rest = value.split(":")
        if len(rest) not in (1, 2):
            self.fail(f"{value!r} is not NAME:SHAPE or NAME:SHAPE:DTYPE, for example left:3,64,64", param, ctx)
        if rest[1:] and rest[1] not in ("float32", *WHOLE):
            self.fail(
                f"{value!r} has no dtype {rest[1]!r}; there are {', '.join(WHOLE)}; --dtype sets floats", param, ctx
            )
        return Input(name, Shape().convert(rest[0], param, ctx), *rest[1:])


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """The sizes that may vary, separated by commas."""

    name = "SIZES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse ``batch,height,width``."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in value.split(","))
        for name in names:
            if name not in SIZES:
                self.fail(f"unknown size {name!r}; there are {', '.join(SIZES)}", param, ctx)
        return names


class Formats(click.ParamType):  # type: ignore[type-arg]
    """One or more formats, separated by commas."""

    name = "FORMATS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse ``torchscript,onnx``."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in value.split(","))
        for name in names:
            if name not in FORMAT_NAMES:
                self.fail(f"unknown format {name!r}; there are {' and '.join(FORMAT_NAMES)}", param, ctx)
        return names


class JsonObject(click.ParamType):  # type: ignore[type-arg]
    """Keyword arguments, as a JSON object."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Parse ``{"num_classes": 10}``."""
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON ({error}); write for example '{{\"num_classes\": 10}}'", param, ctx)
        if not isinstance(parsed, dict):
            self.fail(
                f"{value!r} is not a JSON object; write names and values, for example '{{\"num_classes\": 10}}'",
                param,
                ctx,
            )
        return parsed


def model_options(*, required: bool, seed: int | None = 0) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that say which network: ``spec``, ``arguments``, ``weights`` and ``seed``.

    They are what :func:`exporter.sources.resolve` takes.

    Args:
        required: Whether the command needs ``--model``.
        seed: Default of ``--seed``; None leaves it to the command.
    """
    options = (
        click.option(
            "--model",
            "spec",
            metavar="SPEC",
            required=required,
            help="A zoo name, torchvision:NAME, timm:NAME, path/to/file.py:factory or package.module:factory.",
        ),
        click.option(
            "--model-args",
            "arguments",
            type=JsonObject(),
            help="Keyword arguments of the factory, a JSON object such as '{\"num_classes\": 10}'.",
        ),
        click.option(
            "--weights",
            metavar="WEIGHTS",
            help="A state dict to load strictly, .safetensors or of torch.save; or weights that torchvision (DEFAULT, "
            "IMAGENET1K_V1, ...) or timm (pretrained) fetch.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            default=seed,
            show_default=seed is not None,
            help="Of untrained weights and of the proof."
            if seed is not None
            else "Of the proof's inputs.  [default: the artifact's own]",
        ),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
