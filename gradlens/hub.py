"""timm's networks: built by name, with the preparation of their images, and their weights from the hub.

What is not on this machine is asked for once before it is fetched, so that a hub out of reach is refused in seconds:
`huggingface_hub` would try again for a minute. A hub that answers, be it with an error, is left to it.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def is_known(name: str) -> bool:
    """Whether timm has a network, and where `name` has a tag also weights, of that name."""
    import timm

    return timm.is_model(name) and ("." not in name or name in timm.list_pretrained())


def fetched_from(name: str) -> str | None:
    """Where the weights of a timm name must be fetched from, as host and path; None if they are on this machine."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return None
    if not config.hf_hub_id:
        return config.url.partition("://")[2] if isinstance(config.url, str) else None
    repository, _, revision = config.hf_hub_id.partition("@")
    files = (*FILES, *([config.hf_hub_filename] if config.hf_hub_filename else []))
    if any(isinstance(try_to_load_from_cache(repository, f, revision=revision or None), str) for f in files):
        return None
    return f"{constants.ENDPOINT.partition('://')[2]}/{repository}"


def build(
    name: str, arguments: dict[str, Any], state: Mapping[str, Tensor] | None, *, pretrained: bool, near: Sequence[str]
) -> tuple[nn.Module, dict[str, Any]]:
    """The timm network `name` and how its images are prepared.

    Args:
        name: with or without a tag.
        arguments: of `timm.create_model`.
        state: weights that will be filled in: without `num_classes` in `arguments` their number of classes is taken.
        pretrained: fill in timm's own weights, from this machine or the hub.
        near: other names that a mistyped one may mean.

    Raises:
        ValueError: timm does not know `name`, or cannot build it with these arguments.
        OSError: the weights are not on this machine and cannot be fetched.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    if not is_known(name):
        names = [*near, *timm.list_models(), *timm.list_pretrained()]
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"near names: {', '.join(close)}" if close else "gradlens ls models says what may be named"
        raise ValueError(f"model: {name!r} is neither bundled, a file, module:factory, nor timm's; {hint}")
    if state is not None and "num_classes" not in arguments:
        head = timm.get_pretrained_cfg_value(name, "classifier")
        head = head if isinstance(head, str) else (head or [""])[0]
        if f"{head}.weight" in state:
            arguments = {**arguments, "num_classes": len(state[f"{head}.weight"])}
    source = fetched_from(name) if pretrained else None
    try:
        if source is not None:
            _check_reachable(name)
        network = timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:  # a hub fails in as many ways as there are networks and proxies, timm in its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if pretrained and not isinstance(error, TypeError):
            raise OSError(
                f"the weights of {name!r} are not on this machine and {source or 'the hub'} gave none ({reason}); "
                "give --weights FILE or --weights random"
            ) from error
        raise ValueError(f"model: timm cannot build {name!r} with {arguments}: {reason}") from error
    config = resolve_model_data_config(network)
    preparation = {k: config[k] for k in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    return network, preparation | _as_built(preparation, arguments)


def _check_reachable(name: str) -> None:
    """Ask the hub once for a file of `name`; any answer will do.

    Raises:
        ConnectionError: HF_HUB_OFFLINE is set.
        Exception: of the network, where there is no answer.
    """
    import timm
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    config = timm.get_pretrained_cfg(name)
    assert config is not None
    if not config.hf_hub_id:
        return
    url = hf_hub_url(config.hf_hub_id.partition("@")[0], config.hf_hub_filename or FILES[0])
    try:
        get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except OfflineModeIsEnabled as error:
        raise ConnectionError("HF_HUB_OFFLINE is set") from error
    except HfHubHTTPError:
        return  # it answers


def _as_built(preparation: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What `in_chans` and `img_size` change: the input size, and mean and std, whose average other channels get."""
    channels, *size = preparation["input_size"]
    if "img_size" in arguments:
        side = arguments["img_size"]
        size = [side, side] if isinstance(side, int) else list(side)
    wanted = arguments.get("in_chans", channels)
    changed: dict[str, Any] = {"input_size": (wanted, *size)}
    if wanted != channels:
        changed |= {k: (sum(preparation[k]) / len(preparation[k]),) for k in ("mean", "std")}
    return changed
