"""The command line. Torch is imported when a command runs, not for ``--help``."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter import __version__, report
from exporter.errors import SaliportError, UnsupportedModel, UsageError, VerificationFailed
from exporter.options import METHOD_NAMES, TARGET_NAMES, Formats, NamedInput, Shape, Sizes, model_options
from exporter.signature import FLOATS, Input
from exporter.uncollected import uncollected

if TYPE_CHECKING:
    from exporter.stages import Stages

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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="saliport")
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
    "--input",
    "inputs",
    type=NamedInput(),
    multiple=True,
    help="Instead of --input-shape, once for each input of a network that takes several tensors. DTYPE: float32 (the "
    "default), int64, int32, uint8 or bool. By name where the network's forward has such parameters, else in order.",
)
@click.option(
    "--output-key",
    metavar="KEY",
    help="Where the logits are in what the network returns: an index, a key, or a path of them such as 1.scores.",
)
@click.option(
    "--dynamic",
    type=Sizes(),
    default="batch",
    show_default=True,
    help="Sizes that may vary, the batch always: batch,height,width of images, batch,length of signals [N, C, L], "
    "batch,steps of sequences [N, T, F].",
)
@click.option(
    "--dtype",
    type=click.Choice(FLOATS),
    default="float32",
    show_default=True,
    help="What the artifact computes in. onnxruntime has no float64 convolution on CPUs.",
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
    "--optimize-for",
    type=click.Choice(TARGET_NAMES),
    default="onnxruntime",
    show_default=True,
    help="Whose favourite formulations the ONNX file has. All compute the same on any CPU; a GPU takes cuda. "
    "onnxruntime-finite is faster in onnxruntime on a CPU, but does not stop NaN.",
)
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
    inputs: tuple[Input, ...],
    output_key: str | None,
    dynamic: tuple[str, ...],
    dtype: str,
    formats: tuple[str, ...],
    opset: int,
    optimize_for: str,
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
        if inputs and sample_shape:
            raise UsageError("--input-shape is for a network of one input; with --input each names its own shape")
        with uncollected():
            from exporter.artifact import spec_of
            from exporter.pipeline import export
            from exporter.sources import resolve
        with stages.stage("load model"):
            source = resolve(spec, weights=weights, sample_shape=sample_shape, seed=seed, arguments=arguments)
        folder = output or Path("artifacts") / f"{source.name}-{method}"
        replaced = None if output else spec_of(folder)
        artifact = export(
            source.model,
            inputs or source.sample_shape,
            folder,
            method=method,
            formats=formats,
            opset=opset,
            optimize_for=optimize_for,
            seed=seed,
            dtype=dtype,
            dynamic=dynamic,
            output_key=output_key,
            description=source.describe(),
            stages=stages,
        )
    report.exported(source, artifact, stages, replaced)


@main.command("verify", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", metavar="ARTIFACT", type=click.Path(path_type=Path))
@model_options(required=False, seed=None)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def verify_command(
    folder: Path,
    spec: str | None,
    arguments: dict[str, Any] | None,
    weights: str | None,
    seed: int | None,
    debug: bool,
) -> None:
    """Check a finished artifact: every byte, then what it computes.

    With --model, each runtime is compared with live autograd on the network, on the certificate's own inputs or those
    of another --seed. Without, the runtimes are compared with each other and with the digests of live autograd's
    answers that the certificate holds.

    Exit status: 0 as it was proven; 1 a byte has changed or a value is out of bounds; 2 wrong use.
    """
    with _messages(debug), redirect_stdout(sys.stderr), _progress() as stages:
        if spec is None and (weights, arguments, seed) != (None, None, None):
            raise UsageError("--weights, --model-args and --seed need --model, the network that they are for")
        with uncollected():
            from exporter import audit
            from exporter.artifact import Artifact

        found: Any
        if spec is None:
            with stages.stage("verify"):
                found = audit.recheck(folder)
        else:
            from exporter.sources import resolve

            own = audit.intact(folder).manifest["seed"]
            with stages.stage("load model"):
                model = resolve(spec, weights=weights, seed=own, arguments=arguments).model
            with stages.stage("verify"):
                found = audit.verify(folder, model, seed=seed)
        artifact = Artifact.open(folder)
    (report.rechecked if spec is None else report.verified)(artifact, found)


@contextmanager
def _messages(debug: bool) -> Iterator[None]:
    """Turn errors into one message and an exit status; ``--debug`` lets them through."""
    atexit.register(gc.freeze)  # else the interpreter looks through all that PyTorch left before it ends, for a second
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
        from exporter.stages import Stages

        yield Stages()
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task("import torch")
        from exporter.stages import Stages

        yield Stages(listener=lambda name: progress.update(task, description=name))
