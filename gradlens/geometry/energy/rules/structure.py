"""Operations that place, copy, route and add: their coefficients are 0 and 1, and so are the squares."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.rules.means import mean_at
from gradlens.geometry.energy.tensor import Energy, Operation, Rule, energies


def carried(operation: Operation, *arguments: Any, **options: Any) -> Any:
    """One energy through views, copies, sums and routes: the operation itself, on the energy."""
    (energy,) = energies(arguments)
    values = [energy.variance if argument is energy else argument for argument in arguments]
    return _dressed(energy, operation(*values, **options))


def joined(operation: Operation, *arguments: Any, **options: Any) -> Any:
    """Several gradients that are put together or added: an ordinary tensor among them counts with its square."""
    every = energies((*arguments, *options.values()))
    exponent = every[0].exponent
    if any(energy.exponent != exponent for energy in every):
        exponent = max((e.exponent for e in every if e.variance.numel() and e.variance.amax() > 0), default=exponent)
    whole = _bare(_squared(arguments, exponent), exponent), _bare(_squared(options, exponent), exponent)
    return _dressed(every[0].like(every[0].variance, exponent), operation(*whole[0], **whole[1]))


def added(operation: Operation, one: Any, other: Any, *, alpha: float = 1) -> Energy:
    """A sum or a difference of branches, whose variances are taken as independent."""
    if isinstance(other, Energy) and alpha != 1:
        other = other.times(other.variance * alpha**2)
    return joined(torch.ops.aten.add.Tensor, one, other)


def converted(operation: Operation, energy: Energy, *, dtype: torch.dtype | None = None, **options: Any) -> Energy:
    """A conversion of the gradient; energies keep their own precision."""
    options = {name: value for name, value in options.items() if name not in ("layout", "pin_memory")}
    return energy.like(operation(energy.variance, **options), dtype=dtype)


def empty(operation: Operation, energy: Energy, *size: Any, dtype: torch.dtype | None = None, **options: Any) -> Energy:
    """Zeros to put a gradient into."""
    return energy.like(operation(energy.variance, *size, dtype=energy.variance.dtype), dtype=dtype)


def strided(
    operation: Operation, energy: Energy, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> Energy:
    """A window on memory, which for the outside starts at 0."""
    return energy.like(operation(energy.variance, size, stride, (offset or 0) + energy.variance.storage_offset()))


def copied(operation: Operation, target: Energy, source: Tensor, non_blocking: bool = False) -> Energy:
    """A gradient written into a window on zeros, which share its memory: the target's exponent holds."""
    if isinstance(source, Energy):
        target.variance.copy_(source.at(target.exponent))
    else:
        target.variance.copy_(_squared(source, target.exponent))
    if target.expected is not None and isinstance(source, Energy):
        target.expected.copy_(mean_at(source, target.expected_exponent))
    return target


def filled(operation: Operation, energy: Energy, mask: Tensor, value: float) -> Energy:
    """A gradient overwritten in place, with zeros in all of autograd's formulas."""
    operation(energy.variance, mask, value**2)
    if energy.expected is not None:
        operation(energy.expected, mask, value)
    return energy


def same_size(operation: Operation, one: Tensor, other: Tensor) -> bool:
    """The question that autograd asks of a gradient before it starts."""
    return one.shape == other.shape


def _bare(arguments: Any, exponent: int) -> Any:
    """The arguments with values in units of `2**exponent` in place of energies."""
    if isinstance(arguments, Energy):
        return arguments.at(exponent)
    if isinstance(arguments, tuple | list):
        return type(arguments)(_bare(argument, exponent) for argument in arguments)
    if isinstance(arguments, dict):
        return {name: _bare(argument, exponent) for name, argument in arguments.items()}
    return arguments


def _squared(arguments: Any, exponent: int) -> Any:
    """The arguments with ordinary floating-point tensors squared, in units of `2**exponent`."""
    if isinstance(arguments, Tensor) and not isinstance(arguments, Energy) and arguments.is_floating_point():
        return arguments.square() * 2.0**-exponent
    if isinstance(arguments, tuple | list):
        return type(arguments)(_squared(argument, exponent) for argument in arguments)
    if isinstance(arguments, dict):
        return {name: _squared(argument, exponent) for name, argument in arguments.items()}
    return arguments


def _dressed(energy: Energy, result: Any) -> Any:
    """Values as energies."""
    if isinstance(result, Tensor):
        return energy.like(result)
    return type(result)(energy.like(values) for values in result)


RULES: Mapping[str, Rule] = {
    (
        "alias clone detach diagonal diagonal_backward expand expand_copy flip permute repeat _reshape_alias "
        "roll rot90 select select_backward slice slice_backward split split_with_sizes squeeze t transpose "
        "unbind unfold unfold_backward unsafe_split unsafe_split_with_sizes unsqueeze view _unsafe_view tril "
        "triu lift_fresh zero index index_select gather take _unsafe_index masked_select masked_fill "
        "embedding_dense_backward sum cumsum trace constant_pad_nd im2col col2im pixel_shuffle "
        "pixel_unshuffle channel_shuffle reflection_pad1d_backward reflection_pad2d_backward "
        "reflection_pad3d_backward replication_pad1d_backward replication_pad2d_backward "
        "replication_pad3d_backward upsample_nearest1d_backward upsample_nearest2d_backward "
        "upsample_nearest3d_backward _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward "
        "_upsample_nearest_exact3d_backward adaptive_max_pool2d_backward adaptive_max_pool3d_backward "
        "fractional_max_pool2d_backward fractional_max_pool3d_backward max_unpool2d max_unpool3d"
    ): carried,
    (
        "cat stack where index_add index_copy index_put _index_put_impl _unsafe_index_put scatter "
        "scatter_add slice_scatter select_scatter diagonal_scatter as_strided_scatter masked_scatter"
    ): joined,
    "new_zeros new_empty new_empty_strided zeros_like empty_like": empty,
    "add": added,
    "sub": added,
    "_to_copy": converted,
    "as_strided": strided,
}

WHOLE: Mapping[str, Rule] = {"copy_": copied, "masked_fill_": filled, "is_same_size": same_size}
