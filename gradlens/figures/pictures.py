"""Picture files: images at native size, and several of them in turn. Nothing is resampled or made of fewer colours."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BAR = 18  # px, above each frame
SECONDS = 1.2


def png(image: np.ndarray) -> bytes:
    """An image `[C H W]` in [0, 1] as an 8-bit PNG of the same size."""
    return _encoded([_levels(image)])


def animation(images: Mapping[str, np.ndarray]) -> bytes:
    """Images `[C H W]` of one size in [0, 1], one after the other for 1.2 s each, named in a bar above: an animated PNG."""
    return _encoded([_named(_levels(image), name) for name, image in images.items()])


def _levels(image: np.ndarray) -> Image.Image:
    levels = np.rint(255 * np.moveaxis(image, 0, -1).clip(0, 1)).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels[..., :3])


def _named(picture: Image.Image, name: str) -> Image.Image:
    frame = Image.new("RGB", (picture.width, picture.height + BAR), "white")
    ImageDraw.Draw(frame).text((4, 3), name, fill="black", font=ImageFont.load_default(11))
    frame.paste(picture, (0, BAR))
    return frame


def _encoded(frames: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    if len(frames) == 1:
        frames[0].save(buffer, "PNG")
    else:
        frames[0].save(
            buffer, "PNG", save_all=True, append_images=frames[1:], duration=1000 * SECONDS, loop=0, disposal=0, blend=0
        )
    return buffer.getvalue()
