"""Does an attack on the pixels that a stride favours succeed more often than one on those that it neglects?

Odena, Dumoulin and Olah 2016 write of their lattices in gradients and of adversarial examples: "We have not investigated
this". Here an attack may touch one of the T x T sampling phases alone: the one with most energy in the input gradient of
the cross-entropy, the one with least, or as many random pixels of each image, by as much. The phases are chosen on other
images than those attacked. As remedies the stem's backward pass is held (`gradlens.rules`), in the attack alone, and the
anti-aliased twin of one network takes its place. The reaches were set after a look at 40 images, where neither all nor none
were fooled; PGD, which costs most, attacks fewer images of the small networks alone, and by the true gradient alone.

Run: `python -m analyses.adversarial_phases ASSETS`, with the folders `weights` and `data` in ASSETS.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from importlib import resources
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Annotated, Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from PIL import Image
from scipy import stats
from torch import Tensor, nn

from analyses.maxpool_gradients import AS_IS, STEM
from analyses.maxpool_gradients import networks as known_networks
from gradlens.compare import adjusted, interval
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.gradients import input_gradient, logits
from gradlens.images import Photograph, batches, fit, photographs
from gradlens.models import Model
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.rules import Rules
from gradlens.spectra import phase_energy

SMALL = ("resnet18_half", "resnetblur18_half")  # trained on Tiny ImageNet
LARGE = ("resnet18, ImageNet", "mobilenetv2, ImageNet")
PERIODS = (2, 4)
MASKS = ("strongest", "weakest", "random")
PAIRS = (("strongest", "weakest"), ("strongest", "random"))
BACKWARD: dict[str, dict[str, str]] = {AS_IS: {}, STEM: {"stem": "held"}}
ATTACKS: dict[str, tuple[int, tuple[int, ...]]] = {"FGSM": (1, (1, 4, 16)), "PGD": (10, (2,))}  # steps, reaches
CHOOSING, ATTACKED = "gradient of the choosing images", "gradient of the attacked images"


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where the weights and images are, and how many are attacked."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    count: Annotated[int, Parameter(help="Most Tiny ImageNet images; those named correctly are attacked.")] = 300
    photos: Annotated[int, Parameter(help="Most photographs for the ImageNet networks.")] = 63
    iterated: Annotated[int, Parameter(help="Most images that PGD attacks.")] = 100
    choosing: Annotated[int, Parameter(help="Most images of each kind that choose the phases.")] = 100
    batch_size: Annotated[int, Parameter(help="Images at once.")] = 25
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/adversarial_phases-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


@dataclass(frozen=True)
class Attack:
    """Steps along the sign of the gradient in an L-infinity ball of `eps` / 255; one step is FGSM, more are PGD.

    PGD begins at the image itself, goes 2.5 eps / steps a step, and has won once any of its images is named wrongly.
    """

    eps: int
    steps: int = 1

    @property
    def step(self) -> float:
        return self.eps / 255 * (1 if self.steps == 1 else 2.5 / self.steps)


def attacks() -> dict[str, Attack]:
    """The attacks by the words of the table."""
    return {called(name, eps): Attack(eps, steps) for name, (steps, levels) in ATTACKS.items() for eps in levels}


def called(name: str, eps: int) -> str:
    """An attack in the words of the table."""
    return f"{name}, eps = {eps}/255"


def fooled(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    allowed: Tensor,
    attack: Attack,
    *,
    rules: Mapping[str, str] | None = None,
    first: Tensor | None = None,
) -> Tensor:
    """Whether each image is named wrongly after an attack that touches `allowed` pixels alone.

    Args:
        model: takes `images`, returns logits.
        images: `[N C H W]` in [0, 1], which the model names correctly.
        labels: `[N]`, the true classes.
        allowed: `[N 1 H W]` or `[1 1 H W]`, bool.
        attack: steps and reach.
        rules: as `gradlens.rules.Rules`, in the gradient alone.
        first: the gradient at `images` where it is known, which saves a pass.

    Returns:
        `[N]`, bool.
    """
    allowed = allowed.expand(len(images), 1, *images.shape[2:])
    found = torch.zeros(len(images), dtype=torch.bool)
    moved, going, eps = images.clone(), torch.arange(len(images)), attack.eps / 255
    slope = ascent(model, images, labels, rules)[0] if first is None else first
    for left in reversed(range(attack.steps)):
        change = moved[going] - images[going] + attack.step * slope.sign() * allowed[going]
        moved[going] = (images[going] + change.clamp(-eps, eps)).clamp(0, 1)
        if left:
            slope, names = ascent(model, moved[going], labels[going], rules)
        else:
            names = named(model, moved[going])
        wrong = names != labels[going]
        found[going] = wrong
        going, slope = going[~wrong], slope[~wrong]
        if not len(going):
            break
    return found


def ascent(
    model: nn.Module, images: Tensor, labels: Tensor, rules: Mapping[str, str] | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient `[N C H W]` of each image's cross-entropy, of a backward pass by `rules`, and its class `[N]`."""
    names = []

    def score(output: Any) -> Tensor:
        names.append(logits(output).detach().argmax(1))
        return nn.functional.cross_entropy(logits(output), labels, reduction="none")

    with Rules(model, rules) if rules else nullcontext():
        return input_gradient(model, images, score=score), names[0]


def named(model: nn.Module, images: Tensor) -> Tensor:
    """The class `[N]` with the largest logit."""
    with torch.no_grad():
        return logits(model(images)).argmax(1)


def phase_mask(phase: tuple[int, int], period: int, size: Sequence[int]) -> Tensor:
    """The pixels `[1 1 H W]` of one sampling phase, bool."""
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    mask[..., phase[0] :: period, phase[1] :: period] = True
    return mask


def random_masks(n: int, count: int, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """`count` random pixels of each of `n` images, `[N 1 H W]` bool."""
    order = torch.rand(n, size[0] * size[1], generator=generator).argsort(1).argsort(1)
    return (order < count).view(n, 1, *size)


def extremes(energy: Tensor) -> dict[str, tuple[int, int]]:
    """The phase with most and that with least mean energy, of `[N T T]`."""
    mean = energy.mean(0)
    places = {"strongest": int(mean.argmax()), "weakest": int(mean.argmin())}
    return {mask: divmod(place, mean.shape[1]) for mask, place in places.items()}


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson 95 % interval of a rate. Source: Wilson 1927."""
    found = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The exact two-sided p of two attacks on the same images `[N]` bool: 1 where they never differ. Source: McNemar 1947."""
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def class_of(name: str, wnids: Sequence[str]) -> int:
    """The class of an image whose name begins with a WordNet id.

    Raises:
        ValueError: it is none of `wnids`.
    """
    if name[:9] not in wnids:
        raise ValueError(
            f"image: {name!r} must begin with one of the {len(wnids)} WordNet ids of the network's classes"
        )
    return wnids.index(name[:9])


def zipped(archive: Path, count: int) -> list[Photograph]:
    """At most `count` pictures of a zip of class folders, evenly over the classes."""
    with ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if name.endswith(".JPEG"))
    kept = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int))
    return [Photograph(names[i], lambda name=names[i]: _unzipped(archive, name)) for i in kept]


def _unzipped(archive: Path, name: str) -> Image.Image:
    with ZipFile(archive) as opened, Image.open(BytesIO(opened.read(name))) as image:
        return image.convert("RGB")


def run(config: Config) -> Results:
    """For each network, period, mask, attack and backward pass the rate of success, and the paired tests."""
    studies = list(_studies(config))
    options = [f"--{word} {getattr(config, word)}" for word in ("count", "photos", "iterated", "choosing")]
    command = " ".join(["python -m analyses.adversarial_phases ASSETS", *options])
    tables, manifest = [], circumstances() | {"command": command, "seed": 0}
    with progress("networks", len(studies)) as advance:
        for name, load, wnids, choosing, attacked in studies:
            tables.append(study(name, load(), choosing, attacked, wnids, config))
            advance()
    table = pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS))
    table["p"] = adjusted(table["p"].to_numpy(float))
    return Results(table, {}, manifest)


def _studies(config: Config) -> Iterator[tuple[str, Any, list[str], list[Photograph], list[Photograph]]]:
    """Name, loader, WordNet ids of the classes, images that choose and images to attack, of each network."""
    from timm.data import ImageNetInfo

    data = config.assets / "data"
    known = known_networks(config.assets)
    text = resources.files("gradlens").joinpath("weights/tiny_imagenet_classes.txt").read_text(encoding="utf-8")
    tiny = [line.split("\t")[0] for line in text.splitlines()]
    pictures = [zipped(data / "tiny_imagenet" / f"{part}.zip", n) for part, n in
                (("train", config.choosing), ("val", config.count))]  # fmt: skip
    photos = [photographs(data / "photos" / part, limit=n) for part, n in
              (("jpeg", config.choosing), ("lossless", config.photos))]  # fmt: skip
    for name in SMALL:
        yield name, known[name][0], tiny, pictures[0], pictures[1]
    for name in LARGE:
        yield name, known[name][0], list(ImageNetInfo().label_names()), photos[0], photos[1]


def study(
    name: str,
    model: Model,
    choosing: Sequence[Photograph],
    attacked: Sequence[Photograph],
    wnids: Sequence[str],
    config: Config,
) -> pd.DataFrame:
    """The rows of one network: energies of the chosen phases, rates of success, differences with their unadjusted p.

    Raises:
        ValueError: no image to attack is named correctly, or one is of no class.
    """
    size = config.batch_size
    images, labels = _correct(model, attacked, wnids, size)
    others = [ascent(model, x, y)[0] for x, y in _labelled(model, choosing, wnids, size)]
    slopes = {words: _in_parts(model, images, labels, rules, size) for words, rules in BACKWARD.items()}
    generator = torch.Generator().manual_seed(0)
    few = torch.linspace(0, len(images) - 1, min(len(images), config.iterated)).round().long()
    rows = []
    for period in PERIODS:
        energy = torch.cat([phase_energy(g, period) for g in others])
        chosen = extremes(energy)
        masks = {mask: phase_mask(phase, period, images.shape[2:]) for mask, phase in chosen.items()}
        count = int(masks["strongest"].sum())
        masks["random"] = random_masks(len(images), count, images.shape[2:], generator)
        for subject, e in ((CHOOSING, energy), (ATTACKED, phase_energy(slopes[AS_IS], period))):
            rows += [_energy_row(e[:, *phase].numpy(), subject, mask, period, phase) for mask, phase in chosen.items()]
        for (subject, attack), (words, rules) in product(attacks().items(), BACKWARD.items()):
            if attack.steps > 1 and (rules or name in LARGE):
                continue
            at = (few if attack.steps > 1 else torch.arange(len(images))).split(size)
            found = {}
            for mask, allowed in masks.items():
                each = allowed.expand(len(images), -1, -1, -1)
                won = [
                    fooled(model, images[i], labels[i], each[i], attack, rules=rules, first=slopes[words][i])
                    for i in at
                ]
                found[mask] = torch.cat(won).numpy()
            rows += [row | {"subject": subject, "layer": words, "period": period} for row in compared(found)]
    return pd.DataFrame(rows).assign(model=name, image="", unit="1")


def compared(found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rates of success with Wilson intervals, and paired differences with bootstrap intervals and the exact p.

    Args:
        found: by mask, whether each image was fooled, `[N]` bool.
    """
    rows = []
    for mask, won in found.items():
        low, high = wilson(int(won.sum()), len(won))
        rows.append({"kind": mask, "metric": "success", "value": won.mean(), "low": low, "high": high, "n": len(won)})
    for ours, theirs in PAIRS:
        difference = found[ours].astype(float) - found[theirs]
        low, high = interval(difference)
        rows.append(
            {"kind": f"{ours} - {theirs}", "metric": "success_difference", "value": difference.mean(), "low": low,
             "high": high, "p": mcnemar(found[ours], found[theirs]), "n": len(difference)}
        )  # fmt: skip
    return rows


def _energy_row(values: np.ndarray, subject: str, mask: str, period: int, phase: tuple[int, int]) -> dict[str, Any]:
    low, high = interval(values)
    return {
        "subject": subject, "layer": f"phase {phase[0]}, {phase[1]}", "period": period, "kind": mask,
        "metric": "phase_energy", "value": values.mean(), "low": low, "high": high, "n": len(values),
    }  # fmt: skip


def _labelled(
    model: Model, found: Sequence[Photograph], wnids: Sequence[str], batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their classes, a batch at a time."""
    info = model.info
    stream = batches(
        found,
        lambda image: fit(image, info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct),
        batch_size,
    )
    for names, images in stream:
        yield images, torch.tensor([class_of(name, wnids) for name in names])


def _correct(model: Model, found: Sequence[Photograph], wnids: Sequence[str], batch_size: int) -> tuple[Tensor, Tensor]:
    """The images that the model names correctly, and their classes."""
    parts = []
    for images, labels in _labelled(model, found, wnids, batch_size):
        right = named(model, images) == labels
        parts.append((images[right], labels[right]))
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    if not len(images):
        raise ValueError(
            f"images: {model.info.name} names none of the {len(found)} correctly, so there is none to attack"
        )
    return images, labels


def _in_parts(model: Model, images: Tensor, labels: Tensor, rules: Mapping[str, str], batch_size: int) -> Tensor:
    """`ascent` of many images, a batch at a time."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([ascent(model, x, y, rules)[0] for x, y in parts])


def main() -> None:
    """The command line."""
    app = application("python -m analyses.adversarial_phases", "Whether attacks profit from the phases of a stride.")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "adversarial_phases")
        with new_run(target, "adversarial_phases", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        shown = results.table.loc[results.table["metric"] == "success"]
        wide = shown.pivot_table(
            index=["model", "subject", "layer"], columns=["period", "kind"], values="value", sort=False
        )
        print(wide.to_string(float_format="{:.2f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
