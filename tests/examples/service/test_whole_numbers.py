"""Networks of whole numbers, in which float32 is exact: the service must agree with live autograd to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.examples import doors
from tests.examples.conftest import Once
from tests.examples.service.client import Service, encoded
from tests.oracle import attribute


def black_and_white(height: int, width: int) -> tuple[bytes, torch.Tensor]:
    """Return an image file whose values are 0 and 1 and which needs no resizing, and what a network is given of it."""
    bits = np.random.default_rng(0).integers(0, 2, (height, width, 3)).astype(np.uint8)
    return encoded(Image.fromarray(255 * bits)), torch.from_numpy(bits.transpose(2, 0, 1)).float()[None]


def check(service: Service, model: torch.nn.Module, method: str, file: bytes, image: torch.Tensor) -> None:
    for target in (-1, 0, 2):
        logits, expected = attribute(model, image, torch.tensor([target]), method)
        assert expected.any()
        found = service.explain(file, target=target, format="raw").array()
        assert (found == expected[0].numpy()).all()
        answer = service.explain(file, target=target, top=1000).json()
        by_class = {entry["index"]: entry["logit"] for entry in answer["top"]}
        assert [by_class[index] for index in range(len(by_class))] == logits[0].tolist()
        assert answer["method"] == method
        assert "name" not in answer["target"]


@pytest.mark.parametrize("method", doors.METHODS)
def test_every_method_agrees_to_the_bit(method: str, once: Once, binary: Path) -> None:
    with Service(binary, once("whole", doors.export_all) / method) as service:
        check(service, doors.fixed_net(), method, *black_and_white(12, 11))
        answer = service.explain(black_and_white(12, 11)[0], target="cat")  # the artifact has no names
        assert answer.error() == "bad_target"


def test_a_size_is_chosen_for_an_artifact_that_leaves_it_open(once: Once, binary: Path) -> None:
    artifact = once("whole", doors.export_all) / "dynamic"
    with Service(binary, artifact, "--size", "16x8") as service:
        check(service, doors.dynamic_net(), "guided", *black_and_white(16, 8))
    refused = doors.call(binary, "--artifact", artifact, "--port", "0")
    assert refused.status == 2
    assert refused.error == (
        "saliport_service: the artifact takes images of several sizes; choose one with --size HEIGHTxWIDTH\n"
    )
    assert doors.call(binary, "--artifact", artifact, "--port", "0", "--size", "15x8").status == 1
