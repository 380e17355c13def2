"""Train the zoo's `digits_cnn` on scikit-learn's digits and write the weights that ship with the project."""

import io
import os
import time
from pathlib import Path

import click
import torch
import torch.nn.functional as F

import models
from models.digits import digits_cnn, held_out_split


def load() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images, float32 [1797, 1, 8, 8] in [0, 1], and their labels, int64 [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)
    return images.unsqueeze(1), torch.tensor(digits.target, dtype=torch.int64)


def shifted(images: torch.Tensor, reach: int = 1) -> torch.Tensor:
    """Move each image [N, C, H, W] by up to `reach` pixels each way, at random, over black."""
    n, _, height, width = images.shape
    padded = F.pad(images, (reach, reach, reach, reach))
    top, left = torch.randint(0, 2 * reach + 1, (2, n))
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    samples = torch.arange(n)[:, None, None]
    return padded[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int, batch: int = 64) -> torch.nn.Module:
    """Return a network trained with AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101), still in train mode.

    Args:
        images: float32 [N, 1, 8, 8].
        labels: int64 [N].
        epochs: passes over the images.
        batch: images in a step.
    """
    network = digits_cnn().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(epochs):
        # The last, partial batch would upset the batch norms; who is in it changes with each epoch.
        for chosen in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            loss = F.cross_entropy(network(shifted(images[chosen])), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network


@click.command(context_settings={"show_default": True})
@click.option("--epochs", type=click.IntRange(min=1), default=60, help="Passes over the training images.")
@click.option("--seed", default=0, help="Seeds the initial weights, the order of samples and the shifts.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=models.entry("digits_cnn").weights,
    show_default="models/weights/digits_cnn.pt",
    help="The state dict to write.",
)
def main(epochs: int, seed: int, output: Path) -> None:
    """Train digits_cnn, print its accuracy on the held-out fifth, and write its state dict.

    The held-out images are used once, after the last epoch. The same seed gives the same weights on the same
    machine and torch version.
    """
    if not os.access(output.parent, os.W_OK):
        raise click.UsageError(f"--output {output} cannot be written: {output.parent} is no folder to write into")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    images, labels = load()
    training, held_out = (torch.from_numpy(indices) for indices in held_out_split(len(images)))

    started = time.perf_counter()
    network = train(images[training], labels[training], epochs).eval()
    seconds = time.perf_counter() - started

    with torch.inference_mode():
        correct = int((network(images[held_out]).argmax(1) == labels[held_out]).sum())
    accuracy = correct / len(held_out)
    click.echo(f"trained on {len(training)} images, {epochs} epochs, {seconds:.0f} s")
    click.echo(f"held-out accuracy {accuracy:.2%} ({correct} of {len(held_out)})")
    if accuracy <= 0.97:
        raise click.ClickException("the accuracy is not above 97 %: nothing was written")

    archive = io.BytesIO()  # torch.save to a path would write that path's name into the file
    torch.save(network.state_dict(), archive)
    aside = output.with_name(f"{output.name}.{os.getpid()}.part")
    aside.write_bytes(archive.getvalue())
    aside.replace(output)
    click.echo(f"wrote {output}")


if __name__ == "__main__":
    main()
