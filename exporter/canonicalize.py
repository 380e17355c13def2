"""Canonicalise: spell every operator in the one way that the rules and the emitters know."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from exporter.errors import UnsupportedOp
from exporter.program import Program, interpret, of_weights, place_of, retrace, run_operator
from exporter.spellings import SPELLINGS


def canonicalize(program: Program) -> Program:
    """Return the same function in canonical operators."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.target in SPELLINGS or not isinstance(value, Tensor):
            continue
        if free_unbacked_symbols(value) and not of_weights(node):
            raise UnsupportedOp(
                f"how many values {node.target} returns depends on the data, so no fixed graph describes it; weigh "
                f"them by a mask in place of choosing some ({place_of(node)})"
            )

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        env = interpret(program, values, _respell)
        return tuple(env[node] for node in program.outputs)

    return retrace(program, function)


def _respell(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    op: Any = node.target
    if op not in SPELLINGS:
        return run_operator(node, args, kwargs)
    try:
        return SPELLINGS[op](*args, **kwargs)
    except UnsupportedOp as error:
        raise UnsupportedOp(f"{error} ({place_of(node)})") from error
