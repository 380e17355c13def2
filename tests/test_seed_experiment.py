"""The seed experiment: known losses, known gradients, from eager autograd and from exported artifacts."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from scripts.relu_vs_guided import PLACES, Outcome, eager, exported, main

LOSS = 7.155285835266113
POSITIVE = [[1, 0, 1, 0, 0], [1, 1, 0, 1, 1], [1, 1, 0, 0, 0]]


@pytest.fixture(scope="module", params=[-1.0, 1.0])
def sign(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.fixture(scope="module")
def outcomes(sign: float, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return {"eager": eager(sign), **exported(sign, tmp_path_factory.mktemp("experiment"))}


@pytest.mark.parametrize("place", PLACES)
def test_losses(outcomes: dict[str, Outcome], sign: float, place: str) -> None:
    assert outcomes[place].losses == (sign * LOSS,) * 3


@pytest.mark.parametrize("place", PLACES)
def test_gradients(outcomes: dict[str, Outcome], sign: float, place: str) -> None:
    plain, functional, guided = outcomes[place].gradients
    assert np.array_equal(plain, sign * np.array(POSITIVE))
    assert np.array_equal(functional, plain)
    assert np.array_equal(guided, np.array(POSITIVE) if sign > 0 else np.zeros((3, 5)))


@pytest.mark.parametrize("place", PLACES)
def test_equalities(outcomes: dict[str, Outcome], sign: float, place: str) -> None:
    assert outcomes[place].equalities == ((True, True, True) if sign > 0 else (True, False, False))


def test_the_script_prints_all_of_it() -> None:
    result = CliRunner().invoke(main, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.count("-7.155285835266113") == 9
    assert result.stdout.count("7.155285835266113") == 18
    assert result.stdout.count("False") == 6
    assert result.stdout.count("True") == 12
