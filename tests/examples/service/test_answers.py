"""What the service answers, against live autograd and against Python's own computation of everything around it."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image

import exporter
from exporter.reference import live
from exporter.sources import resolve
from models.cifar_resnet import CLASSES
from tests.examples.service.client import Service, encoded
from tests.examples.service.triangle import resized
from tests.oracle import attribute

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket")


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return resolve("cifar_resnet20", seed=0).model


def relative(found: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_the_answer_is_that_of_live_autograd(
    name: str, format: str, service: Service, artifact: Path, model: torch.nn.Module
) -> None:
    file = encoded(photograph(name), format)
    tensor = service.explain(file, format="input").array()
    image = torch.from_numpy(tensor.copy())[None]
    for target in (-1, 0, 7):
        logits, attribution = attribute(model, image, torch.tensor([target]), "guided")
        *_, undecided = live(model, image, torch.tensor([target]), "guided")
        answer = service.explain(file, target=target, top=10).json()
        found = service.explain(file, target=target, format="raw")
        by_class = {entry["index"]: entry for entry in answer["top"]}
        chosen = int(logits.argmax()) if target == -1 else target
        assert relative(np.array([by_class[k]["logit"] for k in range(10)]), logits[0].numpy()) < 1e-5
        assert np.allclose([by_class[k]["probability"] for k in range(10)], logits[0].double().softmax(0), atol=1e-5)
        assert [by_class[k]["name"] for k in range(10)] == list(CLASSES)
        assert [entry["index"] for entry in answer["top"]] == logits[0].argsort(descending=True).tolist()
        assert answer["target"] == by_class[chosen]
        assert found.headers["Saliport-Target"] == str(chosen)
        assert found.headers["Saliport-Method"] == answer["method"] == "guided"
        # Where a comparison hangs on rounding, autograd itself is not steady: see the README, "What the proof is".
        assert relative(found.array(), attribution[0].numpy()) < (1e-5 if undecided == 0 else 1e-2)
        session = exporter.load(artifact, threads=1)
        assert (found.array() == session(image.numpy(), target).attribution[0]).all()


def test_the_cat_is_a_cat(service: Service, cat_png: bytes) -> None:
    answer = service.explain(cat_png).json()
    assert answer["target"]["name"] == answer["top"][0]["name"] == "cat"
    assert answer["target"]["probability"] > 0.9
    assert len(answer["top"]) == 5
    assert answer["image"] == {"format": "png", "width": 451, "height": 300}
    assert answer["input"] == {"channels": 3, "height": 32, "width": 32}


def test_a_form_and_a_query_say_the_same(service: Service, cat_png: bytes) -> None:
    asked = {"target": "dog", "top": 3, "format": "json"}
    raw, formed = service.explain(cat_png, **asked), service.explain_form(cat_png, **asked)
    assert raw.status == formed.status == 200
    assert raw.body == formed.body
    assert raw.json()["target"]["index"] == CLASSES.index("dog")
    assert raw.body == service.explain(cat_png, target=5, top=3).body
    assert service.explain(cat_png, target=-1).body == service.explain(cat_png).body
    assert service.explain(cat_png, top=0).json()["top"] == []
    assert len(service.explain(cat_png, top=1000).json()["top"]) == 10


@pytest.mark.parametrize(
    ("accept", "format"),
    [
        ("application/json", "json"),
        ("*/*", "json"),
        ("image/png", "heatmap"),
        ("image/*;q=0.5, text/html", "heatmap"),
        ("application/json;q=0.2, application/octet-stream;q=0.9", "raw"),
        ("image/png;q=0, */*;q=0.1", "json"),
    ],
)
def test_accept_chooses_the_format(accept: str, format: str, service: Service, cat_png: bytes) -> None:
    answer = service.explain(cat_png, {"Accept": accept})
    assert answer.status == 200
    assert answer.body == service.explain(cat_png, format=format).body


def test_what_is_not_acceptable(service: Service, cat_png: bytes) -> None:
    answer = service.explain(cat_png, {"Accept": "text/html"})
    assert (answer.status, answer.error()) == (406, "not_acceptable")
    assert service.explain(cat_png, {"Accept": "text/html"}, format="raw").status == 200


def heat_of(attribution: NDArray[np.float32]) -> NDArray[np.float64]:
    positive = np.maximum(attribution.astype(np.float64), 0).sum(0)
    return np.clip(positive / np.percentile(positive, 99.5), 0, 1)


def glow(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.stack([3 * heat, 3 * heat - 1, 3 * heat - 2], -1), 0, 1)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_pictures_are_those_of_python(name: str, service: Service, model: torch.nn.Module) -> None:
    file = encoded(photograph(name))
    tensor = service.explain(file, format="input").array()
    _, attribution = attribute(model, torch.from_numpy(tensor.copy())[None], torch.tensor([-1]), "guided")
    heat = heat_of(attribution[0].numpy())
    wanted = 255 * glow(heat)
    found = service.explain(file, format="heatmap").picture()
    assert found.shape == (32, 32, 3)
    assert np.abs(found - wanted).max() <= 0.501  # half a step of 8 bits
    assert found.max() == 255
    assert (found > 0).any(2).mean() > 0.2

    pixels = resized(np.asarray(photograph(name), np.float64), 32, 32)
    wanted = (1 - heat[..., None]) * pixels + 255 * heat[..., None] * glow(heat)
    assert np.abs(service.explain(file, format="overlay").picture() - wanted).max() <= 0.501


def test_maps_go_into_the_json_where_asked(service: Service, cat_png: bytes) -> None:
    answer = service.explain(cat_png, include="raw,overlay,heatmap,input").json()
    assert list(answer["maps"]) == ["raw", "overlay", "heatmap", "input"]
    for name, entry in answer["maps"].items():
        alone = service.explain(cat_png, format=name)
        assert base64.b64decode(entry["base64"], validate=True) == alone.body
        assert entry["type"] == alone.headers["Content-Type"]
    assert "maps" not in service.explain(cat_png).json()
