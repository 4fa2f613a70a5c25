"""On a GPU: the same numbers as on the CPU, on the device they came from."""

import pytest
import torch

from gradlens import models, spectra
from gradlens.gradients import collect, input_gradient
from gradlens.probes import stages
from tests.spectra.measures import MEASURES, noise, planted

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_measures_agree_with_the_cpu(name: str, dtype: torch.dtype) -> None:
    x = planted(MEASURES[name].sees, 1, noise(4, 3, 48, 40), 4).to(dtype)
    found = MEASURES[name].of(x.cuda(), 4)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), MEASURES[name].of(x, 4), rtol=1e-9, atol=1e-9, equal_nan=True)


def test_losses_have_gradients_there() -> None:
    x = noise(2, 3, 32, 32, dtype=torch.float32).cuda().requires_grad_()
    loss = spectra.lattice_loss(x, 2) + spectra.spectrum_distance(x, noise(2, 3, 32, 32, seed=1).cuda())
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.device.type == "cuda"
    assert gradient.abs().sum() > 0


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
