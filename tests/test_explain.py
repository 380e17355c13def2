"""The picture: a photograph through a shipped network, and the errors of ``scripts/explain.py``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import exporter
from exporter.artifact import write_manifest
from exporter.sources import resolve
from scripts.explain import main, positive_map, read_image, softmax

PHOTO = Path(__file__).parent.parent / "docs" / "chelsea.png"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    for name in ("cifar_resnet20", "digits_cnn"):
        source = resolve(name)
        exporter.export(source.model, source.sample_shape, folder / name, description=source.describe())
    return folder


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torchscript"])
def test_a_cat_is_a_cat(artifacts: Path, tmp_path: Path, runtime: str) -> None:
    output = tmp_path / "new" / "heatmap.png"
    result = explain(artifacts / "cifar_resnet20", PHOTO, "--output", output, "--runtime", runtime)
    assert result.exit_code == 0, result.output
    assert "chelsea.png: cat, 100.0%" in result.stdout
    with Image.open(output) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=float)
    assert pixels.shape[1] > 2.5 * pixels.shape[0], "three panels side by side"
    third = pixels.shape[1] // 3
    panels = [pixels[100:, index * third : (index + 1) * third] for index in range(3)]
    assert all(panel.std() > 20 for panel in panels), "each panel shows something"
    assert panels[1].mean() < panels[0].mean(), "the map is dark but for what matters"


def test_another_class_gives_another_map(artifacts: Path, tmp_path: Path) -> None:
    cat, dog = tmp_path / "cat.png", tmp_path / "dog.png"
    assert explain(artifacts / "cifar_resnet20", PHOTO, "--output", cat).exit_code == 0
    result = explain(artifacts / "cifar_resnet20", PHOTO, "--output", dog, "--target", 5)
    assert "dog, 0.0%" in result.stdout
    assert cat.read_bytes() != dog.read_bytes()


def test_a_grey_network_takes_a_colour_photograph(artifacts: Path, tmp_path: Path) -> None:
    result = explain(artifacts / "digits_cnn", PHOTO, "--output", tmp_path / "out.png")
    assert result.exit_code == 0, result.output


def test_the_input_is_what_training_used(artifacts: Path) -> None:
    manifest = exporter.Artifact.open(artifacts / "cifar_resnet20").manifest
    shown, pixels = read_image(PHOTO, manifest)
    assert shown.size == (512, 512)
    assert pixels.shape == (1, 3, 32, 32)
    preprocessing = manifest["model"]["preprocessing"]
    mean, std = (np.array(preprocessing[key])[:, None, None] for key in ("mean", "std"))
    restored = pixels[0] * std + mean
    assert restored.min() >= -1e-6
    assert restored.max() <= 1 + 1e-6
    with Image.open(PHOTO) as photo:
        width, height = photo.size
        middle = photo.crop(((width - height) // 2, 0, (width + height) // 2, height)).convert("RGB")
    expected = np.asarray(middle, dtype=float).mean((0, 1)) / 255
    assert np.allclose(restored.mean((1, 2)), expected, atol=0.02)


def test_the_map_is_positive_and_scaled() -> None:
    attribution = np.zeros((3, 8, 8))
    attribution[0, 2, 3], attribution[1, 2, 3], attribution[2, 5, 5] = 3, -5, 1
    heat = positive_map(attribution)
    assert heat.shape == (8, 8)
    assert heat.min() == 0
    assert heat.max() == 1
    assert heat[2, 3] == 1
    assert 0 < heat[5, 5] < 1
    assert not positive_map(np.zeros((1, 4, 4))).any()


def test_softmax_of_large_logits() -> None:
    assert np.allclose(softmax(np.array([1000.0, 1000.0])), 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", PHOTO), "nowhere is not an artifact"),
        (("cifar_resnet20", "gone.png"), "gone.png cannot be read as an image"),
        (("cifar_resnet20", __file__), "cannot be read as an image"),
        (("cifar_resnet20", PHOTO, "--target", 10), "--target 10 is out of range; the classes are 0 to 9"),
        (("cifar_resnet20", PHOTO, "--target", -2), "--target -2 is out of range"),
        (("cifar_resnet20", PHOTO, "--output", "map.xyz"), "--output map.xyz: write to one of"),
        (("cifar_resnet20", PHOTO, "--output", "/dev/null/map.png"), "--output /dev/null/map.png: "),
    ],
)
def test_wrong_use(artifacts: Path, tmp_path: Path, arguments: tuple[object, ...], message: str) -> None:
    output = [] if "--output" in arguments else ["--output", tmp_path / "out.png"]
    result = explain(artifacts / str(arguments[0]), *arguments[1:], *output)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_random_weights_are_said_to_be_random(artifacts: Path, tmp_path: Path) -> None:
    source = resolve("cifar_resnet32")
    exporter.export(source.model, source.sample_shape, tmp_path / "untrained", description=source.describe())
    result = explain(tmp_path / "untrained", PHOTO, "--output", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert "Note: the artifact's weights are random, so the map means nothing." in result.stdout


def test_an_artifact_that_takes_no_images(artifacts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vector"
    folder.mkdir()
    manifest = json.loads((artifacts / "cifar_resnet20" / "manifest.json").read_text())
    manifest["inputs"][0]["sample_shape"] = [12]
    del manifest["manifest_sha256"]
    for path in (artifacts / "cifar_resnet20").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    write_manifest(folder, manifest)
    result = explain(folder, PHOTO, "--output", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "takes inputs of shape [12], not images" in result.stderr
