"""``python scripts/explain.py ARTIFACT IMAGE --output heatmap.png``: a prediction and its map, as a picture.

Runs an ONNX or TorchScript artifact on a photograph and saves three panels: what the network saw, the positive part of
the attribution, and both together, under the class and its probability.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import exporter

FINE = 512
"""Side of the picture's panels, in pixels: the photograph is shown finer than the network sees it."""


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The picture to write.")
@click.option(
    "--target", type=int, default=exporter.PREDICTED, show_default=True, help="Class; -1 is the predicted one."
)
@click.option("--runtime", type=click.Choice(["onnxruntime", "torchscript"]), help="[default: what the artifact holds]")
def main(artifact: Path, image: Path, output: Path, target: int, runtime: str | None) -> None:
    """Explain what an ARTIFACT predicts for an IMAGE."""
    try:
        check_output(output)
        manifest = exporter.Artifact.open(artifact).manifest
        runtime = runtime or ("onnxruntime" if "onnx" in manifest["files"] else "torchscript")
        session = exporter.load(artifact, runtime)
        photograph, pixels = read_image(image, manifest)
        check_target(target, manifest)
        logits, attribution = session(pixels.astype(manifest["inputs"][0]["dtype"]), target)
    except exporter.SaliportError as error:
        click.echo(f"explain: {error}", err=True)
        sys.exit(2)
    chosen = int(logits[0].argmax()) if target == exporter.PREDICTED else target
    label = f"{class_name(manifest, chosen)}, {softmax(logits[0])[chosen]:.1%}"
    draw(photograph, positive_map(attribution[0]), label, manifest["method"]["name"], output)
    click.echo(f"{image.name}: {label}; written to {output}")
    if manifest["model"].get("trained") is False:
        click.echo("Note: the artifact's weights are random, so the map means nothing.")


def check_output(output: Path) -> None:
    """Refuse a picture that could not be drawn or written, before anything is computed.

    Raises:
        exporter.UsageError: A library is missing, the ending is no image format, or the folder cannot be made.
    """
    try:
        import PIL  # noqa: F401
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise exporter.UsageError(f"{error}; install the extra: pip install 'saliport[images]'") from error
    formats = FigureCanvasAgg.get_supported_filetypes()
    if output.suffix.removeprefix(".").lower() not in formats:
        raise exporter.UsageError(
            f"--output {output}: write to one of {', '.join(sorted(formats))}, for example map.png"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise exporter.UsageError(f"--output {output}: {error.strerror}") from error
    if not os.access(output.parent, os.W_OK) or output.is_dir():
        raise exporter.UsageError(f"--output {output} cannot be written")


def read_image(path: Path, manifest: Mapping[str, Any]) -> tuple[Any, NDArray[np.float32]]:
    """Cut the central square out of an image, and prepare it as the artifact's input.

    Returns:
        The square as a Pillow image of ``FINE`` pixels a side, and float32 ``[1, C, H, W]``.

    Raises:
        exporter.UsageError: The file is no image, or the artifact does not take images.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    shape = manifest["inputs"][0]["sample_shape"]
    preprocessing = manifest["model"].get("preprocessing")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise exporter.UsageError(f"the artifact takes inputs of shape {shape}, not images")
    channels, height, width = shape
    try:
        opened = _eight_bits(ImageOps.exif_transpose(Image.open(path))).convert("RGB" if channels == 3 else "L")
    except (OSError, UnidentifiedImageError) as error:
        raise exporter.UsageError(f"{path} cannot be read as an image: {error}") from error
    side = min(opened.size[0] / width, opened.size[1] / height)
    square = ImageOps.fit(opened, (max(1, round(side * width)), max(1, round(side * height))))
    small = np.asarray(square.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float32) / 255
    pixels = small.reshape(height, width, channels).transpose(2, 0, 1)
    if preprocessing is not None:
        mean, std = (np.asarray(preprocessing[key], dtype=np.float32)[:, None, None] for key in ("mean", "std"))
        pixels = (pixels - mean) / std
    fine = FINE / max(height, width)
    shown = square.resize((round(width * fine), round(height * fine)), Image.Resampling.LANCZOS).convert("RGB")
    return shown, np.ascontiguousarray(pixels[None], dtype=np.float32)


def _eight_bits(image: Any) -> Any:
    """Return an image of 16 bits in 8, which Pillow itself would cut off at 255.

    Raises:
        exporter.UsageError: Its values have no range that is known.
    """
    from PIL import Image

    if image.mode == "F":
        raise exporter.UsageError("the image has values of floating point, whose range is not known; save it in 8 bits")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(np.asarray(np.clip(np.asarray(image, np.float64) / 257, 0, 255).round(), np.uint8))


def check_target(target: int, manifest: Mapping[str, Any]) -> None:
    """Refuse a class that the network does not have."""
    first, last = manifest["inputs"][-1]["range"]
    if not first <= target <= last:
        raise exporter.UsageError(
            f"--target {target} is out of range; the classes are 0 to {last}, -1 the predicted one"
        )


def class_name(manifest: Mapping[str, Any], index: int) -> str:
    """Return a class's name where the manifest has names, else its number."""
    names: Sequence[str] | None = manifest["model"].get("classes")
    return names[index] if names else f"class {index}"


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return probabilities, ``[K]``."""
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def positive_map(attribution: NDArray[np.floating]) -> NDArray[np.floating]:
    """Sum the positive values over channels, and scale to [0, 1]; the brightest half percent saturates.

    Args:
        attribution: ``[C, H, W]``.

    Returns:
        ``[H, W]``.
    """
    positive = np.maximum(attribution, 0).sum(0)
    ceiling = np.percentile(positive, 99.5) or positive.max() or 1.0
    return np.clip(positive / ceiling, 0, 1)


def draw(photograph: Any, heat: NDArray[np.floating], label: str, method: str, output: Path) -> None:
    """Save the three panels."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from PIL import Image

    width, height = photograph.size
    shades = Image.fromarray((heat * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    smooth = np.asarray(shades, dtype=np.float32) / 255
    colors = mpl.colormaps["inferno"](smooth)[..., :3]
    backdrop = np.asarray(photograph.convert("L").convert("RGB"), dtype=np.float32) / 255
    weight = np.sqrt(smooth)[..., None]
    overlay = backdrop * 0.55 * (1 - weight) + colors * weight

    figure = Figure(figsize=(9, 3.5 * height / width), dpi=120, layout="constrained")
    figure.suptitle(label, fontsize=15)
    panels = (("image", photograph), (f"{method}, positive part", colors), ("overlay", overlay))
    for axes, (title, picture) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(picture)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    figure.savefig(output)


if __name__ == "__main__":
    main()
