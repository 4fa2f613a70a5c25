"""The model card of a checkpoint: what it is, and how it is loaded with gradlens and with torch and safetensors alone."""

from collections.abc import Mapping
from typing import Any

from gradlens.networks.stages import START, each_stage, stage_count, widths
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.dataset import Data

ENLARGED = {  # in plain torch: `x` to `x`, with the weights `up`
    "resize": 'x = F.conv2d(F.interpolate(x, scale_factor=2.0), w[f"{up}.weight"], w.get(f"{up}.bias"), padding={around})',
    "deconv": 'x = F.conv_transpose2d(x, w[f"{up}.weight"], w.get(f"{up}.bias"), 2, {around}, {extra})',
}
KERNELS = {"resize": 3, "deconv": 4}


def model_card(config: TrainConfig, told: Mapping[str, Mapping[str, Any]], data: Data, step: int) -> str:
    """Markdown."""
    skipped = f", {len(data.skipped)} left out" if data.skipped else ""
    lines = [
        f"# {config.label}, {config.resolution} px, step {step}",
        "",
        f"A generator and its discriminator, trained with `gradlens train` on {data.source} "
        f"({len(data.images)} images of {data.found} pictures{skipped}), loss {config.loss}, batch {config.batch_size}, seed "
        f"{config.seed}. `generator.safetensors` holds the average of the weights over the steps.",
        "",
        "Latents are standard normal; images come out in [-1, 1]. The licence of the training data may reach what is made of it.",
        "",
        "With gradlens:",
        "",
        "```python",
        "import torch",
        "from gradlens import models",
        "",
        *_loaded(told["generator"], config),
        "```",
    ]
    recipe = plain_recipe(config)
    if recipe:
        lines += ["", "With torch and safetensors alone:", "", "```python", *recipe, "```"]
    return "\n".join(lines) + "\n"


def _loaded(told: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """The generator with gradlens, and images of it."""
    shape = f"[16 {config.channels} {config.resolution} {config.resolution}]"
    images = f"images = generator(torch.randn(16, {config.latent}))   # {shape} in [0, 1]"
    if told.get("recipe"):
        return list(told["recipe"])
    if told["builder"].startswith("gradlens.networks:"):
        return ['generator = models.generator("generator.safetensors")', images]
    return [
        "generator = models.generator(",
        f'    "{told["builder"]}", weights="generator.safetensors", model_args={dict(told["arguments"])},',
        f"    input_size=[{config.latent}], mean=[0.5], std=[0.5],",
        ")",
        images,
    ]


def plain_recipe(config: TrainConfig) -> list[str]:
    """The generator in a few lines of torch; none where its layers are not torch's own."""
    if config.generator != "staged" or config.generator_args:
        return []
    stages = stage_count(config.resolution)
    layers = []
    for word in each_stage(config.upsampler, stages, "upsampler"):
        key, _, kernel = word.partition(":")
        if key not in ENLARGED:
            return []
        layers.append((key, int(kernel or KERNELS[key])))
    if any(key == "resize" and k % 2 == 0 for key, k in layers):
        return []
    first = widths(config.width, stages)[0]
    lines = [
        "import torch",
        "from safetensors.torch import load_file",
        "from torch.nn import functional as F",
        "",
        'w = load_file("generator.safetensors")',
        "",
        "def normed(x, bn):",
        '    return F.batch_norm(x, *(w[f"{bn}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))',
        "",
        f'x = (torch.randn(16, {config.latent}) @ w["fc.weight"].T).unflatten(1, ({first}, {START}, {START}))',
    ]
    same = len(set(layers)) == 1
    for stage, (key, kernel) in enumerate(layers[:1] if same else layers, start=1):
        extra = kernel % 2 if kernel > 1 else 1
        around = kernel // 2 if key == "resize" else max(kernel - 2 + extra, 0) // 2
        enlarged = ENLARGED[key].replace("{around}", str(around)).replace("{extra}", str(extra))
        if same:
            lines += [
                f"for stage in range(1, {stages + 1}):",
                '    x, up = F.relu(normed(x, f"bn{stage - 1}")), f"up{stage}"',
                f"    {enlarged}",
            ]
        else:
            lines += [f'x, up = F.relu(normed(x, "bn{stage - 1}")), "up{stage}"', enlarged]
    return [*lines, "images = (torch.tanh(x) + 1) / 2"]
