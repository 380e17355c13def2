"""The exported maps depend on what the network has learnt: Adebayo et al. (2018), on the smaller shipped network.

``docs/sanity-check.md`` has the whole run of ``scripts/sanity_check.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exporter.sources import resolve
from scripts.sanity_check import METHODS, NETWORKS, TOP_DOWN, cascade, exported_maps, images_for, rank_correlation
from tests.oracle import attribute

TOP = TOP_DOWN["digits_cnn"][0]
ALL = " ".join(TOP_DOWN["digits_cnn"])


def test_rank_correlation() -> None:
    a = np.array([[1.0, 2.0, 3.0, 4.0]] * 5, dtype=np.float32)
    b = np.array([[1, 10, 11, 99], [4, 3, 2, 1], [2, 1, 4, 3], [1, 1, 2, 2], [5, 5, 5, 5]], dtype=np.float32)
    # 1 - 6 sum(d^2) / (n (n^2 - 1)) without ties; with them, the correlation of the ranks 1.5 1.5 3.5 3.5
    np.testing.assert_allclose(rank_correlation(a, b), [1, -1, 0.6, 2 / 5**0.5, np.nan])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cascade_goes_from_the_top_to_the_last_parameter(name: str) -> None:
    model = resolve(name).model
    trained = {key: value.clone() for key, value in model.state_dict().items()}
    count, before = -1, set[str]()
    for step, changed in cascade(model, TOP_DOWN[name], seed=0):
        count += 1
        differs = {key for key, value in changed.state_dict().items() if not torch.equal(value, trained[key])}
        new = {key for key in differs - before if not key.endswith("num_batches_tracked")}
        assert {key for key in new if not key.startswith(tuple(f"{part}." for part in step.split()))} == set()
        assert bool(new) == bool(step)
        before |= differs
    assert count == len(TOP_DOWN[name])
    assert {key for key, _ in model.named_parameters()} <= before
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items()), "the trained one is kept"


@pytest.mark.parametrize("method", METHODS)
def test_the_map_shows_the_network_and_not_the_image_alone(method: str) -> None:
    """What depends on the image alone, an edge detector for example, would keep a rank correlation of exactly 1.

    Unrelated maps of 64 pixels correlate with a standard deviation of 1 / sqrt(63) = 0.126: the plain gradient must be
    within two of them. Guided maps stay more alike, as the paper found (here 0.75 and, deconvnet, 0.53): 0.9 is what
    they must fall below.
    """
    source = resolve("digits_cnn")
    images = images_for(source)
    with torch.no_grad():
        target = source.model(images).argmax(1)
    found, expected = {}, {}
    for step, model in cascade(source.model, (TOP, ALL), seed=0):
        found[step] = exported_maps(model, method, images, target)
        expected[step] = attribute(model, images, target, method)[1].numpy()
    correlation = {step: rank_correlation(maps, found[""]) for step, maps in found.items()}
    for step, maps in expected.items():
        judged = rank_correlation(maps, expected[""])
        # values within rounding of each other may change ranks; two neighbours among 64 change it by 5e-5
        np.testing.assert_allclose(correlation[step], judged, atol=1e-3, err_msg=f"after {step}")
    np.testing.assert_allclose(correlation[""], 1)
    assert correlation[TOP].mean() < 0.99
    assert correlation[ALL].mean() < 0.9
    if method == "gradient":
        assert abs(correlation[ALL].mean()) < 2 * 0.126
