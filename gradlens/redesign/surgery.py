"""Surgery: other layers in the places of a trained network that shrink or enlarge, and what exactly has changed."""

import difflib
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gradlens.geometry import certify
from gradlens.modules import undisturbed
from gradlens.redesign.designs import ENLARGING, CannotSwapError, Design, builder, new_chain, old_chain, targets
from gradlens.redesign.designs.design import refuse
from gradlens.redesign.sites import LEAVES, Site, find

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "layer", "kind", "was", "is", "kept", "certificate_before", "certificate_after", "deviation_before", "deviation_after",
    "parameters_before", "parameters_after", "multiplications_before", "multiplications_after", "drift", "reason",
)  # fmt: skip
EXACT = 1e-5  # of float32, relative
SIDES = {1: (48, 96), 2: (24, 48, 96), 3: (12, 24)}  # of the map that a layer is certified on: the first that decides


@dataclass(frozen=True)
class SwapReport:
    """A changed copy of a network, and what was changed.

    Attributes:
        model: the copy, children under their names and at their places, in the mode of the original.
        table: a row a place: `layer`, `kind`, `was` and `is` in words; `kept`, what became of the weights ("exact", "fitted",
            "filtered", "fresh", or "refused" with a `reason`); `certificate_before` and `_after`, the verdict (forward where the
            layer enlarges, the signed statement backward where it shrinks) and its `deviation`; `parameters`;
            `multiplications` of an output pixel, all channels, folds not counted; `drift`, the relative L2 distance of the
            layer's output on its own input (NaN without an example).
        drift: relative L2 distance of the network's output; NaN without an example.
        psnr: the same in dB of the range of the old output, of images (1 or 3 channels); NaN otherwise.
    """

    model: nn.Module
    table: "pd.DataFrame"
    drift: float
    psnr: float


def swap(
    model: nn.Module, to: str = "resize", *, layers: str | Collection[str] | None = None, example: Tensor | None = None
) -> SwapReport:
    """A copy of `model` with other layers where it enlarges or shrinks, keeping what can be kept of its weights.

    Where a map is enlarged (transposed convolution, sub-pixel convolution, `nn.Upsample` and convolution): "even", the nearest
    kernel whose phases have one sum; "resize", the nearest resize-convolution, or the resize and convolution fused; "hold", the
    same taps held over the stride; "subpixel", "deconv", "zero_insertion", the same function written otherwise; and every key of
    `gradlens.upsampling.UPSAMPLERS`, with fresh weights where none can be kept. Where it is shrunk (strided convolution,
    max-pool): "hold", "sinc", "blur", "stride1". Of both, where layers are not named, those that enlarge are meant.

    Args:
        model: any module; left as it was found.
        to: what to put there.
        layers: names of layers, as in `named_modules()`, or kinds ("deconv", "subpixel", "resize", "strided", "maxpool"); all
            that there are unless given.
        example: what the model takes, `[N ...]`, the more and the more real the better: pairs are found, kernels are fitted to
            what their layers really see, and the drift is measured on it.

    Returns:
        The copy with its report. Places that cannot be rebuilt are in the table as "refused".

    Raises:
        ValueError: `to` or a layer is not known (the nearest are named); a named layer, or every place there is, cannot be
            rebuilt (`CannotSwapError`, with the reasons); the changed network does not give the size of the old one.

    Example:
        >>> model = nn.Sequential(nn.ConvTranspose2d(3, 2, 4, 2, 1), nn.Tanh())
        >>> report = swap(model, "resize", example=torch.rand(1, 3, 8, 8))
        >>> report.table[["layer", "kept", "certificate_before", "certificate_after"]].values.tolist()
        [['0', 'fitted', 'fail', 'pass']]
    """
    if isinstance(model, LEAVES):
        alone = swap(nn.Sequential(model), to, layers=layers, example=example)
        return SwapReport(alone.model[0], alone.table, alone.drift, alone.psnr)  # type: ignore[index]
    if to not in targets():
        raise ValueError(f"to: {to!r} is none of {', '.join(targets())}{_near(to, targets())}")
    sites = [site for site in find(model, example) if site.kind != "deconv" or max(site.layer.stride) > 1]  # type: ignore[arg-type]
    wanted = _wanted(sites, to, layers)
    designs: dict[str, Design] = {}
    refusals: dict[str, str] = {}
    for site in wanted:
        try:
            designs[site.name] = _design(site, to)
        except CannotSwapError as error:
            if layers is not None:
                raise
            refusals[site.name] = str(error)
    if not designs:
        raise CannotSwapError("; ".join(refusals.values()))
    changed = deepcopy(model)
    for site in wanted:
        if site.name in designs:
            _place(changed, site, designs[site.name])
    drift, psnr = _compared(model, changed, example)
    import pandas as pd

    rows = [_row(site, designs.get(site.name), refusals.get(site.name, "")) for site in wanted]
    return SwapReport(changed, pd.DataFrame(rows, columns=list(COLUMNS)), drift, psnr)


def _wanted(sites: Sequence[Site], to: str, layers: str | Collection[str] | None) -> list[Site]:
    """The sites that are meant."""
    able = [site for site in sites if builder(site.kind, to)]
    if layers is None:
        first = [site for site in able if site.kind in ENLARGING] or able
        if not first:
            known = ", ".join(f"{site.name} ({site.kind})" for site in sites) or "no layer that shrinks or enlarges"
            raise CannotSwapError(f"to: nothing in the model can become {to!r}; it has {known}")
        return first
    names = [layers] if isinstance(layers, str) else list(layers)
    found = []
    for name in names:
        meant = [site for site in sites if name == site.kind or name in site.modules]
        if not meant:
            known = [site.name for site in sites]
            raise ValueError(f"layers: {name!r} neither shrinks nor enlarges{_near(name, known)}")
        for site in meant:
            if builder(site.kind, to) is None:
                refuse(site, f"a {site.kind} layer cannot become {to!r}")
        found += [site for site in meant if site not in found]
    return found


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or list(known)[:3]
    return f"; nearest: {', '.join(near)}" if near else ""


def _design(site: Site, to: str) -> Design:
    """The design of one site, checked on its own input."""
    if site.refusal:
        refuse(site, site.refusal)
    make = builder(site.kind, to)
    assert make is not None
    design = make(site)
    if site.x is not None:
        with undisturbed(old_chain(site)), torch.no_grad():
            old, new = old_chain(site)(site.x), new_chain(site, design).eval()(site.x)
        if old.shape != new.shape:
            refuse(site, f"{to!r} would give {list(new.shape)} instead of {list(old.shape)}")
        if design.kept == "exact" and _distance(old, new) > EXACT:
            refuse(site, f"{to!r} is off by {_distance(old, new):.1e} where it should be exact")
    return design


def _place(changed: nn.Module, site: Site, design: Design) -> None:
    """Put the modules of a design into the copy, in the mode, and with the gradients wanted, of those before."""
    wanted = any(p.requires_grad for p in site.layer.parameters()) or not list(site.layer.parameters())
    for name, module in design.modules.items():
        module.train(site.modules[name].training)
        module.requires_grad_(wanted)
        changed.set_submodule(name, module)


def _compared(model: nn.Module, changed: nn.Module, example: Tensor | None) -> tuple[float, float]:
    """Drift and PSNR of the whole network."""
    if example is None:
        return float("nan"), float("nan")
    with undisturbed(model), torch.no_grad():
        old = model(example)
    with undisturbed(changed), torch.no_grad():
        try:
            new = changed(example)
        except Exception as error:  # as of a layer that is called with an `output_size`
            raise CannotSwapError(f"model: it does not run after the swap ({error})") from error
    if not isinstance(old, Tensor):
        return float("nan"), float("nan")
    if old.shape != new.shape:
        raise ValueError(f"model: it gives {list(new.shape)} instead of {list(old.shape)} after the swap")
    images = old.ndim == 4 and old.shape[1] in (1, 3)
    error = (old.double() - new.double()).square().mean().clamp(min=1e-30)
    psnr = 10 * torch.log10((old.max() - old.min()).double().square() / error)
    return _distance(old, new), float(psnr) if images else float("nan")


def _row(site: Site, design: Design | None, reason: str) -> tuple[Any, ...]:
    old = old_chain(site)
    before = _measured(site, old)
    if design is None:
        return (site.name, site.kind, _words(old), "", "refused", before[0], "", before[1], float("nan"), before[2],
                before[2], before[3], float("nan"), float("nan"), reason)  # fmt: skip
    new = new_chain(site, design)
    after = _measured(site, new)
    drift = float("nan")
    if site.x is not None:
        with undisturbed(old), undisturbed(new), torch.no_grad():
            drift = _distance(old(site.x), new(site.x))
    pairs = [value for pair in zip(before, after, strict=True) for value in pair]
    return (site.name, site.kind, _words(old), _words(new), design.kept, *pairs, drift, "")


def _measured(site: Site, chain: nn.Sequential) -> tuple[str, float, int, float]:
    """Verdict, deviation, parameters and multiplications of an output pixel."""
    verdict, deviation = _certified(site, chain)
    parameters = sum(p.numel() for p in chain.parameters())
    return verdict, deviation, parameters, multiplications(chain, _sample(site))


def _certified(site: Site, chain: nn.Sequential) -> tuple[str, float]:
    """The certificate of the layer: what it makes of constants, or of the gradient's mean."""
    x = _sample(site)
    return certified(chain, x.shape[1], x.ndim - 2, "forward" if site.kind in ENLARGING else "backward")


def certified(
    layer: nn.Module, channels: int, dimensions: int, direction: Literal["forward", "backward"]
) -> tuple[str, float]:
    """Verdict and deviation of a layer alone: forward of a constant, backward of the mean of the gradient (not of its energy)."""
    verdict, deviation = "undecided", float("nan")
    for side in SIDES[dimensions]:
        try:
            found = certify(layer, (channels, *[side] * dimensions), direction=direction)
        except ValueError:  # too small to be run
            continue
        verdict = found.verdict if direction == "forward" else str(found.verdicts["signed"])
        t = found.table
        signed = (t["method"] == "measurement") & ((t["statement"] == "signed") | (direction == "forward"))
        deviation = float(t.loc[signed, "deviation"].to_numpy(float).max())
        if verdict in ("pass", "fail", "level-dependent", "vacuous"):
            break
    return verdict, deviation


def _sample(site: Site) -> Tensor:
    """One input of the site; noise of 16 px a side where it was not run."""
    if site.x is not None:
        return site.x[:1]
    layer: Any = site.layer
    axes = len(layer.kernel_size) if isinstance(layer.kernel_size, tuple) else 2
    weight = next(layer.parameters(), torch.empty(0))
    return torch.zeros(1, getattr(layer, "in_channels", 4), *[16] * axes, device=weight.device, dtype=weight.dtype)


def multiplications(module: nn.Module, x: Tensor) -> float:
    """Multiplications of the convolutions in `module` for a pixel of its output, all channels.

    Args:
        module: gives a map of pixels.
        x: `[1 C *spatial]`.
    """
    counter = FlopCounterMode(display=False)
    with undisturbed(module), torch.no_grad(), counter:
        y = module(x)
    counts = counter.get_flop_counts().get("Global", {})
    made = sum(count for op, count in counts.items() if "convolution" in str(op))
    return made / 2 / len(x) / y[0, 0].numel()


def _words(chain: nn.Sequential) -> str:
    """The layers of a chain in words: names and sizes."""
    words = []
    for module in chain.modules():
        if isinstance(module, nn.Sequential | nn.Identity):
            continue
        kernel = getattr(module, "kernel_size", None)
        sizes = [kernel] if isinstance(kernel, int) else list(kernel or [])
        stride = getattr(module, "stride", getattr(module, "scale", getattr(module, "upscale_factor", None)))
        steps = [stride] if isinstance(stride, int) else list(stride or [])
        size = f" {'x'.join(map(str, sizes))}" if sizes else ""
        step = f"/{steps[0]}" if steps and max(steps) > 1 else ""
        words.append(f"{type(module).__name__}{size}{step}")
    return ", ".join(words)


def _distance(old: Tensor, new: Tensor) -> float:
    return float((old.double() - new.double()).norm() / old.double().norm().clamp(min=1e-30))
