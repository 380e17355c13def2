"""Live autograd: the untouched model with every rectifier call replaced by a custom function.

Independent of ``exporter/rules``, ``exporter/rectifiers`` and ``exporter/methods`` on purpose, and written
differently: the rules act on an exported graph of ATen operators, this acts on Python calls while the model runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from exporter.errors import SaliportError, UnsupportedModel, first_line
from exporter.lines import bracketed, of_error
from exporter.precision import Narrow, Throughout

aten = torch.ops.aten

Call = tuple[float, float | None]
"""Where a call clips: (low, high); high is None where it does not."""

Choose = Callable[[Tensor], Tensor]
"""Chooses targets from the logits."""


def live(
    model: Callable[..., Tensor],
    inputs: Tensor | Sequence[Tensor],
    target: Tensor | Choose,
    method: str,
    *,
    count: bool = True,
    twin: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Compute logits and attributions by autograd.

    Args:
        model: ``model(*inputs) -> logits [N, K]``, in eval mode, of the inputs' dtype.
        inputs: Each ``[N, ...]``; one alone needs no sequence around it.
        target: int64 ``[N]``, or what chooses it from the logits; -1 stands for the predicted class.
        method: ``guided``, ``gradient`` or ``deconvnet``.
        count: Whether to count the decisions that float32 cannot make; without, all counts are 0.
        twin: Whether a model in float64 stands for one in a narrower dtype; see :mod:`exporter.precision`.

    Raises:
        UnsupportedModel: Autograd finds no way from the logits to any input, or cannot follow the model.

    Returns:
        The logits ``[N, K]``; an attribution for each input of floating point, of its shape; and ``[N]``, how many
        decisions of each sample float32 cannot make: rectifier inputs beside a threshold, max-pool windows with two
        rival maxima.
    """
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if twin:
        with suppress(Narrow, UnsupportedModel):  # a constant is written into, or where no two dtypes may meet
            return _live(model, given, target, method, count, twin, keep=True)
    return _live(model, given, target, method, count, twin, keep=False)


def _live(
    model: Callable[..., Tensor],
    given: tuple[Tensor, ...],
    target: Tensor | Choose,
    method: str,
    count: bool,
    twin: bool,
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in given]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    throughout = Throughout(twin, keep) if any(leaf.dtype == torch.float64 for leaf in wanted) else nullcontext()
    with torch.enable_grad(), throughout, Mended(), Rectify(method, count) as rectify, _refusals(model):
        logits = model(*(leaf.clone() for leaf in leaves))  # cloned: a model may overwrite its input
        wished = target if isinstance(target, Tensor) else target(logits.detach())
        chosen = torch.where(wished == -1, logits.argmax(1), wished)
        score = logits[torch.arange(len(logits)), chosen].sum()
        found = torch.autograd.grad(score, wanted, allow_unused=True) if score.requires_grad else (None,)
    if all(attribution is None for attribution in found):
        raise UnsupportedModel(
            f"autograd finds no way from the logits of {_name(model)} to the image: "
            "its forward pass detaches, or runs under torch.no_grad()"
        )
    attributions = tuple(
        torch.zeros_like(leaf) if attribution is None else attribution
        for leaf, attribution in zip(wanted, found, strict=True)
    )
    batch = len(given[0])
    undecided = sum((_by_sample(counts, batch) for counts in rectify.undecided), torch.zeros(batch, dtype=torch.int64))
    return logits.detach(), attributions, undecided


@contextmanager
def _refusals(model: Any) -> Iterator[None]:
    """Say of what PyTorch raises, of a value that is needed and was overwritten for one, that autograd refuses it."""
    try:
        yield
    except SaliportError:
        raise
    except Exception as error:
        raise UnsupportedModel(
            f"autograd does not run {_name(model)}: {first_line(error)}{bracketed(of_error(error))}"
        ) from error


def _by_sample(counts: Tensor, batch: int) -> Tensor:
    """Share counts along a first axis among samples: a sample's windows lie together; what no sample owns is all's."""
    if len(counts) % batch:
        return counts.sum().expand(batch)
    return counts.reshape(batch, -1).sum(1)


class Mended(TorchFunctionMode):
    """Goes around two errors of PyTorch 2.13 and 2.14 on a CPU.

    Where the gradient of one image lies with channels last, for a batch norm in another way than that of a batch would,
    the backward kernels of batch and instance norms read its values in the wrong order: finite differences tell
    otherwise. So it is handed on in plain order, channels first. And attention in float64 reads a mask of float32 as if
    it were of float64: the formula tells otherwise. So the mask is cast. What is called as an operator,
    ``torch.ops.aten.batch_norm``, is left as it is.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call, an attention with a mask of its own dtype, and watch its gradient if it is a norm's."""
        kwargs = kwargs or {}
        if func in _ATTENTIONS:
            args, kwargs = _with_wide_masks(args, kwargs)
        y = func(*args, **kwargs)
        if func in _NORMS and y.requires_grad:
            y.register_hook(lambda gradient: None if gradient is None else gradient.contiguous())
        return y


def _with_wide_masks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return an attention's arguments, those of float32 in float64 where the query is; not by a cast that is kept."""
    if args[0].dtype != torch.float64:
        return args, kwargs
    return tree_map_only(Tensor, lambda x: x.double() if x.dtype == torch.float32 else x, (args, kwargs))


_ATTENTIONS = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
_NORMS = {F.batch_norm, torch.batch_norm, F.instance_norm, torch.instance_norm}


def _name(model: Any) -> str:
    return type(getattr(model, "model", model)).__name__


class Rectify(TorchFunctionMode):
    """Puts a method's rule under every rectifier call, however it is spelled."""

    def __init__(self, method: str, count: bool = True) -> None:
        """Take over rectifiers until the context ends; ``undecided`` collects counts per call, each ``[N]``."""
        super().__init__()
        self._count = count
        self._function = _FUNCTIONS[method]
        self.undecided: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call, or a rectifier in its place."""
        kwargs = kwargs or {}
        if func in _MAX_POOLS and self._count:
            self.undecided.append(_rivals(*args, **{k: v for k, v in kwargs.items() if k != "return_indices"}))
            return func(*args, **kwargs)
        reader = _READERS.get(func)
        x = args[0] if args else kwargs.get("input")
        if reader is None or not isinstance(x, Tensor) or not x.is_floating_point():  # indices are clamped too
            return func(*args, **kwargs)
        clip = reader(*args[1:], **{k: v for k, v in kwargs.items() if k not in ("input", "inplace")})
        if clip is None or clip[0] != 0 or (clip[1] is not None and clip[1] <= 0):
            return func(*args, **kwargs)
        if self._count:
            self.undecided.append(_undecided(x.detach(), clip[1]))
        y = self._function.apply(x, clip[1])
        in_place = func in _IN_PLACE or kwargs.get("inplace", False)
        return x.copy_(y) if in_place else y


def _undecided(x: Tensor, ceiling: float | None) -> Tensor:
    """Count, along the first axis, the inputs within rounding of a threshold. An exact zero is decided."""
    flat = x.reshape(len(x) if x.ndim else 1, -1)
    margin = _margin(flat)
    counts = _beside(flat, 0.0, margin)
    return counts if ceiling is None else counts + _beside(flat, ceiling, margin)


def _beside(flat: Tensor, threshold: float, margin: Tensor) -> Tensor:
    """Count, in each row, the values within a margin of a threshold but not on it, which few are."""
    near = (flat - threshold if threshold else flat).abs() <= margin
    row, column = near.nonzero(as_tuple=True)
    return torch.bincount(row[flat[row, column] != threshold], minlength=len(flat))


def _rivals(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Count, along the first axis, windows whose two largest values are within rounding of each other, yet differ."""
    x = x.detach()
    kernel, steps, pad, spread = (
        tuple(value) * (3 - len(value)) if isinstance(value, (tuple, list)) else (value, value)
        for value in (kernel_size, stride or kernel_size, padding, dilation)
    )
    padded = F.pad(x, (pad[1], pad[1], pad[0], pad[0]), value=-math.inf)
    reach = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
    first = second = torch.tensor(-math.inf, dtype=x.dtype)
    for row in range(0, reach[0] + 1, spread[0]):
        for column in range(0, reach[1] + 1, spread[1]):
            height, width = padded.shape[-2] - reach[0] + row, padded.shape[-1] - reach[1] + column
            tap = padded[..., row : height : steps[0], column : width : steps[1]]
            second = torch.maximum(second, torch.minimum(first, tap))
            first = torch.maximum(first, tap)
    batch = len(x)
    gap = (first - second).reshape(batch, -1)
    return ((gap > 0) & (gap <= _margin(x.reshape(batch, -1)))).sum(1)


def _margin(x: Tensor) -> Tensor:
    """Return what counts as rounding in float32, per sample: 2^-18 of the values' root mean square.

    That is 32 units in the last place, about four times the error that onnxruntime shows in VGG-11's logits.
    """
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return 2.0**-18 / max(1, x.shape[1]) ** 0.5 * norm


class _Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float | None) -> Tensor:
        inside = torch.gt(x, 0)
        if ceiling is not None:
            inside = torch.logical_and(inside, torch.lt(x, ceiling))
        ctx.save_for_backward(inside)
        return torch.clamp(x, 0, ceiling)


class _Guided(_Rectifier):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        keep = torch.logical_and(inside, torch.gt(grads[0], 0))
        return torch.where(keep, grads[0], torch.zeros_like(grads[0])), None


class _Gradient(_Rectifier):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grads[0], torch.zeros_like(grads[0])), None


class _Deconvnet(_Rectifier):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return torch.clamp(grads[0], min=0), None


_FUNCTIONS = {"guided": _Guided, "gradient": _Gradient, "deconvnet": _Deconvnet}


def _relu(inplace: bool = False) -> Call:
    return 0, None


def _relu6(inplace: bool = False) -> Call:
    return 0, 6


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Call:
    return min_val, max_val


def _clamp(min: Any = None, max: Any = None) -> Call | None:
    if isinstance(min, Tensor) or isinstance(max, Tensor) or min is None:
        return None
    return min, None if max is None or max == math.inf else max


def _threshold(threshold: float, value: float, inplace: bool = False) -> Call | None:
    return (0, None) if threshold == value == 0 else None


_READERS: dict[Any, Callable[..., Call | None]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _relu),
    **dict.fromkeys((F.relu6,), _relu6),
    **dict.fromkeys((F.hardtanh, F.hardtanh_), _hardtanh),
    **dict.fromkeys((torch.clamp, torch.clamp_, Tensor.clamp, Tensor.clamp_), _clamp),
    **dict.fromkeys((torch.clip, torch.clip_, Tensor.clip, Tensor.clip_), _clamp),
    **dict.fromkeys((torch.clamp_min, torch.clamp_min_, Tensor.clamp_min, Tensor.clamp_min_), _clamp),
    **dict.fromkeys((F.threshold, torch.threshold_, torch.threshold), _threshold),
    # what torch.export has made calls operators:
    **dict.fromkeys((aten.relu.default, aten.relu_.default), _relu),
    **dict.fromkeys((aten.relu6.default, aten.relu6_.default), _relu6),
    **dict.fromkeys((aten.hardtanh.default, aten.hardtanh_.default), _hardtanh),
    **dict.fromkeys((aten.clamp.default, aten.clamp_.default, aten.clip.default, aten.clip_.default), _clamp),
    **dict.fromkeys((aten.clamp_min.default, aten.clamp_min_.default), _clamp),
    **dict.fromkeys((aten.threshold.default, aten.threshold_.default), _threshold),
}
_IN_PLACE = {
    torch.relu_,
    Tensor.relu_,
    F.hardtanh_,
    torch.clamp_,
    Tensor.clamp_,
    torch.clip_,
    Tensor.clip_,
    torch.clamp_min_,
    Tensor.clamp_min_,
    torch.threshold_,
    *(op for op in _READERS if isinstance(op, torch._ops.OpOverload) and op._schema.is_mutable),
}
_MAX_POOLS = {F.max_pool2d, F.max_pool2d_with_indices, torch.max_pool2d, aten.max_pool2d.default}
