"""What a network computes under ``torch.no_grad()``: its values go on, and no gradient comes back."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from exporter.errors import UnsupportedModel
from exporter.lines import bracketed, in_text
from exporter.rules import NO_GRADIENT

aten = torch.ops.aten

VIEWS = {
    aten.expand.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
}
"""Operators that return a view, and stay what they are where nothing writes into it."""

_BLOCK = torch.ops.higher_order.wrap_with_set_grad_enabled
"""Calls a graph of its own: what runs with gradients, or without."""


_NO_WAY = NO_GRADIENT | {aten.empty_like.default, aten.full_like.default, aten.new_empty.default}
"""Operators that no gradient goes through."""


def detach_without_grad(exported: ExportedProgram) -> None:
    """Detach what a network computes under ``torch.no_grad()``: functionalised, the block is no longer seen.

    Args:
        exported: Its graph is changed in place, and still has the blocks.

    Raises:
        UnsupportedModel: A block writes into a tensor from outside that has a gradient. It changes the value, and not
            the gradient: no operator does that.
    """
    graph = exported.graph
    blocks = graph.find_nodes(op="call_function", target=_BLOCK)
    with_gradient = _with_gradient(exported) if blocks else set()
    for block in blocks:
        if block.args[0]:  # with gradients
            continue
        inner = getattr(graph.owning_module, block.args[1].target).graph
        own = zip(inner.find_nodes(op="placeholder"), block.args[2:], strict=True)
        writer = _writer_into(inner, {node for node, given in own if given in with_gradient})
        if writer is not None:
            line = bracketed(in_text(writer.meta.get("stack_trace") or ""))
            raise UnsupportedModel(
                f"{writer.target} writes, under torch.no_grad(), into a tensor that has a gradient{line}; autograd "
                "goes on with the gradient of the old value. Write into a copy, or compute a new tensor."
            )
        for value in list(block.users):
            with graph.inserting_after(value):
                detached = graph.call_function(aten.detach.default, (value,))
            detached.meta = dict(value.meta)
            value.replace_all_uses_with(
                detached, delete_user_cb=lambda user, own=detached: user is not own and user.op != "output"
            )


def _with_gradient(exported: ExportedProgram) -> set[fx.Node]:
    """Return the values that a gradient comes to from an input, where nothing detaches."""
    found: set[fx.Node] = set()
    inputs = set(exported.graph_signature.user_inputs)
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in inputs and isinstance(value, Tensor) and value.is_floating_point():
            found.add(node)
        ends = node.target in _NO_WAY or (node.target is _BLOCK and not node.args[0])
        differs = not isinstance(value, Tensor) or value.is_floating_point()  # of several values, any may
        sized = isinstance(value, (int, float, torch.SymInt, torch.SymFloat))
        if node.op != "call_function" or ends or sized or not differs or not found & set(node.all_input_nodes):
            continue
        found.add(node)
        written = _written(node)
        while isinstance(written, fx.Node):  # a gradient comes to it too, and to what it is a view of or was before
            found.add(written)
            written = written.args[0] if written.target in VIEWS else _written(written)
    return found


def _written(node: Any) -> Any:
    """Return the node whose value an operator writes into, or None."""
    op: Any = node.target
    if not isinstance(op, torch._ops.OpOverload) or not op._schema.arguments:
        return None
    alias = op._schema.arguments[0].alias_info
    return node.args[0] if alias is not None and alias.is_write else None


def _writer_into(graph: fx.Graph, values: set[fx.Node]) -> fx.Node | None:
    """Return an operator that writes into one of these values or a view of one, or None."""
    for node in graph.nodes:
        op = node.target
        if op is operator.getitem and node.args[0] in values:
            values.add(node)  # one of several views
        if not isinstance(op, torch._ops.OpOverload):
            continue
        for argument, given in zip(op._schema.arguments, node.args, strict=False):
            if argument.alias_info is None or given not in values:
                continue
            if argument.alias_info.is_write:
                return node
            values.add(node)  # a view of it
    return None
