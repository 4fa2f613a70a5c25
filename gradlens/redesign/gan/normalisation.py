"""Batch norm over the batch of all processes, so that two of them compute what one would.

On a GPU torch has it (`nn.SyncBatchNorm`); on a CPU it has not, and this is that: mean and variance from sums over all processes,
differentiable.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Summed(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


class SyncedBatchNorm(_BatchNorm):
    """`nn.BatchNorm*d` whose statistics in train mode are those of all processes; `[N C *spatial]` to the same."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input: must be [N C *spatial], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        total, count = Summed.apply(torch.stack([x.sum(axes), x.new_full((x.shape[1],), x.numel() / x.shape[1])]))
        mean = total / count
        deviation = x - mean.view(
            shape
        )  # before squares are summed: E x^2 - mean^2 would lose what a large mean covers
        variance = Summed.apply(deviation.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach(), float(count[0].detach()))
        y = deviation * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Move the running statistics, the variance unbiased, as torch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)


def synchronised(network: nn.Module) -> nn.Module:
    """`network`, its batch norms over all processes; parameters, buffers and their names stay."""
    if next(network.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            synced = SyncedBatchNorm(module.num_features)
            synced.__dict__.update(module.__dict__)  # the very parameters and buffers, and the mode
            network.set_submodule(name, synced)
    return network
