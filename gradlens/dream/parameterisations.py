"""What is optimised: pixels, or the picture's Fourier coefficients in colours that photographs do not mix.

The picture is the same; steepest ascent is not. In coefficients divided by their frequency a step of one length changes
low frequencies most, as in photographs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Columns: principal directions of the pixels of 63 ImageNet photographs in RGB, times the deviation along each.
COLOURS = ((0.258, 0.083, 0.028), (0.254, 0.003, -0.053), (0.256, -0.087, 0.025))
EDGE = 1e-3  # levels nearer to black or white than this are taken there, or their sigmoid would start at infinity


@dataclass(frozen=True)
class Parameterisation:
    """How a picture `[N C *spatial]` in [0, 1] becomes what is optimised, and back.

    `encode` and `decode` are inverses (up to `EDGE`); `decode` is differentiable and takes the spatial size too. `bounded`
    says whether what `decode` gives is in [0, 1] for every parameter; if not, it is clipped after every step. `spread` is
    the standard deviation of the noise that a dream without a picture starts from.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor, tuple[int, ...]], Tensor]
    bounded: bool
    spread: float


def pixels() -> Parameterisation:
    """The pixels themselves, clipped to [0, 1] after every step."""
    return Parameterisation(lambda images: images, lambda values, size: values, bounded=False, spread=0.01)


def fourier(*, decay: float = 1.0, decorrelate: bool = True) -> Parameterisation:
    """Fourier coefficients of the logit of the picture, times frequency^`decay`, in decorrelated colours.

        picture = sigmoid(COLOURS irfft(values / max(frequency, 1 / side)^decay))

    Args:
        decay: 1 weights as photographs do, 0 not at all.
        decorrelate: mix three channels by the principal colours of photographs; others are left alone.

    Source: Olah et al. 2017, "preconditioning"; the colours are ours.
    """

    def encode(images: Tensor) -> Tensor:
        levels = images.clamp(EDGE, 1 - EDGE).logit()
        axes = tuple(range(2, images.ndim))
        values = torch.fft.rfftn(_mixed(levels, _matrix(levels).inverse(), decorrelate), dim=axes, norm="ortho")
        return torch.view_as_real(values / _weight(images.shape[2:], decay, images)).contiguous()

    def decode(values: Tensor, size: tuple[int, ...]) -> Tensor:
        coefficients = torch.view_as_complex(values) * _weight(size, decay, values)
        levels = torch.fft.irfftn(coefficients, s=size, dim=tuple(range(2, 2 + len(size))), norm="ortho")
        return _mixed(levels, _matrix(levels), decorrelate).sigmoid()

    return Parameterisation(encode, decode, bounded=True, spread=0.01)


def _matrix(levels: Tensor) -> Tensor:
    """The colour matrix, scaled so that its first column has length 1."""
    matrix = torch.tensor(COLOURS).to(levels, non_blocking=True)  # no wait for the device
    return matrix / matrix[:, 0].norm()


def _mixed(levels: Tensor, matrix: Tensor, decorrelate: bool) -> Tensor:
    """`levels` `[N 3 *spatial]` times `matrix` over the colours; other numbers of channels as they are."""
    if not decorrelate or levels.shape[1] != 3:
        return levels
    return torch.einsum("dc,nc...->nd...", matrix, levels)


def _weight(size: tuple[int, ...], decay: float, like: Tensor) -> Tensor:
    """1 / max(frequency, 1 / longest side)^decay over the half plane of a real transform, mean square 1."""
    axes = [torch.fft.fftfreq(side, device=like.device) for side in size[:-1]]
    axes.append(torch.fft.rfftfreq(size[-1], device=like.device))
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    weight = radius.clamp(min=1 / max(size)) ** -decay
    return (weight / weight.square().mean().sqrt()).to(like.dtype)


PARAMETERISATIONS: dict[str, Callable[[], Parameterisation]] = {"pixels": pixels, "fourier": fourier}
