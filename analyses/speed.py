"""What does measuring cost? Gradients with their statistics, and the metrics alone, each beside its peer in one process.

On any device: `collect` against the bare autograd loop of the same network and batches, the metrics of a batch against one
backward pass of a ResNet-18 through it, `energy_map` against one backward pass of one image, and `dream` against the bare
passes that it needs and, where torch-lucent (0.1.8, with kornia 0.5.11) is installed, against Lucent; the fused
resize-convolution and the pixel deconvolution against a transposed convolution and against two steps, maps channels-last (on a
GPU in bfloat16); a training step of a DCGAN against the textbook's (`analyses.speed_training`). On a GPU also `collect` of the
compiled network in bfloat16 against captum's `Saliency` in float32. Weights are random; how it is timed: `analyses.timing`.
Run: `python -m analyses.speed`, on a GPU `python -m analyses.speed --device cuda --training-batches 128 1024`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, cast

import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn

from analyses.speed_training import training_cases
from analyses.timing import Case, clock_of, rows, timed
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.dream import RECIPES, dream, fourier, jitter
from gradlens.geometry import energy_map
from gradlens.gradients import collect
from gradlens.models import Model, classifier
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import lattice_statistics
from gradlens.upsampling import MaskedPixelDCL, ResizeConv, transposed

PERIODS = (2, 4, 8, 16, 32)
Prepare = Callable[[], Callable[[], object]]  # does what is not timed and returns what is


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to time."""

    networks: Annotated[tuple[str, ...], Parameter(help="Against the autograd loop.", consume_multiple=True)] = (
        "resnet50",
        "resnet18",
    )
    _: KW_ONLY
    on_gpu: Annotated[
        tuple[str, ...], Parameter(help="Against captum, where the device is a GPU.", consume_multiple=True)
    ] = ("resnet50", "convnext_tiny", "vit_small_patch16_224")
    side: Annotated[int, Parameter(help="Of the images, in pixels.")] = 224
    batch_size: Annotated[int, Parameter(help="Of the gradients against the autograd loop.")] = 8
    large_batch: Annotated[int, Parameter(help="Of the metrics, and against captum.")] = 64
    batches: Annotated[int, Parameter(help="In one timing.")] = 4
    dream_side: Annotated[int, Parameter(help="Of dreams in four octaves, in pixels.")] = 512
    dream_steps: Annotated[int, Parameter(help="In each octave, and against Lucent in all.")] = 10
    channels: Annotated[int, Parameter(help="Of layers that enlarge.")] = 64
    map_side: Annotated[int, Parameter(help="Of the maps that they enlarge, in pixels.")] = 64
    maps: Annotated[int, Parameter(help="In a batch of these.")] = 4
    training_batches: Annotated[
        tuple[int, ...],
        Parameter(help="Of a DCGAN in training; 128 and 1024 say most on a GPU.", consume_multiple=True),
    ] = (128,)
    training_side: Annotated[int, Parameter(help="Of its images, in pixels.")] = 64
    training_width: Annotated[int, Parameter(help="Its channels at full resolution.")] = 64
    only: Annotated[
        tuple[str, ...],
        Parameter(
            help="gradients, metrics, energy, dreams, layers, lucent, captum, training; all unless given.",
            consume_multiple=True,
        ),
    ] = ()
    pairs: Annotated[int, Parameter(help="Timings of both sides.")] = 9
    device: Annotated[str, Parameter(help="cpu, cuda.")] = "cpu"
    seed: Annotated[int, Parameter(help="Of weights and images.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/speed-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def run(config: Config) -> Results:
    """For each case the seconds of both sides and their ratio: median, quartiles, number of pairs; on a GPU images/s.

    Raises:
        ValueError: `only` names no section; the message says which there are.
    """
    unknown = set(config.only) - set(SECTIONS)
    if unknown:
        raise ValueError(f"--only: must be of {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    device = torch.device(config.device)
    made: list[dict] = []
    cases = [
        case
        for name, section in SECTIONS.items()
        if name in (config.only or SECTIONS)
        for case in section(config, device)
    ]
    with progress("speed", len(cases) * config.pairs) as advance:
        for case in cases:
            made += rows(case, timed(case, config.pairs, device, advance))
    told = [f"--only {' '.join(config.only)}"] if config.only else []
    told += [f"--device {device}"] if device.type != "cpu" else []
    manifest = circumstances() | {
        "command": " ".join(["python -m analyses.speed", *told]),
        "seed": config.seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "clock": clock_of(device).__name__,
    }
    return Results(pd.DataFrame(made).reindex(columns=list(COLUMNS)), {}, manifest)


def _gradient_cases(config: Config, device: torch.device) -> Iterator[Case]:
    """Input gradients with their statistics, and the bare loop."""
    for name in config.networks:
        model, images = _network(name, config, device), _images(config, config.batch_size)
        yield Case(
            f"{name}, {config.side} px, batch {config.batch_size}",
            "collect",
            lambda model=model, images=images: lambda: collect(model, images, periods=PERIODS, control=False),
            "autograd loop",
            lambda model=model, images=images: lambda: _loop(model, images, device),
            config.batch_size * config.batches,
            bar=1.05,
        )


def _metric_cases(config: Config, device: torch.device) -> Iterator[Case]:
    """The metrics of a batch, and a backward pass of it."""
    model = _network("resnet18", config, device)
    images = _unit(_images(config, config.large_batch)[0], device)
    yield Case(
        f"resnet18, {config.side} px, batch {config.large_batch}",
        "lattice_statistics",
        lambda: lambda: lattice_statistics(images, PERIODS),
        "backward pass",
        lambda: _backward(model, images),
        config.large_batch,
        bar=0.25,
    )


def _energy_cases(config: Config, device: torch.device) -> Iterator[Case]:
    """A prediction, and a backward pass of one image."""
    image = _unit(_images(config, 1)[0], device)
    for name in config.networks:
        model, size = _network(name, config, device), (3, config.side, config.side)
        yield Case(
            f"{name}, {config.side} px, batch 1",
            "energy_map",
            lambda model=model, size=size: lambda: energy_map(model.network, size),
            "backward pass",
            lambda model=model: _backward(model, image),
            1,
            bar=3.0,
        )


def _dream_cases(config: Config, device: torch.device) -> Iterator[Case]:
    for name in config.networks:
        yield _dream_case(_network(name, config, device), name, config, device)


def _lucent_cases(config: Config, device: torch.device) -> Iterator[Case]:
    if find_spec("lucent") is None:
        say("torch-lucent is not installed: no dream beside its own")
        return
    model = _network("resnet18", config, device)
    yield from (_lucent_case(model, layer, config) for layer in ("layer2", "layer4"))


def _captum_cases(config: Config, device: torch.device) -> Iterator[Case]:
    for name in config.on_gpu if device.type == "cuda" else ():
        large = _images(config, config.large_batch)
        model = _network(name, config, device)
        half = cast(nn.Module, torch.compile(_network(name, config, device).bfloat16()))
        yield Case(
            f"{name}, {config.side} px, batch {config.large_batch}",
            "collect, bfloat16, compiled",
            lambda half=half, large=large: lambda: collect(half, large, periods=PERIODS, control=False),
            "captum Saliency, float32",
            lambda model=model, large=large: lambda: _captum(model, large, device),
            config.large_batch * config.batches,
            bar=1 / 6,
        )


def _training_cases(config: Config, device: torch.device) -> Iterator[Case]:
    for batch in config.training_batches:
        yield from training_cases(
            batch, device, seed=config.seed, resolution=config.training_side, width=config.training_width
        )


def _dream_case(model: Model, name: str, config: Config, device: torch.device) -> Case:
    """A dream of layer2 in four octaves, and as many bare passes to that layer and back, at the same sizes."""
    extent, octaves, scale = config.dream_side, 4, 1.4
    image = _unit(_images(config, 1)[0], device)
    image = torch.nn.functional.interpolate(image, (extent, extent), mode="nearest")
    sides = [round(extent / scale**k) for k in range(octaves)]
    network = model.network

    def ours() -> object:
        return dream(
            model,
            image,
            "layer2",
            transforms=[jitter(32)],
            steps=config.dream_steps,
            octaves=octaves,
            octave_scale=scale,
        )

    def peer() -> None:
        for side in sides:
            picture = image[..., :side, :side].contiguous()
            for _ in range(config.dream_steps):
                x = leaf = picture.clone().requires_grad_()
                for part in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2"):
                    x = network.get_submodule(part)(x)
                torch.autograd.grad(x.square().mean(), leaf)

    steps = octaves * config.dream_steps
    return Case(
        f"{name}, {extent} px, {octaves} octaves, layer2",
        "dream",
        lambda: ours,
        "bare passes",
        lambda: peer,
        steps,
        1.15,
    )


def _upsampling_cases(config: Config, device: torch.device) -> Iterator[Case]:
    """Layers that enlarge by 2, forward and with backward, and what folding a kernel takes of a training step."""
    c, dtype = config.channels, torch.bfloat16 if device.type == "cuda" else torch.float32
    layers = {
        "ResizeConv 3x3": ResizeConv(c, c),
        "two steps": ResizeConv(c, c, fused=False),
        "MaskedPixelDCL 2x2": MaskedPixelDCL(c, c, kernel_size=2),
        "ConvTranspose2d 4x4": transposed(c, c),
    }
    layers = {name: layer.to(device, dtype).to(memory_format=torch.channels_last) for name, layer in layers.items()}  # type: ignore[call-overload]
    x = torch.randn(config.maps, c, config.map_side, config.map_side, device=device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    words = f"{c} channels, {config.map_side} px, batch {config.maps}"
    for ours, peer, bars in (
        ("ResizeConv 3x3", "ConvTranspose2d 4x4", (1.10, 1.10)),
        ("ResizeConv 3x3", "two steps", (1 / 1.8, 1 / 1.8)),
        ("MaskedPixelDCL 2x2", "ConvTranspose2d 4x4", (None, 1.3)),
    ):
        for kind, train, bar in zip(("forward", "training"), (_forward, _training), bars, strict=True):
            if bar is not None:
                one, two = layers[ours], layers[peer]
                yield Case(
                    words, f"{ours}, {kind}", lambda f=train, m=one: lambda: f(m, x), f"{peer}, {kind}",
                    lambda f=train, m=two: lambda: f(m, x), config.maps, bar,
                )  # fmt: skip
    for scale, k in ((2, 5), (3, 3), (4, 3)):
        m = k + scale - 1
        pair = [ResizeConv(c, c, scale=scale, kernel_size=k), transposed(c, c, scale=scale, kernel_size=m)]
        one, two = (side.to(device, dtype).to(memory_format=torch.channels_last) for side in pair)  # type: ignore[call-overload]
        for kind, f in (("forward", _forward), ("training", _training)):
            yield Case(
                words, f"ResizeConv {k}x{k} x{scale}, {kind}", lambda f=f, m=one: lambda: f(m, x),
                f"ConvTranspose2d {m}x{m}, {kind}", lambda f=f, m=two: lambda: f(m, x), config.maps, 1.10,
            )  # fmt: skip
    layer = cast(ResizeConv, layers["ResizeConv 3x3"])

    def folded() -> None:
        kernel = layer.kernel()
        torch.autograd.grad(kernel, layer.weight, torch.ones_like(kernel))

    yield Case(
        words,
        "fold",
        lambda: folded,
        "ResizeConv 3x3, training",
        lambda: lambda: _training(layer, x),
        config.maps,
        0.03,
    )


def _forward(layer: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


def _training(layer: nn.Module, x: Tensor) -> None:
    leaf = x.detach().requires_grad_()
    torch.autograd.grad(layer(leaf).float().square().sum(), [leaf, *layer.parameters()])


def _lucent_case(model: Model, layer: str, config: Config) -> Case:
    """A channel of `layer` by Lucent's recipe, and by Lucent."""
    import lucent.optvis.objectives as objectives  # type: ignore[import-not-found]
    from lucent.optvis import param, render  # type: ignore[import-not-found]

    size = (3, config.side, config.side)

    def ours() -> object:
        return dream(
            model, size, f"{layer}:5", transforms=RECIPES["lucent"], parameterisation=fourier(), optimiser="adam",
            rate=0.05, normalisation="none", steps=config.dream_steps,
        )  # fmt: skip

    def peer() -> object:
        return render.render_vis(
            model.network, objectives.channel(layer, 5), lambda: param.image(config.side), show_image=False,
            thresholds=(config.dream_steps,), progress=False,
        )  # fmt: skip

    words = f"resnet18, {config.side} px, {layer}"
    return Case(words, "dream", lambda: ours, "Lucent", lambda: peer, config.dream_steps, 1 / 1.5)


def _network(name: str, config: Config, device: torch.device) -> Model:
    model = classifier(name, weights="random", seed=config.seed, input_size=(3, config.side, config.side))
    return model.to(device)


def _images(config: Config, size: int) -> list[Tensor]:
    """Batches `[size 3 side side]` of noise, uint8, on the CPU."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (size, 3, config.side, config.side)
    return [torch.randint(256, shape, dtype=torch.uint8, generator=generator) for _ in range(config.batches)]


def _unit(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).float() / 255


def _loop(model: nn.Module, batches: Sequence[Tensor], device: torch.device) -> None:
    """The gradients of the largest logits, and nothing else."""
    for batch in batches:
        images = _unit(batch, device).requires_grad_()
        torch.autograd.grad(model(images).amax(1).sum(), images)


def _backward(model: nn.Module, images: Tensor) -> Callable[[], object]:
    leaf = images.clone().requires_grad_()
    value = model(leaf).amax(1).sum()
    return lambda: torch.autograd.grad(value, leaf)


def _captum(model: nn.Module, batches: Sequence[Tensor], device: torch.device) -> None:
    from captum.attr import Saliency

    saliency = Saliency(lambda images: model(images).amax(1))
    for batch in batches:
        saliency.attribute(_unit(batch, device).requires_grad_(), abs=False)


SECTIONS: dict[str, Callable[[Config, torch.device], Iterator[Case]]] = {
    "gradients": _gradient_cases,
    "metrics": _metric_cases,
    "energy": _energy_cases,
    "dreams": _dream_cases,
    "layers": _upsampling_cases,
    "lucent": _lucent_cases,
    "captum": _captum_cases,
    "training": _training_cases,
}


def main() -> None:
    """The command line."""
    app = application("python -m analyses.speed", "Gradients with statistics and metrics, timed beside their peers.")

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "speed")
        with new_run(target, "speed", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        shown = results.table.loc[
            results.table["metric"] != "rate", ["model", "kind", "metric", "value", "low", "high"]
        ]
        print(shown.to_string(index=False, float_format="{:.3f}".format, na_rep=""))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
