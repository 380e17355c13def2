"""What an artifact takes and returns: its inputs, the output that holds the logits, the sizes that may vary.

Nothing here needs torch, so the command line can read its options before anything heavy is imported.
"""

from __future__ import annotations

import keyword
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exporter.errors import ArtifactError, UsageError

IMAGE = "image"
TARGET = "target"
LOGITS = "logits"
ATTRIBUTION = "attribution"

BATCH = "batch"
AXES = {
    "length": {2: 1, 3: 2},
    "steps": {2: 1, 3: 1},
    "depth": {5: 2},
    "height": {4: 2, 5: 3},
    "width": {4: 3, 5: 4},
}
"""Name of a size that may vary beside the batch -> rank of an input, with the batch -> the axis that has it.

Signals ``[N, C, L]`` or ``[N, L]``; sequences ``[N, T, F]`` of T steps, or ``[N, T]``; images ``[N, C, H, W]``; volumes
``[N, C, D, H, W]``. Beside a signal with channels or a sequence of vectors, ``[N, F]`` are features, unless there are
as many as the signal is long, as in its mask.
"""

SIZES = (BATCH, *AXES)
"""Names of the sizes that may vary."""


NEAR = 2
"""How many times as large as the sample a largest size may be for the proof to try it."""


@dataclass(frozen=True)
class Dimension:
    """A size that may vary.

    Attributes:
        name: Of :data:`SIZES`.
        min: The smallest value.
        multiple_of: Values are ``min`` plus a multiple of this.
        max: The largest value, or None where there is none.
    """

    name: str
    min: int = 1
    multiple_of: int = 1
    max: int | None = None

    def allows(self, size: int) -> bool:
        """Tell whether a value is one that the graph is good for."""
        above = self.max is not None and size > self.max
        return size >= self.min and (size - self.min) % self.multiple_of == 0 and not above

    def __str__(self) -> str:
        """Return the allowed values in words, such as ``height from 8 to 64, 8 plus a multiple of 4``."""
        most = "" if self.max is None else f" to {self.max}"
        step = "" if self.multiple_of == 1 else f", {self.min} plus a multiple of {self.multiple_of}"
        return f"{self.name} from {self.min}{most}{step}"

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> tuple[Dimension, ...]:
        """Read the sizes that may vary back from an artifact's manifest.

        Raises:
            ArtifactError: The manifest's entries are not what they should be.
        """
        try:
            found = tuple(cls(**entry) for entry in manifest["dynamic"])
            sizes = [
                size for one in found for size in (one.min, one.multiple_of, one.min if one.max is None else one.max)
            ]
            if not all(isinstance(size, int) and size >= 1 for size in sizes):
                raise ValueError("whole numbers from 1 are allowed")
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the manifest is damaged: its dynamic sizes cannot be read ({error!r})") from error
        return found


def size_name(rank: int, axis: int, dynamic: Iterable[str]) -> str:
    """Return what a varying size of an input of a rank, with the batch, is called, of those that vary."""
    return next((name for name in dynamic if AXES.get(name, {}).get(rank) == axis), BATCH)


FLOATS = ("float32", "float64", "float16")
"""What an artifact can compute in."""

WHOLE = ("int64", "int32", "uint8", "bool")
"""What an input may be beside that; such an input has no attribution."""


@dataclass(frozen=True)
class Input:
    """One tensor that a network takes.

    Attributes:
        name: Of the artifact's input; a parameter of the network's ``forward`` of that name gets it.
        shape: Of one sample, without the batch.
        dtype: Of :data:`FLOATS` or :data:`WHOLE`; by a float's name all floats of the artifact are meant.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Take any whole numbers for sizes.

        Raises:
            UsageError: The shape is not one.
        """
        try:
            shape = tuple(map(operator.index, self.shape))
        except TypeError:
            shape = (0,)
        if any(size < 1 for size in shape):
            given = repr(self.shape) if isinstance(self.shape, (Sequence, int)) else f"a {type(self.shape).__name__}"
            raise UsageError(
                f"the shape of input {self.name!r} is {given}; give the sizes of one sample, as (3, 224, 224)"
            )
        object.__setattr__(self, "shape", shape)

    @property
    def attributed(self) -> bool:
        """Whether the input has a gradient, and so an attribution."""
        return self.dtype in FLOATS


@dataclass(frozen=True)
class Signature:
    """How a network is called, and which of its outputs holds the logits.

    Attributes:
        inputs: In the order of the artifact's inputs.
        output_key: Where the logits are in what the network returns: an index, a name, or a path of them, separated
            by dots; None where it returns the logits alone.
        dynamic: The sizes that may vary, of :data:`SIZES`.
    """

    inputs: tuple[Input, ...]
    output_key: str | None = None
    dynamic: tuple[str, ...] = (BATCH,)

    def __post_init__(self) -> None:
        """Refuse what no artifact can have.

        Raises:
            UsageError: A name, a dtype or a varying size is not one that there is, or nothing has an attribution.
        """
        names = [given.name for given in self.inputs]
        for given in self.inputs:
            _check_name(given.name)
            if names.count(given.name) > 1:
                raise UsageError(f"two inputs are named {given.name!r}")
            if given.dtype not in FLOATS + WHOLE:
                raise UsageError(
                    f"input {given.name!r} has dtype {given.dtype!r}; there are {', '.join(FLOATS + WHOLE)}"
                )
        if not any(given.attributed for given in self.inputs):
            raise UsageError("no input is of floating point, so there is nothing to attribute to")
        unknown = [size for size in self.dynamic if size not in SIZES]
        if unknown or BATCH not in self.dynamic:
            raise UsageError(
                f"unknown dynamic size {unknown[0]!r}; there are {', '.join(SIZES)}"
                if unknown
                else f"the batch is always dynamic; write --dynamic {','.join((BATCH, *self.dynamic))}"
            )
        if {"length", "steps"}.issubset(self.dynamic):
            raise UsageError(
                "--dynamic length,steps: of signals [N, C, L] the length varies, of sequences [N, T, F] the steps; "
                "name one"
            )
        for size in self.dynamic:
            axes = [(given, axis) for given in self.inputs for axis, s in self.dynamic_axes(given).items() if s == size]
            have = {given.name: given.shape[axis - 1] for given, axis in axes if size != BATCH}
            if not axes:
                raise UsageError(
                    f"--dynamic {size}: no input has one. The length is the last size of a signal [N, C, L] or [N, L], "
                    "a sequence [N, T, F] has T steps, height and width are those of an image [N, C, H, W], and a "
                    "volume [N, C, D, H, W] has a depth."
                )
            if len(set(have.values())) > 1:
                each = " and ".join(f"{name} {length}" for name, length in have.items())
                raise UsageError(f"--dynamic {size}: inputs share one {size}, and here {each}; leave this size out")

    @property
    def dtype(self) -> str:
        """The floating point dtype that the artifact computes in."""
        return next(given.dtype for given in self.inputs if given.attributed)

    @property
    def attributions(self) -> tuple[str, ...]:
        """Names of the attributions: ``attribution``, or of several inputs ``attribution_<name>`` each."""
        attributed = [given.name for given in self.inputs if given.attributed]
        return name_attributions([given.name for given in self.inputs], attributed)

    def dynamic_axes(self, given: Input) -> dict[int, str]:
        """Return which axes of an input may vary, and what their sizes are called."""
        rank = len(given.shape) + 1
        along = AXES["steps" if "steps" in self.dynamic else "length"][3] - 1
        lengths = {other.shape[along] for other in self.inputs if len(other.shape) == 2}
        if rank == 2 and lengths and given.shape[0] not in lengths:
            return {0: BATCH}  # features
        return {0: BATCH, **{AXES[size][rank]: size for size in self.dynamic if rank in AXES.get(size, {})}}

    def with_dtype(self, dtype: str) -> Signature:
        """Return the same signature with every floating point input of another dtype."""
        inputs = tuple(Input(i.name, i.shape, dtype if i.attributed else i.dtype) for i in self.inputs)
        return Signature(inputs, self.output_key, self.dynamic)

    @classmethod
    def of_image(cls, shape: Sequence[int], dtype: str = "float32") -> Signature:
        """Return the ordinary signature: one input ``image [N, *shape]``, a dynamic batch, and logits alone."""
        return cls((Input(IMAGE, tuple(shape), dtype),))

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Signature:
        """Read a signature back from an artifact's manifest.

        Raises:
            ArtifactError: The manifest's entries are not what they should be.
        """
        try:
            *inputs, _ = manifest["inputs"]
            return cls(
                tuple(Input(i["name"], tuple(i["sample_shape"]), i["dtype"]) for i in inputs),
                manifest["model"].get("output_key"),
                tuple(size["name"] for size in manifest["dynamic"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise ArtifactError(f"the manifest is damaged: its inputs cannot be read ({error!r})") from error


def name_attributions(inputs: Sequence[str], attributed: Sequence[str]) -> tuple[str, ...]:
    """Name the attributions of inputs: one input has the ``attribution``, of several each has its own."""
    return (ATTRIBUTION,) if len(inputs) == 1 else tuple(f"{ATTRIBUTION}_{name}" for name in attributed)


def _check_name(name: str) -> None:
    """Refuse a name that no runtime takes, or that the artifact needs itself."""
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name) or name.startswith("_"):
        raise UsageError(f"an input cannot be named {name!r}; take a name as in Python, for example left")
    if name in (TARGET, LOGITS) or name.startswith(ATTRIBUTION):
        raise UsageError(f"an input cannot be named {name!r}: the artifact has a tensor of that name itself")
