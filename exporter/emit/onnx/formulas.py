"""Formulas of the inputs' sizes, computed in the graph from the inputs' shapes, each once."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any

import torch

from exporter.errors import UnsupportedOp

if TYPE_CHECKING:
    from exporter.emit.onnx.emitter import Emitter

_ROUNDED = {"TruncToInt": None, "FloorToInt": "Floor", "CeilToInt": "Ceil", "RoundToInt": "Round"}
"""What makes a whole number of another -> its ONNX operator; a Cast cuts towards zero by itself."""


class Formulas:
    """The formulas that a graph holds already.

    Attributes:
        symbols: Symbol -> the input, and the axis of it, whose size it stands for.
    """

    def __init__(self, emitter: Emitter, constants: Set[float]) -> None:
        """Start with none.

        Args:
            emitter: Whose graph it is.
            constants: The fractions that the program computes sizes with.
        """
        self.symbols: dict[Any, tuple[str, int]] = {}
        self._emitter = emitter
        self._constants = constants
        self._found: dict[Any, str] = {}

    def whole(self, formula: Any) -> str:
        """Return the name of an int64 vector ``[1]`` that holds a formula whose value is a whole number.

        Raises:
            UnsupportedOp: ONNX has no such formula.
        """
        if formula not in self._found:
            self._found[formula] = self._whole(formula)
        return self._found[formula]

    def number(self, formula: Any) -> str:
        """Return the name of a float64 vector ``[1]`` that holds any formula: Python's numbers are float64 too.

        Raises:
            UnsupportedOp: ONNX has no such formula.
        """
        e, kind = self._emitter, type(formula).__name__
        name: str
        if formula.is_number:
            name = e.constant([float(formula)], torch.float64)
        elif kind == "ToFloat":
            name = self.number(formula.args[0])
        elif kind in ("IntTrueDiv", "FloatTrueDiv"):
            name = e.op("Div", *map(self.number, formula.args))
        elif formula.is_integer and kind not in ("Add", "Mul"):
            name = e.cast(self.whole(formula), torch.float64)
        elif kind == "FloatPow":
            name = e.op("Pow", *map(self.number, formula.args))
        elif kind == "OpaqueUnaryFn_sqrt":
            name = e.op("Sqrt", self.number(formula.args[0]))
        elif formula.is_Add or formula.is_Mul:
            first, *rest = map(self.number, formula.args)
            name = first
            for part in rest:
                name = e.op("Mul" if formula.is_Mul else "Add", name, part)
        else:
            raise UnsupportedOp(f"ONNX has no formula for the varying number {formula}")
        return name

    def _whole(self, formula: Any) -> str:
        e, kind = self._emitter, type(formula).__name__
        name: str
        if formula.is_Integer:
            name = e.constant([int(formula)])
        elif formula in self.symbols:
            given, axis = self.symbols[formula]
            name = e.op("Shape", given, start=axis, end=axis + 1)
        elif formula.is_Mul or formula.is_Add:
            name = self._sum_or_product(formula)
        elif kind in ("FloorDiv", "CleanDiv"):
            name = self._floor_divide(*map(self.whole, formula.args))
        elif kind in ("Mod", "PythonMod"):
            name = e.op("Mod", *map(self.whole, formula.args))
        elif kind in ("Max", "Min"):
            name = e.op(kind, *map(self.whole, formula.args))
        elif formula.is_Pow and formula.exp.is_Integer and formula.exp > 0:
            base = self.whole(formula.base)
            name = e.op("Mul", base, base)
            for _ in range(int(formula.exp) - 2):
                name = e.op("Mul", name, base)
        elif kind in _ROUNDED and self._roundings(formula.args[0]) <= 1:
            number = self.number(formula.args[0])
            rounded = _ROUNDED[kind]
            name = e.cast(e.op(rounded, number) if rounded else number, torch.int64)
        else:
            raise UnsupportedOp(f"ONNX has no formula for the varying size {formula}")
        return name

    def _roundings(self, formula: Any) -> int:
        """Return how many times a number is rounded, or more than once where the program may round it otherwise.

        A formula may have been put together: ``7.0 * h`` is what becomes of ``h * 0.7 * 10``, and the whole number that
        is made of it is another. With constants of the program's own, and one rounding, it cannot be.
        """
        kind = type(formula).__name__
        if formula.is_Float:
            value = abs(float(formula))
            return 2 if value not in self._constants else int(not (value * 2**20).is_integer())
        if formula.is_Add or formula.is_Mul:
            varying = sum(not part.is_number for part in formula.args)
            return sum(map(self._roundings, formula.args)) + (varying - 1 if formula.is_Mul else 0)
        if kind in ("IntTrueDiv", "FloatTrueDiv"):
            return 1 + sum(2 * (self._roundings(part) > 1) for part in formula.args)
        return 0 if formula.is_integer or kind == "ToFloat" else 2

    def _sum_or_product(self, formula: Any) -> str:
        """Append a sum or a product; a factor like 1/2 divides what comes of the others, evenly by construction."""
        e = self._emitter
        whole = [part for part in formula.args if not part.is_Rational or part.is_Integer]
        kind = "Mul" if formula.is_Mul else "Add"
        name = self.whole(whole[0])
        for part in whole[1:]:
            name = e.op(kind, name, self.whole(part))
        for part in formula.args:
            if part not in whole:
                name = e.op("Mul", name, e.constant([part.p])) if part.p != 1 else name
                name = e.op("Div", name, e.constant([part.q]))
        return name

    def _floor_divide(self, a: str, b: str) -> str:
        """Append ``floor(a / b)`` for a positive ``b``; ONNX's Div of whole numbers cuts towards zero."""
        name: str = self._emitter.op("Div", self._emitter.op("Sub", a, self._emitter.op("Mod", a, b)), b)
        return name
