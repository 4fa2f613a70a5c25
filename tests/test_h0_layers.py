"""`analyses.h0_layers`: its measures where the answer is known; what its landed table says; its pages hold the numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pypdf import PdfReader
from torch import nn

from analyses.h0_layers import (
    DECONV,
    HELD,
    LEVELS,
    NAMES,
    PAPER_PSNR,
    RESIZE,
    SCALE,
    SETS,
    SIZES,
    SUBPIXEL,
    TIMED,
    TRAINED,
    Config,
    drawn,
    held,
    luma,
    patches,
    polyphase,
    psnr,
    resized,
    run,
    steady_state,
    unevenness,
)
from gradlens.report.run import number
from gradlens.results import Results
from reports.certificates import percent
from reports.h0_layers import DRAWN, Holds, write_report

LANDED = Path(__file__).parent.parent / "reports" / "h0_layers.csv"
ROUNDING = 1e-12


@pytest.fixture(scope="module")
def landed() -> Results:
    words = ("image", "layer", "kind")
    table = pd.read_csv(LANDED, dtype=dict.fromkeys(words, object)).fillna(dict.fromkeys(words, ""))
    crops = {f"crop/{name}": np.full((8, 8), 0.5, np.float32) for name in DRAWN}
    manifest = {
        "command": "python -m analyses.h0_layers ASSETS", "versions": {}, "steps": 1500, "batch_size": 8, "rate": 1e-3,
        "patches": 2564, "verdicts": {name: "fail" if name in (DECONV, SUBPIXEL) else "pass" for name in NAMES},
    }  # fmt: skip
    return Results(table, crops, manifest)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Sequential]:
    return held({name: drawn(make, 0) for name, make in TRAINED.items()})


# What is measured


def test_networks_are_those_of_table_1(networks: dict[str, nn.Sequential]) -> None:
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}
    features = 64 * 25 + 64 + 32 * 64 * 9 + 32
    assert sizes[DECONV] == sizes[RESIZE] == sizes["Deconv + H0, C"] == features + 32 * 81 + 1
    assert sizes[SUBPIXEL] == sizes["Sub-pixel + H0, B"] == features + 16 * (32 * 9 + 1)
    x = torch.rand(1, 1, 18, 18)
    assert all(net(x).shape == (1, 1, 72, 72) for net in networks.values())
    assert set(NAMES) == set(TRAINED) | set(HELD) and set(PAPER_PSNR) < set(NAMES)


def test_a_holds_what_it_is_put_behind(networks: dict[str, nn.Sequential]) -> None:
    plain, after = networks[DECONV], networks["Deconv + H0, A"]
    assert torch.equal(plain[-1].weight, after[-1].get_parameter("up.weight"))  # type: ignore[arg-type]
    mean = steady_state(plain, 1.0).mean()
    torch.testing.assert_close(steady_state(after, 1.0), mean.expand(SCALE, SCALE), rtol=0, atol=1e-6)


def test_steady_states_are_even_behind_every_hold_and_at_every_level(networks: dict[str, nn.Sequential]) -> None:
    for name, net in networks.items():
        found = [unevenness(steady_state(net, level).flatten()) for level in LEVELS]
        assert (max(found) < ROUNDING) is (name not in (DECONV, SUBPIXEL))
        assert name not in (DECONV, SUBPIXEL) or min(found) > 0.1


def test_sums_of_polyphase_filters_and_biases_are_those_of_the_taps() -> None:
    layer = TRAINED[SUBPIXEL]()
    filters, biases = polyphase(layer)
    conv = layer.get_submodule("conv")
    torch.testing.assert_close(filters, conv.weight.detach().double().sum((2, 3)).T, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(biases, conv.bias.detach().double(), rtol=0, atol=ROUNDING)
    assert unevenness(torch.tensor([[1.0, 3.0], [2.0, 2.0]])) == pytest.approx(1 / np.sqrt(4.5))


def test_psnr_and_patches_are_what_they_say(tmp_path: Path) -> None:
    truth = np.full((16, 16), 0.5, np.float32)
    away = truth.copy()
    away[4:12, 4:12] += 0.1
    away[0] = 9  # in the border that is left out
    assert psnr(away, truth) == pytest.approx(20, abs=1e-4)
    pixels = np.random.default_rng(0).integers(0, 256, (110, 145, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    y = luma(tmp_path / "a.png")
    assert y.shape == (108, 144)
    assert y[3, 5] == pytest.approx((pixels[3, 5] @ [65.481, 128.553, 24.966] / 255 + 16) / 255, abs=1e-6)
    small, large = patches(tmp_path)
    assert small.shape == (2 * 3, 1, 18, 18) and large.shape == (2 * 3, 1, 72, 72)
    assert np.array_equal(large[4, 0], y[36:108, 36:108])
    assert np.array_equal(small[4, 0], resized(y, 1 / SCALE)[9:27, 9:27])


def test_what_is_timed_gives_the_same_numbers_where_it_is_said_to() -> None:
    torch.manual_seed(0)
    two_steps, fused = TIMED[RESIZE](), TIMED["ResizeConv, fused"]()
    fused.load_state_dict(two_steps.state_dict())
    x = torch.rand(1, 32, 16, 17)
    torch.testing.assert_close(fused(x), two_steps(x))
    assert (
        TIMED["ResizeConv, fused, as sub-pixel"]()(x).shape
        == TIMED["Deconv, as sub-pixel"]()(x).shape
        == fused(x).shape
    )


def test_assets_without_the_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"assets: '.*t91' holds no PNG"):
        run(Config(tmp_path))


@pytest.mark.assets
@pytest.mark.slow
def test_a_short_run_has_every_row(assets: Path) -> None:
    results = run(Config(assets, steps=2, seeds=1, untrained=1, rounds=1))
    t = results.table
    assert len(t) == len(pd.read_csv(LANDED))
    assert not t["value"].isna().any()
    assert set(results.manifest["verdicts"].values()) == {"pass", "fail"}


# What was found


def test_eq_7_to_10_hold_behind_every_hold_and_nowhere_else(landed: Results) -> None:
    holds = Holds(landed)
    for name in NAMES:
        even = name not in (DECONV, SUBPIXEL)
        for subject in ("untrained", "trained"):
            assert (holds.worst_step(name, subject) < ROUNDING) is even
            assert (holds.value(name, subject, "polyphase_deviation") < ROUNDING) is even
    assert holds.value(SUBPIXEL, "trained", "bias_deviation") > 1e-3


def test_b_and_c_are_better_than_a_and_the_lattice_is_gone_in_all(landed: Results) -> None:
    holds = Holds(landed)
    for subject in SETS:
        quality = {name: holds.value(name, subject, "psnr") for name in (*NAMES, "bicubic")}
        assert min(quality["Deconv + H0, B"], quality["Deconv + H0, C"]) > quality[DECONV] > quality["Deconv + H0, A"]
        assert quality["Sub-pixel + H0, B"] > quality[SUBPIXEL] > quality["Sub-pixel + H0, A"]
        at_4 = {n: holds.value(n, subject, "lattice_contrast", period=4, kind="signed") for n in NAMES}
        assert (
            min(at_4[DECONV], at_4[SUBPIXEL]) > 4 > 1 > max(v for n, v in at_4.items() if n not in (DECONV, SUBPIXEL))
        )


def test_a_fused_resize_convolution_costs_no_dozen_deconvolutions(landed: Results) -> None:
    holds = Holds(landed)
    assert min(holds.ratios(RESIZE, "network")) > 6
    assert max(holds.ratios("ResizeConv, fused", "network")) < 1.6
    assert max(holds.ratios("ResizeConv, fused, as sub-pixel", "network")) < 0.7
    assert len(holds.ratios(DECONV, "layer")) == len(SIZES)


def test_pages_hold_the_numbers_of_the_table(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    words = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    holds = Holds(landed)
    assert landed.manifest["command"] in words
    for name in (DECONV, SUBPIXEL):
        assert percent(holds.value(name, "trained", "step_deviation", layer="K = 1")) in words
    for name in NAMES:
        assert number(holds.value(name, "set5", "psnr"), 2) in words
    for name in TIMED:
        assert number(holds.ratios(name, "network")[0], 2) in words


def test_another_folder_is_refused(tmp_path: Path, landed: Results) -> None:
    Results(landed.table, {}, {}).write(tmp_path)
    with pytest.raises(ValueError, match=r"no run of analyses\.h0_layers"):
        write_report(tmp_path)
