"""Differentiate: append the backward pass to a canonical program, one rule at a time."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from exporter.errors import UnsupportedModel, UnsupportedOp
from exporter.methods import Method, selected
from exporter.program import (
    Program,
    any_size,
    fake_mode_of,
    interpret,
    place_of,
    run_operator,
    scope,
    scope_of,
    trace,
)
from exporter.rectifiers import active, rectifier_ceiling
from exporter.rules import NO_GRADIENT, VJPS, Rule
from exporter.signature import TARGET

aten = torch.ops.aten


def differentiate(
    program: Program, method: Method, formulations: Mapping[torch._ops.OpOverload, Rule] | None = None
) -> Program:
    """Return the program of ``(*inputs, target) -> (logits, *attributions)``.

    Args:
        program: A canonical program of ``inputs [N, ...] -> logits [N, K]``.
        method: What happens at rectifiers.
        formulations: A target's own rules for an operator's first argument. One that returns
            ``NotImplemented`` leaves the case to the rule in the table.

    Returns:
        A program with an attribution for every input of floating point, zero where the logits do not depend on it.

    Raises:
        UnsupportedOp: An operator between an input and the logits has no rule.
        UnsupportedModel: The logits depend on no input.
    """
    given = program.placeholders[: len(program.inputs)]
    sources = [node for node in given if node.meta["val"].is_floating_point()]
    reached = _reached(program, sources)
    logits_node = program.outputs[0]
    if logits_node not in reached:
        raise UnsupportedModel(
            "autograd finds no way from the logits to the image: the forward pass leaves it out, detaches, or runs "
            "under torch.no_grad(), or every way to them has a derivative of zero, as round() and sign() have; there "
            "is nothing to attribute"
        )
    pullback = _Pullback(method, formulations or {}, reached, _before_poles(program))

    fakes = {name: node.meta["val"] for node, name in program.names().items()}
    inputs = {name: fakes.pop(name) for name in program.inputs}
    with fake_mode_of(list(inputs.values())):
        target = torch.empty(given[0].meta["val"].shape[0], dtype=torch.int64)

    def explicit(*values: Tensor) -> tuple[Tensor, ...]:
        target, values = values[len(given)], (*values[: len(given)], *values[len(given) + 1 :])
        env = interpret(program, values, run_operator)
        logits = env[logits_node]
        with scope("target"):
            cotangents: dict[fx.Node, Any] = {logits_node: seed(logits, target)}
        for node in reversed(program.graph.nodes):
            if node.op == "call_function" and node in cotangents:
                with scope(f"{scope_of(node)}.vjp"), any_size(node):
                    for argument, ct in pullback(node, cotangents.pop(node), env):
                        ct = _of_dtype(ct, env[argument])
                        cotangents[argument] = _sum(cotangents[argument], ct) if argument in cotangents else ct
        return logits, *(cotangents[s] if s in cotangents else torch.zeros_like(env[s]) for s in sources)

    return trace(explicit, {**inputs, TARGET: target}, program.tensors, fakes, program.dimensions)


def seed(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cotangent of the logits: one-hot at each sample's target, ``[N, K]``.

    A target of -1 stands for the predicted class. Any other target outside ``[0, K)`` becomes ``K``, which
    no runtime accepts as an index: left alone, a negative one would silently count from the end in ONNX.
    """
    classes = logits.shape[1]
    chosen = torch.where(target == -1, logits.argmax(1), target.masked_fill(target < -1, classes))
    return torch.zeros_like(logits).scatter(1, chosen.unsqueeze(1), 1.0)


def _of_dtype(ct: Any, value: Any) -> Any:
    """Return a cotangent in its value's dtype, as autograd does: a product with another dtype's has that."""
    if isinstance(ct, Tensor) and isinstance(value, Tensor) and ct.dtype != value.dtype:
        return ct.type_as(value)
    return ct


def _sum(a: Any, b: Any) -> Any:
    """Add cotangents; those of a list of outputs one by one, where None stands for zero."""
    if isinstance(a, list):
        return [y if x is None else x if y is None else x + y for x, y in zip(a, b, strict=True)]
    return a + b


POLES = {aten.acos.default, aten.asin.default, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.sqrt.default}
"""Operators with an infinite derivative where they are finite themselves, as a square root's at 0."""

_PRODUCTS = {
    aten.addmm.default,
    aten.bmm.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
    aten.linear.default,
    aten.matmul.default,
    aten.mm.default,
}
"""Operators that make NaN of an infinite cotangent, for every value that they read."""


def _before_poles(program: Program) -> set[fx.Node]:
    """Return the rectifiers whose cotangent may be infinite where nothing passes: 0 times that would be NaN."""
    infinite: set[fx.Node] = set()
    found = set()
    for node in reversed(program.graph.nodes):
        if node.op != "call_function" or node.target in _PRODUCTS:
            continue
        if node in infinite and rectifier_ceiling(node.target, *node.args[1:], **node.kwargs) is not None:
            found.add(node)
        elif node in infinite or (node.target in POLES and not _is_smooth(node)):
            infinite.update(node.all_input_nodes)
    return found


def _is_smooth(node: fx.Node) -> bool:
    """Tell whether a power has a finite derivative wherever it is finite."""
    exponent = node.args[1] if node.target == aten.pow.Tensor_Scalar else None
    return isinstance(exponent, (int, float)) and not 0 < exponent < 1


def _reached(program: Program, sources: list[fx.Node]) -> set[fx.Node]:
    """Return the nodes that carry a gradient from an input."""
    reached = set(sources)
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target not in NO_GRADIENT and reached & set(node.all_input_nodes):
            value = node.meta["val"]
            if isinstance(value, Tensor) and value.is_complex():
                raise UnsupportedOp(f"{missing_rule(node, 0)} Complex numbers have none.")
            if isinstance(value, (tuple, list)) or (isinstance(value, Tensor) and value.is_floating_point()):
                reached.add(node)
    return reached


class _Pullback:
    """Sends a node's cotangent to those of its arguments that an input reaches."""

    def __init__(
        self,
        method: Method,
        formulations: Mapping[torch._ops.OpOverload, Rule],
        reached: set[fx.Node],
        before_poles: set[fx.Node],
    ) -> None:
        self._method = method
        self._before_poles = before_poles
        self._formulations = formulations
        self._reached = reached

    def __call__(self, node: fx.Node, ct: Any, env: Mapping[fx.Node, Any]) -> list[tuple[fx.Node, Any]]:
        args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
        if node.target is operator.getitem:
            return self._one_of_several(node, ct)
        if isinstance(ct, list):
            ct = [torch.zeros_like(y) if part is None else part for y, part in zip(env[node], ct, strict=True)]
        if any(argument in self._reached for argument in node.kwargs.values() if isinstance(argument, fx.Node)):
            raise UnsupportedOp(
                f"{node.target} takes a tensor by keyword ({place_of(node)}); there is no rule for that"
            )
        found: list[tuple[fx.Node, Any]] = []
        for position, argument in enumerate(node.args):
            if isinstance(argument, fx.Node) and argument in self._reached:
                found.append((argument, self._rule(node, position)(ct, env[node], *args, **kwargs)))
            elif isinstance(argument, (list, tuple)) and self._reached & {
                a for a in argument if isinstance(a, fx.Node)
            }:
                parts = self._rule(node, position)(ct, env[node], *args, **kwargs)
                found += [(a, part) for a, part in zip(argument, parts, strict=True) if a in self._reached]
        return found

    def _one_of_several(self, node: fx.Node, ct: Tensor) -> list[tuple[fx.Node, Any]]:
        """Of a list, any; of a tuple the first: what else comes with it (indices, statistics) has no rule."""
        source, index = node.args
        assert isinstance(source, fx.Node)
        outputs = source.meta["val"]
        if isinstance(outputs, list):
            return [(source, [ct if position == index else None for position in range(len(outputs))])]
        if index != 0:
            raise UnsupportedOp(f"output {index} of {source.target} has no vjp rule ({place_of(source)})")
        return [(source, ct)]

    def _rule(self, node: fx.Node, position: int) -> Rule:
        op: Any = node.target
        ceiling = None
        if position == 0:
            ceiling = rectifier_ceiling(op, *node.args[1:], **node.kwargs)  # type: ignore[arg-type]
        if ceiling is not None:
            keep = selected if node in self._before_poles else torch.mul
            return lambda ct, y, *args, **kwargs: self._method.rule(ct, active(y, ceiling), keep)
        rule = VJPS.get((op, position))
        if rule is None:
            raise UnsupportedOp(missing_rule(node, position))
        special = self._formulations.get(op) if position == 0 else None
        if special is None:
            return rule
        table_rule = rule

        def chosen(*args: Any, **kwargs: Any) -> Any:
            result = special(*args, **kwargs)
            return table_rule(*args, **kwargs) if result is NotImplemented else result

        return chosen


def missing_rule(node: fx.Node, position: int) -> str:
    """Return the message for an operator without a rule."""
    argument = f" with respect to argument {position}" if position else ""
    return (
        f"{node.target} has no vjp rule{argument} ({place_of(node)}). "
        'Rules are functions in exporter/rules; see CONTRIBUTING.md, "Adding an operator".'
    )
