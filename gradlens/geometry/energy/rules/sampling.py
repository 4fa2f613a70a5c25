"""Fused operations, whose coefficients cannot be had one by one: their squares, sampled.

With independent random signs s, E[(M (s * sqrt(e)))^2] = (M * M) e. The draws are few; what the network mixes afterwards
averages over them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.tensor import Energy, Operation, Rule, energies

DRAWS = 2


def sampled(operation: Operation, *arguments: Any) -> Any:
    """The mean square of what the operation makes of gradients with these energies and random signs."""
    every = energies(arguments)
    exponent = max(energy.exponent for energy in every)
    generator = torch.Generator(every[0].device).manual_seed(0)

    def drawn(argument: Any) -> Any:
        if not isinstance(argument, Energy):
            return argument
        root = argument.at(exponent).sqrt()
        sign = torch.randint(0, 2, root.shape, generator=generator, device=root.device)
        return (root * (2 * sign - 1)).to(argument.dtype)

    return _energy(every[0], exponent, [operation(*map(drawn, arguments)) for _ in range(DRAWS)])


def _energy(like: Energy, exponent: int, draws: list[Any]) -> Any:
    """The mean square of several draws of what an operation returned, wherever it returned a tensor."""
    if isinstance(draws[0], Tensor):
        square = torch.stack([draw.to(like.variance.dtype).square() for draw in draws]).mean(0)
        return like.times(square, exponent - like.exponent)
    if isinstance(draws[0], tuple | list):
        return type(draws[0])(_energy(like, exponent, list(parts)) for parts in zip(*draws, strict=True))
    return None


RULES: Mapping[str, Rule] = {
    (
        "mkldnn_rnn_layer_backward _cudnn_rnn_backward miopen_rnn_backward _thnn_fused_lstm_cell_backward_impl "
        "_thnn_fused_gru_cell_backward _scaled_dot_product_flash_attention_for_cpu_backward "
        "_scaled_dot_product_flash_attention_backward _scaled_dot_product_efficient_attention_backward "
        "_scaled_dot_product_cudnn_attention_backward _scaled_dot_product_fused_attention_overrideable_backward "
        "_flash_attention_backward _efficient_attention_backward _cudnn_attention_backward "
        "grid_sampler_2d_backward grid_sampler_3d_backward cudnn_grid_sampler_backward "
        "cudnn_affine_grid_generator_backward _masked_softmax_backward _cdist_backward _pdist_backward _trilinear"
    ): sampled,
}
