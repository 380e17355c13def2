"""What is computed from weights alone is computed once."""

from __future__ import annotations

from typing import Any

from torch import fx

from exporter.program import Program


def share(program: Program) -> Program:
    """Let the same operator on the same weights be computed once."""
    constant = set(program.placeholders[len(program.inputs) :])
    first: dict[tuple[Any, str, str], fx.Node] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or not node.all_input_nodes or not constant.issuperset(node.all_input_nodes):
            continue
        key = node.target, repr(node.args), repr(node.kwargs)  # the repr of a node is its name
        if key in first:
            node.replace_all_uses_with(first[key])
            program.graph.erase_node(node)
        else:
            first[key] = node
            constant.add(node)
    return program
