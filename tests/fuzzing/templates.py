"""What a random network is made of: one statement for each operator and each way to write it.

Most templates are text with fields that the draft fills in; see :class:`tests.fuzzing.draft.Fields`:

    {x}           the operand; {y} a value that broadcasts with it
    {w}           a weight that broadcasts with it; {w:3,4} one of that shape
    {m:nn.ReLU()} a module, often one that is used already
    {n} {p}       a small whole number, a power of two
    {axis} {axes} an axis, or a tuple of one or two, never the batch's
    {c} {l}       the number of channels, the length of the last axis
    {int:1,3}     a number from 1 to 3; {pick:a or b} one of these
    {cmp}         a comparison

The others are functions of a draft and an operand. A statement that does not run is dropped from the network, so a
template need not know every condition under which it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fuzzing.network import REAL, WHOLE

if TYPE_CHECKING:
    from tests.fuzzing.draft import Draft, Operand

Writer = Callable[["Draft", "Operand"], str]
ANY_RANK = (2, 3, 4, 5)
IMAGES = (3, 4, 5)
BOTH = (WHOLE, REAL)

WIDE = 16
"""Channels of a wide value: they fill a block of onnxruntime's layout."""


@dataclass(frozen=True)
class Template:
    """A way to write one statement.

    Attributes:
        name: As histograms show it.
        family: Decides how often it is drawn.
        write: Text with fields, or a function that returns an expression, or a statement where it writes in place.
        ranks: Of the operand, the batch included.
        kinds: Of networks that may have it.
        statement: Whether it stands alone; otherwise its value gets a name.
    """

    name: str
    family: str
    write: str | Writer
    ranks: tuple[int, ...] = ANY_RANK
    kinds: tuple[str, ...] = BOTH
    statement: bool = False

    @property
    def hidden(self) -> bool:
        """Whether the judge cannot see it on a view: autograd hides what writes into a part of a tensor."""
        text = self.write if isinstance(self.write, str) else ""
        return self.family == "rectifier" and (self.statement or "inplace" in text or "relu_(" in text)


TEMPLATES: dict[str, Template] = {}


def _add(template: Template) -> None:
    if template.name in TEMPLATES:
        raise ValueError(f"there is a template {template.name!r} already")
    TEMPLATES[template.name] = template


def _texts(
    family: str,
    texts: Iterable[str],
    ranks: tuple[int, ...] = ANY_RANK,
    kinds: tuple[str, ...] = BOTH,
    statement: bool = False,
) -> None:
    """Register texts under themselves."""
    for text in texts:
        _add(Template(text, family, text, ranks, kinds, statement))


def _writes(
    family: str, ranks: tuple[int, ...] = ANY_RANK, kinds: tuple[str, ...] = BOTH
) -> Callable[[Writer], Writer]:
    """Register a function under its own name."""

    def register(write: Writer) -> Writer:
        _add(Template(write.__name__, family, write, ranks, kinds))
        return write

    return register


# -- rectifiers, however they are written ----------------------------------------------------------------------------

_texts(
    "rectifier",
    (
        "{m:nn.ReLU()}({x})",
        "{m:nn.ReLU(inplace=True)}({x})",
        "F.relu({x})",
        "F.relu({x}, inplace=True)",
        "torch.relu({x})",
        "torch.relu_({x})",
        "{x}.relu()",
        "{x}.clamp(min=0)",
        "{x}.clamp(0)",
        "torch.clamp({x}, min=0.0)",
        "{x}.clip(min=0)",
        "{x}.clamp_min(0)",
        "F.threshold({x}, 0, 0)",
        "{m:nn.Threshold(0, 0)}({x})",
        "F.relu6({x})",
        "{m:nn.ReLU6()}({x})",
        "{m:nn.ReLU6(inplace=True)}({x})",
        "F.hardtanh({x}, 0, 6)",
        "{m:nn.Hardtanh(0, {int:1,4})}({x})",
        "{x}.clamp(0, 6)",
        "torch.clip({x}, 0, {int:1,4})",
    ),
)
_texts(
    "rectifier",
    (
        "{x}.relu_()",
        "{x}.clamp_(min=0)",
        "{x}.clamp_min_(0)",
        "{x}.clamp_(0, 6)",
        "F.hardtanh_({x}, 0.0, 6.0)",
        "F.threshold({x}, 0, 0, inplace=True)",
    ),
    statement=True,
)

# -- other activations -----------------------------------------------------------------------------------------------

_texts(
    "activation",
    (
        "F.leaky_relu({x}, {pick:0.5 or 0.25 or -1.0})",
        "{m:nn.PReLU()}({x})",
        "{m:nn.PReLU({c})}({x})",
        "F.hardtanh({x})",
        "F.hardtanh({x}, -{int:1,3}, {int:1,3})",
        "{x}.clamp(-{int:1,2}, {int:1,3})",
        "{x}.clamp(max={n})",
        "F.softshrink({x})",
        "F.hardshrink({x})",
        "{x}.clamp(min={pick:-2 or -1 or 1})",
        "torch.clamp_min({x}, {pick:-2 or -1 or 1})",
        "torch.clamp_max({x}, {n})",
        "F.rrelu({x}, 0.25, 0.25)",
    ),
)
_texts("activation", ("F.threshold({x}, {pick:-1 or 1}, {n})",), kinds=(WHOLE,))
# What jumps is for whole numbers alone.
_texts(
    "arithmetic",
    (
        "{x} % {pick:2 or 3 or -2}",
        "torch.remainder({x}, 2 ** {w})",
        "torch.fmod({x}, {pick:2 or 3 or -2})",
        "torch.fmod({x}, 2 ** {w})",
        "torch.fmax({x}, {y})",
        "{x}.trunc()",
    ),
    kinds=(WHOLE,),
)
_texts(
    "activation",
    (
        "{x}.sigmoid()",
        "{x}.tanh()",
        "F.silu({x})",
        "F.elu({x}, {pick:1.0 or 0.5})",
        "F.selu({x})",
        "F.celu({x}, {pick:1.0 or 0.5})",
        "F.gelu({x})",
        "F.gelu({x}, approximate='tanh')",
        "F.softplus({x})",
        "F.softplus({x}, 2, 1)",
        "F.logsigmoid({x})",
        "F.mish({x})",
        "F.hardswish({x} * 2)",
        "F.hardsigmoid({x} * 2)",
        "F.leaky_relu({x})",
        "F.glu({x}, {axis})",
        "{x}.softmax({axis})",
        "F.log_softmax({x}, {axis})",
        "torch.ops.aten._softmax({x}, {axis}, False)",
        "torch.ops.aten._log_softmax({x}, {axis}, False)",
    ),
    kinds=(REAL,),
)

# -- arithmetic ------------------------------------------------------------------------------------------------------

_texts(
    "arithmetic",
    (
        "{x} + {y}",
        "{x} - {y}",
        "{x} * {y}",
        "torch.add({x}, {y}, alpha={n})",
        "torch.sub({x}, {y}, alpha={n})",
        "{x} + {n}",
        "{x} - {n}",
        "{n} - {x}",
        "{x} * {n}",
        "{x} / {p}",
        "-{x}",
        "{x} + {w}",
        "{w} - {x}",
        "{x} * {w}",
        "{x} / 2 ** {w}",
        "torch.rsub({x}, {y}, alpha={n})",
        "torch.rsub({x}, {n}, alpha=2)",
        "torch.ops.aten.add.Scalar({x}, {n})",
        "torch.ops.aten.sub.Scalar({x}, {n})",
        "torch.ops.aten.mul.Scalar({x}, {n})",
        "torch.ops.aten.div.Scalar({x}, {p})",
        "torch.addcmul({x}, {y}, {w}, value={n})",
        "torch.addcdiv({x}, {y}, 2 ** {w}, value={n})",
        "torch.lerp({x}, {y}, 0.5)",
        "{x}.abs()",
        "{x}.square()",
        "{x} ** {pick:1 or 2 or 3}",
        "torch.maximum({x}, {y})",
        "torch.minimum({x}, {y})",
        "torch.max({x}, {y})",
        "torch.min({x}, {w})",
        "torch.clamp({x}, {w}, {y})",
        "{x} * (torch.arange({l}) > 1.5)",
        "2.5 - torch.arange({l}) + {x}",
        "{x} + F.embedding(torch.arange({l}) % 2, {w:2,3})[:, 1]",
        "{x} * F.one_hot(torch.arange({l}) % 3, 3)[:, 1]",
        "{x}.clip({y}.detach(), {w})",
        "{x}.clamp(min={y})",
        "{x}.clamp_max({w})",
        "{x} + {y}.detach()",
        "{x} + torch.ones_like({x})",
        "{x} * torch.full(({l},), {p})",
        "{x} * {x}.new_full(({l},), {p})",
        "{x} + torch.zeros_like({x}) - {x}.new_ones({l}) + {x}.new_zeros({l})",
        "{x} * torch.arange({l})",
        "torch.where({w} > 0, {x}, {y})",
        "{x}.masked_fill({w} > 0, {n})",
        "F.dropout({x}, 0.5, self.training)",
        "{m:nn.Dropout()}({x})",
        "{m:nn.Identity()}({x})",
    ),
)
_texts(  # comparisons and steps: in real numbers, rounding could decide them
    "arithmetic",
    (
        "torch.where({x} {cmp} {y}, {x}, {y})",
        "torch.where({x} {cmp} {n}, {x}, {p})",
        "torch.where({y} {cmp} {n}, {n}.0, {x})",
        "{x} * torch.where({y} {cmp} {n}, 1, 2)",
        "{x}.masked_fill({y} {cmp} {n}, {n})",
        "{x} * ({x} {cmp} {n})",
        "{x} * ({x} {cmp} {y})",
        "{x} * (({x} > {n}) {pick:& or |} ({x} < {n}))",
        "{x} * torch.logical_{pick:and or or}({x} > {n}, {y} != 0)",
        "{x} * ~({x} > {n})",
        "{x} * ({x} > {n}).logical_not()",
        "{x} * ({x} / 2).floor()",
        "{x} + ({x} / 2).ceil()",
        "{x} - ({x} / 4).round()",
        "{x} * {y}.sign()",
        "{x} + {y}.detach() // {pick:2 or 4}",
        "{x}.to(torch.float64).mul({n}).type_as({x})",
    ),
    kinds=(WHOLE,),
)
_texts(
    "arithmetic",
    (
        "{x}.sin()",
        "{x}.cos()",
        "{x}.erf()",
        "({x}.tanh() * 0.9).tan()",
        "({x}.tanh() * 0.9).asin()",
        "({x}.tanh() * 0.9).acos()",
        "{x}.atan()",
        "{x}.tanh().sinh()",
        "{x}.tanh().cosh()",
        "{x}.asinh()",
        "({x}.abs() + 1.5).acosh()",
        "({x}.tanh() * 0.9).atanh()",
        "torch.atan2({x}, {y}.abs() + 1)",
        "torch.atan2({w}.abs() + 1, {x})",
        "torch.hypot({x}, {y}.abs() + 1)",
        "torch.erfc({x})",
        "torch.exp2({x} * 0.5)",
        "({x}.abs() + 1).log2()",
        "({x} * 0.5).sigmoid().logit()",
        "({x} * 0.5).exp()",
        "({x} * 0.5).expm1()",
        "({x}.abs() + 1).log()",
        "({x} * {x}).log1p()",
        "({x}.abs() + 1).sqrt()",
        "({x}.abs() + 1).rsqrt()",
        "({x}.abs() + 1).reciprocal()",
        "({x}.abs() + 1) ** 0.75",
        "({x}.abs() + 1) ** {w}",
        "({w}.abs() + 1) ** {x}",
        "2 ** ({x} * 0.5)",
        "{x} / ({y}.abs() + 1)",
        "{n} / ({x}.abs() + 1)",
        "{x} / {pick:3 or 7.0}",
        "torch.lerp({x}, {y}, {w})",
    ),
    kinds=(REAL,),
)

# -- writing in place ------------------------------------------------------------------------------------------------

_texts(
    "in place",
    (
        "{x} += {y}",
        "{x} -= {y}",
        "{x}.add_({y}, alpha={n})",
        "{x}.mul_({n})",
        "{x} *= {w}",
        "{x}.div_({p})",
        "{x}.neg_()",
        "{x}.abs_()",
        "{x}.copy_({y})",
        "{x}[:, :1] = {x}[:, -1:] * 2",
        "{x}[:, 0] = {n}",
        "{x}[:, -1].mul_({n})",
        "{x}[:, 0].zero_()",
        "{x}[:, [{int:0,1}, -1]] = {n}",
        "{x}.index_fill_(1, torch.tensor([0, -1]), {n})",
        "{x}[..., ::2] += {n}",
        "{x}[..., 1::2] = {x}[..., :-1:2]",
        "{x}.flatten(1).mul_({n})",
        "{x}.view({x}.shape[0], -1)[:, 1:].neg_()",
        "{x}.transpose(1, -1).add_({n})",
        "F.leaky_relu({x}, 0.5, inplace=True)",
    ),
    statement=True,
)
_texts(
    "in place",
    ("{x}.masked_fill_({x} {cmp} {n}, {n})", "{x}[{x} < {n}] = -1.0", "{x}.clamp_(-{int:1,2}, {int:1,3})"),
    kinds=(WHOLE,),
    statement=True,
)
_texts("in place", ("{x}.sigmoid_()", "{x}.tanh_()", "F.elu_({x})", "{x}.exp_()"), kinds=(REAL,), statement=True)

# -- reductions ------------------------------------------------------------------------------------------------------

_texts(
    "reduction",
    (
        "{x}.sum({axes}, keepdim=True)",
        "{x}.mean({axes}, keepdim=True)",
        "{x} - {x}.sum({axis}, keepdim=True)",
        "{x}.max({axis}, keepdim=True)[0]",
        "{x}.min({axis}, keepdim=True).values",
        "{x}.cumsum({axis})",
        "torch.linalg.vector_norm({x}, 1, {axes}, keepdim=True)",
        "{x}.norm(1, {axes}, keepdim=True)",
    ),
)
_texts(
    "reduction",
    (
        "{x}.sum({axis})",
        "{x}.mean({axis})",
        "{x}.max({axis}).values",
        "{x}.min({axis})[0]",
        "{x}.sum((1, 2), keepdim=True)[:, 0]",
    ),
    ranks=IMAGES,
)
_texts(
    "reduction",
    (
        "{x}.amax({axes}, keepdim=True)",
        "{x} - {x}.amin({axis}, keepdim=True)",
        "{x}.var({axes}, keepdim=True)",
        "{x}.var({axis}, correction=0, keepdim=True)",
        "{x}.std({axes}, keepdim=True)",
        "torch.var_mean({x}, {axis}, keepdim=True)",
        "{x}.norm(dim={axis}, keepdim=True)",
        "torch.linalg.vector_norm({x}, dim={axes}, keepdim=True)",
        "torch.linalg.vector_norm({x}, float('inf'), {axis}, keepdim=True)",
        "torch.linalg.norm({x}, dim={axis}, keepdim=True)",
        "{x}.logsumexp({axes}, keepdim=True)",
        "{x}.logcumsumexp({axis})",
        "{x}.tanh().prod({axis}, keepdim=True)",
        "{x}.tanh().cumprod({axis})",
        "torch.linalg.vector_norm({x}, 3, {axes}, keepdim=True)",
        "F.normalize({x}, dim={axis})",
        "F.cosine_similarity({x}, {y}, {axis}).unsqueeze({axis})",
    ),
    kinds=(REAL,),
)


@_writes("reduction", kinds=(WHOLE,))
def amax(draft: Draft, x: Operand) -> str:
    """Of two values, so that a tie's shares are halves."""
    axis = draft.axis(x)
    start = draft.integer(0, max(0, x.shape[axis] - 2))
    part = f"{x}.narrow({axis}, {start}, 2)"
    return f"{part}.{draft.pick('amax', 'amin')}({axis}, keepdim=True)"


# -- shapes ----------------------------------------------------------------------------------------------------------

_texts(
    "shape",
    (
        "torch.cat([{x}, {y}], {axis})",
        "torch.cat([{x}, -{x}], {axis})",
        "torch.cat([{x}, {w}.expand_as({x}), {y}], 1)",
        "{x}.split({int:1,3}, {axis})",
        "{x}.split([1, {x}.shape[1] - 1], 1)",
        "{x}.chunk({int:2,3}, {axis})",
        "{x}.tensor_split({int:2,3}, {axis})",
        "{x}[..., 1:]",
        "{x}[..., ::2]",
        "{x}[:, 1::{int:2,3}]",
        "{x}[:, -2:, ...]",
        "{x}[:, :-1]",
        "{x}.narrow({axis}, {int:0,1}, {int:1,3})",
        "{x}[:, [{int:0,2}, 0, -1]]",
        "{x}[..., [0, {int:0,2}, {int:0,2}]]",
        "{x}.index_select({axis}, torch.tensor([{int:0,2}, {int:0,1}]))",
        "{x}.gather({axis}, {x}.argmax({axis}, keepdim=True))",
        "{x}.gather(-1, (-{x}).argmax(-1, keepdim=True).expand_as({x}))",
        "{x}.scatter({axis}, {x}.argmax({axis}, keepdim=True), {int:0,2})",
        "{x}.scatter_add({axis}, {x}.argmax({axis}, keepdim=True), {x}.sum({axis}, keepdim=True))",
        "{x}.index_add(1, torch.tensor([{int:0,1}, 0]), torch.cat([{x}[:, :1], -{x}[:, -1:]], 1))",
        "{x}.flip({axis})",
        "{x}.flip({axes})",
        "{x}.roll({n}, {axis})",
        "{x}.repeat_interleave({int:1,3}, {axis})",
        "{x}.expand_as({x})",
        "{x}.sum({axis}, keepdim=True).expand_as({x})",
        "{x}.contiguous()",
        "{x}.clone()",
        "{x}.flatten(1)",
        "{x}.reshape({x}.shape[0], -1)",
        "{x}.reshape({x}.size(0), -1, 2)",
        "{x}.view({x}.shape[0], -1)",
        "{x}.unsqueeze({pick:1 or 2 or -1})",
        "{x}.squeeze({pick:1 or -1})",
        "{x}[:, :1].squeeze(1)",
        "{x}[:, None, None].squeeze((1, 2))",
        "{x}[:, None]",
        "{m:nn.Flatten()}({x})",
        "{x}.swapaxes(1, -1)",
        "{x}.movedim(-1, 1)",
        "{x}.unflatten(1, (-1, {int:1,3}))",
    ),
)
_texts(
    "shape",
    (
        "torch.stack([{x}, {y}], {pick:1 or -1})",
        "({x}.t() * {n}).t()",
        "{x}.repeat(1, {int:1,2})",
        "{x}.tile({int:1,2})",
        "F.pad({x}, ({int:-1,2}, {int:0,2}))",
    ),
    ranks=(2,),
)
_texts(
    "shape",
    (
        "torch.stack([{x}, {y}], {pick:1 or -1})[:, :, -1]",
        "{x}.unbind({axis})",
        "{x}[:, {pick:0 or -1}]",
        "{x}.select({axis}, {pick:0 or -1})",
        "{x}.transpose(1, 2)",
        "{x}.diagonal({int:-1,1}, 1, -1)",
        "{x}.transpose({axis}, {axis})",
        "{x}.flatten(1, 2)",
        "{x}.tril({int:-1,1})",
        "{x}.triu({int:-1,1})",
        "{x}.roll((1, {n}), (1, -1))",
        "{x}.repeat(1, {int:1,2}, *[1] * ({x}.ndim - 2))",
        "F.pad({x}, ({int:0,2}, {int:0,2}))",
        "F.pad({x}, ({int:-1,1}, {int:-1,2}))",
        "F.pad({x}, ({int:0,1}, 1), value={n})",
        "F.interpolate({x}, scale_factor={int:1,3})",
    ),
    ranks=IMAGES,
)
_texts(
    "shape",
    (
        "F.pad({x}, ({int:0,2}, {int:0,2}), '{pick:reflect or replicate or circular}')",
        "F.interpolate({x}, {int:1,9}, mode='{pick:nearest or nearest-exact}')",
        "{x}.permute(0, 2, 1)",
    ),
    ranks=(3,),
)
_texts(
    "shape",
    (
        "F.pad({x}, ({int:0,2}, {int:0,2}, {int:0,2}, {int:0,2}), '{pick:reflect or replicate or circular}')",
        "F.pad({x}, ({int:-1,2}, {int:-1,2}, {int:-1,2}, {int:-1,2}))",
        "F.pad({x}, (0, 0, {int:0,1}, 0, {int:0,1}, 1), value={n})",
        "F.pixel_shuffle(torch.cat([{x}, {x}, -{x}, {x}], 1), 2)",
        "F.pixel_unshuffle({x}, {int:1,2})",
        "F.pixel_unshuffle({x}[:, :, :2, :2], 2)",
        "F.channel_shuffle({x}, {pick:1 or 2 or 3})",
        "{m:nn.ChannelShuffle({c})}({x})",
        "{x}.permute(0, {pick:2, 3, 1 or 3, 1, 2 or 2, 1, 3 or 1, 3, 2 or -1, 1, -2})",
        "{x}.repeat(1, 1, {int:1,2}, {int:1,2})",
        "F.interpolate({x}, scale_factor=({pick:0.5 or 1.5}, 2))",
        "F.interpolate({x}, ({int:1,9}, {int:1,9}), mode='{pick:nearest or nearest-exact}')",
        "{x}.roll(({n}, {n}), ({pick:2, 3 or 3, 1}))",
        "{m:nn.ZeroPad2d(({int:0,2}, {int:0,1}, {int:0,1}, {int:0,2}))}({x})",
    ),
    ranks=(4,),
)
_texts(
    "shape",
    (
        "F.interpolate({x}, ({int:1,5}, {int:1,5}, {int:1,5}), mode='{pick:nearest or nearest-exact}')",
        "F.pad({x}, (1, 0, {int:0,1}, 1, {int:0,1}, 1), '{pick:reflect or replicate or circular}')",
        "{x}.permute(0, {pick:4, 1, 2, 3 or 2, 1, 4, 3})",
    ),
    ranks=(5,),
)
_texts("shape", ("F.interpolate({x}, {int:2,9}, mode='linear')",), ranks=(3,), kinds=(REAL,))
_texts(
    "shape",
    (
        "F.interpolate({x}, scale_factor={pick:2.0 or 1.5 or 0.5}, mode='bilinear')",
        "F.interpolate({x}, ({int:1,9}, {int:2,9}), mode='bilinear', align_corners={pick:True or False})",
        "F.interpolate({x}, ({int:2,9}, {int:2,9}), mode='bicubic', align_corners={pick:True or False})",
    ),
    ranks=(4,),
    kinds=(REAL,),
)
_texts("shape", ("F.interpolate({x}, ({int:2,5}, 3, {int:2,5}), mode='trilinear')",), ranks=(5,), kinds=(REAL,))
_texts(
    "shape",
    (
        "F.grid_sample({x}, torch.cat([{x}, {x}.sin()], 1)[:, :2].permute(0, 2, 3, 1), align_corners=False)",
        "F.grid_sample({x}, {x}[:, [0, -1]].permute(0, 2, 3, 1), padding_mode='reflection', align_corners=True)",
    ),
    ranks=(4,),
    kinds=(REAL,),
)

# -- convolutions ---------------------------------------------------------------------------------------------------


@_writes("convolution", IMAGES)
def conv(draft: Draft, x: Operand) -> str:
    """A convolution module; a strided, dilated, grouped or oddly padded one."""
    groups = draft.divisor(x.channels)
    arguments = [str(x.channels), str(groups * draft.integer(1, 3)), draft.per_axis(x, 1, 3)]
    if draft.chance():
        arguments += [f"padding={draft.pick(0, 1, repr('same'))}", f"dilation={draft.per_axis(x, 1, 2)}"]
    else:
        arguments += [f"stride={draft.per_axis(x, 1, 3)}", f"padding={draft.per_axis(x, 0, 2)}"]
        arguments += [f"dilation={draft.integer(1, 2)}"] if draft.chance() else []
    arguments += [f"groups={groups}"] if groups > 1 else []
    arguments += ["bias=False"] if draft.chance() else []
    modes = ("'circular'", "'reflect'", "'replicate'")
    arguments += [f"padding_mode={draft.pick(*modes)}"] if draft.integer(0, 5) == 5 else []
    return f"{draft.layer(f'nn.Conv{x.spatial}d', arguments)}({x})"


@_writes("convolution", IMAGES)
def conv_block(draft: Draft, x: Operand) -> str:
    """A convolution, a batch norm and a rectifier, as most networks have them."""
    depthwise = draft.integer(0, 2) == 2
    width = x.channels if depthwise else draft.width(x)
    size = draft.pick(1, 3)
    groups = f", groups={x.channels}" if depthwise else ""
    settings = f"{size}, {draft.integer(1, 2)}, {size // 2}{groups}, bias={draft.chance()}"
    norm = f"nn.BatchNorm{x.spatial}d({width}{', eps=0' if draft.kind == WHOLE else ''})"
    rectifier = draft.pick("nn.ReLU()", "nn.ReLU6()", "nn.Identity()")
    conv = f"nn.Conv{x.spatial}d({x.channels}, {width}, {settings})"
    return f"{draft.layer('nn.Sequential', (conv, norm, rectifier))}({x})"


@_writes("convolution", (4,))
def bottleneck(draft: Draft, x: Operand) -> str:
    """Two pointwise convolutions, a wide one between them, and a shortcut: what fills the blocks of onnxruntime."""
    kernel, stride, groups = draft.pick(1, 3), draft.integer(1, 2), draft.pick(1, WIDE)
    width = draft.pick(x.channels, WIDE)
    rectifiers = [draft.pick("nn.ReLU()", "nn.ReLU6()") for _ in range(2)]
    layers = (
        f"nn.Conv2d({x.channels}, {WIDE}, 1, bias={draft.chance()})",
        rectifiers[0],
        f"nn.Conv2d({WIDE}, {WIDE}, {kernel}, {stride}, {kernel // 2}, groups={groups}, bias={draft.chance()})",
        rectifiers[1],
        f"nn.Conv2d({WIDE}, {width}, 1, bias=False)",
    )
    block = f"{draft.layer('nn.Sequential', layers)}({x})"
    if draft.chance():
        return block
    return f"{block} + {draft.module(f'nn.Conv2d({x.channels}, {width}, 1, {stride}, bias=False)')}({x})"


@_writes("convolution", IMAGES)
def pointwise_conv(draft: Draft, x: Operand) -> str:
    """One tap a channel pair: it keeps the image's size, whatever that is."""
    return f"{draft.module(f'nn.Conv{x.spatial}d({x.channels}, {draft.width(x)}, 1)')}({x})"


@_writes("convolution", IMAGES)
def functional_conv(draft: Draft, x: Operand) -> str:
    """A convolution with a weight of the user's own, which one may share."""
    kernel = [draft.integer(1, 3) for _ in range(x.spatial)]
    weight = draft.weight(draft.width(x), x.channels, *kernel)
    return f"F.conv{x.spatial}d({x}, {weight}, stride={draft.integer(1, 2)}, padding={draft.integer(0, 1)})"


@_writes("convolution", IMAGES)
def depthwise_conv(draft: Draft, x: Operand) -> str:
    """As mobile networks have it."""
    settings = f"{draft.integer(1, 3)}, {draft.integer(1, 2)}, 1, groups={x.channels}"
    return f"{draft.module(f'nn.Conv{x.spatial}d({x.channels}, {x.channels}, {settings})')}({x})"


@_writes("convolution", IMAGES)
def conv_transpose(draft: Draft, x: Operand) -> str:
    """A transposed convolution module."""
    groups = draft.divisor(x.channels)
    arguments = [str(x.channels), str(groups * draft.integer(1, 2)), draft.per_axis(x, 1, 3)]
    arguments += [f"stride={draft.per_axis(x, 1, 3)}", f"padding={draft.per_axis(x, 0, 1)}"]
    arguments += [f"output_padding={draft.per_axis(x, 0, 1)}", f"groups={groups}"]
    arguments += [f"bias={draft.chance()}", f"dilation={draft.per_axis(x, 1, 2)}"]
    return f"{draft.layer(f'nn.ConvTranspose{x.spatial}d', arguments)}({x})"


@_writes("join", IMAGES)
def shortcut(draft: Draft, x: Operand) -> str:
    """A sum with an earlier value, as residual networks have it."""
    others = [y for y in draft.operands if y.shape == x.shape and y.name != x.name]
    return f"{x} + {draft.pick(*others) if others else x}"


# -- products --------------------------------------------------------------------------------------------------------


_texts(
    "product",
    (
        "{m:nn.Linear({l}, {int:1,4})}({x})",
        "{m:nn.Linear({l}, {l}, bias=False)}({x})",
        "{x} @ {w:{l},{int:1,4}}",
        "F.linear({x}, {w:{int:1,4},{l}})",
    ),
)
_texts(
    "product",
    (
        "torch.mm({x}, {w:{c},{int:1,4}})",
        "torch.mm({x}, torch.t({w:{int:1,4},{c}}))",
        "torch.mm({w:{int:1,4},{c}}, {x}.t()).t()",
        "torch.addmm({w:3}, {x}, {w:{c},3})",
        "torch.addmm({x}, {y}, {w:{c},{c}}, beta={pick:1 or 2}, alpha={pick:1 or 1 or 2})",
        "torch.addmm({w:3,1}, {w:3,{c}}, {x}.t()).t()",
        "torch.einsum('nc,kc->nk', {x}, {w:3,{c}})",
        "torch.einsum('ni,nj->nij', {x}, {y})",
        "({x}.unsqueeze(1) @ {y}.unsqueeze(2)).squeeze(1)",
    ),
    ranks=(2,),
)
_texts(
    "product",
    (
        "torch.bmm({x}, {x}.transpose(1, 2))",
        "torch.bmm({x}, {y}.transpose(1, 2))",
        "torch.baddbmm({x}, {x}, {w:{l},{l}}.expand({x}.shape[0], -1, -1), beta={pick:1 or 2})",
        "torch.einsum('ncl,nml->ncm', {x}, {y})",
        "torch.einsum('ncl,lk,c->nk', {x}, {w:{l},2}, {w:{c}})",
        "{w:{int:1,3},{c}} @ {x}",
    ),
    ranks=(3,),
)
_texts(
    "product",
    (
        "torch.einsum('nchw,kc->nkhw', {x}, {w:2,{c}})",
        "torch.einsum('nchw,nchv->nhwv', {x}, {y})",
        "torch.einsum('nchw->nwc', {x})",
    ),
    ranks=(4,),
)
_texts("product", ("{x} @ {x}.transpose(-1, -2)", "{x}.transpose(-1, -2) @ {y}"), ranks=IMAGES)
_texts(
    "product",
    (
        # torch 2.13 reads beyond its arguments where keys and values differ in number, so these are of one shape
        "F.scaled_dot_product_attention({x}, {x} * {n}, -{x})",
        "F.scaled_dot_product_attention({x}, {x}, {x}, is_causal=True, scale=0.5)",
    ),
    ranks=(3, 4),
    kinds=(REAL,),
)

# -- norms -----------------------------------------------------------------------------------------------------------


@_writes("norm", (2, 3, 4, 5), (WHOLE,))
def exact_batch_norm(draft: Draft, x: Operand) -> str:
    """Variances are powers of four, and there is no epsilon."""
    affine = "" if draft.chance() else ", affine=False"
    return f"{draft.module(f'nn.BatchNorm{max(1, x.spatial)}d({x.channels}, eps=0{affine})')}({x})"


@_writes("norm", (2, 3, 4, 5), (REAL,))
def batch_norm(draft: Draft, x: Operand) -> str:
    affine = "" if draft.chance() else ", affine=False"
    return f"{draft.module(f'nn.BatchNorm{max(1, x.spatial)}d({x.channels}{affine})')}({x})"


@_writes("norm", IMAGES, (REAL,))
def instance_norm(draft: Draft, x: Operand) -> str:
    settings = draft.pick("", ", affine=True", ", track_running_stats=True", ", affine=True, track_running_stats=True")
    return f"{draft.module(f'nn.InstanceNorm{x.spatial}d({x.channels}, eps=0.1{settings})')}({x})"


@_writes("norm", (2, 3, 4, 5), (REAL,))
def group_norm(draft: Draft, x: Operand) -> str:
    settings = draft.pick("", ", affine=False")
    return f"{draft.module(f'nn.GroupNorm({draft.divisor(x.channels)}, {x.channels}, eps=0.1{settings})')}({x})"


@_writes("norm", IMAGES, (REAL,))
def group_norm_turned(draft: Draft, x: Operand) -> str:
    return f"F.group_norm({x}.transpose(-1, -2), 1, eps=0.1).transpose(-1, -2)"


_texts(
    "norm",
    (
        "{m:nn.LayerNorm({l}, eps=0.1)}({x})",
        "F.layer_norm({x}, {x}.shape[1:], eps=0.1)",
        "{m:nn.RMSNorm({l}, eps=0.1)}({x})",
        "F.rms_norm({x}, {x}.shape[-1:], eps=0.1)",
    ),
    kinds=(REAL,),
)
_texts("norm", ("{m:nn.LocalResponseNorm({int:1,3}, alpha=0.5)}({x})",), ranks=(3, 4), kinds=(REAL,))

# -- pools -----------------------------------------------------------------------------------------------------------


@_writes("pool", IMAGES)
def max_pool(draft: Draft, x: Operand) -> str:
    """Overlapping, with gaps, padded, dilated, in ceil mode."""
    arguments = [draft.per_axis(x, 1, 3), f"stride={draft.per_axis(x, 1, 3)}", f"padding={draft.per_axis(x, 0, 1)}"]
    arguments += [f"dilation={draft.per_axis(x, 1, 2)}"] if draft.chance() else []
    arguments += ["ceil_mode=True"] if draft.chance() else []
    return _pool(draft, x, "Max", arguments)


@_writes("pool", IMAGES)
def avg_pool(draft: Draft, x: Operand) -> str:
    """In whole numbers its windows hold a power of two positions, or its divisor is one."""
    sizes = (1, 2) if draft.kind == WHOLE else (1, 2, 3)
    kernel = ", ".join(str(draft.pick(*sizes)) for _ in range(x.spatial))
    arguments = [f"({kernel},)", f"stride={draft.per_axis(x, 1, 3)}", f"padding={draft.per_axis(x, 0, 1)}"]
    arguments += ["ceil_mode=True"] if draft.chance() else []
    arguments += ["count_include_pad=False"] if draft.chance() else []
    if x.spatial > 1 and draft.chance():
        arguments.append(f"divisor_override={draft.pick(2, 4)}")
    return _pool(draft, x, "Avg", arguments)


@_writes("pool", IMAGES)
def adaptive_pool(draft: Draft, x: Operand) -> str:
    """To sizes that divide the image's and to others; averages of whole numbers are of a power of two positions.

    The average of three may be whole too, but not the third of each that is summed.
    """
    kind = draft.pick("Max", "Avg")
    exact = draft.kind == WHOLE and kind == "Avg"
    sizes = [[n for n in range(1, length + 2) if not exact or _halves(length, n)] for length in x.shape[2:]]
    size = ", ".join(str(draft.pick(*some)) for some in sizes)
    return f"{draft.module(f'nn.Adaptive{kind}Pool{x.spatial}d(({size},))')}({x})"


def _halves(length: int, count: int) -> bool:
    """Tell whether each of ``count`` adaptive windows of an axis holds a power of two positions."""
    windows = (-(-(i + 1) * length // count) - i * length // count for i in range(count))
    return all(window & (window - 1) == 0 for window in windows)


@_writes("pool", IMAGES)
def half_pool(draft: Draft, x: Operand) -> str:
    """As most networks have it."""
    return f"F.{draft.pick('max', 'avg')}_pool{x.spatial}d({x}, 2)"


def _pool(draft: Draft, x: Operand, kind: str, arguments: list[str]) -> str:
    if draft.chance():
        return f"{draft.layer(f'nn.{kind}Pool{x.spatial}d', arguments)}({x})"
    return f"F.{kind.lower()}_pool{x.spatial}d({', '.join([str(x), *arguments])})"
