"""Lowering: how each runtime likes the same mathematics spelled."""

from __future__ import annotations

from exporter.program import Program


def lower(program: Program, target: str) -> Program:
    """Return the same function in the formulation that a runtime computes best."""
    return program
