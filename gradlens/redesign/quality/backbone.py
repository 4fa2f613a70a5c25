"""What a classifier sees in images, one vector an image, and a cache of it that the caller keeps.

Images are resized to the network's input by bilinear interpolation with antialiasing, normalised, and taken after the
network's own global pooling. The choice moves distances (Parmar et al. 2022), so it is part of the cache's key.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.checkpoints import state_hash
from gradlens.models import Model, bare
from gradlens.modules import undisturbed
from gradlens.results import write_whole
from gradlens.spectra.signal import is_finite

SLACK = 1e-3  # of [0, 1]: float16 and interpolation round


def features(model: nn.Module, images: Tensor, *, batch_size: int = 32, cache: Path | None = None) -> Tensor:
    """Pooled features of `images`: what the last layer of a classifier reads.

    Of a timm network, in a `gradlens.models.Model` or bare, they are those after its global pooling; of any other its
    output, averaged over positions if it has some. A `Model` gets images of its own size and normalises them; a bare
    module gets them as they are. Grey images are repeated to RGB.

    Blind to: what the classifier does not need. Another network's features are another measure.

    Args:
        model: stays where it is and as it is; images go to its device.
        images: `[N C H W]` in [0, 1], or uint8; 1 or 3 channels.
        batch_size: images at once.
        cache: a folder; features that are in it are read, the model does not run, and others are added. None: no cache.
            A file is named by the SHA-256 of images, weights, name and preparation; one that is damaged is made again,
            with a warning.

    Returns:
        `[N F]` float32, on the CPU.

    Raises:
        TypeError, ValueError: `images` are none, `batch_size` is below 1, or the features are not finite.

    Source: Heusel et al. 2017 with another network; the resizing of Parmar et al. 2022.

    Example:
        >>> from gradlens import models
        >>> features(models.classifier(), torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 256])
    """
    check_images(images, "images")
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    if cache is None:
        return _compute(model, images, batch_size)
    key = _key(model, images)
    path = cache / f"features-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"
    if path.exists() and (held := _read(path, key)) is not None:
        return held
    found = _compute(model, images, batch_size)
    _write(path, key, found)
    return found


def check_images(images: Any, name: str) -> None:
    """Refuse what are no images.

    Raises:
        TypeError: no tensor, or neither floating point nor uint8.
        ValueError: not `[N C H W]` with 1 or 3 channels, empty, or with values that are not finite or outside [0, 1].
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: must be a torch.Tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"{name}: must be floating point in [0, 1] or uint8, got {images.dtype}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{name}: must be [N C H W] and hold at least one image, got {list(images.shape)}")
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{name}: must have 1 or 3 channels, got {images.shape[1]}")
    if images.dtype == torch.uint8:
        return
    finite = is_finite(images)
    if not finite.all():
        raise ValueError(f"{name}: image {int((~finite).nonzero()[0])} holds NaN or infinity")
    low, high = float(images.min()), float(images.max())
    if low < -SLACK or high > 1 + SLACK:
        raise ValueError(f"{name}: must be in [0, 1], got {low:.3g} to {high:.3g}; of [-1, 1] take x / 2 + 0.5")


def in_unit(images: Tensor) -> Tensor:
    """Images in float32, uint8 divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def name_of(model: nn.Module) -> str:
    """What a model is called in tables."""
    return model.info.name if isinstance(model, Model) else type(model).__name__


def _compute(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    device = next((p.device for p in model.parameters()), images.device)
    with undisturbed(model), torch.no_grad():
        found = torch.cat(
            [_pooled(model, _prepared(model, part.to(device))).float().cpu() for part in images.split(batch_size)]
        )
    finite = is_finite(found)
    if not finite.all():
        raise ValueError(f"model: {name_of(model)} gives NaN or infinity for image {int((~finite).nonzero()[0])}")
    return found


def _prepared(model: nn.Module, images: Tensor) -> Tensor:
    """A batch with the channels and size that the model takes, channels last: a third faster on a CPU."""
    images = in_unit(images)
    channels, *size = model.info.input_size if isinstance(model, Model) else (3, *images.shape[2:])
    if images.shape[1] == 1:
        images = images.expand(-1, channels, -1, -1)
    if images.shape[1] != channels:
        raise ValueError(f"images: {name_of(model)} takes {channels} channels, got {images.shape[1]}")
    if list(images.shape[2:]) != size:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)


def _pooled(model: nn.Module, images: Tensor) -> Tensor:
    """The features `[N F]` of a batch."""
    network: Any = bare(model)
    if _is_pooled(network):
        if isinstance(model, Model):
            images = (images - model.mean) / model.std
        output = network.forward_head(network.forward_features(images), pre_logits=True)
    else:
        output = model(images)
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(images):
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"model: {name_of(model)} must return [N F] for [N C H W], got {got} for {list(images.shape)}")
    return output.flatten(2).mean(2) if output.ndim > 2 else output


def _is_pooled(network: nn.Module) -> bool:
    """Whether a network tells its features from its head, as timm's do."""
    return hasattr(network, "forward_features") and hasattr(network, "forward_head")


def _key(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """All that features depend on."""
    data = hashlib.sha256(f"{images.dtype} {list(images.shape)}".encode())
    for part in images.split(64):
        data.update(part.contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    size = model.info.input_size[1:] if isinstance(model, Model) else images.shape[2:]
    device = next((p.device.type for p in model.parameters()), images.device.type)
    return {
        "data": data.hexdigest(),
        "n": len(images),
        "backbone": name_of(model),
        "weights": state_hash(model),
        "normalisation": [model.info.mean, model.info.std] if isinstance(model, Model) else None,
        "resize": f"bilinear, antialias, {' x '.join(map(str, size))}",
        "features": "pooled" if _is_pooled(bare(model)) else "output",
        "device": device,
    }


def _read(path: Path, key: dict[str, Any]) -> Tensor | None:
    """The features in a file, None, with a warning, if they are not those of `key` or not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get("gradlens", "null"))
            held = file.get_tensor("features")
        if told == _card(key, held):
            return held
        reason = "its contents are not those it names"
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error)
    warnings.warn(f"cache: {path.name!r} is damaged and made again ({reason})", stacklevel=3)
    return None


def _write(path: Path, key: dict[str, Any], found: Tensor) -> None:
    """Keep features; a cache that cannot be written is said, and does without."""
    from safetensors.torch import save

    content = save({"features": found.contiguous()}, metadata={"gradlens": json.dumps(_card(key, found))})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        warnings.warn(f"cache: {str(path.parent)!r} cannot be written ({error.strerror})", stacklevel=3)


def _card(key: dict[str, Any], held: Tensor) -> dict[str, Any]:
    """The key in JSON's types, with the hash of what it is the key of."""
    own = hashlib.sha256(held.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    return json.loads(json.dumps({**key, "shape": list(held.shape), "sha256": own}))
