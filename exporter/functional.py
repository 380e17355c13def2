"""Functionalise: an exported graph in which no operator writes into a tensor.

``run_decompositions`` does it for any graph, by tracing it twice more: two thirds of the time of a capture. Most
networks write into fresh tensors only, of which there is no view, ``relu_`` after a convolution: there the functional
operator takes the place of the one that writes, and what is read afterwards is its result. Where it does run, it also
takes apart what is made of other operators, a GRU of products and sums, if nothing here knows it as a whole.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from exporter.rectifiers import RANGES
from exporter.rules import NO_GRADIENT, VJPS
from exporter.spellings import SPELLINGS
from exporter.ungraded import detach_without_grad

aten = torch.ops.aten

FRESH_COMPOSITES = {
    aten.adaptive_avg_pool2d.default,
    aten.batch_norm.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.group_norm.default,
    aten.layer_norm.default,
    aten.linear.default,
    aten.max_pool2d.default,
    aten.pad.default,
}
"""Composite operators that return a tensor of their own. Others may return their input, which no schema tells."""


def functionalize(exported: ExportedProgram) -> ExportedProgram:
    """Return an exported program that computes the same and writes into no tensor; its graph may be changed in place.

    Raises:
        UnsupportedModel: What runs without gradients writes into a tensor that has one.
        Exception: Of many kinds, where PyTorch cannot.
    """
    detach_without_grad(exported)
    _leave_constants(exported.graph)
    done: set[Any] = set()
    while apart := {op: how for op, how in _made_of_others(exported).items() if op not in done}:
        exported = exported.run_decompositions(apart)  # what one is made of may be made of others itself
        done |= apart.keys()
    if done:
        return exported
    calls = [node for node in exported.graph.nodes if node.op not in ("placeholder", "output")]
    families = _families(calls)
    if not all(map(_is_ours, calls)) or not all(map(_may_change, families)):
        return exported.run_decompositions({})
    for family in families:
        _replace(family)
    return exported


def writes_into_views(exported: ExportedProgram) -> bool:
    """Tell whether an operator writes into what may have another name: a tensor that is a view, or has one before.

    Then it makes a difference whether ``contiguous()`` returns its input, which depends on sizes, or a copy.
    """
    calls = [node for node in exported.graph.nodes if node.op == "call_function"]
    ops = (node.target for node in calls if isinstance(node.target, torch._ops.OpOverload))
    known = all(_functional(op) for op in ops if op._schema.is_mutable)
    return not known or not all(map(_may_change, _families(calls)))


def _leave_constants(graph: fx.Graph) -> None:
    """Drop the ``detach_`` that ``torch.tensor`` in a forward comes with: no constant has a gradient."""
    for node in graph.find_nodes(op="call_function", target=aten.detach_.default):
        constant = node.args[0]
        if constant.target is aten.lift_fresh_copy.default:
            node.replace_all_uses_with(constant)
            graph.erase_node(node)


def _made_of_others(exported: ExportedProgram) -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Return how to take apart the operators that are others by definition, and that no table of ours knows."""
    found = {
        node.target
        for part in exported.graph_module.modules()
        if isinstance(part, fx.GraphModule)
        for node in part.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and _is_real(node.meta.get("val"))
    }
    unknown = {op for op in found - _known() if _is_composite(op) or (_takes_tensors(op) and not _has_aliases(op))}
    table = torch.export.default_decompositions() if unknown else {}
    return {op: table[op] for op in unknown if op in table}


@cache
def _known() -> set[Any]:
    """Return the operators that stay as they are: those that a table has, and a few others."""
    return {op for op, _ in VJPS} | NO_GRADIENT | set(RANGES) | set(SPELLINGS) | _WHOLE


def _takes_tensors(op: torch._ops.OpOverload) -> bool:
    """Tell whether an operator takes a tensor; what takes none is made once."""
    return any("Tensor" in str(argument.type) for argument in op._schema.arguments)


def _is_real(value: object) -> bool:
    """Tell whether an operator returns real tensors: of complex ones, for which there are no rules, an error says it.

    Taken apart, it would have another name there.
    """
    values = value if isinstance(value, (tuple, list)) else [value]
    return all(isinstance(one, Tensor) and not one.is_complex() for one in values)


_WHOLE = {
    aten.__and__.Tensor,  # are written as they are
    aten.__or__.Tensor,
    aten.floor_divide.default,
    aten.linalg_cholesky.default,  # have a check in them, which no graph without state can have
    aten.linalg_inv.default,
    aten.linalg_ldl_factor.default,
    aten.linalg_lu_factor.default,
    aten.linalg_solve.default,
    aten.cosine_embedding_loss.default,  # have rectifiers in them, of which live autograd cannot be told
    aten.hinge_embedding_loss.default,
    aten.margin_ranking_loss.default,
    aten.multi_margin_loss.default,
    aten.multilabel_margin_loss.default,
    aten.rnn_relu.data,
    aten.rnn_relu.input,
    aten.rnn_relu_cell.default,
    aten.triplet_margin_loss.default,
}
"""Operators that stay as they are, though they are made of others."""


def _is_ours(node: fx.Node) -> bool:
    """Tell whether a node is a size, or an operator that a table of ours has or ``run_decompositions`` would leave.

    One that writes must have a form that does not.
    """
    op: Any = node.target
    if op is operator.getitem or isinstance(node.meta.get("val"), torch.SymInt):
        return True
    if op in _UPDATES and _UPDATES[op](*node.args):
        return False
    if not isinstance(op, torch._ops.OpOverload):
        return False
    return _functional(op) is not None if op._schema.is_mutable else op in _known() or _is_fresh(op)


_UPDATES: dict[Any, Callable[..., bool]] = {
    aten.batch_norm.default: lambda x, weight, bias, mean, var, training, *_: training or mean is None,
    aten.instance_norm.default: lambda x, weight, bias, mean, var, use_input, *_: use_input and mean is not None,
}
"""Operator -> whether it writes into stored statistics, or computes its own over a batch, which no schema tells."""


def _families(calls: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """Return the names of each tensor that is written into, in order: its own, and that of every operator that writes.

    Those are all the names that it has but for views.
    """
    family_of: dict[fx.Node, list[fx.Node]] = {}
    families = []
    for node in calls:
        written = node.args[0] if _functional(node.target) else None
        if isinstance(written, fx.Node):
            if written not in family_of:
                family_of[written] = [written]
                families.append(family_of[written])
            family_of[node] = family_of[written]
            family_of[node].append(node)
    return families


def _may_change(family: list[fx.Node]) -> bool:
    """Tell whether functional operators may take the place of those that write into a tensor.

    It must be fresh, of the dtype of whatever is written, and not viewed before it is written into for the last time.
    """
    first, *writers = family
    if not isinstance(first.target, torch._ops.OpOverload) or not _is_fresh(first.target):
        return False
    value = first.meta["val"]
    given = [one.meta["val"].dtype for node in writers for one in node.all_input_nodes]
    views = [user for name in family for user in name.users if _may_be_view(user)]
    return (
        value.is_floating_point()
        and all(dtype == value.dtype for dtype in given)
        and all(writers[-1] < view for view in views)
    )


def _may_be_view(node: fx.Node) -> bool:
    """Tell whether an operator that reads a tensor may return it, or a view of it."""
    op = node.target
    return isinstance(op, torch._ops.OpOverload) and not op._schema.is_mutable and not _is_fresh(op)


def _replace(family: list[fx.Node]) -> None:
    """Put functional operators in place of those that write; what reads the tensor afterwards reads their result."""
    for index, node in enumerate(family[1:], start=1):
        for name in family[:index]:
            name.replace_all_uses_with(node, delete_user_cb=node.__lt__)
        functional = _functional(node.target)
        assert functional is not None
        node.target = functional
        node.meta["val"] = node.meta["val"].detach()  # a value of its own: until here it was the tensor's


def _is_fresh(op: torch._ops.OpOverload) -> bool:
    """Tell whether an operator's result is never one of its inputs, or a view of it."""
    return not _has_aliases(op) and (op in FRESH_COMPOSITES or not _is_composite(op))


@cache
def _functional(op: Any) -> torch._ops.OpOverload | None:
    """Return the operator that returns what another one writes into its first argument, or None if there is none."""
    if not isinstance(op, torch._ops.OpOverload) or not op._schema.arguments:
        return None
    first, *rest = [bool(one.alias_info and one.alias_info.is_write) for one in op._schema.arguments]
    name = op._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") and not name.endswith("__") else None
    found: torch._ops.OpOverload | None = getattr(packet, op._overloadname, None)
    if found is None or not first or any(rest) or _is_composite(found):
        return None
    names = [[argument.name for argument in one._schema.arguments] for one in (op, found)]
    return found if names[0] == names[1] and not _has_aliases(found) else None


def _has_aliases(op: torch._ops.OpOverload) -> bool:
    """Tell whether an operator writes into an argument, or returns one or a view of one, as far as its schema says."""
    return any(argument.alias_info for argument in op._schema.arguments)


@cache
def _is_composite(op: torch._ops.OpOverload) -> bool:
    """Tell whether PyTorch computes an operator by calling others, whose results it may pass on."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd"))
