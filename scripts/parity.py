"""``python scripts/parity.py --model resnet18``: how far each runtime is from live autograd, over many inputs.

An export tries four inputs; this exports to a temporary folder and tries more, through the written files, and adds the
explicit module run eagerly.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path

import click
import torch

import exporter
from exporter.parity import Parity, Values, compare
from exporter.reference import live
from exporter.sources import Source, resolve


@click.command()
@click.option("--model", "spec", required=True, help="What saliport export --model takes.")
@click.option("--method", default="guided", show_default=True, help="guided, gradient or deconvnet.")
@click.option("--inputs", type=click.IntRange(min=1), default=20, show_default=True, help="How many, one by one.")
@click.option("--seed", default=0, show_default=True, help="Of untrained weights and of the inputs.")
def main(spec: str, method: str, inputs: int, seed: int) -> None:
    """Measure relative L2 errors of attributions against live autograd, median and worst."""
    try:
        source = resolve(spec, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            artifact = exporter.export(source.model, source.sample_shape, Path(folder) / "artifact", method=method)
            certificate = exporter.verify(artifact.folder, source.model, seed=seed, batches=(1,) * inputs)
    except (exporter.SaliportError, exporter.VerificationFailed) as error:
        click.echo(f"parity: {error}", err=True)
        sys.exit(1 if isinstance(error, exporter.VerificationFailed) else 2)
    explicit = exporter.build(source.model, torch.zeros(1, *source.sample_shape), method)
    eager = [eager_parity(explicit, source, method, inputs, seed, double) for double in (True, False)]
    click.echo(f"{source.name}, {method}, {inputs} inputs, torch threads {torch.get_num_threads()}")
    click.echo(
        f"{'runtime':<14}{'dtype':<10}{'median':>10}{'worst':>10}{'agree':>8}{'logits, worst':>16}{'undecided':>12}"
    )
    for parity in (*eager, *certificate.runtimes):
        spread = parity.summary()
        click.echo(
            f"{parity.runtime:<14}{parity.dtype:<10}{spread['relative_l2']['median']:>10.1e}"
            f"{spread['relative_l2']['worst']:>10.1e}{parity.agreeing:>8.0%}"
            f"{spread['logits_relative_l2']['worst']:>16.1e}{sum(parity.undecided) / inputs:>12.1f}"
        )


def eager_parity(
    explicit: torch.nn.Module, source: Source, method: str, inputs: int, seed: int, double: bool
) -> Parity:
    """Compare the explicit module, run eagerly, with live autograd on random inputs and the predicted class."""
    reference = copy.deepcopy(source.model)
    if double:
        explicit, reference = copy.deepcopy(explicit).double(), reference.double()
    results, references, undecided = [], [], []
    for index in range(inputs):
        image = torch.randn(1, *source.sample_shape, generator=torch.Generator().manual_seed(seed + index))
        image = image.double() if double else image
        target = torch.tensor([exporter.PREDICTED])
        with torch.no_grad():
            logits, attribution = explicit(image, target)
        results.append(Values(logits.numpy(), {"attribution": attribution.numpy()}))
        logits, (attribution,), counts = live(reference, image, target, method)
        references.append(Values(logits.numpy(), {"attribution": attribution.numpy()}))
        undecided += counts.tolist()
    return compare("eager", "float64" if double else "float32", results, references, undecided)


if __name__ == "__main__":
    main()
