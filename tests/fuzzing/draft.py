"""Writes a random network statement by statement: each is tried on real inputs before it stays."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzzing.magnitudes import Magnitudes
from tests.fuzzing.network import WHOLE, Network
from tests.fuzzing.templates import WIDE, Template

MOST_VALUES = 800
"""Largest size of one input's value, so that networks stay small."""

LARGEST = 2.0**12
"""Largest absolute value of a whole network's forward pass: the backward pass needs bits too."""

LARGEST_REAL = 100.0

COMPARISONS = (">", ">=", "<", "<=", "==", "!=")


@dataclass(frozen=True)
class Operand:
    """A value of the network.

    Attributes:
        name: The expression that reads it.
        shape: With the batch.
        view: Whether it shares another value's memory.
    """

    name: str
    shape: tuple[int, ...]
    view: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def channels(self) -> int:
        """The length of axis 1."""
        return self.shape[1]

    @property
    def spatial(self) -> int:
        """How many axes an image has."""
        return len(self.shape) - 2


class Draft:
    """A network that is being written.

    Attributes:
        kind: ``whole`` or ``real``.
        setup: The statements of ``__init__`` so far.
        body: The statements of ``forward`` so far.
        operands: What the next statement may read.
        templates: Names of the templates whose statements stayed.
    """

    def __init__(self, draw: Callable[[Any], Any], outline: Network) -> None:
        self.draw = draw
        self.kind = outline.kind
        self.setup: list[str] = []
        self.body: list[str] = []
        self.templates: list[str] = []
        self._outline = outline
        self._image = torch.cat(outline.images()).double()
        self.operands = [Operand("x", tuple(self._image.shape))]

    # -- what templates draw ---------------------------------------------------------------------------------------

    def integer(self, low: int, high: int) -> int:
        """Draw a number; both bounds are included."""
        return self.draw(st.integers(low, high))

    def pick(self, *options: Any) -> Any:
        """Draw one of several."""
        return self.draw(st.sampled_from(options))

    def chance(self) -> bool:
        """Draw a coin."""
        return self.draw(st.booleans())

    def divisor(self, number: int) -> int:
        """Draw a divisor."""
        return self.pick(*(n for n in range(1, number + 1) if number % n == 0))

    def width(self, x: Operand) -> int:
        """Draw how many channels a convolution has: few, or, of an image, many; what is wide mostly stays so."""
        wide = x.spatial == 2 and (self.integer(0, 3) > 0 if x.channels == WIDE else self.integer(0, 3) == 3)
        return WIDE if wide else self.integer(1, 4)

    def axis(self, x: Operand) -> int:
        """Draw an axis, never the batch's, counted from either end."""
        axis = self.integer(1, len(x.shape) - 1)
        return axis - len(x.shape) if self.chance() else axis

    def axes(self, x: Operand) -> str:
        """Draw one or two axes."""
        axes = self.draw(st.sets(st.integers(1, len(x.shape) - 1), min_size=1, max_size=2))
        return f"({', '.join(map(str, sorted(axes)))},)"

    def per_axis(self, x: Operand, low: int, high: int) -> str:
        """Draw one setting for all spatial axes, or one for each."""
        if self.chance():
            return str(self.integer(low, high))
        return f"({', '.join(str(self.integer(low, high)) for _ in range(x.spatial))},)"

    def module(self, constructor: str) -> str:
        """Return a module; if there is an equal one it may be used again."""
        known = [line.split(" = ")[0] for line in self.setup if line.endswith(f" = {constructor}")]
        if known and self.chance():
            return self.pick(*known)
        self.setup.append(f"self.m{len(self.setup)} = {constructor}")
        return self.setup[-1].split(" = ")[0]

    def layer(self, name: str, arguments: Sequence[str]) -> str:
        """Return a module of a class."""
        return self.module(f"{name}({', '.join(arguments)})")

    def weight(self, *shape: int) -> str:
        """Return a weight; if there is one of that shape it may be used again."""
        return self.module(f"nn.Parameter(torch.empty({', '.join(map(str, shape))}))")

    def weight_like(self, x: Operand) -> str:
        """Return a weight that broadcasts with an operand."""
        shape = [length if self.chance() else 1 for length in x.shape[1:]]
        return self.weight(*shape[self.integer(0, len(shape) - 1) :])

    def another(self, x: Operand) -> Operand:
        """Draw an operand that broadcasts with one; if there is no other, itself."""
        return self.pick(*(y for y in reversed(self.operands) if _broadcasts(x.shape, y.shape)))

    # -- writing -----------------------------------------------------------------------------------------------------

    def add(self, template: Template) -> bool:
        """Write one statement, unless it fits no operand or does not run; return whether it stayed."""
        fitting = [x for x in reversed(self.operands) if len(x.shape) in template.ranks]
        if template.hidden:
            fitting = [x for x in fitting if not x.view]
        if not fitting:
            return False
        # Mostly one of the last values, so that networks get deep, but any may be used again.
        return self.write(template, self.pick(*fitting[:2]) if self.chance() else self.pick(*fitting))

    def write(self, template: Template, x: Operand) -> bool:
        """Write one statement on an operand, unless it does not run; return whether it stayed."""
        before = len(self.setup)
        written = template.write
        text = written.format_map(Fields(self, x)) if isinstance(written, str) else written(self, x)
        stays = self._try(text if template.statement else f"v{len(self.body)} = {text}")
        if stays:
            self.templates.append(template.name)
        else:
            del self.setup[before:]
        return stays

    def _try(self, statement: str) -> bool:
        body = (*self.body, statement)
        try:
            values = self._run(body)
        except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError):
            return False
        operands = list(_operands(values))
        new = [(name, value) for name, value in operands if name not in {x.name for x in self.operands}]
        if not all(self._small(value) for _, value in operands) or not all(value.any() for _, value in new):
            return False
        self.body.append(statement)
        self.operands = [Operand(name, tuple(value.shape), value._is_view()) for name, value in operands]
        return True

    def _run(self, body: tuple[str, ...]) -> dict[str, Any]:
        """Run the forward pass, and the backward pass too: autograd forbids some writes in place."""
        draft = Network(self.kind, self._outline.shape, tuple(self.setup), body, "locals()", seed=self._outline.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = draft.module().double()
            leaf = self._image.clone().requires_grad_()
            with Magnitudes() as seen:
                values = model(leaf.clone())
            if self.kind == WHOLE and not (seen.exact and seen.largest <= LARGEST):
                raise ValueError("not exact in float32")
            total = sum(value.sum() for _, value in _operands(values))
            torch.autograd.grad(total, leaf, allow_unused=True)
        return values

    def _small(self, value: Tensor) -> bool:
        batch = len(self._image)
        if not (len(value) == batch and 2 <= value.ndim <= 5 and 0 < value.numel() <= batch * MOST_VALUES):
            return False
        return bool(value.isfinite().all()) and (self.kind == WHOLE or value.abs().max().item() <= LARGEST_REAL)

    def unread(self) -> list[Operand]:
        """Return the values that no statement reads, and the last one."""
        statements = [_without_target(statement) for statement in self.body]

        def read(x: Operand) -> bool:
            name = re.compile(rf"\b{re.escape(x.name)}(?![\w])")
            return any(name.search(statement) for statement in statements)

        return [x for x in self.operands[:-1] if x.name != "x" and not read(x)] + self.operands[-1:]


class Fields(Mapping[str, Any]):
    """The fields of a template's text, drawn when they are read; see :mod:`tests.fuzzing.templates`."""

    def __init__(self, draft: Draft, x: Operand) -> None:
        self._fields: dict[str, Callable[[], Any]] = {
            "x": lambda: x,
            "y": lambda: draft.another(x),
            "w": lambda: _Drawn(
                lambda shape: draft.weight(*map(int, shape.split(","))) if shape else draft.weight_like(x)
            ),
            "m": lambda: _Drawn(draft.module),
            "n": lambda: draft.pick(1, 2, 3, -1, -2),
            "p": lambda: draft.pick(2.0, 0.5, 4.0, -1.0),
            "axis": lambda: draft.axis(x),
            "axes": lambda: draft.axes(x),
            "c": lambda: x.channels,
            "l": lambda: x.shape[-1],
            "int": lambda: _Drawn(lambda bounds: draft.integer(*map(int, bounds.split(",")))),
            "pick": lambda: _Drawn(lambda options: draft.pick(*options.split(" or "))),
            "cmp": lambda: draft.pick(*COMPARISONS),
        }

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


@dataclass(frozen=True)
class _Drawn:
    """A field whose format, what follows its colon, says what to draw."""

    draw: Callable[[str], Any]

    def __format__(self, spec: str) -> str:
        return str(self.draw(spec))


def _without_target(statement: str) -> str:
    """Leave out what a statement gives a value to: a new name, or what it writes into in place."""
    assigned = re.match(r"v\d+ = ", statement)
    if assigned:
        return statement[assigned.end() :]
    target = re.search(r"\b(?:x|v\d+)\b", statement)
    return re.sub(rf"\b{target[0]}\b", "", statement) if target else statement


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) and all(n == m or 1 in (n, m) for n, m in zip(a, b, strict=True))


def _operands(values: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor among a forward pass's local variables, and the parts of lists, under the names that read them."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (tuple, list)):
            yield from ((f"{name}[{index}]", part) for index, part in enumerate(value))
