"""Every spelling keeps the value of the operator that it replaces, and what follows understands it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.errors import UnsupportedOp
from exporter.program import Program, to_module
from exporter.spellings import SPELLINGS

aten = torch.ops.aten
pytestmark = [
    pytest.mark.usefixtures("any_network"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


X = tensor(2, 3, 6, 5)
STATISTICS = (tensor(3), tensor(3) - 1, tensor(3) + 1, tensor(3).abs() + 0.5)  # weight, bias, mean, var

SQUARE = tensor(2, 4, 4)
QUERY, KEY, VALUE = tensor(2, 3, 6, 5), tensor(2, 3, 7, 5), tensor(2, 3, 7, 4)
TIED = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]], dtype=torch.float64)
HALF = torch.tensor(0.5, dtype=torch.float64)
POSITIONS = 1.5 * tensor(2, 4, 7, 2)  # some of them outside of the image
GROUPED = {"enable_gqa": True}


def lstm(size: int, hidden: int) -> list[Tensor]:
    return [tensor(4 * hidden, size), tensor(4 * hidden, hidden), tensor(4 * hidden), tensor(4 * hidden) + 1]


CALLS: list[tuple[Any, ...]] = [
    # -- what does nothing
    (aten.alias.default, (X,)),
    (aten.clone.default, (X,)),
    (aten.contiguous.default, (X.transpose(1, 2),)),
    (aten.lift_fresh_copy.default, (X,)),
    (aten.dropout.default, (X, 0.5, False)),
    (aten.feature_dropout.default, (X, 0.5, False)),
    (aten.alpha_dropout.default, (X, 0.5, False)),
    (aten.feature_alpha_dropout.default, (X, 0.5, False)),
    (aten._to_copy.default, (X,), {"dtype": torch.float64}),
    (aten._to_copy.default, (X,), {"dtype": torch.float32}),
    (aten.to.dtype, (X, torch.float64)),
    (aten.to.dtype, (X, torch.float32)),
    (aten.type_as.default, (X, X.float())),
    (aten.type_as.default, (X, STATISTICS[0])),
    # -- normalisation
    (aten._native_batch_norm_legit_no_training.default, (X, *STATISTICS, 0.1, 1e-3)),
    (aten._native_batch_norm_legit_no_training.default, (X, None, None, *STATISTICS[2:], 0.1, 0.5)),
    (aten._native_batch_norm_legit_no_training.default, (X[:, :, 0, 0], *STATISTICS, 0.1, 1e-5)),
    (aten._native_batch_norm_legit.no_stats, (X[:1], *STATISTICS[:2], True, 0.0, 1e-6)),
    (aten._native_batch_norm_legit.no_stats, (X[:1].flatten(2), None, None, True, 0.0, 1e-6)),
    (aten.group_norm.default, (tensor(2, 4, 3, 5), 2, tensor(4), tensor(4), 1e-3, False)),
    (aten.group_norm.default, (tensor(2, 4), 2)),
    (aten.instance_norm.default, (X, *STATISTICS[:2], None, None, True, 0.1, 1e-5, False)),
    (aten.instance_norm.default, (X, None, None, None, None, True, 0.1, 1e-5, False)),
    (aten.instance_norm.default, (X, *STATISTICS, False, 0.1, 1e-5, False)),
    (aten.layer_norm.default, (X, [5], tensor(5), tensor(5), 1e-3, False)),
    (aten.layer_norm.default, (X, [3, 6, 5])),
    (aten.rms_norm.default, (X, [5], tensor(5), 1e-3)),
    (aten.rms_norm.default, (X, [6, 5])),
    # -- pools
    (aten.max_pool1d.default, (X[0], [2])),
    (aten.max_pool1d.default, (X[0], [3], [2], [1], [2], True)),
    (aten.max_pool3d.default, (X, [2, 2, 2])),
    (aten.max_pool3d.default, (X, [2, 3, 2], [1, 2, 2], [1, 1, 0], [1, 2, 1], True)),
    (aten.avg_pool1d.default, (X[0], [2])),
    (aten.avg_pool1d.default, (X[0], [3], [2], [1], True, False)),
    (aten.max_pool2d.default, (X, [2, 2])),
    (aten.max_pool2d.default, (X[0], [2, 2], [1, 1], [1, 0])),
    (aten.avg_pool2d.default, (X, [2, 2])),
    (aten.avg_pool2d.default, (X[0], [3, 2], [2, 1], [1, 0], True, False)),
    (aten.avg_pool3d.default, (X[None], [2, 2, 2])),
    (aten.avg_pool3d.default, (X, [2, 3, 2], [1, 2, 2])),
    (aten.adaptive_max_pool2d.default, (X[0], [3, 2])),
    (aten.max_pool2d.default, (X, [3, 2], [2, 1], [1, 0])),
    (aten.max_pool2d.default, (X, [2, 2], [3, 2], [1, 1], [2, 1], True)),
    (aten.max_pool2d.default, (X, [2, 2], [2, 2], [1, 1], [3, 2], True)),
    (aten.max_pool3d.default, (X, [2, 2, 2], [1, 2, 2], [1, 1, 0], [1, 3, 3], True)),
    (aten.adaptive_avg_pool2d.default, (X, [1, 1])),
    (aten.adaptive_avg_pool2d.default, (X, [6, 5])),
    (aten.adaptive_avg_pool2d.default, (X, [3, 1])),
    (aten.adaptive_avg_pool2d.default, (X, [2, 5])),
    (aten.adaptive_avg_pool2d.default, (X, [4, 3])),
    (aten.adaptive_avg_pool2d.default, (X, [5, 5])),
    (aten.adaptive_avg_pool2d.default, (X, [7, 9])),
    (aten.adaptive_avg_pool2d.default, (X, [1, 7])),
    (aten.adaptive_avg_pool2d.default, (X[:, :, :1, :1], [7, 7])),
    (aten.adaptive_avg_pool1d.default, (X[0], [1])),
    (aten.adaptive_avg_pool1d.default, (X[0], [5])),
    (aten.adaptive_avg_pool1d.default, (X[0, :, :, :4], [2])),
    (aten.adaptive_avg_pool1d.default, (X[0], [3])),
    (aten.adaptive_avg_pool3d.default, (X[None], [1, 3, 5])),
    (aten.adaptive_avg_pool3d.default, (X[None], [2, 4, 7])),
    (aten.adaptive_max_pool1d.default, (X[0], [5])),
    (aten.adaptive_max_pool1d.default, (X[0], [3])),
    (aten.adaptive_max_pool3d.default, (X[None], [3, 2, 1])),
    (aten.adaptive_max_pool3d.default, (X[None], [2, 4, 3])),
    (aten.adaptive_max_pool2d.default, (X, [4, 5])),
    (aten.adaptive_max_pool2d.default, (X, [4, 3])),
    (aten.adaptive_max_pool2d.default, (X, [7, 9])),
    (aten.adaptive_max_pool2d.default, (X, [3, 5])),
    (aten.adaptive_max_pool2d.default, (X, [1, 1])),
    # -- shape
    (aten.reshape.default, (X, [2, -1])),
    (aten.reshape.default, (X.transpose(1, 2), [2, -1])),
    (aten.view.default, (X, [6, 30])),
    (aten._unsafe_view.default, (X, [6, 30])),
    (aten.flatten.using_ints, (X, 1)),
    (aten.flatten.using_ints, (X, 1, -2)),
    (aten.reshape_as.default, (X, tensor(6, 30))),
    (aten.view_as.default, (X, tensor(6, 30))),
    (aten.expand_as.default, (tensor(6, 1), X)),
    (aten.unflatten.int, (X, 2, [2, -1])),
    (aten.unflatten.int, (X, -2, [2, 3])),
    (aten.narrow.default, (X, 2, 1, 3)),
    (aten.narrow.default, (X, -1, -3, 2)),
    (aten.movedim.int, (X, -1, 1)),
    (aten.movedim.intlist, (X, [1, 3], [-1, 0])),
    (aten.swapaxes.default, (X, 1, -1)),
    (aten.swapdims.default, (X, 1, -1)),
    (aten.mT.default, (X,)),
    (aten.pad.default, (X, [1, 2])),
    (aten.pad.default, (X, [1, 2, 0, 3], "constant", 2.0)),
    (aten.pad.default, (X, [-1, 2, 1, -2, 0, 1])),
    (aten.pad.default, (X, [1, 2, 0, 3], "reflect")),
    (aten.pad.default, (X, [1, 2, 0, 3], "replicate")),
    (aten.pad.default, (X, [1, 2, 0, 3], "circular")),
    (aten.pad.default, (X, [0, 0, 6, 0], "circular")),
    (aten.cat.default, ([X, X + 1], 1)),
    (aten.cat.default, ([tensor(0), X, tensor(0)], 1)),
    (aten.cat.default, ([tensor(0), tensor(0)],)),
    (aten.cat.default, ([tensor(0), X.float()], 1)),
    (aten.unsafe_split.Tensor, (X, 2, 1)),
    (aten.split.Tensor, (X, 2, 1)),
    (aten.split.Tensor, (X, 3, -2)),
    (aten.chunk.default, (X, 4, 2)),
    (aten.chunk.default, (X, 9, 3)),
    (aten.tensor_split.sections, (X, 4, 2)),
    (aten.roll.default, (X, [1, -2], [2, 3])),
    (aten.roll.default, (X, [7])),
    (aten.repeat.default, (X, [2, 1, 1, 3, 1])),
    (aten.tile.default, (X, [2, 3])),
    (aten.repeat_interleave.self_int, (X, 3, 1)),
    (aten.repeat_interleave.self_int, (X, 2, -1)),
    (aten.repeat_interleave.self_int, (X, 2)),
    (aten.pixel_shuffle.default, (tensor(2, 8, 3, 2), 2)),
    (aten.pixel_unshuffle.default, (tensor(2, 2, 6, 4), 2)),
    (aten.channel_shuffle.default, (tensor(2, 6, 3, 2), 3)),
    # -- by index
    (aten.index.Tensor, (X, [None, torch.tensor([2, 0, -1])])),
    (aten.index.Tensor, (X, [None, None, torch.tensor([[5, -6], [3, 3]])])),
    (aten.index.Tensor, (X[0, 0], [torch.tensor([[1, 2], [0, 4], [5, 5]])])),
    (aten.index.Tensor, (X, [None, torch.tensor([2, -3, 1]), torch.tensor([0, 5, -1])])),
    (aten.index.Tensor, (X, [None, None, torch.tensor([[1], [-2]]), torch.tensor([[0, 4, 4]])])),
    (aten.index.Tensor, (X, [None, torch.tensor([0, 2]), None, torch.tensor([[-1], [3]])])),
    (aten.index.Tensor, (X, [torch.tensor([1, 0]), torch.tensor([2]), torch.tensor([5, 3]), torch.tensor([0, -5])])),
    (aten._unsafe_index.Tensor, (X, [None, torch.tensor([2, 0])])),
    (aten._unsafe_index_put.default, (X, [None, torch.tensor([2, 0])], tensor(2, 2, 6, 5), True)),
    (aten.embedding.default, (X[0, 0], torch.tensor([[5, 0, 2], [2, 2, 4]]))),
    (aten.embedding.default, (X[0, 0], torch.tensor(3), 3)),
    (aten.one_hot.default, (torch.tensor([[2, 0], [5, 3]]), 6)),
    (aten.index_put.default, (X, [X > 0], HALF)),
    (aten.index_put.default, (X, [X[:, :, 0, 0] > 0], HALF)),
    (aten.copy.default, (X, X + 1)),
    (aten.copy.default, (X, tensor(6, 1).float())),
    (aten.zero.default, (X,)),
    (aten.fill.Tensor, (X, HALF)),
    (aten.fill.Scalar, (X, 2)),
    (aten.full_like.default, (X, 2)),
    (aten.full_like.default, (X, 2), {"dtype": torch.int64}),
    (aten.empty_like.default, (X,)),
    (aten.empty_like.default, (X,), {"dtype": torch.int64}),
    (aten.new_empty.default, (X, [2, 3])),
    (aten.new_empty.default, (X, [2, 3]), {"dtype": torch.bool}),
    (aten.empty.memory_format, ([2, 3],)),
    (aten.empty.memory_format, ([2, 3],), {"dtype": torch.float64}),
    (aten.slice_scatter.default, (X, tensor(2, 3, 2, 5), 2, 1, 3)),
    (aten.slice_scatter.default, (X, tensor(2, 3, 2, 5), 2, -2)),
    (aten.slice_scatter.default, (X, X + 1, 0, 0, 2**63 - 1)),
    (aten.slice_scatter.default, (X, tensor(2, 3, 3, 5), 2, 0, 2**63 - 1, 2)),
    (aten.slice_scatter.default, (X, tensor(2, 3, 6, 2), -1, 1, 5, 3)),
    (aten.select_scatter.default, (X, tensor(2, 6, 5), 1, 0)),
    (aten.select_scatter.default, (X, tensor(2, 3, 6), 3, -1)),
    # -- windows: kernel, dilation, padding, stride
    (aten.unfold.default, (X, 2, 3, 1)),
    (aten.unfold.default, (X, -1, 2, 3)),
    (aten.unfold.default, (X, 1, 3, 2)),
    (aten.im2col.default, (X, [2, 3], [1, 1], [0, 0], [1, 1])),
    (aten.im2col.default, (X, [3, 2], [2, 1], [1, 2], [2, 3])),
    (aten.im2col.default, (X[0], [3, 3], [1, 1], [1, 1], [2, 2])),
    (aten.col2im.default, (tensor(2, 12, 15), [6, 5], [2, 3], [1, 1], [0, 0], [1, 1])),
    (aten.col2im.default, (tensor(2, 6, 6), [6, 5], [3, 2], [2, 1], [1, 2], [2, 3])),
    (aten.col2im.default, (tensor(18, 9), [6, 5], [3, 3], [1, 1], [1, 1], [2, 2])),
    # -- resampling: size, scale factors
    (aten.upsample_nearest1d.vec, (X[0], [10], None)),
    (aten.upsample_nearest1d.vec, (X[0], [7], None)),
    (aten.upsample_nearest2d.vec, (X, None, [2.0, 3.0])),
    (aten.upsample_nearest2d.vec, (X, None, [1.5, 0.5])),
    (aten.upsample_nearest2d.vec, (X, [6, 15], None)),
    (aten.upsample_nearest2d.vec, (X, [6, 5], None)),
    (aten.upsample_nearest3d.vec, (X[None], None, [2.0, 1.0, 2.0])),
    (aten.upsample_nearest3d.vec, (X[None], [4, 6, 3], None)),
    (aten._upsample_nearest_exact1d.vec, (X[0], [7], None)),
    (aten._upsample_nearest_exact2d.vec, (X, None, [2.0, 1.5])),
    (aten._upsample_nearest_exact3d.vec, (X[None], [4, 6, 3], None)),
    (aten.upsample_linear1d.vec, (X[0], [7], False, None)),
    (aten.upsample_bilinear2d.vec, (X, None, False, [2.0, 2.0])),
    (aten.upsample_bilinear2d.vec, (X, None, False, [1.7, 0.4])),
    (aten.upsample_bilinear2d.vec, (X, [12, 3], False, None)),
    (aten.upsample_bilinear2d.vec, (X, [11, 1], True, None)),
    (aten.upsample_bilinear2d.vec, (X[:, :, :1, :1], [3, 4], False, None)),
    (aten.upsample_trilinear3d.vec, (X[None], [5, 6, 7], True, None)),
    (aten.upsample_trilinear3d.vec, (X[None], None, False, [2.0, 1.5, 0.5])),
    (aten.upsample_bicubic2d.vec, (X, None, False, [2.0, 0.6])),
    (aten.upsample_bicubic2d.vec, (X, [9, 4], True, None)),
    (aten._upsample_bilinear2d_aa.vec, (X, [3, 7], False, None)),
    (aten._upsample_bilinear2d_aa.vec, (X, None, False, [0.4, 1.7])),
    (aten._upsample_bilinear2d_aa.vec, (X, [4, 3], True, None)),
    (aten._upsample_bicubic2d_aa.vec, (X, [2, 8], False, None)),
    (aten._upsample_bicubic2d_aa.vec, (X, None, False, [0.6, 0.4])),
    (aten._upsample_bicubic2d_aa.vec, (X, [4, 2], True, None)),
    # -- pointwise
    (aten.clip.default, (X, 0)),
    (aten.clip.default, (X, -0.5, 0.5)),
    (aten.clip.default, (X, None, 0.5)),
    (aten.clamp.Tensor, (X, tensor(6, 1), tensor(5))),
    (aten.clamp.Tensor, (X,), {"max": HALF}),
    (aten.clip.Tensor, (X, HALF, X)),
    (aten.clamp_min.Tensor, (X, tensor(6, 1))),
    (aten.clamp_max.Tensor, (X, tensor(5))),
    (aten.softshrink.default, (X,)),
    (aten.softshrink.default, (X, 0.0)),
    (aten.hardshrink.default, (X, 0.25)),
    (aten.hardshrink.default, (torch.tensor([math.nan, 0.2, -math.inf]),)),
    (aten.softshrink.default, (torch.tensor([math.nan, 0.2, -math.inf]),)),
    (aten.erfc.default, (X,)),
    (aten.exp2.default, (X,)),
    (aten.exp2.default, (torch.arange(-3, 3),)),
    (aten.log2.default, (X.abs() + 1,)),
    (aten.log10.default, (X.abs() + 1,)),
    (aten.logit.default, (X.sigmoid(),)),
    (aten.logit.default, (X.sigmoid(), 0.3)),
    (aten.trunc.default, (3 * X,)),
    (aten.trunc.default, (torch.arange(-3, 3),)),
    (aten.fix.default, (3 * X,)),
    (aten.isnan.default, (torch.tensor([math.nan, 0.2, -math.inf]),)),
    (aten.isnan.default, (torch.arange(3),)),
    (aten.frac.default, (3 * X,)),
    (aten.isinf.default, (1 / X.clamp(min=0),)),
    (aten.outer.default, (tensor(4), tensor(5))),
    (aten.ger.default, (tensor(4), tensor(5))),
    (aten.selu.default, (X,)),
    (aten.celu.default, (X,)),
    (aten.celu.default, (X, 0.5)),
    (aten.glu.default, (SQUARE,)),
    (aten.glu.default, (SQUARE, 1)),
    (aten.rrelu.default, (X,)),
    (aten.rrelu.default, (X, 0.1, 0.5)),
    (aten.square.default, (X,)),
    (aten.maximum.default, (X, tensor(6, 1))),
    (aten.max.other, (X, tensor(6, 1))),
    (aten.minimum.default, (X, tensor(6, 1))),
    (aten.min.other, (X, tensor(6, 1))),
    (aten.addcmul.default, (X, tensor(5), X), {"value": 0.5}),
    (aten.addcdiv.default, (X, tensor(5), X.abs() + 1)),
    (aten.lerp.Scalar, (X, tensor(5), 0.3)),
    (aten.lerp.Tensor, (X, tensor(5), HALF)),
    (aten.where.ScalarSelf, (X > 0, 1, X)),
    (aten.where.ScalarSelf, (X > 0, 0.5, torch.arange(5))),
    (aten.where.ScalarOther, (X > 0, X, -2.5)),
    (aten.where.Scalar, (X > 0, 1, 2)),
    (aten.where.Scalar, (X > 0, 1, 0.5)),
    (aten.masked_fill.Tensor, (X, X > 0, HALF)),
    (aten.masked_fill.Tensor, (X, X > 0, HALF.float())),
    # -- reductions
    (aten.sum.default, (X,)),
    (aten.mean.default, (X,)),
    (aten.mean.default, (X.float(),), {"dtype": torch.float64}),
    (aten.var.default, (X,)),
    (aten.var.default, (X, False)),
    (aten.var.dim, (X, [1, -1])),
    (aten.var.dim, (X, [1], False, True)),
    (aten.var.correction, (X, [2]), {"correction": 2}),
    (aten.var.correction, (X, None)),
    (aten.std.default, (X,)),
    (aten.std.dim, (X, [1, -1], False)),
    (aten.std.correction, (X, [2]), {"correction": 0, "keepdim": True}),
    (aten.var_mean.default, (X,)),
    (aten.var_mean.dim, (X, [1], False, True)),
    (aten.var_mean.correction, (X, [1]), {"correction": 0}),
    (aten.max.default, (X,)),
    (aten.argmin.default, (X,)),
    (aten.argmin.default, (X, 1)),
    (aten.argmin.default, (torch.tensor([3, 0, 5], dtype=torch.uint8), 0)),
    (aten.argmin.default, (-TIED, 1, True)),
    (aten.argmax.default, (X,)),
    (aten.argmax.default, (X, None, True)),
    (aten.argmax.default, (X, -1, True)),
    (aten.any.default, (X > 2,)),
    (aten.any.dim, (X > 1, 1)),
    (aten.any.dims, (X > 1, [1, -1], True)),
    (aten.any.dims, (X > 1, [])),
    (aten.any.dim, (torch.tensor([[0, 3], [0, 0]], dtype=torch.uint8), 1)),
    (aten.all.default, (X < 2,)),
    (aten.all.dim, (X < 1, 1, True)),
    (aten.all.dims, (X < 1, [1, -1])),
    (aten.min.default, (X,)),
    (aten.nan_to_num.default, (tensor(6).index_fill(0, torch.tensor([0, 2]), math.nan),)),
    (aten.nan_to_num.default, (torch.tensor([math.inf, -math.inf, math.nan, 1.5], dtype=torch.float64),)),
    (aten.nan_to_num.default, (torch.tensor([math.inf, -math.inf, math.nan, 1.5], dtype=torch.float64), 1.0, 2.0, 3.0)),
    (aten.nan_to_num.default, (torch.arange(3),)),
    (aten.std_mean.default, (X,)),
    (aten.std_mean.dim, (X, [1, -1])),
    (aten.std_mean.correction, (X, [2]), {"correction": 0, "keepdim": True}),
    *((aten.rot90.default, (X, k, [2, 3])) for k in range(-1, 4)),
    (aten.rot90.default, (X, 1, [-1, 1])),
    (aten.max_unpool2d.default, (*F.max_pool2d(X, 2, return_indices=True), [6, 5])),
    (aten.max_unpool2d.default, (*F.max_pool2d(X[0], 2, return_indices=True), [7, 5])),
    (aten.topk.default, (X, 2)),
    (aten.topk.default, (X, 2, 1, False)),
    (aten.sort.default, (X,)),
    (aten.sort.default, (X, 1, True)),
    (aten.sort.stable, (TIED,), {"stable": True, "dim": 1, "descending": True}),
    (aten.sort.stable, (TIED,), {"stable": True}),
    (aten.max.dim, (TIED, 1)),
    (aten.max.dim, (X, -1, True)),
    (aten.min.dim, (TIED, 1)),
    (aten.min.dim, (X, 2)),
    (aten.linalg_vector_norm.default, (X, 2.0, [1], True)),
    (aten.linalg_vector_norm.default, (X,)),
    (aten.linalg_vector_norm.default, (X, 1, [1, 2])),
    (aten.linalg_vector_norm.default, (X, float("inf"), [-1])),
    (aten.linalg_norm.default, (X, None, [1])),
    (aten.linalg_norm.default, (X, 1, [1], True)),
    (aten.linalg_norm.default, (X,)),
    (aten.norm.ScalarOpt_dim, (X, 2, [1, 2], True)),
    (aten.norm.ScalarOpt_dim, (X, None, [1])),
    (aten.cosine_similarity.default, (X, tensor(6, 5))),
    (aten.cosine_similarity.default, (X, X + 1, -1, 10.0)),
    # -- convolutions and products
    (aten.conv1d.padding, (X[0], tensor(4, 6, 3), tensor(4), [1], "same")),
    (aten.conv1d.padding, (X[0], tensor(4, 6, 2), None, [1], "same", [3])),
    (aten.conv2d.padding, (X, tensor(4, 3, 2, 3), tensor(4), [1, 1], "same", [1, 2])),
    (aten.conv2d.padding, (X, tensor(6, 1, 4, 4), None, [1, 1], "same", [1, 1], 3)),
    (aten.conv2d.padding, (X, tensor(4, 3, 3, 3), None, [2, 2], "valid")),
    (aten.conv2d.padding, (X, tensor(4, 3, 3, 3))),
    (aten.conv3d.padding, (X[None], tensor(1, 2, 2, 3, 4), None, [1, 1, 1], "same")),
    (aten.addmm.default, (tensor(4), tensor(2, 3), tensor(3, 4))),
    (aten.addmm.default, (tensor(2, 4), tensor(2, 3), tensor(3, 4)), {"beta": 2, "alpha": 0.5}),
    (aten.baddbmm.default, (tensor(2, 1, 5), tensor(2, 3, 4), tensor(2, 4, 5))),
    (aten.baddbmm.default, (tensor(5), tensor(2, 3, 4), tensor(2, 4, 5)), {"beta": 2, "alpha": 3}),
    (aten.einsum.default, ("nchw,nkhw->nck", [X, X + 1])),
    (aten.einsum.default, ("nchw,hk->nckw", [X, tensor(6, 4)])),
    (aten.einsum.default, ("nchw,nchw,c", [X, X, tensor(3)])),
    (aten.einsum.default, ("ab , cd -> dbca", [tensor(2, 3), tensor(4, 5)])),
    (aten.einsum.default, ("...ij,...jk", [X, tensor(2, 3, 5, 4)])),
    (aten.einsum.default, ("...ij,kj->k...i", [X, tensor(4, 5)])),
    (aten.einsum.default, ("...ij,...jk->...ik", [X, tensor(5, 4)])),
    (aten.einsum.default, ("nchw->cn", [X])),
    (aten.einsum.default, ("nchw,nchv->nhwv", [X, X[:, :, :1]])),  # an axis of size 1 is stretched
    (aten.einsum.default, ("nchw,nchv->nwv", [X[:, :, :1], X])),
    (aten.einsum.default, ("...ij,...jk", [X[:, :1], tensor(2, 3, 5, 4)])),
    (aten.scaled_dot_product_attention.default, (QUERY, KEY, VALUE)),
    (aten.scaled_dot_product_attention.default, (QUERY, KEY, VALUE, tensor(6, 7))),
    (aten.scaled_dot_product_attention.default, (QUERY, KEY, VALUE, tensor(6, 7) > -1)),
    (aten.scaled_dot_product_attention.default, (QUERY, KEY, VALUE, None, 0.0, True), {"scale": 0.3}),
    # -- recurrent layers: state, weights, has_biases, layers, dropout, train, bidirectional, batch_first
    (aten.lstm.input, (X[0], [tensor(1, 6, 4)] * 2, lstm(5, 4), True, 1, 0.0, False, False, False)),
    (aten.lstm.input, (X[0], [tensor(1, 3, 4)] * 2, lstm(5, 4)[:2], False, 1, 0.0, False, False, True)),
    (aten.lstm.input, (X[0], [tensor(4, 3, 2)] * 2, 2 * lstm(5, 2) + 2 * lstm(4, 2), True, 2, 0.5, False, True, True)),
    (aten.linear.default, (tensor(2, 5), tensor(3, 5), tensor(3))),
    (aten.linear.default, (tensor(2, 5), tensor(5))),
    (aten.linear.default, (tensor(2, 4, 5), tensor(5), HALF)),
    (aten.matmul.default, (X, tensor(5, 4))),
    (aten.matmul.default, (X, tensor(5))),
    (aten.matmul.default, (tensor(6), X)),
    (aten.matmul.default, (tensor(5), tensor(5))),
    (aten.matmul.default, (tensor(6), tensor(6, 4))),
    (aten.matmul.default, (tensor(4, 6), tensor(6))),
    (aten.softmax.int, (tensor(4, 6), 1)),
    (aten.softmax.int, (tensor(4, 6), 1, torch.float64)),
    (aten.softmax.int, (tensor(4, 6), 1, torch.float32)),
    (aten.log_softmax.int, (tensor(4, 6), -1)),
    (aten.log_softmax.int, (tensor(4, 6), -1, torch.float64)),
    (aten.div.Tensor_mode, (tensor(4, 6), tensor(6)), {"rounding_mode": None}),
    (aten.div.Tensor_mode, (tensor(4, 6), tensor(6)), {"rounding_mode": "floor"}),
    (aten.div.Tensor_mode, (tensor(4, 6), tensor(6)), {"rounding_mode": "trunc"}),
    (aten.div.Tensor_mode, (torch.arange(-6, 6), torch.tensor([-4])), {"rounding_mode": "trunc"}),
    (aten.div.Scalar_mode, (tensor(4, 6), -0.7), {"rounding_mode": "trunc"}),
    (aten.div.Scalar_mode, (torch.arange(-6, 6), -4), {"rounding_mode": "floor"}),
    (aten.meshgrid.default, ([torch.arange(3), torch.arange(4)],)),
    (aten.meshgrid.indexing, ([torch.arange(3), torch.arange(4), torch.arange(2)],), {"indexing": "xy"}),
    (aten.meshgrid.indexing, ([tensor(3)],), {"indexing": "xy"}),
    # -- products of many
    (aten.prod.default, (TIED,)),
    (aten.prod.dim_int, (X, 1)),
    (aten.prod.dim_int, (X, -2, True)),
    (aten.prod.dim_int, (TIED - 2, 1)),  # two factors are 0
    (aten.prod.dim_int, (X.float(), 3), {"dtype": torch.float64}),
    (aten.prod.dim_int, (torch.tensor([[1, 2, 3]], dtype=torch.int32), 1)),
    (aten.prod.dim_int, (torch.tensor([[1, 2, 3]]), 1), {"dtype": torch.int32}),
    (aten.cumprod.default, (X, 2)),
    (aten.cumprod.default, (TIED - 2, -1)),
    (aten.cumprod.default, (X.float(), 1), {"dtype": torch.float64}),
    (aten.logcumsumexp.default, (3 * X, 2)),
    (aten.logcumsumexp.default, (torch.tensor([[1.0, -math.inf, 2.0, -math.inf]], dtype=torch.float64), 1)),
    (aten.kthvalue.default, (HALF, 1)),
    (aten.median.dim, (HALF, 0)),
    (aten.kthvalue.default, (X, 2)),
    (aten.kthvalue.default, (X, 3, 1, True)),
    (aten.median.dim, (X, 2)),
    (aten.median.dim, (X, -1, True)),
    (aten.median.default, (X,)),
    (aten.median.default, (TIED,)),
    # -- at given positions
    *(
        (aten.grid_sampler_2d.default, (X, POSITIONS, mode, padding, align))
        for mode in range(3)
        for padding in range(3)
        for align in (False, True)
    ),
    *(
        (aten.grid_sampler_3d.default, (tensor(2, 3, 2, 3, 4), tensor(2, 1, 2, 5, 3), mode, padding, padding == 1))
        for mode in range(2)
        for padding in range(3)
    ),
    (aten.grid_sampler.default, (X, POSITIONS, 0, 1, False)),
    (aten.grid_sampler_2d.default, (X[:, :, :1], POSITIONS, 0, 2, True)),
    (aten.affine_grid_generator.default, (tensor(2, 2, 3), [2, 3, 6, 5], False)),
    (aten.affine_grid_generator.default, (tensor(2, 2, 3), [2, 3, 1, 5], True)),
    (aten.affine_grid_generator.default, (tensor(2, 3, 4), [2, 3, 4, 6, 5], True)),
    (aten.affine_grid_generator.default, (tensor(2, 3, 4), [2, 3, 1, 6, 5], False)),
    # -- diagonals
    (aten.diagonal.default, (X, 0, 2, 3)),
    (aten.diagonal.default, (X, -2, -1, 1)),
    (aten.diagonal.default, (SQUARE[0], 3)),
    (aten.diagonal.default, (SQUARE[0], 9)),
    (aten.diagonal_scatter.default, (X, tensor(2, 3, 5), 0, 2, 3)),
    (aten.diagonal_scatter.default, (X, tensor(2, 6, 2), 1, 3, 1)),
    (aten.einsum.default, ("nii->ni", [SQUARE])),
    (aten.einsum.default, ("ii", [SQUARE[0]])),
    (aten.einsum.default, ("nii,ij->nj", [SQUARE, SQUARE[0]])),
    (aten.einsum.default, ("iii", [tensor(3, 3, 3)])),
    # -- written by index
    (aten.index_put.default, (X, [None, torch.tensor([2, -3])], tensor(2, 2, 6, 5))),
    (aten.index_put.default, (X, [torch.tensor([1])], HALF)),
    (aten.index_put.default, (X, [None, torch.tensor([2, 0]), torch.tensor([5, -6])], tensor(2, 5))),
    (aten.index_put.default, (X, [torch.tensor([1, 0]), None, torch.tensor([[4], [-2]])], tensor(2, 2, 3, 5))),
    (aten.index_put.default, (X, [None, None, torch.tensor([[1, 1], [-5, 2]])], tensor(2, 2, 5), True)),
    (aten.index_add.default, (X, 1, torch.tensor([2, 2]), tensor(2, 2, 6, 5))),
    (aten.index_add.default, (X, -1, torch.tensor([0]), tensor(2, 3, 6, 1)), {"alpha": -2}),
    (aten.index_copy.default, (X, 2, torch.tensor([5, 0]), tensor(2, 3, 2, 5))),
    (aten.index_fill.int_Scalar, (X, 1, torch.tensor([0, -1]), 2.5)),
    (aten.index_fill.int_Tensor, (X, -1, torch.tensor([3, 1]), HALF)),
    (aten.scatter_reduce.two, (X, 1, (X > 0).long(), tensor(2, 3, 6, 5), "sum")),
    (aten.scatter_reduce.two, (X, 1, (X > 0).long(), tensor(2, 3, 6, 5), "sum"), {"include_self": False}),
    (aten.scatter_reduce.two, (X, 1, (X > 0).long(), tensor(2, 3, 6, 5), "mean")),
    (aten.scatter_reduce.two, (X, 2, (X > 0).long(), tensor(2, 3, 6, 5), "mean"), {"include_self": False}),
    (aten.take.default, (X, torch.tensor([[7, -1], [0, 99]]))),
    # -- pointwise, once more
    (aten.fmax.default, (X, tensor(6, 1))),
    (aten.fmax.default, (TIED, torch.tensor([math.nan, 3.0, 2.0], dtype=torch.float64))),
    (aten.fmin.default, (TIED, torch.tensor([math.nan, 3.0, 2.0], dtype=torch.float64))),
    (aten.copysign.Tensor, (X, torch.tensor([-0.0, 0.0, 3.0, -2.0, 1.0], dtype=torch.float64))),
    (aten.copysign.Scalar, (X, -2.0)),
    (aten.copysign.Tensor, (torch.arange(5), X)),
    (aten.hypot.default, (X, tensor(6, 1) + 1)),
    (aten.ldexp.Tensor, (X, torch.tensor([-2.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64))),
    (aten.round.decimals, (X,), {"decimals": 2}),
    (aten.round.decimals, (900 * X,), {"decimals": -2}),
    # -- products, once more
    (aten.addbmm.default, (tensor(3, 5), tensor(2, 3, 4), tensor(2, 4, 5)), {"beta": 2, "alpha": 3}),
    (aten.addbmm.default, (tensor(3, 5), tensor(2, 3, 4), tensor(2, 4, 5))),
    (aten.addmv.default, (tensor(3), tensor(3, 4), tensor(4))),
    (aten.addmv.default, (tensor(3), tensor(3, 4), tensor(4)), {"beta": 2, "alpha": 3}),
    (aten.mv.default, (tensor(3, 4), tensor(4))),
    (aten.dot.default, (tensor(4), tensor(4) + 1)),
    (aten.vdot.default, (tensor(4), tensor(4) + 1)),
    (aten.bilinear.default, (tensor(2, 6, 4), tensor(2, 6, 5), tensor(3, 4, 5), tensor(3))),
    (aten.bilinear.default, (tensor(2, 4), tensor(2, 5), tensor(3, 4, 5))),
    (aten.cdist.default, (tensor(2, 3, 4), tensor(2, 5, 4) + 1)),
    (aten.cdist.default, (SQUARE, SQUARE)),  # distances of 0
    (aten.cdist.default, (SQUARE, SQUARE + 1, 1.0)),
    (aten.cdist.default, (SQUARE, SQUARE + 1, 3.0)),
    (aten.dist.default, (X, X + 1)),
    (aten.dist.default, (X, tensor(5), 1)),
    (aten.linalg_vector_norm.default, (X, 3, [1, 2])),
    (aten.linalg_vector_norm.default, (X.float(), 2, [1]), {"dtype": torch.float64}),
    (aten.linalg_vector_norm.default, (X.clamp(min=0), 1.5, [1], True)),
    (aten.linalg_vector_norm.default, (0 * X, 4.0)),
    (aten.conv1d.default, (X[0], tensor(4, 6, 3), tensor(4), [2], [1])),
    (aten.conv1d.default, (X[0, 0], tensor(4, 6, 3))),
    (aten.conv2d.default, (X[0], tensor(4, 3, 2, 3), tensor(4), [1, 2])),
    (aten.conv2d.padding, (X[0], tensor(4, 3, 2, 3), None, [1, 1], "same")),
    (aten.conv2d.default, (X, tensor(4, 3, 2, 3), tensor(4), [1, 1], [1, 0], [1, 2])),
    (aten.conv_transpose1d.default, (X[0], tensor(6, 4, 3), tensor(4), [2], [1], [1])),
    (aten.conv_transpose2d.input, (X, tensor(3, 2, 3, 2), None, [2, 1], [1, 0], [1, 2], 3, [1, 3])),
    (aten.conv_transpose3d.input, (X[None], tensor(2, 4, 3, 3, 3), tensor(4), [2], [1], [1])),
    (aten.scaled_dot_product_attention.default, (tensor(2, 6, 3, 5), tensor(2, 2, 7, 5), tensor(2, 2, 7, 4)), GROUPED),
]


def _name(value: Any) -> str:
    if isinstance(value, list):
        return f"[{' '.join(map(_name, value))}]"
    return "x".join(map(str, value.shape)) if isinstance(value, Tensor) else str(value)


PARAMETERS = [
    pytest.param(op, args, *(kwargs or [{}]), id=f"{op}({', '.join(map(_name, (*args, *kwargs)))})")
    for op, args, *kwargs in CALLS
]


@pytest.mark.parametrize(("op", "args", "kwargs"), PARAMETERS)
def test_a_spelling_keeps_the_value(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    expected, found = op(*args, **kwargs), SPELLINGS[op](*args, **kwargs)
    if op in EMPTY:
        expected.zero_()
    if not isinstance(expected, (tuple, list)):
        expected, found = [expected], [found]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        if ours is None:  # what else a batch norm returns serves training only
            continue
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if theirs.is_floating_point() or op in FIRST:
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14, equal_nan=True)


STORED = {aten.copy.default, aten.embedding.default}
"""An operator that autograd sees in its other form only, and one whose settings are about the gradient of a weight."""


@pytest.mark.parametrize(("op", "args", "kwargs"), [one for one in PARAMETERS if one.values[0] not in STORED])
def test_a_spelling_keeps_the_derivative(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """As autograd has it, of the operator and of its spelling; of what a layer only stores, autograd has none."""
    expected, found = (_gradients(function, args, kwargs) for function in (op, SPELLINGS[op]))
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is not None and theirs.dtype == torch.float64:
            ours = torch.zeros_like(theirs) if ours is None else ours
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)


def _gradients(function: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor | None]:
    """Return the cotangents of all floating-point arguments."""
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point() and not any(value is one for one in STATISTICS[2:]):
            leaves.append(value.detach().clone().requires_grad_())
            return leaves[-1]
        return type(value)(map(leaf, value)) if isinstance(value, (tuple, list)) else value

    result = function(*leaf(args), **kwargs)
    outputs = [y for y in (result if isinstance(result, (tuple, list)) else [result]) if y is not None]
    outputs = [y for y in outputs if y.requires_grad]
    if not outputs:
        return [None for _ in leaves]
    generator = torch.Generator().manual_seed(1)
    cts = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return list(torch.autograd.grad(outputs, leaves, cts, allow_unused=True))


EMPTY = {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default}
"""Operators of whose result only the shape and the dtype count."""

FIRST = {aten.argmax.default, aten.argmin.default, aten.max.dim, aten.min.dim, aten.sort.stable, aten.topk.default}
"""Operators whose indices are those of the first extreme."""


def test_every_spelling_has_a_call() -> None:
    assert set(SPELLINGS) - {op for op, *_ in CALLS} == set()


class Network(nn.Module):
    """A body, then ``flatten(1)``."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)


def _written(x: Tensor) -> Tensor:
    """Views that are written into."""
    x[:, :2].relu_()
    x[:, 0] = x[:, 1]
    x[:, 2, ::2] = 3.0
    x[x < -1] = -1.0
    x.view(x.shape[0], -1).mul_(2)
    return x


NETWORKS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout2d(F.dropout(x, 0.5, False), 0.5, False),
    "nn.Dropout": nn.Sequential(nn.Dropout(), nn.Dropout2d()),
    "batch norm": nn.BatchNorm2d(3).double(),
    "pools": lambda x: F.adaptive_avg_pool2d(F.max_pool2d(x, 2, ceil_mode=True), (2, 5)),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, (3, 1)),
    "a view of a contiguous copy": lambda x: x.permute(0, 2, 3, 1).contiguous().view(x.shape[0], 6, -1),
    "a view of a clone": lambda x: x.transpose(1, 2).clone(memory_format=torch.contiguous_format).view(-1, 90),
    "pad": lambda x: F.pad(x, (1, 0, 2, -1), value=3.0),
    "written in place": lambda x: _written(x * 1),
    # the example's batch is 2: a source [2, 6, 5] must not be taken for one with a batch
    "copied": lambda x: x[:, :2] * (x[:, :2] * 1).copy_(torch.arange(60, dtype=x.dtype).reshape(2, 6, 5)),
    "norms": nn.Sequential(nn.GroupNorm(3, 3), nn.InstanceNorm2d(3), nn.LayerNorm([6, 5])).double(),
    "uneven adaptive pools": lambda x: F.adaptive_max_pool2d(x, (4, 3)) + F.adaptive_avg_pool2d(x, (4, 3)),
    "resampled": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, (12, 10), mode="bilinear"),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "einsum": lambda x: torch.einsum("nchw,ndhw->ncd", x, x),
    "parts": lambda x: torch.cat([part * i for i, part in enumerate((*x.split(2, 2), *x.chunk(3, 2)))], 2),
    "windows": lambda x: (
        F.fold(F.unfold(x, 3, padding=1), (6, 5), 3, padding=1) + x.unfold(2, 3, 1).sum((2, -1))[:, :, None]
    ),
    "a size that weights decide": lambda x: x * torch.tensor([0.0, 1.0, 2.0]).nonzero().sum(),
    "by a vector": lambda x: x @ torch.arange(5, dtype=x.dtype),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_canonical_program_computes_what_the_network_does(name: str, batch: int) -> None:
    net = Network(NETWORKS[name]).eval()
    program = canonicalize(capture(net, X))
    image = tensor(batch, 3, 6, 5)
    (found,) = to_module(program)(image)
    torch.testing.assert_close(found, net(image), rtol=0, atol=1e-14)
    again = canonicalize(program)
    assert operators(again) == operators(program)


def operators(program: Program) -> list[Any]:
    """Return a program's operators in order, without the reading of sizes."""
    return [node.target for node in program.graph.nodes if node.target is not aten.sym_size.int]


def test_averaging_windows_follow_the_dtype() -> None:
    """The weights of uneven windows are made where the program runs, in its precision."""
    program = canonicalize(capture(Network(nn.AdaptiveAvgPool2d((4, 7))), X.float()))
    (found,) = to_module(program)(X)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(X, (4, 7)).flatten(1), rtol=0, atol=1e-14)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "attention with dropout": (
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        "scaled_dot_product_attention with dropout has no spelling",
    ),
    "statistics of the batch": (
        lambda x: F.batch_norm(x, None, None, training=True),
        "batch norm without running statistics mixes the images of a batch",
    ),
    "index by a mask": (
        lambda x: x[:, torch.tensor([True, False, True])],
        "index by a mask has no spelling: how much it takes depends on the data; use torch.where",
    ),
    "a norm of order 1/2": (
        lambda x: torch.linalg.vector_norm(x, 0.5, 1),
        "linalg_vector_norm of order 0.5 has no vjp rule: those of order 1 and more have",
    ),
    "a product over the batch": (
        lambda x: x.prod(0, keepdim=True) * x,
        "prod needs a fixed size: how many values it multiplies or adds is written out",
    ),
    "as many as are positive": (
        lambda x: x * torch.masked_select(x, x > 0).sum(),
        "how many values aten.masked_select.default returns depends on the data, so no fixed graph describes it; "
        "weigh them by a mask in place of choosing some",
    ),
    "a maximum by index": (
        lambda x: x.scatter_reduce(1, (x > 0).long(), x, "amax"),
        "scatter_reduce by 'amax' has no spelling: sum and, of floating point, mean have",
    ),
    "a mirrored crop": (
        lambda x: F.pad(x, (-1, 2, 0, 0), "replicate"),
        "pad with mode 'replicate' crops: [-1, 2, 0, 0]",
    ),
    "writing into some images": (
        lambda x: torch.slice_scatter(x, x[:1] * 2, 0, 0, 1),
        "writing into a part of the batch has no spelling: every image needs its own logits",
    ),
    "adding where a mask holds": (
        lambda x: torch.index_put(x, [x > 0], x.new_ones(1), accumulate=True),
        "index_put by a mask writes one number; use torch.where for others",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_spelling_is_refused_with_its_place(name: str) -> None:
    body, message = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=rf"^{re.escape(message)} \(.*\.py:\d+\)$"):
        canonicalize(capture(Network(body), X))


def test_a_recurrent_layer_with_projections_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match=r"an LSTM with projections \(proj_size\) has no spelling"):
        SPELLINGS[aten.lstm.input](X[0], [tensor(1, 6, 2), tensor(1, 6, 4)], [], True, 1, 0.0, False, False, False)


def test_a_norm_of_matrices_is_refused() -> None:
    """Its order means something else than a vector's."""
    with pytest.raises(UnsupportedOp, match="linalg_norm of matrices has no vjp rule"):
        SPELLINGS[aten.linalg_norm.default](X, 1, [2, 3])


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_neighbours_are_pytorchs(mode: str) -> None:
    """At every size: positions that fall on a boundary between two samples are rounded in float32."""
    op = aten.upsample_nearest1d.vec if mode == "nearest" else aten._upsample_nearest_exact1d.vec
    for length in (3, 5, 7, 29):
        x = torch.arange(length, dtype=torch.float32)[None, None]
        for count in range(1, 130):
            assert torch.equal(SPELLINGS[op](x, [count], None), F.interpolate(x, size=count, mode=mode))
