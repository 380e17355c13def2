"""Float64 throughout: what a network computes that was written for float32, and is tried in float64."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from exporter.errors import SaliportError
from exporter.patch import Patch

_original, _twins = torch.finfo, threading.local()


def _finfo(dtype: torch.dtype | None = None) -> torch.finfo:
    """Answer for float32 where a twin in this thread asks of float64."""
    dtype = dtype or torch.get_default_dtype()
    return _original(torch.float32 if dtype == torch.float64 and getattr(_twins, "running", False) else dtype)


_FINFO = Patch(torch, "finfo", _finfo)


@contextmanager
def _finfo_of_float32() -> Iterator[None]:
    """Let ``torch.finfo`` of float64 be that of float32 in this thread: it is no function that a mode sees."""
    _twins.running = getattr(_twins, "running", 0) + 1
    try:
        with _FINFO():
            yield
    finally:
        _twins.running -= 1


class Narrow(SaliportError):
    """A constant that was kept in float32 is written into, or meets what is float64 where that cannot be."""


class Throughout(TorchFunctionMode):
    """Lets a network compute in float64 throughout: where it casts what is float64 to float32, it stays as it is.

    So an artifact in float64 is captured, and so every network is judged in float64: a program that was captured in
    float32 has no such cast.
    """

    def __init__(self, twin: bool = False, keep: bool = False) -> None:
        """Prepare.

        Args:
            twin: Whether the network stands for one in a narrower dtype: then an RMS norm without an epsilon of its
                own keeps that of float32, constants that it makes have the digits that they have in float32, and
                ``torch.finfo`` answers for float32.
            keep: Whether constants stay in float32 where a twin casts or makes them to float64, so that what it
                computes of them alone is computed as in float32. It ends with :class:`Narrow` where they cannot.
        """
        super().__init__()
        self._twin, self._keep = twin, keep
        self._patch = _finfo_of_float32() if twin else nullcontext()

    def __enter__(self) -> Throughout:
        """Begin."""
        self._patch.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """End."""
        super().__exit__(*error)
        self._patch.__exit__(*error)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call, of a float64 tensor with that dtype where it names float32."""
        kwargs = kwargs or {}
        if (
            self._twin
            and kwargs.get("dtype") == torch.float64
            and not any(isinstance(x, Tensor) for x in (*args, *kwargs.values()))
        ):
            made = func(*args, **{**kwargs, "dtype": torch.float32})
            return made if self._keep else made.double()
        if self._keep:
            return self._kept(func, args, kwargs)
        return self._wide(func, args, kwargs)

    def _wide(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not (args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64):
            return func(*args, **kwargs)
        if func is Tensor.float:
            return args[0]
        if self._twin and func in (F.rms_norm, torch.rms_norm):
            return func(*_with_epsilon(*args, **kwargs))
        wider = {torch.float32: torch.float64}
        args = tuple(wider.get(one, one) if isinstance(one, torch.dtype) else one for one in args)
        kwargs = {key: wider.get(one, one) if isinstance(one, torch.dtype) else one for key, one in kwargs.items()}
        return func(*args, **kwargs)

    def _kept(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call in which constants of float32 may meet what is float64; in a network of float32 all is."""
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if func in _CASTS and first is not None and first.dtype != torch.float64:
            named = (getattr(one, "dtype", one) for one in (*args[1:], *kwargs.values()))
            if torch.float64 in named:
                return first.to(torch.float32, copy=bool(kwargs.get("copy")))
        dtypes = {one.dtype for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        if not {torch.float32, torch.float64} <= dtypes:
            return self._wide(func, args, kwargs)
        if first is not None and first.dtype == torch.float32 and _WRITES.fullmatch(func.__name__):
            raise Narrow(f"{func.__name__} writes what is float64 into a constant")
        try:
            return self._wide(func, args, kwargs)
        except RuntimeError as error:  # a matrix product, say, takes no two dtypes
            raise Narrow(f"{func.__name__} takes no two dtypes") from error


_CASTS = {Tensor.to, Tensor.type, Tensor.type_as}

_WRITES = re.compile(r"__(setitem|i[a-z]+)__|[a-z].*[^_]_")
"""Names of functions that write into their first argument."""


def _with_epsilon(
    input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> tuple[Any, ...]:
    return input, normalized_shape, weight, default_epsilon(torch.float32) if eps is None else eps


def default_epsilon(dtype: torch.dtype) -> float:
    """Return the epsilon of an RMS norm that has none of its own: the machine's, in the dtype that it computes in."""
    return torch.finfo(torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype).eps
