"""On a GPU: the same numbers as on the CPU, on the device they came from."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from analyses.speed_training import started
from gradlens import geometry, models, spectra
from gradlens.dream import PARAMETERISATIONS, RECIPES, dream, jitter
from gradlens.gradients import METHODS, attribute, collect, input_gradient
from gradlens.probes import stages
from gradlens.redesign import swap
from gradlens.redesign.gan.augmentation import POLICIES
from gradlens.redesign.gan.config import LossName, TrainConfig
from gradlens.redesign.gan.loop import train
from gradlens.redesign.gan.step import Captured
from gradlens.redesign.losses import LOSSES
from gradlens.upsampling import UPSAMPLERS
from tests.spectra.measures import MEASURES, noise, planted

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_measures_agree_with_the_cpu(name: str, dtype: torch.dtype) -> None:
    x = planted(MEASURES[name].sees, 1, noise(4, 3, 48, 40), 4).to(dtype)
    found = MEASURES[name].of(x.cuda(), 4)
    assert found.device.type == "cuda"
    near = 1e-9 if dtype is torch.float64 else 1e-3  # less is transformed in float32, by another library; p has steps
    torch.testing.assert_close(found.cpu(), MEASURES[name].of(x, 4), rtol=near, atol=near, equal_nan=True)


def test_losses_have_gradients_there() -> None:
    x = noise(2, 3, 32, 32, dtype=torch.float32).cuda().requires_grad_()
    loss = spectra.lattice_loss(x, 2) + spectra.spectrum_distance(x, noise(2, 3, 32, 32, seed=1).cuda())
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.device.type == "cuda"
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"])
@pytest.mark.parametrize("score", ["random", "top"])
def test_predictions_agree_with_the_cpu(name: str, score: Literal["random", "top"]) -> None:
    network = models.bare(models.classifier(name, weights="random"))
    here = geometry.energy_map(network, (3, 224, 224), score=score)
    there = geometry.energy_map(network.cuda(), (3, 224, 224), score=score)
    assert there.device.type == "cpu"
    assert (here - there).norm() < 1e-2 * here.norm()  # a mask or a route near a tie may go the other way


def test_a_generators_prediction_agrees_with_the_cpu() -> None:
    network = models.bare(models.generator())
    here = geometry.energy_map(network, (100,), direction="forward")
    torch.testing.assert_close(
        geometry.energy_map(network.cuda(), (100,), direction="forward"), here, rtol=1e-2, atol=1e-2
    )


def test_gradients_and_statistics_agree_with_the_cpu() -> None:
    model, images = models.classifier(), torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    here = input_gradient(model, images)
    there = input_gradient(models.classifier().cuda(), images.cuda()).cpu()
    assert (here - there).norm() < 1e-2 * here.norm()  # float32 convolutions by other algorithms, perhaps in TF32
    found = stages(model, (3, 128, 128))
    ours, theirs = (collect(model, [images], stages=found, device=d) for d in ("cpu", "cuda"))
    for kind in ("signed", "envelope"):
        a, b = (s.gradient.contrast[kind, 2] for s in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=0, atol=0.1)
    assert next(model.parameters()).device.type == "cpu"


def levels(n: int, side: int = 128) -> torch.Tensor:
    """Seeded 8-bit images on the CPU."""
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pinned_8_bit_images_are_those_of_floats_there() -> None:
    model, images = models.classifier().cuda(), levels(5)
    found = collect(model, [images[:3], images[3:]], periods=(2,))
    expected = collect(model, [images[:3].cuda().float() / 255, images[3:].cuda().float() / 255], periods=(2,))
    assert found.names == expected.names
    assert torch.equal(found.example_images, expected.example_images)
    # the order of sums in a backward convolution may differ from run to run
    for key, value in expected.gradient.contrast.items():
        torch.testing.assert_close(found.gradient.contrast[key], value, rtol=0, atol=0.1)
    for key, value in expected.control.contrast.items():
        torch.testing.assert_close(found.control.contrast[key], value)


def test_a_refilled_buffer_does_not_overtake_its_copy() -> None:
    """The copy to the device is asynchronous: what is pinned must be ours."""
    images, buffer = levels(40), torch.empty(8, 3, 128, 128, dtype=torch.uint8, pin_memory=True)

    def stream() -> Iterator[torch.Tensor]:
        for start in range(0, 40, 8):
            yield buffer.copy_(images[start : start + 8])
            buffer.zero_()

    model = models.classifier().cuda()
    found, expected = (collect(model, batches, periods=(2,)) for batches in (stream(), images.split(8)))
    for key, value in expected.control.contrast.items():
        torch.testing.assert_close(found.control.contrast[key], value)


def test_bfloat16_and_compile_read_as_float32_within_rounding() -> None:
    """Eight bits of mantissa; a last batch of another size; a network whose weights are trained."""
    model, images = models.classifier(), levels(7)
    model.requires_grad_(True)
    expected = collect(model, images.split(4), periods=(2, 4), device="cuda").gradient
    for options in ({"dtype": torch.bfloat16}, {"compile": True}, {"dtype": torch.bfloat16, "compile": True}):
        found = collect(model, images.split(4), periods=(2, 4), device="cuda", **options)
        assert (found.gradient.count, found.skipped) == (7, 0)
        for key, value in expected.contrast.items():
            assert abs(float((found.gradient.contrast[key] - value).mean())) < 1.5, (options, key)
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_nothing_waits_for_the_device_but_the_examples() -> None:
    """No synchronising call from the fifth image to the last; the end reads the results."""
    model = models.classifier().cuda()
    batches = [levels(8) for _ in range(6)]
    collect(model, batches, periods=(2, 4))  # plans are made once
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += 1
        torch.cuda.set_sync_debug_mode("error" if 1 <= done < len(batches) else "default")

    try:
        collect(model, batches, periods=(2, 4), advance=advance)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_gradient_that_is_not_finite_is_counted_there() -> None:
    model, images = models.classifier().cuda(), levels(6).float() / 255
    images[4] = float("nan")
    found = collect(model, images.split(3), periods=(2,))
    assert (found.skipped, found.first_skipped) == (1, "5")


@pytest.mark.parametrize("method", METHODS)
def test_attributions_agree_with_the_cpu_and_leave_its_random_state(method: Any) -> None:
    """In float64, where no convolution is rounded to TF32."""
    images = levels(2).double() / 255
    settings: dict[str, Any] = {"steps": 8, "samples": 4, "window": 64, "stride": 32}
    here = attribute(models.classifier().double(), images, method, **settings)
    model = models.classifier().double().cuda()
    state = torch.cuda.get_rng_state()
    there = attribute(model, images.cuda(), method, **settings)
    assert there.device.type == "cuda"
    assert (here - there.cpu()).norm() < 1e-6 * here.norm()
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.parametrize("how", list(PARAMETERISATIONS))
def test_dreams_agree_with_the_cpu_at_first(how: str) -> None:
    picture = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    made = [
        dream(
            model,
            image,
            "layer2",
            transforms=[jitter(8)],
            parameterisation=PARAMETERISATIONS[how](),
            steps=2,
            octaves=2,
        )
        for model, image in ((models.classifier(), picture), (models.classifier().cuda(), picture.cuda()))
    ]
    assert made[1].images.device.type == "cuda"
    torch.testing.assert_close(made[1].images.cpu(), made[0].images, rtol=0, atol=2e-3)  # steps of 0.005 differ little


def test_no_step_of_a_dream_waits_for_the_device_but_each_sixteenth() -> None:
    model, picture = models.classifier().cuda(), torch.rand(1, 3, 96, 96).cuda()
    options: dict[str, Any] = {"parameterisation": PARAMETERISATIONS["fourier"](), "optimiser": "adam", "steps": 12}

    def watched(steps: int) -> None:
        counted.append(steps)
        torch.cuda.set_sync_debug_mode("error" if len(counted) in range(2, 11) else "default")

    counted: list[int] = []
    try:
        dream(model, picture, "layer2", transforms=[*RECIPES["lucid"], jitter(8)], advance=watched, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(counted) == 12


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_layers_that_enlarge_give_on_a_gpu_what_they_give_on_a_cpu(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = UPSAMPLERS[name](8, 8).eval()
        x = torch.rand(2, 8, 12, 12)
    expected = layer(x)
    there = layer.cuda()
    torch.testing.assert_close(there(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)  # TF32
    half = there.bfloat16().to(memory_format=torch.channels_last)
    y = half(x.cuda().bfloat16().to(memory_format=torch.channels_last))
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.float().cpu(), expected, rtol=0.05, atol=0.05)


def test_surgery_on_a_gpu_is_surgery() -> None:
    model = models.generator()
    latents = torch.randn(16, 100, generator=torch.Generator().manual_seed(0))
    here = swap(model, "resize", example=latents)
    there = swap(model.cuda(), "resize", example=latents.cuda())
    assert next(there.model.parameters()).is_cuda
    assert there.drift == pytest.approx(here.drift, rel=0.05)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("compiled", [False, True])
def test_captured_steps_of_training_are_steps(loss: LossName, compiled: bool) -> None:
    """The three that warm up, the one that is captured, and four replays."""
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(
        resolution=32, width=8, latent=16, batch_size=8, loss=loss, augment=POLICIES, lattice_weight=0.1, spectrum_weight=0.1,
        accelerator="cuda", devices="1", precision="float32", compile=False,
    )  # fmt: skip
    plain, captured = started(config, images), started(replace(config, compile=compiled), images)
    captured.take = captured.take if compiled else Captured(captured.take)
    for _ in range(8):
        torch.testing.assert_close(captured.advance(), plain.advance(), rtol=1e-2, atol=1e-2)  # convolutions in TF32
    for one, other in zip(captured.pair.averaged.buffers(), plain.pair.averaged.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
    captured.look()
    torch.testing.assert_close(captured.advance(), plain.advance(), rtol=1e-2, atol=1e-2)  # looking leaves it as it was


def test_training_on_the_gpu_logs_as_on_the_cpu() -> None:
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(
        resolution=32,
        width=8,
        latent=16,
        batch_size=8,
        steps=12,
        log_every=4,
        rated=0,
        precision="float32",
        devices="1",
    )
    logs = [train(replace(config, accelerator=a), images=images).arrays for a in ("cuda", "cpu")]
    for name in logs[1]:
        if name.startswith("log/") and "images_per_second" not in name:
            torch.testing.assert_close(
                logs[0][name], logs[1][name], rtol=0.1, atol=1.0, equal_nan=True
            )  # dB of few steps
    assert (logs[0]["log/images_per_second"][1:] > 0).all()
