"""What the network is given, against numpy and Pillow: every kind and size of image."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

import models
from tests.examples.conftest import Once
from tests.examples.service.client import Service, encoded, png
from tests.examples.service.triangle import resized


def prepared(pixels: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    """What the network must be given: ``[C, H, W]`` of pixels ``[H', W', C]``, with ImageNet's normalisation."""
    values = (resized(pixels, height, width) / 255).astype(np.float32)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return ((values - mean) / std).transpose(2, 0, 1)


def check(service: Service, file: bytes, pixels: NDArray[np.generic]) -> None:
    answer = service.explain(file, format="input")
    assert answer.status == 200, answer.body
    wanted = prepared(np.asarray(pixels, np.float64), 32, 32)
    assert np.abs(answer.array() - wanted).max() < 1e-6


SIZES = [(451, 300), (32, 32), (33, 31), (8, 8), (1, 1), (1, 700), (700, 1), (64, 16)]


@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_resized_as_documented(size: tuple[int, int], service: Service, cat: Image.Image) -> None:
    image = cat.resize(size)
    check(service, encoded(image), np.asarray(image))


@pytest.mark.parametrize("size", SIZES)
def test_pillow_resizes_alike(size: tuple[int, int], service: Service, cat: Image.Image) -> None:
    """In floating point; on 8 bits Pillow rounds between its two passes."""
    image = cat.resize(size)
    bands = [band.convert("F").resize((32, 32), Image.Resampling.BILINEAR) for band in image.split()]
    wanted = np.stack([np.asarray(band) for band in bands]) / 255
    mean, std = (np.array(value)[:, None, None] for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert np.abs(service.explain(encoded(image), format="input").array() * std + mean - wanted).max() < 1e-5


def with_colors(image: Image.Image, transparency: int | None = None) -> bytes:
    options = {} if transparency is None else {"transparency": transparency}
    return encoded(image.quantize(64), **options)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def rgba(cat: Image.Image) -> Image.Image:
    out = cat.convert("RGBA")
    out.putalpha(Image.linear_gradient("L").resize(cat.size))
    return out


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "grey PNG": lambda cat: encoded(cat.convert("L")),
    "grey PNG with alpha": lambda cat: encoded(cat.convert("LA")),
    "PNG of one bit": lambda cat: encoded(cat.convert("1")),
    "RGBA PNG": lambda cat: encoded(rgba(cat)),
    "palette PNG": with_colors,
    "palette PNG with a transparent colour": lambda cat: with_colors(cat, 3),
    "PNG with EXIF": lambda cat: encoded(cat, exif=exif(6)),
    "JPEG": lambda cat: encoded(cat, "JPEG", quality=90),
    "JPEG 4:4:4": lambda cat: encoded(cat, "JPEG", quality=95, subsampling=0),
    "JPEG 4:2:2, odd size": lambda cat: encoded(cat.crop((0, 0, 251, 133)), "JPEG", subsampling=1),
    "progressive JPEG": lambda cat: encoded(cat, "JPEG", progressive=True),
    "grey JPEG": lambda cat: encoded(cat.convert("L"), "JPEG"),
    **{f"JPEG turned, {n}": lambda cat, n=n: encoded(cat, "JPEG", exif=exif(n)) for n in range(1, 9)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_read_as_pillow_reads_it(kind: str, service: Service, cat: Image.Image) -> None:
    file = KINDS[kind](cat)
    check(service, file, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_and_interlacing(bits: int, channels: int, interlaced: bool, service: Service) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (37, 53, channels)).astype(f"uint{bits}")
    eight = values if bits == 8 else np.floor(values / 257 + 0.5)
    file = png(values if channels == 3 else values[..., 0], interlaced=interlaced)
    check(service, file, np.broadcast_to(eight, (37, 53, 3)))


def test_cmyk_is_refused(service: Service, cat: Image.Image) -> None:
    answer = service.explain(encoded(cat.convert("CMYK"), "JPEG"))
    assert (answer.status, answer.error()) == (422, "unsupported_image")
    assert "CMYK" in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def digits(once: Once, binary: Path) -> Iterator[Service]:
    """Give the service of an artifact of grey images, whose classes are named by digits."""
    from click.testing import CliRunner

    from exporter.cli import main

    def make(folder: Path) -> None:
        result = CliRunner().invoke(main, ["export", "--model", "digits_cnn", "--output", str(folder / "digits")])
        assert result.exit_code == 0, result.output

    with Service(binary, once("digits", make) / "digits") as running:
        yield running


def test_color_is_weighed_as_pillow_weighs_it(digits: Service, cat: Image.Image) -> None:
    preprocessing = models.entry("digits_cnn").preprocessing
    assert preprocessing == models.Preprocessing((0,), (1,), "L")
    wanted = resized(np.asarray(cat.convert("L"), np.float64)[..., None], 8, 8)[..., 0] / 255
    assert np.abs(digits.explain(encoded(cat), format="input").array()[0] - wanted).max() < 1e-6


def test_a_grey_network_has_pictures_in_color(digits: Service, cat: Image.Image) -> None:
    assert digits.explain(encoded(cat), format="overlay").picture().shape == (8, 8, 3)
    answer = digits.explain(encoded(cat.convert("L")), target=9).json()
    assert answer["target"]["name"] == "9"
