"""What the stages of GAN networks share: layers by a word such as `resize` or `deconv:5`, one for all stages or one for each."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from gradlens.filters import whole

START = 4  # side of the first stage of a generator and of the last of a discriminator, in pixels
WIDEST = 8  # times the width at full resolution


def stage_count(resolution: int) -> int:
    """How many times 4 px double to `resolution`.

    Raises:
        ValueError: it is not 8, 16, 32, 64, ...
    """
    stages = whole(resolution, "resolution", least=1).bit_length() - START.bit_length()
    if stages < 1 or START << stages != resolution:
        raise ValueError(f"resolution: must be 8, 16, 32, 64, 128, 256 or another power of two, got {resolution}")
    return stages


def halvings(resolution: int) -> tuple[int, int]:
    """How many times a side is halved, rounded up, until it is at most 4 px, and what is left: of 28 px 3 and 4.

    Raises:
        ValueError: it is below 8.
    """
    side, count = whole(resolution, "resolution", least=2 * START), 0
    while side > START:
        side, count = -(-side // 2), count + 1
    return count, side


def each_stage(words: str | Sequence[str], count: int, argument: str) -> list[str]:
    """A word for each of `count` stages.

    Raises:
        ValueError: there are several words, but not as many as stages.
    """
    told = [words] if isinstance(words, str) else list(words)
    if len(told) not in (1, count):
        raise ValueError(f"{argument}: needs one word, or one for each of {count} stages, got {len(told)}: {told}")
    return told * count if len(told) == 1 else told


def layer(
    table: Mapping[str, Callable[..., nn.Module]],
    word: str,
    in_channels: int,
    out_channels: int,
    argument: str,
    *,
    bias: bool,
) -> nn.Module:
    """The layer that `word` names, `KEY` or `KEY:KERNEL`, at scale 2.

    Raises:
        ValueError: there is no such key, or no such kernel of it.
    """
    key, colon, kernel = word.partition(":")
    if key not in table or (colon and not kernel.isdecimal()):
        raise ValueError(
            f"{argument}: must be one of {', '.join(table)}, or one with its kernel size as in "
            f"{next(iter(table))}:5, got {word!r}"
        )
    size = {"kernel_size": int(kernel)} if kernel else {}
    try:
        return table[key](in_channels, out_channels, scale=2, bias=bias, **size)
    except ValueError as error:
        raise ValueError(f"{argument}: {word!r} cannot be built ({error})") from error


def widths(width: int, stages: int) -> list[int]:
    """Channels of each stage from 4 px up, halved with each doubling down to `width`, at most eight times it."""
    least = whole(width, "width", least=1)
    return [least * min(2**k, WIDEST) for k in reversed(range(stages))]
