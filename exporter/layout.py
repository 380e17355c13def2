"""How a tensor lies in memory is no condition on sizes that vary: PyTorch asks it often, and nothing is noted of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, _prims_common
from torch.utils._pytree import tree_leaves

from exporter.patch import PatchesHere


def unasked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that answers as before, for the sample; in :data:`layout_unasked` no guard is left of that."""

    @wraps(function)
    def answer(*args: Any, **kwargs: Any) -> Any:
        if not layout_unasked.here():  # another thread's question
            return function(*args, **kwargs)
        sizes = ((*arg.shape, *arg.stride()) if isinstance(arg, Tensor) else arg for arg in tree_leaves(args))
        varying = next((size for size in tree_leaves(list(sizes)) if isinstance(size, torch.SymInt)), None)
        with varying.node.shape_env.suppress_guards() if varying is not None else nullcontext():
            return function(*args, **kwargs)

    return answer


_QUESTIONS = (
    "is_contiguous_for_memory_format",
    "are_strides_like_channels_last_or_false",
    "compute_elementwise_output_logical_to_physical_perm",
)

layout_unasked = PatchesHere(
    (_prims_common, name, unasked(getattr(_prims_common, name))) for name in _QUESTIONS if hasattr(_prims_common, name)
)
"""Let a trace learn from the sample how tensors lie in memory without taking its sizes for the only ones.

No operator computes another value for that. But by what PyTorch has asked it rewrites formulas: were the border that
makes a size a multiple of 8 empty in the sample, it would be none at any size.
"""
