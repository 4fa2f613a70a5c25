"""The rule of each operation that does more than act on each entry by itself."""

from typing import Any

import torch

from gradlens.geometry.energy.forward import linear, pointwise, statistics
from gradlens.geometry.energy.forward.moments import Rule

aten = torch.ops.aten

OPERATIONS: dict[Rule, tuple[Any, ...]] = {
    linear.convolution: (aten.convolution,),
    linear.matrix_product: (aten.mm, aten.bmm, aten.mv, aten.dot),
    linear.added_product: (aten.addmm, aten.baddbmm, aten.addmv),
    linear.moved: (
        aten.cat, aten.stack, aten.repeat, aten.flip, aten.roll, aten.index, aten._unsafe_index, aten.index_select,
        aten.gather, aten.im2col, aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle,
        aten.native_channel_shuffle, aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d,
        aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d, aten.tril, aten.triu,
        aten.slice_scatter, aten.select_scatter,
    ),
    linear.constant: (
        aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.new_empty, aten.new_zeros, aten.new_ones,
        aten.new_full, aten.new_empty_strided,
    ),
    linear.padded: (aten.constant_pad_nd,),
    linear.masked: (aten.masked_fill,),
    linear.summed: (aten.sum, aten.cumsum, aten.col2im),
    linear.averaged: (aten.mean,),
    linear.resize: (
        aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
        aten._upsample_nearest_exact1d, aten._upsample_nearest_exact2d, aten._upsample_nearest_exact3d,
        aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_trilinear3d, aten.upsample_bicubic2d,
        aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa,
    ),
    linear.adaptive_pool: (aten.adaptive_avg_pool1d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d),
    linear.average_pool: (aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d),
    statistics.layer_norm: (aten.native_layer_norm,),
    statistics.group_norm: (aten.native_group_norm,),
    statistics.rms_norm: (aten._fused_rms_norm,),
    statistics.batch_norm: (
        aten.native_batch_norm, aten.cudnn_batch_norm, aten.miopen_batch_norm, aten._native_batch_norm_legit,
        aten._native_batch_norm_legit_no_training, aten._batch_norm_no_update,
    ),
    statistics.variance: (aten.var, aten.std, aten.var_mean),
    statistics.length: (aten.linalg_vector_norm,),
    statistics.softmax: (aten._softmax, aten._safe_softmax),
    statistics.max_pool: (aten.max_pool2d_with_indices, aten.max_pool3d_with_indices),
    statistics.largest: (aten.amax,),
    pointwise.entrywise: (aten._prelu_kernel, aten.hardswish, aten.hardsigmoid, aten._to_copy),
    pointwise.gated: (aten.glu,),
    pointwise.dropped: (aten.native_dropout,),
    pointwise.standard_normal: (aten.randn, aten.randn_like),
    pointwise.uniform: (aten.rand, aten.rand_like),
}  # fmt: skip
RULES = {operation: rule for rule, operations in OPERATIONS.items() for operation in operations}
