"""The command line. Torch is imported when a command runs, not for ``--help``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.errors import SaliportError, UnsupportedModel, VerificationFailed

if TYPE_CHECKING:
    from exporter.artifact import Artifact
    from exporter.pipeline import Stages
    from exporter.sources import Source

METHOD_NAMES = ("guided", "gradient", "deconvnet")
FORMAT_NAMES = ("torchscript", "onnx")

EXAMPLES = """\b
Examples:

\b
  The zoo's ResNet-18 with your weights, as TorchScript and ONNX:
    saliport export --model resnet18 --weights resnet18.pth

\b
  torchvision's ConvNeXt with the weights that it publishes, plain gradient, ONNX only:
    saliport export --model torchvision:convnext_tiny --weights DEFAULT \\
        --method gradient --format onnx

\b
  Your own network of 10 classes, 1x64x64 inputs, into a folder of your choice:
    saliport export --model nets/cells.py:make_net --weights cells.safetensors \\
        --model-args '{"num_classes": 10}' --input-shape 1,64,64 \\
        --output services/cells/model
"""


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


def model_options(*, required: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that say which network: ``spec``, ``arguments``, ``weights`` and ``seed``.

    They are what :func:`exporter.sources.resolve` takes.

    Args:
        required: Whether the command needs ``--model``.
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
            default=0,
            show_default=True,
            help="Of untrained weights and of the proof.",
        ),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="saliport", prog_name="saliport")
def main() -> None:
    """Compile a network and its saliency map into one artifact, proven equal to live autograd."""


@main.command("export", epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@model_options(required=True)
@click.option(
    "--method", type=click.Choice(METHOD_NAMES), default="guided", show_default=True, help="The rule at rectifiers."
)
@click.option(
    "--input-shape",
    "sample_shape",
    type=Shape(),
    help="One sample's shape, without the batch.  [default: the network's own where it is known, else 3,224,224]",
)
@click.option(
    "--format",
    "formats",
    type=Formats(),
    default="torchscript,onnx",
    show_default=True,
    help="What to write; either or both.",
)
@click.option("--opset", type=click.IntRange(17, 23), default=18, show_default=True, help="Of the ONNX file.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Exactly this folder.  [default: artifacts/NAME-METHOD]",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def export_command(
    spec: str,
    arguments: dict[str, Any] | None,
    weights: str | None,
    seed: int,
    method: str,
    sample_shape: tuple[int, ...] | None,
    formats: tuple[str, ...],
    opset: int,
    output: Path | None,
    debug: bool,
) -> None:
    """Build, prove and write the artifact of a network.

    The artifact takes a batch of images and a target class for each (-1 = the predicted one) and returns the logits
    and the attribution. Its files are compared with live autograd before they are put in place.

    Exit status: 0 proven and written; 1 verification failed, nothing written; 2 wrong use or unsupported model;
    70 an error of Saliport's own; 130 interrupted.
    """
    with _messages(debug), redirect_stdout(sys.stderr), _progress() as stages:  # what a network prints is no report
        from exporter.pipeline import export
        from exporter.sources import resolve

        with stages.stage("load model"):
            source = resolve(spec, weights=weights, sample_shape=sample_shape, seed=seed, arguments=arguments)
        artifact = export(
            source.model,
            source.sample_shape,
            output or Path("artifacts") / f"{source.name}-{method}",
            method=method,
            formats=formats,
            opset=opset,
            seed=seed,
            description=source.describe(),
            stages=stages,
        )
    _report(source, artifact, stages)


@contextmanager
def _messages(debug: bool) -> Iterator[None]:
    """Turn errors into one message and an exit status; ``--debug`` lets them through."""
    try:
        with _no_exits():
            yield
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        if isinstance(error, VerificationFailed):
            status, message = 1, f"verification failed: {error}"
        elif isinstance(error, SaliportError):
            status, message = 2, str(error)
        elif isinstance(error, KeyboardInterrupt):
            status, message = 130, "interrupted; nothing was written"
        else:
            first = (str(error).strip() or "no message").splitlines()[0]
            status, message = (
                70,
                f"internal error, please report it: {type(error).__name__}: {first} (--debug shows where)",
            )
        click.echo(f"saliport: {message}", err=True)
        sys.exit(status)


@contextmanager
def _no_exits() -> Iterator[None]:
    """Turn a user's ``sys.exit()`` into an error: nothing was written, so not even ``sys.exit(0)`` is a success."""
    try:
        yield
    except SystemExit as error:
        raise UnsupportedModel(f"the network's code ended the process, sys.exit({error.code!r})") from error


@contextmanager
def _progress() -> Iterator[Stages]:
    """Show the running stage and its time on a terminal; elsewhere stay silent."""
    if not sys.stderr.isatty():
        from exporter.pipeline import Stages

        yield Stages()
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task("import torch")
        from exporter.pipeline import Stages

        yield Stages(listener=lambda name: progress.update(task, description=name))


def _report(source: Source, artifact: Artifact, stages: Stages) -> None:
    """Print what was built, how well it agrees, and what it cost."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    manifest = artifact.manifest
    sizes = ", ".join(map(str, manifest["inputs"][0]["shape"]))
    console.print(
        f"{source.name} ({manifest['model']['parameters']:,} parameters, {source.weights}), "
        f"{manifest['method']['name']}: image [{sizes}] -> logits, attribution"
    )
    if source.trained is None:
        console.print("Note: the weights are as the factory made them; load yours with --weights if it did not.")
    elif not source.trained:
        console.print(
            "Note: these weights are random, so the attribution means nothing yet; load yours with --weights."
        )

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("runtime", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("worst", justify="right", no_wrap=True)
    table.add_column("logits", justify="right", no_wrap=True)
    table.add_column("file", no_wrap=True)
    table.add_column("MiB", justify="right")
    for parity in manifest["parity"]["runtimes"]:
        file = manifest["files"]["torchscript" if parity["runtime"] == "torchscript" else "onnx"]
        table.add_row(
            parity["runtime"],
            parity["dtype"],
            f"{parity['relative_l2']['median']:.1e}",
            f"{parity['relative_l2']['worst']:.1e}",
            f"{parity['logits_relative_l2']['worst']:.1e}",
            "(ONNX graph)" if parity["runtime"] == "eager" else file["name"],
            "" if parity["runtime"] == "eager" else f"{file['bytes'] / 2**20:.1f}",
        )
    samples = len(manifest["parity"]["targets"])
    batches = " and ".join(map(str, manifest["parity"]["batches"]))
    console.print(f"\nProven against live autograd on {samples} inputs in batches of {batches}; relative L2 errors:")
    console.print(table)
    if manifest["parity"]["zero"] == samples:
        console.print("Note: the attribution is zero on all of these inputs; no cotangent reaches the image.")
    if manifest["parity"]["skipped"]:
        console.print(f"Note: no float64 proof, {manifest['parity']['skipped']}.")
    times = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in stages.done)
    console.print(f"{times}; peak {max(stage.peak_mib for stage in stages.done):,.0f} MiB.")
    console.print(f"Written: {artifact.folder}{os.sep}")
