"""The table of rules as a whole."""

from __future__ import annotations

import pytest
import torch

from exporter.rules import VJPS, vjp
from tests.rules import (
    test_activation,
    test_linear,
    test_normalization,
    test_pointwise,
    test_pooling,
    test_reduction,
    test_shape,
)

aten = torch.ops.aten

TABLES = (
    test_activation,
    test_linear,
    test_normalization,
    test_pointwise,
    test_pooling,
    test_reduction,
    test_shape,
)


def test_every_rule_has_a_case() -> None:
    """A new rule needs a line in the table of cases of its file."""
    checked = {(case.op, wrt) for table in TABLES for case in table.CASES for wrt in case.positions()}
    assert set(VJPS) - checked == set()


def test_a_case_without_a_rule_fails() -> None:
    """So that a table shows no line that checks nothing."""
    assert [case for table in TABLES for case in table.CASES if not case.positions()] == []


def test_an_operator_has_one_rule_for_an_argument() -> None:
    with pytest.raises(ValueError, match=r"aten\.neg\.default has a rule for argument 0 already"):
        vjp(aten.neg.default)(lambda ct, y, x: ct)
