"""The fine detail of a picture: what its slow light and shade would drown in every measure of energy.

The energy of a picture is nearly all in its coarse structure; JPEG blocks and the uneven noise of a generator are in its
finest. Ten photographs as JPEG of quality 30 have an envelope contrast at 8 px of -0.1 dB, their detail of 1.3 dB
(p < 1e-20); unharmed photographs stay within 0.2 dB either way. Gradients have little coarse structure and need none of this.
"""

import torch
from torch import Tensor

from gradlens.spectra.signal import as_signal, at_home


def fine_detail(x: Tensor, *, finite: bool = False) -> Tensor:
    """A picture without what a small blur keeps of it: (1 - B)^2 x, with B the binomial [1 2 1] / 4 along each axis.

    Range: the unit of `x`, mean about 0; 0 for a constant picture.
    Blind to: coarse structure; a frequency f keeps (1 - cos^2(pi f_x) cos^2(pi f_y))^2: all at 0.5 cycles per pixel on
        any axis, half its power at 0.25 along one axis.

    Args:
        x: `[N C *spatial]`, floating point, any unit; reflected at the border.
        finite: whether it is known to hold no NaN and no infinity: then no device is waited for.

    Returns:
        Like `x`, in float64. Differentiable.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`.

    Source: ours; the Laplacian pyramid's first level (Burt and Adelson 1983), taken twice.

    Example:
        >>> fine_detail(torch.full((1, 1, 5, 5), 0.3)).abs().max().item()
        0.0
    """
    signal = as_signal(x, finite=finite)
    return at_home(_without_blur(_without_blur(signal)), x)


def _without_blur(x: Tensor) -> Tensor:
    blurred = x
    for axis in range(2, x.ndim):
        extent = x.shape[axis]
        if extent > 1:
            index = torch.arange(extent, device=x.device)
            before, after = (index - 1).abs(), extent - 1 - (extent - 2 - index).abs()
            neighbours = blurred.index_select(axis, before) + blurred.index_select(axis, after)
            blurred = blurred / 2 + neighbours / 4
    return x - blurred
