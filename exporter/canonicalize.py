"""Canonicalise: spell every operator in the one way that the rules and the emitters know."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from exporter.errors import UnsupportedOp
from exporter.program import Program, interpret, place_of, retrace, run_operator
from exporter.spellings import SPELLINGS


def canonicalize(program: Program) -> Program:
    """Return the same function in canonical operators."""

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        env = interpret(program, values, _respell)
        return tuple(env[node] for node in program.outputs)

    return retrace(program, function)


def _respell(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    op: Any = node.target
    if op not in SPELLINGS:
        if isinstance(value := node.meta.get("val"), Tensor) and free_unbacked_symbols(value):
            raise UnsupportedOp(
                f"how many values {op} returns depends on the data, so no fixed graph describes it; weigh them by a "
                f"mask in place of choosing some ({place_of(node)})"
            )
        return run_operator(node, args, kwargs)
    try:
        return SPELLINGS[op](*args, **kwargs)
    except UnsupportedOp as error:
        raise UnsupportedOp(f"{error} ({place_of(node)})") from error
