"""How a pass changes a program: an operator is traced anew, and a pass may trace something else in its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from exporter.program import Program, interpret, retrace, run_operator

aten = torch.ops.aten


@dataclass(frozen=True)
class Match:
    """An operator that a pass looks at.

    Attributes:
        node: The operator in the program before the rewrite; its arguments' nodes tell where values come from.
        value: Gives an old node's value in the program that is being traced; a number stands for itself.
        once: ``once(op, *args)`` traces an operator on values of weights, unless it has been traced on the same ones,
            by a rewrite or as an operator of the program's own.
    """

    node: fx.Node
    value: Callable[[Any], Any]
    once: Callable[..., Any]


Rewrite = Callable[[Match], Any]
"""Traces a replacement and returns its value, or returns ``NotImplemented``."""

Reads = Callable[[fx.Node], Collection[fx.Node] | None]
"""Tells which values a rewrite of an operator starts from, or None where it does not apply."""


@dataclass(frozen=True)
class Pass:
    """A named rewrite of one kind of operator.

    Attributes:
        name: As documentation and tests call it.
        ops: The operators that it looks at.
        rewrite: The rewrite; its docstring is the formula.
        reads: Given where a rewrite starts further back than the operator's own arguments: what lies between is then
            not traced at all, unless something else reads it.
    """

    name: str
    ops: tuple[torch._ops.OpOverload, ...]
    rewrite: Rewrite
    reads: Reads | None = None


def apply(program: Program, passes: Sequence[Pass]) -> Program:
    """Run passes over a program, in one walk; at each operator the first pass that applies wins.

    The result computes the same function; what no output needs any more is gone. The same operator on the same values
    of weights is traced once.
    """
    by_op: dict[Any, list[Pass]] = {}
    for one in passes:
        for op in one.ops:
            by_op.setdefault(op, []).append(one)
    needed, constant = _needed(program, by_op), _constant(program)

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        env: dict[fx.Node, Any] = {}
        known: dict[tuple[Any, ...], tuple[Any, Any]] = {}

        def once(run: Callable[[], Any], op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            key = op, _identity(args), _identity(list(kwargs.items()))
            if key not in known:
                known[key] = run(), args  # which are kept, so that no other tensor gets the identity of one
            return known[key][0]

        def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if node not in needed:
                return None
            for one in by_op.get(node.target, ()):
                result = one.rewrite(Match(node, value, lambda op, *args: once(lambda: op(*args), op, args, {})))
                if result is not NotImplemented:
                    return result
            if node in constant:
                return once(lambda: run_operator(node, args, kwargs), node.target, args, kwargs)
            return run_operator(node, args, kwargs)

        def value(old: Any) -> Any:
            return env[old] if isinstance(old, fx.Node) else old

        interpret(program, values, call, env)
        return tuple(env[node] for node in program.outputs)

    return retrace(program, function)


def _constant(program: Program) -> set[fx.Node]:
    """Return the operators whose values are computed from weights alone."""
    found = set(program.placeholders[len(program.inputs) :])
    for node in program.graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and found.issuperset(node.all_input_nodes):
            found.add(node)
    return found


def _identity(args: Any) -> Any:
    """Return what tells an operator's arguments from others: which tensors they are, and which numbers."""
    if isinstance(args, (list, tuple)):
        return tuple(map(_identity, args))
    return id(args) if isinstance(args, Tensor) else (type(args), args)


def _needed(program: Program, by_op: Mapping[Any, Sequence[Pass]]) -> set[fx.Node]:
    """Return the nodes whose values the rewritten program is made from."""
    needed = set(program.outputs)
    for node in reversed(program.graph.nodes):
        if node in needed:
            starts = (one.reads(node) for one in by_op.get(node.target, ()) if one.reads is not None)
            needed.update(next((found for found in starts if found is not None), node.all_input_nodes))
    return needed


def producer(node: Any, *ops: Any) -> fx.Node | None:
    """Return a node if it is the result of one of these operators, else None."""
    return node if isinstance(node, fx.Node) and node.target in ops else None


def arguments(node: fx.Node) -> list[Any]:
    """Return a node's positional arguments, without the union type that fx gives them."""
    return list(node.args)


def used_once(node: fx.Node) -> bool:
    """Tell whether a node has a single user, so that nothing else needs it once that user is rewritten."""
    return len(node.users) == 1
