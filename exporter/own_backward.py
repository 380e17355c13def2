"""A backward pass of a network's own: what autograd obeys, and no graph of its operators shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from exporter.lines import bracketed, running
from exporter.network import Network, evaluating


def own_backward(network: Network, inputs: Sequence[Tensor]) -> list[str]:
    """Say which custom ``autograd.Function`` classes, gradient hooks and traced parts a network has, one a sentence.

    Most do no harm: a function whose backward pass is its derivative, a hook that looks. So this says what may be the
    reason where something else has shown that there is one.

    Args:
        network: The network.
        inputs: A batch of each of its inputs.
    """
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    functions: list[str] = []
    with evaluating(network), torch.enable_grad(), _Hooks() as seen, contextlib.suppress(Exception):
        functions = _functions(network(*(leaf.clone() for leaf in leaves)).grad_fn)
    found = [*(f"autograd.Function {name}" for name in functions), *seen.lines]
    for name, module in network.model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            found.append(f"a backward hook on {name or type(module).__name__}")
        if isinstance(module, torch.jit.ScriptModule):
            found.append(f"TorchScript in {name}")
    return [f"the network has {one}, of which its operators tell nothing" for one in dict.fromkeys(found)]


class _Hooks(TorchFunctionMode):
    """Notes where hooks are put on tensors."""

    _KINDS: tuple[Callable[..., Any], ...] = (Tensor.register_hook, Tensor.register_post_accumulate_grad_hook)

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._KINDS:
            self.lines.append(f"a hook on a tensor's gradient{bracketed(running())}")
        return func(*args, **kwargs or {})


def _functions(last: Any) -> list[str]:
    """Return the names of the custom functions between the logits and the inputs, but PyTorch's own."""
    seen, waiting = set(), [last]
    found: dict[str, None] = {}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        kind: Any = getattr(node, "_forward_cls", None)
        if isinstance(node, BackwardCFunction) and not str(kind.__module__).startswith("torch."):
            found[kind.__qualname__] = None
    return sorted(found)
