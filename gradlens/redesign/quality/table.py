"""All that tells how good samples are, in one table, and the same of real images: what perfect samples would have."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens import models
from gradlens.redesign.quality.backbone import check_images, features, in_unit, name_of
from gradlens.redesign.quality.distances import Distance, frechet_distance, kernel_distance
from gradlens.redesign.quality.neighbours import Share, copied_share, nearest, nearest_neighbour, training_share
from gradlens.results import COLUMNS
from gradlens.spectra import normalised_power, radial_profile, spectrum_distance_test

SUBSETS = 10
SPECTRUM_SIDE = 64  # px, of the Welch windows
SPECTRUM_PIXELS = 2**24  # of a set; 256 images of 256 px take 10 s
AT_ONCE = 64  # images whose spectra are in memory


class Rating(NamedTuple):
    """The `table`, and of each sample the nearest of the real images; those that look most like copies come first.

    `sample` `[N]` and `real` `[N]` are indices into the images as they were given; `distance` `[N]` in feature space and its
    `ratio` `[N]` to the second nearest's, ascending, are those of `nearest`.
    """

    table: pd.DataFrame
    sample: Tensor
    real: Tensor
    distance: Tensor
    ratio: Tensor


def rate(
    samples: Tensor,
    real: Tensor,
    *,
    backbone: str | nn.Module = "resnet18_half",
    held_out: Tensor | None = None,
    cache: Path | None = None,
    device: str | torch.device | None = None,
    label: str = "",
    batch_size: int = 32,
    seed: int = 0,
) -> pd.DataFrame:
    """The table of `rating`: how good `samples` are against `real` images, beside other real images as the control."""
    return rating(
        samples, real, backbone=backbone, held_out=held_out, cache=cache, device=device, label=label,
        batch_size=batch_size, seed=seed,
    ).table  # fmt: skip


def rating(
    samples: Tensor,
    real: Tensor,
    *,
    backbone: str | nn.Module = "resnet18_half",
    held_out: Tensor | None = None,
    cache: Path | None = None,
    device: str | torch.device | None = None,
    label: str = "",
    batch_size: int = 32,
    seed: int = 0,
) -> Rating:
    """How good `samples` are against `real` images, beside other real images as the control, and the nearest pairs.

    The reference is `real`, the control `held_out`; without it they are two random halves of `real`. Distances are of n
    images on all sides, n the least number there is. An image's place is drawn from its content and `seed`, so the order of
    images does not matter. Rows, of subject "sample" and, the same of the control, "image":

    - `FD[backbone, n]`: `frechet_distance`; NaN unless n is above the number of features;
    - `KID[backbone, n]`: `kernel_distance`, ten subsets; NaN for n below 20;
    - `nearest_neighbour[backbone, m]`, `copied_share[backbone, m]`: samples near to the m images of the reference, against the
      control; of the control itself one half against the other, NaN for fewer than 2;
    - `training_share[backbone, m]`: with `held_out` alone, m images each of trained on and not;
    - `radial_distance`, `spectrum_distance`: in dB, with p, and as `..._test` what chance alone reaches; of n images, or as many
      as have 2^24 pixels.

    Without `held_out` the shares see copies of the reference only, which is half of `real`; the pairs are over all of it. An FD
    below the control's is a sign of copies, too. Every image is looked at: the bundled backbone takes about 6 ms for each on
    one core of a CPU.

    Args:
        samples: `[N C H W]` in [0, 1], or uint8.
        real: `[M C H W]`, the images that were trained on, of the samples' channels and size.
        backbone: a name for `models.classifier`, or a module for `features`.
        held_out: `[K C H W]`, images of the same source that were not trained on.
        cache: a folder for the features of `real` and `held_out`, as in `features`.
        device: of a backbone given by name; that of `samples` unless given.
        label: goes into the column `model`.
        batch_size: images through the backbone at once.
        seed: of halves and subsets.

    Raises:
        TypeError, ValueError: a set is no images, the sets differ in channels or size, or `real` is a single image without
            `held_out`.

    Source: ours, of the measures named.
    """
    _check(samples, real, held_out)
    if held_out is None and len(real) < 2:
        raise ValueError("real: must be at least 2 images, for two halves, or held_out be given, got 1")
    if isinstance(backbone, str):
        backbone = models.classifier(backbone).to(device or samples.device)
    name = name_of(backbone)
    options = {"backbone": backbone, "batch_size": batch_size, "seed": seed}
    ours, theirs = _seen(samples, **options), _seen(real, cache=cache, **options)
    if held_out is None:
        half = len(real) // 2
        reference, control = theirs.part(0, half), theirs.part(half, 2 * half)
    else:
        reference, control = theirs, _seen(held_out, cache=cache, **options)
    n = min(len(s.order) for s in (ours, reference, control))
    fine = min(n, max(SPECTRUM_PIXELS // (samples.shape[2] * samples.shape[3]), 1))
    spectra = _spectra(reference.images[:fine])
    tables = []
    for subject, rated, compared, others in (
        ("sample", ours, ours, control),
        ("image", control, control.part(step=2), control.part(1, step=2)),
    ):
        parts = [
            _distance_table(name, rated.features[:n], reference.features[:n], seed),
            _share_table(name, compared.features, reference.features, others.features, seed, held_out is not None),
            _spectrum_table(_spectra(rated.images[:fine]), spectra),
        ]
        tables.append(pd.concat(parts).assign(subject=subject))
    table = pd.concat(tables, ignore_index=True).assign(model=label, layer="", image="", kind="", period=float("nan"))
    pairs = nearest(ours.features, theirs.features)
    first = pairs.ratio.argsort(stable=True)
    return Rating(
        table.reindex(columns=list(COLUMNS)),
        ours.order[first],
        theirs.order[pairs.number[first]],
        pairs.distance[first],
        pairs.ratio[first],
    )


class _Seen(NamedTuple):
    """Images in an order drawn from their content, where in the original each stood, and their features."""

    images: Tensor
    order: Tensor
    features: Tensor

    def part(self, start: int = 0, stop: int | None = None, step: int = 1) -> "_Seen":
        return _Seen(*(part[start:stop:step] for part in self))


def _seen(images: Tensor, *, backbone: nn.Module, batch_size: int, seed: int, cache: Path | None = None) -> _Seen:
    order = _by_content(images, seed)
    images = images[order.to(images.device)]
    return _Seen(images, order, features(backbone, images, batch_size=batch_size, cache=cache))


def radial_distance(x: Tensor, y: Tensor) -> float:
    """How far apart the mean radial spectra of two sets of images are: rms over rings of 10 log10(P_x / P_y), in dB.

    P is the mean over images of `gradlens.spectra.radial_profile`, plus 1e-8 over the number of rings.

    Range: [0, inf); 0 for equal profiles.
    Blind to: direction, phase, and nearly to lattices, a few bins of a ring; contrast counts, unlike in `spectrum_distance`.

    Args:
        x: `[N C H W]` in [0, 1], or uint8.
        y: `[M C H W]`, of the same channels and size.

    Raises:
        TypeError, ValueError: either is no images, or their channels or sizes differ.

    Source: Durall et al. 2020, eq. 3, for the profile; the log spectral distance of speech coding.

    Example:
        >>> x = torch.rand(4, 3, 32, 32)
        >>> round(radial_distance(x, 0.1 * x), 1)  # a tenth of the amplitude
        20.0
    """
    _check(x, y, None, names=("x", "y"))
    return spectrum_distance_test(_spectra(x).radial, _spectra(y).radial)[0]


class _Spectra(NamedTuple):
    """Of each image the power by ring, after a zero for DC, `[N 1 + B]`, and by frequency, normalised, `[N *frequency]`."""

    radial: Tensor
    normalised: Tensor


def _spectra(images: Tensor) -> _Spectra:
    parts = [in_unit(part) for part in images.split(AT_ONCE)]
    radial = torch.cat([radial_profile(part).power for part in parts])
    normalised = torch.cat([normalised_power(part, size=SPECTRUM_SIDE) for part in parts])
    return _Spectra(F.pad(radial, (1, 0)).cpu(), normalised.cpu())


def _check(samples: Tensor, real: Tensor, held_out: Tensor | None, names: Sequence[str] = ("samples", "real")) -> None:
    """Refuse sets that cannot be compared."""
    sets = {names[0]: samples, names[1]: real} | ({} if held_out is None else {"held_out": held_out})
    for name, images in sets.items():
        check_images(images, name)
        if images.shape[1:] != samples.shape[1:]:
            raise ValueError(
                f"{name}: must have the C H W of {names[0]}, {list(samples.shape[1:])}, got {list(images.shape[1:])}"
            )


def _by_content(images: Tensor, seed: int) -> Tensor:
    """A random order that is the images' own: of the hashes of seed and image; equals keep their order."""
    start = hashlib.sha256(f"{seed}".encode())
    hashes = []
    for part in images.split(AT_ONCE):
        for row in part.contiguous().cpu().flatten(1).view(torch.uint8).numpy():
            own = start.copy()
            own.update(row)
            hashes.append(own.digest())
    return torch.tensor(sorted(range(len(hashes)), key=hashes.__getitem__))


def _row(metric: str, value: float, low: float, high: float, p_value: float, n: int, unit: str = "1") -> dict[str, Any]:
    return {"metric": metric, "value": value, "low": low, "high": high, "p": p_value, "n": n, "unit": unit}


def _distance_table(name: str, ours: Tensor, theirs: Tensor, seed: int) -> pd.DataFrame:
    """FD and KID of as many on both sides; NaN where there are too few."""
    n, width = ours.shape
    unknown = Distance(*[float("nan")] * 4)
    frechet = frechet_distance(ours, theirs) if n > width else unknown
    kernel = kernel_distance(ours, theirs, subsets=SUBSETS, seed=seed) if n >= 2 * SUBSETS else unknown
    found = {"FD": frechet, "KID": kernel}
    return pd.DataFrame([_row(f"{k}[{name}, {n}]", d.value, d.low, d.high, float("nan"), n) for k, d in found.items()])


def _share_table(
    name: str, ours: Tensor, training: Tensor, held_out: Tensor, seed: int, untouched: bool
) -> pd.DataFrame:
    """How near `ours` are to the training images, against held-out ones, which training left `untouched` or not."""
    n, m, known = len(ours), len(training), min(len(ours), len(held_out), len(training) - 1) > 0
    unknown = Share(*[float("nan")] * 4)
    ratios = [nearest(x, training).ratio for x in (ours, held_out)] if known else []
    found = {
        f"{measure.__name__}[{name}, {m}]": measure(*ratios) if known else unknown
        for measure in (nearest_neighbour, copied_share)
    }
    if untouched:
        m = min(m, len(held_out))
        share = training_share(ours, training[:m], held_out[:m], seed=seed) if known else unknown
        found[f"training_share[{name}, {m}]"] = share
    return pd.DataFrame([_row(metric, *share, n) for metric, share in found.items()])


def _spectrum_table(ours: _Spectra, theirs: _Spectra) -> pd.DataFrame:
    """Distances of mean spectra with their p, and what chance reaches."""
    rows, nowhere = [], float("nan")
    for metric, x, y in (
        ("radial_distance", ours.radial, theirs.radial),
        ("spectrum_distance", ours.normalised, theirs.normalised),
    ):
        distance, floor, p_value = spectrum_distance_test(x, y)
        rows.append(_row(metric, distance, nowhere, nowhere, p_value, len(x), "dB"))
        rows.append(_row(f"{metric}_test", floor, nowhere, nowhere, nowhere, len(x), "dB"))
    return pd.DataFrame(rows)
