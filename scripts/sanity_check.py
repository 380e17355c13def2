"""``python scripts/sanity_check.py``: does the exported map depend on what the network has learnt?

The model parameter randomisation test of Adebayo et al. (2018), arXiv:1810.03292, section 3: layers are re-initialised
one after the other from the logits down, and at each step the map is compared with the trained network's by rank
correlation. A method whose map stays the same would show the image, not the network. Every map comes from an exported
artifact, run by onnxruntime; the explained class is the one that the trained network predicts.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import exporter
from exporter.sources import Source, resolve
from models.digits import held_out_split
from scripts.explain import check_output

METHODS = ("guided", "gradient", "deconvnet")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
NETWORKS = ("cifar_resnet20", "digits_cnn")
TOP_DOWN = {
    "cifar_resnet20": ("linear", *(f"layer{stage}.{block}" for stage in (3, 2, 1) for block in (2, 1, 0)), "conv1 bn1"),
    "digits_cnn": ("fc2", "fc1", "conv3 bn3", "conv2 bn2", "conv1 bn1"),
}
"""Network -> what each step re-initialises, from the logits down: modules with all that is in them."""

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """How far the maps are from the trained network's after one step.

    Attributes:
        name: What has been re-initialised last; empty for the trained network itself.
        signed: Spearman's rank correlation of each image's map with the trained network's, ``[images]``.
        absolute: The same of the maps' absolute values.
    """

    name: str
    signed: NDArray[np.float64]
    absolute: NDArray[np.float64]


def cascade(model: nn.Module, steps: Sequence[str], seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network as it is, and then after each step, re-initialised by its layers' own ``reset_parameters``.

    Args:
        model: The trained network; it is left alone.
        steps: Each the names of one or more modules, separated by spaces.
        seed: Of the new weights.
    """
    model = copy.deepcopy(model)
    yield "", model
    torch.manual_seed(seed)
    for step in steps:
        for name in step.split():
            for module in model.get_submodule(name).modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        yield step, model


def rank_correlation(a: Maps, b: Maps) -> NDArray[np.float64]:
    """Return Spearman's rank correlation of each image's two maps, NaN where one of them is constant."""
    pairs = [(first.ravel(), second.ravel()) for first, second in zip(a, b, strict=True)]
    constant = [np.ptp(first) == 0 or np.ptp(second) == 0 for first, second in pairs]
    return np.array(
        [np.nan if flat else spearmanr(*pair).statistic for pair, flat in zip(pairs, constant, strict=True)]
    )


def exported_maps(model: nn.Module, method: str, images: Tensor, target: Tensor) -> Maps:
    """Export a network as ONNX, and return the maps that onnxruntime computes, of the images' shape."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = exporter.export(model, images.shape[1:], Path(folder) / "a", method=method, formats=["onnx"])
        return exporter.load(artifact.folder)(images.numpy(), target.numpy()).attribution


def measure(source: Source, method: str, images: Tensor, seed: int) -> list[Step]:
    """Run the test on one network by one method."""
    with torch.no_grad():
        target = source.model(images).argmax(1)
    names, maps = zip(
        *(
            (name, exported_maps(model, method, images, target))
            for name, model in cascade(source.model, TOP_DOWN[source.name], seed)
        ),
        strict=True,
    )
    trained = maps[0]
    return [
        Step(name, rank_correlation(found, trained), rank_correlation(abs(found), abs(trained)))
        for name, found in zip(names, maps, strict=True)
    ]


def images_for(source: Source) -> Tensor:
    """Return images that a shipped network knows how to read, ``[N, C, H, W]``."""
    assert source.preprocessing is not None
    if source.name == "digits_cnn":
        from sklearn.datasets import load_digits

        digits = load_digits().images
        _, held_out = held_out_split(len(digits))
        pixels = torch.tensor(digits[held_out[:8]] / 16, dtype=torch.float32).unsqueeze(1)
    else:
        import skimage.data
        from PIL import Image, ImageOps

        photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
        small = [np.asarray(ImageOps.fit(photograph, source.sample_shape[1:])) for photograph in photographs]
        pixels = torch.tensor(np.stack(small)).permute(0, 3, 1, 2) / 255
    return source.preprocessing.normalize(pixels)


def draw(results: dict[str, dict[str, list[Step]]], output: Path) -> None:
    """Draw the mean correlation of each network (a row) after each step, with the images' range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4 * len(results)), dpi=100, layout="constrained")
    grid = figure.subplots(len(results), 2, sharey=True, squeeze=False)
    for row, (network, methods) in zip(grid, results.items(), strict=True):
        for axes, kind in zip(row, ("signed", "absolute"), strict=True):
            for method, steps in methods.items():
                values = np.stack([getattr(step, kind) for step in steps])
                (line,) = axes.plot(np.nanmean(values, 1), marker="o", markersize=3, label=method)
                axes.fill_between(
                    range(len(steps)), np.nanmin(values, 1), np.nanmax(values, 1), color=line.get_color(), alpha=0.15
                )
            labels = [step.name.split()[0] if step.name else "trained" for step in next(iter(methods.values()))]
            axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
            axes.set_title(f"{network}, {kind} values")
            axes.axhline(0, color="grey", linewidth=0.8)
            axes.grid(alpha=0.3)
        row[0].set_ylabel("rank correlation with the trained map")
    grid[0][0].legend()
    figure.savefig(output)


@click.command()
@click.option("--model", "names", type=click.Choice(NETWORKS), multiple=True, default=NETWORKS, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the new weights.")
@click.option("--output", type=click.Path(path_type=Path), help="A picture to draw, for example sanity-check.png.")
def main(names: tuple[str, ...], seed: int, output: Path | None) -> None:
    """Randomise the shipped networks from the top, and compare their exported maps with the trained ones."""
    if output is not None:
        try:
            check_output(output)
        except exporter.UsageError as error:
            raise click.UsageError(str(error)) from error
    results: dict[str, dict[str, list[Step]]] = {}
    for name in names:
        source = resolve(name)
        images = images_for(source)
        results[name] = {method: measure(source, method, images, seed) for method in METHODS}
        click.echo(f"{name}, {len(images)} images, seed {seed}: mean rank correlation, signed and of absolute values")
        click.echo(f"{'randomised down to':<20}" + "".join(f"{method:>20}" for method in METHODS))
        for steps in zip(*results[name].values(), strict=True):
            figures = (f"{np.nanmean(step.signed):>13.2f}{np.nanmean(step.absolute):>7.2f}" for step in steps)
            click.echo(f"{steps[0].name.split()[0] if steps[0].name else '(trained)':<20}" + "".join(figures))
        constant = sum(int(np.isnan(step.signed).sum()) for steps in results[name].values() for step in steps)
        if constant:
            click.echo(f"{constant} maps were constant and are left out: they have no ranks.")
        click.echo()
    if output is not None:
        draw(results, output)


if __name__ == "__main__":
    main()
