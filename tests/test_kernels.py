"""Kernels moved to the nearest even or held ones: against loops, against torch's layers, and by the laws of a projection."""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.filters import hold
from gradlens.geometry import certify
from gradlens.redesign import moments as moments_of
from gradlens.redesign import phases, rewrites
from gradlens.redesign.kernels import alike, evened, held_fit
from gradlens.redesign.moments import Moments, output_error, patch_moments
from gradlens.redesign.phases import phase_sums
from gradlens.upsampling import fold, shuffle
from gradlens.upsampling.held import HeldTransposed

FLOAT32 = 1e-5  # the same in float32
EXACT = 1e-12  # sums of a few hundred float64 products of order 1
SOLVED = 1e-8  # normal equations in float64, whose condition is below 1e6
DECONV: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
LAYERS: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CASES = [  # kernel, stride
    ((5,), (2,)),
    ((7,), (3,)),
    ((3, 3), (2, 2)),
    ((4, 4), (2, 2)),
    ((5, 4), (2, 3)),
    ((6, 5), (4, 1)),
    ((3, 4, 5), (2, 2, 3)),
]
EVERY = pytest.mark.parametrize(("kernel", "stride"), CASES, ids=str)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def drawn(kernel: tuple[int, ...], c: int = 4, out: int = 2) -> Tensor:
    return torch.randn(c, out, *kernel, dtype=torch.float64)


def like_pictures(c: int, d: int, n: int = 3, side: int = 7) -> Tensor:
    """Noise whose neighbours are alike, and whose channels are."""
    x = torch.randn(n, c, *[side + 2] * d, dtype=torch.float64)
    x = CONV[d](x, torch.ones(c, 1, *[3] * d, dtype=x.dtype), groups=c)
    return x + x.mean(1, keepdim=True) + 1


def places(kernel: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(product(*(range(m) for m in kernel)))


# Phases


@EVERY
def test_phase_sums_are_those_of_a_loop(kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
    v = drawn(kernel)
    expected = torch.zeros(4, 2, *stride, dtype=v.dtype)
    for tap in places(kernel):
        expected[(..., *(t % s for t, s in zip(tap, stride, strict=True)))] += v[(..., *tap)]
    torch.testing.assert_close(phase_sums(v, stride), expected, rtol=0, atol=EXACT)


@EVERY
def test_phases_are_the_taps_that_one_output_reads(kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
    v = drawn(kernel)
    split = phases.by_phase(v, stride)
    for tap in places(kernel):
        at = [t % s for t, s in zip(tap, stride, strict=True)] + [t // s for t, s in zip(tap, stride, strict=True)]
        assert torch.equal(split[(..., *at)], v[(..., *tap)])
    assert torch.equal(phases.from_phases(split, kernel), v)
    assert split.abs().sum() == pytest.approx(v.abs().sum().item(), rel=EXACT)  # and zeros elsewhere


def test_one_stride_for_all_axes_may_be_a_number() -> None:
    v, x = drawn((4, 5)), like_pictures(4, 2)
    assert torch.equal(phase_sums(v, 2), phase_sums(v, (2, 2)))
    assert torch.equal(evened(v, 2).kernel, evened(v, (2, 2)).kernel)
    assert torch.equal(held_fit(v, 2).kernel, held_fit(v, (2, 2)).kernel)
    assert torch.equal(patch_moments(x, (4, 5), 2).matrix, patch_moments(x, (4, 5), (2, 2)).matrix)


# Evened


def constraints(kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Rows that vanish on kernels whose phases have one sum: the sum of each phase minus that of the first, `[P-1 M]`."""
    rows = {phase: torch.zeros(kernel, dtype=torch.float64) for phase in places(stride)}
    for tap in places(kernel):
        rows[tuple(t % s for t, s in zip(tap, stride, strict=True))][tap] = 1
    first, *others = rows.values()
    return torch.stack([(row - first).flatten() for row in others])


@EVERY
def test_evened_is_the_orthogonal_projection(kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
    v = drawn(kernel)
    a = constraints(kernel, stride)
    flat = v.flatten(2)
    expected = flat - flat @ (torch.linalg.pinv(a) @ a).T
    fit = evened(v, stride)
    torch.testing.assert_close(fit.kernel.flatten(2), expected, rtol=0, atol=EXACT)
    assert fit.error == pytest.approx(((v - fit.kernel).norm() / v.norm()).item(), rel=EXACT)
    torch.testing.assert_close(evened(fit.kernel, stride).kernel, fit.kernel, rtol=0, atol=EXACT)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@EVERY
def test_evened_has_one_sum_a_channel_in_every_dtype(
    kernel: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, weighted: bool
) -> None:
    v = drawn(kernel).to(dtype)
    moments = patch_moments(like_pictures(4, len(kernel)), kernel, stride) if weighted else None
    fit = evened(v, stride, moments)
    assert fit.kernel.dtype == dtype
    sums = phase_sums(fit.kernel.double(), stride).flatten(2)
    # the smallest tap takes what rounding leaves: below one unit in the last place of a tap of order 1
    torch.testing.assert_close(
        sums, sums.mean(-1, keepdim=True).expand_as(sums), rtol=0, atol=max(torch.finfo(dtype).eps, EXACT)
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@EVERY
def test_an_evened_layer_passes_the_certificate(
    kernel: tuple[int, ...], stride: tuple[int, ...], groups: int, weighted: bool
) -> None:
    d = len(kernel)
    layer = LAYERS[d](4, 4, kernel, stride=stride, groups=groups).double()
    size = (4, *[12 if d == 3 else 20] * d)
    assert certify(layer, size).verdict == "fail"
    moments = patch_moments(like_pictures(4, d), kernel, stride, groups=groups) if weighted else None
    with torch.no_grad():
        layer.weight.copy_(evened(layer.weight, stride, moments).kernel)
    assert certify(layer, size).verdict == "pass"


def test_no_kernel_fills_holes() -> None:
    with pytest.raises(ValueError, match=r"weight: .*\[3, 1\].*\[2, 2\]"):
        evened(drawn((3, 1)), (2, 2))


# Held


def held_by_loops(w: Tensor, stride: tuple[int, ...], order: int) -> Tensor:
    """s^D (W * H_d), one tap of W and of the hold after the other."""
    lines = [s * hold(s, order) for s in stride]
    reach = [len(line) for line in lines]
    out = w.new_zeros(*w.shape[:2], *(k + r - 1 for k, r in zip(w.shape[2:], reach, strict=True)))
    for shift in places(tuple(reach)):
        gain = prod(line[i].item() for line, i in zip(lines, shift, strict=True))
        for tap in places(tuple(w.shape[2:])):
            out[(..., *(t + i for t, i in zip(tap, shift, strict=True)))] += gain * w[(..., *tap)]
    return out


@pytest.mark.parametrize("order", [0, 1])
@EVERY
def test_a_kernel_that_is_held_is_its_own_fit(kernel: tuple[int, ...], stride: tuple[int, ...], order: int) -> None:
    w = drawn(kernel)
    v = held_by_loops(w, stride, order)
    fit = held_fit(v, stride, order=order)
    torch.testing.assert_close(fit.weight, w, rtol=0, atol=SOLVED)
    torch.testing.assert_close(fit.kernel, v, rtol=0, atol=SOLVED)
    assert fit.error < SOLVED


@pytest.mark.parametrize(("order", "grow"), [(0, 0), (0, 1), (0, 2), (1, 2)])
@EVERY
def test_held_fits_are_orthogonal_projections(
    kernel: tuple[int, ...], stride: tuple[int, ...], order: int, grow: int
) -> None:
    v = drawn(kernel)
    if min(m + 2 * grow - (s - 1) * (order + 1) for m, s in zip(kernel, stride, strict=True)) < 1:
        pytest.skip("no taps left")
    fit = held_fit(v, stride, order=order, grow=grow)
    wide = F.pad(v, [grow] * 2 * len(kernel))
    torch.testing.assert_close(fit.kernel, held_by_loops(fit.weight, stride, order), rtol=0, atol=SOLVED)
    residual = wide - fit.kernel
    one = held_by_loops(torch.ones(1, 1, *[1] * len(kernel), dtype=v.dtype), stride, order)
    seen = CONV[len(kernel)](residual.flatten(0, 1).unsqueeze(1), one)  # by every held tap
    assert seen.abs().max() < SOLVED
    assert fit.error == pytest.approx((residual.norm() / v.norm()).item(), rel=SOLVED)
    again = held_fit(fit.kernel, stride, order=order)
    torch.testing.assert_close(again.weight, fit.weight, rtol=0, atol=SOLVED)


@EVERY
def test_evened_is_the_nearer_one_and_growing_brings_held_ones_nearer(
    kernel: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    v = drawn(kernel)
    errors = [held_fit(v, stride, grow=grow).error for grow in (0, 1, 2)]
    assert evened(v, stride).error <= errors[0] + EXACT  # held kernels of the same taps are even ones
    assert errors == sorted(errors, reverse=True)


def test_a_small_kernel_must_grow_to_be_held() -> None:
    with pytest.raises(ValueError, match=r"grow: .*\[2, 3\] taps.*got 0"):
        held_fit(drawn((2, 3)), (3, 2))
    assert held_fit(drawn((2, 3)), (3, 2), grow=1).weight.shape == (4, 2, 2, 4)


@pytest.mark.parametrize("groups", [1, 2])
@EVERY
def test_a_held_kernel_is_that_of_the_layer_and_of_the_resize_convolution(
    kernel: tuple[int, ...], stride: tuple[int, ...], groups: int
) -> None:
    d = len(kernel)
    x, v = like_pictures(4, d), drawn(kernel, 4, 3)
    fit = held_fit(v, stride)
    layer = HeldTransposed(
        4, 3 * groups, fit.weight.shape[2:], stride=stride, crop=[(0, 0)] * d, bias=False, groups=groups
    )
    with torch.no_grad():
        layer = layer.double()
        layer.weight.copy_(fit.weight)
        expected = DECONV[d](x, fit.kernel, stride=stride, groups=groups)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)  # responses of order 100
    for axis, s in enumerate(stride, start=2):
        x = x.repeat_interleave(s, axis)
    by_group = fit.weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(tuple(range(2, 2 + d)))
    pad = [m - 1 for m in by_group.shape[2:]]
    torch.testing.assert_close(CONV[d](x, by_group, padding=pad, groups=groups), expected, rtol=0, atol=1e-10)
    if len(set(stride)) == 1:
        torch.testing.assert_close(fold(by_group, stride[0], groups=groups), fit.kernel, rtol=0, atol=EXACT)


# Moments


@pytest.mark.parametrize("groups", [1, 2])
@EVERY
def test_moments_are_those_of_patches_in_loops(kernel: tuple[int, ...], stride: tuple[int, ...], groups: int) -> None:
    d = len(kernel)
    x = like_pictures(4, d, n=2, side=3)
    taps = tuple(-(-m // s) for m, s in zip(kernel, stride, strict=True))
    rows = []
    for image in x:
        for place in places(tuple(n + j - 1 for n, j in zip(image.shape[1:], taps, strict=True))):
            patch = torch.zeros(4, prod(taps), dtype=x.dtype)
            for i, tap in enumerate(places(taps)):
                at = tuple(p - j for p, j in zip(place, tap, strict=True))
                if all(0 <= a < n for a, n in zip(at, image.shape[1:], strict=True)):
                    patch[:, i] = image[(..., *at)]
            rows.append(patch)
    patches = torch.stack(rows).unflatten(1, (groups, -1))
    expected = torch.einsum("pgai,pgbj->gaibj", patches, patches) / len(rows)
    found = patch_moments(x, kernel, stride, groups=groups)
    assert found.patches == len(rows)
    torch.testing.assert_close(found.matrix, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("groups", [1, 2])
@EVERY
def test_the_output_error_is_that_of_the_layer(kernel: tuple[int, ...], stride: tuple[int, ...], groups: int) -> None:
    d = len(kernel)
    x, old, new = like_pictures(4, d), drawn(kernel), drawn(kernel)
    moments = patch_moments(x, kernel, stride, groups=groups)
    y, z = (DECONV[d](x, v, stride=stride, groups=groups) for v in (old, new))
    assert output_error(old, new, stride, moments) == pytest.approx(((y - z).norm() / y.norm()).item(), rel=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"),
    [
        ((5, 5), (2, 2), (2, 2), (1, 1)),
        ((6, 3), (3, 1), (0, 1), (0, 0)),
        ((4,), (2,), (2,), (0,)),
        ((1, 4), (1, 2), (0, 0), (0, 0)),
    ],
    ids=str,
)
def test_the_output_error_of_a_cropped_output_is_exact_where_all_phases_read_the_same_patches(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], more: tuple[int, ...], groups: int
) -> None:
    d = len(kernel)
    x, old, new = like_pictures(4, d, side=3), drawn(kernel), drawn(kernel)
    moments = patch_moments(x, kernel, stride, padding=padding, output_padding=more, groups=groups)
    y, z = (DECONV[d](x, v, None, stride, padding, more, groups) for v in (old, new))
    assert output_error(old, new, stride, moments) == pytest.approx(((y - z).norm() / y.norm()).item(), rel=1e-9)
    assert moments.patches * prod(stride) == len(x) * prod(y.shape[2:])


def test_a_grown_kernel_is_weighed_by_the_output_that_the_layer_keeps() -> None:
    x, v = torch.randn(50, 4, 1, 1, dtype=torch.float64), drawn((3, 3))
    moments = patch_moments(x, (3, 3), 2, grow=2)
    expected = patch_moments(x, (7, 7), 2, padding=2)
    assert moments.patches == expected.patches == 50 * 2 * 2  # outputs 3x3, of 2x2 patches
    assert torch.equal(moments.matrix, expected.matrix)
    y = F.conv_transpose2d(x, v, stride=2)
    plain, weighted = (
        (F.conv_transpose2d(x, held_fit(v, 2, grow=2, moments=m).kernel, stride=2, padding=2) - y).norm()
        for m in (None, moments)
    )
    assert weighted < plain / 2  # most of a grown kernel's taps lie beyond a map of one pixel, and cost nothing


def test_moments_do_not_depend_on_how_many_patches_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = like_pictures(4, 2)
    whole = patch_moments(x, (5, 5), (2, 2))
    monkeypatch.setattr(moments_of, "HELD_AT_ONCE", 100)
    torch.testing.assert_close(patch_moments(x, (5, 5), (2, 2)).matrix, whole.matrix, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("groups", [1, 2])
@EVERY
def test_white_moments_leave_the_plain_fits(kernel: tuple[int, ...], stride: tuple[int, ...], groups: int) -> None:
    v = drawn(kernel)
    c, j = 4 // groups, prod(-(-m // s) for m, s in zip(kernel, stride, strict=True))
    white = Moments(3 * torch.eye(c * j, dtype=v.dtype).view(c, j, c, j).expand(groups, -1, -1, -1, -1), 10**9)
    torch.testing.assert_close(evened(v, stride, white).kernel, evened(v, stride).kernel, rtol=0, atol=SOLVED)
    torch.testing.assert_close(
        held_fit(v, stride, moments=white).weight, held_fit(v, stride).weight, rtol=0, atol=SOLVED
    )


def errors_of(v: Tensor, x: Tensor, stride: tuple[int, ...], groups: int, grow: int, fit: str) -> tuple[float, float]:
    """What the layer's output on `x` differs by: with the plain fit, and with the weighted one."""
    d, kernel = v.ndim - 2, tuple(v.shape[2:])
    moments = patch_moments(x, [m + 2 * grow for m in kernel], stride, groups=groups)  # of the whole map
    if fit == "evened":
        found = [evened(v, stride), evened(v, stride, moments)]
    else:
        found = [held_fit(v, stride, grow=grow), held_fit(v, stride, grow=grow, moments=moments)]
    y = DECONV[d](x, F.pad(v, [grow] * 2 * d), stride=stride, groups=groups)
    plain, weighted = (
        ((y - DECONV[d](x, f.kernel, stride=stride, groups=groups)).norm() / y.norm()).item() for f in found
    )
    assert found[1].error == pytest.approx(weighted, rel=1e-6, abs=1e-9)
    return plain, weighted


@pytest.mark.parametrize(("fit", "grow"), [("evened", 0), ("held", 0), ("held", 1)])
@pytest.mark.parametrize("groups", [1, 2])
@EVERY
def test_the_weighted_fit_is_never_the_worse_one_on_its_input(
    kernel: tuple[int, ...], stride: tuple[int, ...], groups: int, fit: str, grow: int
) -> None:
    plain, weighted = errors_of(drawn(kernel), like_pictures(4, len(kernel)), stride, groups, grow, fit)
    assert weighted < plain  # whatever the ridge: it pulls towards the plain fit


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(2, 6), s=st.integers(2, 4), c=st.integers(1, 5), n=st.integers(1, 3), side=st.integers(1, 6),
    seed=st.integers(0, 2**16), fit=st.sampled_from(["evened", "held"]),
)  # fmt: skip
def test_nor_on_few_patches(size: int, s: int, c: int, n: int, side: int, seed: int, fit: str) -> None:
    if size < s:
        return
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(c, 2, size, size, generator=g, dtype=torch.float64)
    x = torch.randn(n, c, side, side, generator=g, dtype=torch.float64).relu()
    if x.any():
        plain, weighted = errors_of(v, x, (s, s), 1, 0, fit)
        assert weighted <= plain * (1 + 1e-9)


@pytest.mark.parametrize("fit", [evened, held_fit])
def test_the_weighted_fit_is_where_the_gradient_vanishes(fit: Any) -> None:
    kernel, stride = (5, 4), (2, 3)
    v, x = drawn(kernel), like_pictures(4, 2, n=400)
    moments = patch_moments(x, kernel, stride)
    found = fit(v, stride, moments=moments).kernel
    best = output_error(v, found, stride, moments)
    for _ in range(20):  # any step within the set that is projected onto
        step = fit(drawn(kernel), stride).kernel
        for size in (1e-2, -1e-2):
            assert output_error(v, found + size * step, stride, moments) > best


@pytest.mark.parametrize("fit", [evened, held_fit])
def test_dark_inputs_and_empty_kernels_have_fits(fit: Any) -> None:
    v = drawn((4, 4))
    dark = patch_moments(torch.zeros(1, 4, 3, 3), (4, 4), (2, 2))
    torch.testing.assert_close(fit(v, (2, 2), moments=dark).kernel, fit(v, (2, 2)).kernel, rtol=0, atol=SOLVED)
    assert fit(v, (2, 2), moments=dark).error == 0
    assert fit(torch.zeros_like(v), (2, 2)).error == 0
    assert not fit(torch.zeros_like(v), (2, 2)).kernel.any()


def test_inputs_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x: .*NaN"):
        patch_moments(torch.full((1, 4, 3, 3), float("nan")), (4, 4), (2, 2))
    with pytest.raises(ValueError, match=r"x: .*\[4, 3, 3\]"):
        patch_moments(torch.zeros(4, 3, 3), (4, 4), (2, 2))
    with pytest.raises(ValueError, match=r"x: .*\[1, 3\].*\(4, 0\)"):
        patch_moments(torch.zeros(1, 4, 1, 3), (4, 4), (2, 2), padding=(4, 0))
    with pytest.raises(ValueError, match=r"groups: .*4 channels.*3"):
        patch_moments(torch.zeros(1, 4, 3, 3), (4, 4), (2, 2), groups=3)
    with pytest.raises(ValueError, match=r"stride: .*\(2, 2, 2\)"):
        phase_sums(drawn((4, 4)), (2, 2, 2))
    wrong = patch_moments(torch.rand(1, 3, 3, 3), (4, 4), (2, 2))
    with pytest.raises(ValueError, match=r"moments: .*\[4 4\].*\[3 4\]"):
        evened(drawn((4, 4)), (2, 2), wrong)


def test_nothing_given_is_changed() -> None:
    v, x = drawn((5, 5)).requires_grad_(), like_pictures(4, 2)
    before, seen = v.detach().clone(), x.clone()
    moments = patch_moments(x, (5, 5), (2, 2))
    second = moments.matrix.clone()
    for fit in (
        evened(v, (2, 2), moments),
        held_fit(v, (2, 2), moments=moments),
        evened(v, (2, 2)),
        held_fit(v, (2, 2)),
    ):
        assert not fit.kernel.requires_grad
    assert torch.equal(v, before) and torch.equal(x, seen) and torch.equal(moments.matrix, second)
    assert v.grad is None


# Sub-pixel


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("size", "scale", "padding"), [(3, 2, 1), (4, 2, 2), (5, 3, 0), (1, 4, 0)])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_subpixel_convolutions_are_transposed_ones(d: int, size: int, scale: int, padding: int, groups: int) -> None:
    w = torch.randn(2 * groups * scale**d, 2, *[size] * d, dtype=torch.float64)
    x = torch.randn(2, 2 * groups, *[6] * d, dtype=torch.float64)
    expected = shuffle(CONV[d](x, w, padding=padding, groups=groups), scale)
    v = rewrites.from_subpixel(w, scale, groups=groups)
    y = DECONV[d](x, v, stride=scale, padding=scale * (size - 1 - padding), groups=groups)
    torch.testing.assert_close(y, expected, rtol=0, atol=EXACT)
    back = rewrites.as_subpixel(v, [scale] * d, groups=groups)
    assert torch.equal(back, w)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("size", "scale", "padding"), [(3, 2, 1), (4, 2, 1), (5, 2, 2), (2, 3, 0), (7, 4, 3), (3, 1, 1)]
)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_transposed_convolutions_are_subpixel_ones(d: int, size: int, scale: int, padding: int, groups: int) -> None:
    v, x = drawn((size,) * d), torch.randn(2, 4, *[5] * d, dtype=torch.float64)
    expected = DECONV[d](x, v, stride=scale, padding=padding, groups=groups)
    wide = rewrites.as_subpixel(v, [scale] * d, groups=groups)
    y = shuffle(CONV[d](x, wide, padding=[j - 1 for j in wide.shape[2:]], groups=groups), scale)
    y = y[(..., *(slice(padding, padding + n) for n in expected.shape[2:]))]
    torch.testing.assert_close(y, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize(("d", "scale"), [(1, 3), (2, 2), (3, 2)])
def test_alike_subpixel_phases_are_evened_transposed_ones(d: int, scale: int) -> None:
    w = torch.randn(3 * scale**d, 2, *[3] * d, dtype=torch.float64)
    expected = evened(rewrites.from_subpixel(w, scale), [scale] * d).kernel
    torch.testing.assert_close(rewrites.from_subpixel(alike(w, scale), scale), expected, rtol=0, atol=EXACT)


# Rewrites


def shuffled(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """A pixel shuffle with a stride for each axis, pixel by pixel."""
    phases = x.unflatten(1, (-1, *stride))
    out = x.new_zeros(len(x), phases.shape[1], *(n * s for n, s in zip(x.shape[2:], stride, strict=True)))
    for phase in places(stride):
        out[(..., *(slice(p, None, s) for p, s in zip(phase, stride, strict=True)))] = phases[
            (slice(None), slice(None), *phase)
        ]
    return out


def padded(x: Tensor, around: Any) -> Tensor:
    return F.pad(x, [side for pair in reversed(around) for side in pair])


def cropped(x: Tensor, crop: Any, bias: Tensor | None) -> Tensor:
    for axis, (before, behind) in enumerate(crop, start=2):
        assert before >= 0
        x = x.narrow(axis, before, x.shape[axis] - before - max(behind, 0))
    more = padded(torch.zeros_like(x), [(0, max(-behind, 0)) for _, behind in crop])
    if bias is not None:
        more += bias.view(-1, *[1] * (x.ndim - 2))
    more[(..., *(slice(0, n) for n in x.shape[2:]))] = x
    return more


GEOMETRY = [  # kernel, stride, padding, output padding
    ((3,), (2,), (0,), (0,)),
    ((7,), (3,), (5,), (2,)),
    ((5, 5), (2, 2), (2, 2), (1, 1)),  # DCGAN
    ((4, 4), (2, 2), (1, 1), (0, 0)),
    ((4, 3), (2, 3), (3, 0), (1, 2)),  # as much padding as the kernel reaches; output padding past it
    ((1, 2), (2, 4), (0, 0), (0, 3)),  # holes
    ((5, 4), (3, 1), (4, 1), (2, 0)),
    ((3, 4, 2), (2, 2, 3), (1, 2, 0), (0, 1, 2)),
]
GEOMETRIES = pytest.mark.parametrize(("kernel", "stride", "padding", "more"), GEOMETRY, ids=str)
BIASED = pytest.mark.parametrize("biased", [False, True])
GROUPED = pytest.mark.parametrize("groups", [1, 2])


def layer_and_input(kernel: tuple[int, ...], groups: int, biased: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    bias = torch.randn(2 * groups, dtype=torch.float64) if biased else None
    return drawn(kernel), bias, torch.randn(2, 4, *(6, 5, 4)[: len(kernel)], dtype=torch.float64)


@BIASED
@GROUPED
@GEOMETRIES
def test_the_subpixel_form_is_the_transposed_convolution(
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    more: tuple[int, ...],
    groups: int,
    biased: bool,
) -> None:
    d = len(kernel)
    v, bias, x = layer_and_input(kernel, groups, biased)
    expected = DECONV[d](x, v, bias, stride, padding, more, groups)
    form = rewrites.subpixel_form(v, bias, stride=stride, padding=padding, output_padding=more, groups=groups)
    assert all(0 <= side < s for pair, s in zip(form.crop, stride, strict=True) for side in pair)
    y = shuffled(CONV[d](padded(x, form.around), form.weight, form.bias, groups=groups), stride)
    torch.testing.assert_close(cropped(y, form.crop, None), expected, rtol=0, atol=EXACT)
    single = shuffled(
        CONV[d](padded(x.float(), form.around), form.weight.float(), biased_float(form.bias), groups=groups), stride
    )
    torch.testing.assert_close(cropped(single, form.crop, None), expected.float(), rtol=0, atol=FLOAT32)


def biased_float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()


@BIASED
@GROUPED
@GEOMETRIES
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_zero_insertion_is_the_transposed_convolution(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], more: tuple[int, ...],
    groups: int, biased: bool, dilation: int,
) -> None:  # fmt: skip
    d = len(kernel)
    v, bias, x = layer_and_input(kernel, groups, biased)
    expected = DECONV[d](x, v, bias, stride, padding, more, groups, dilation)
    form = rewrites.zero_insertion(
        v, bias, stride=stride, padding=padding, output_padding=more, dilation=dilation, groups=groups
    )
    apart = x.new_zeros(2, 4, *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
    apart[(..., *(slice(None, None, s) for s in stride))] = x
    y = CONV[d](padded(apart, form.around), form.weight, form.bias, groups=groups, dilation=dilation)
    torch.testing.assert_close(y, expected, rtol=0, atol=EXACT)
    assert torch.equal(rewrites.as_convolution(form.weight, groups=groups), v)


@BIASED
@GROUPED
@GEOMETRIES
def test_there_and_back_is_the_same_layer(
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    more: tuple[int, ...],
    groups: int,
    biased: bool,
) -> None:
    d = len(kernel)
    v, bias, x = layer_and_input(kernel, groups, biased)
    expected = DECONV[d](x, v, bias, stride, padding, more, groups)
    there = rewrites.subpixel_form(v, bias, stride=stride, padding=padding, output_padding=more, groups=groups)
    back = rewrites.transposed_form(there.weight, there.bias, stride=stride, around=there.around, groups=groups)
    crop = [(a + b, c + e) for (a, c), (b, e) in zip(back.crop, there.crop, strict=True)]
    y = DECONV[d](x, back.weight, back.bias, stride, groups=groups)
    torch.testing.assert_close(cropped(y, crop, back.bias), expected, rtol=0, atol=EXACT)
    assert torch.equal(back.weight[(..., *(slice(0, m) for m in kernel))], v)


@GROUPED
@pytest.mark.parametrize("around", [((1, 1), (1, 1)), ((0, 2), (1, 0)), ((2, 2), (3, 1)), ((-1, 0), (0, 0))])
def test_a_shuffled_convolution_is_a_transposed_one(around: Any, groups: int) -> None:
    stride = (2, 3)
    w, x = torch.randn(12 * groups, 2, 3, 2, dtype=torch.float64), torch.randn(2, 2 * groups, 6, 5, dtype=torch.float64)
    bias = torch.randn(2 * groups, dtype=torch.float64)
    wide = bias.repeat_interleave(6)
    expected = shuffled(F.conv2d(padded(x, around), w, wide, groups=groups), stride)
    form = rewrites.transposed_form(w, wide, stride=stride, around=around, groups=groups)
    assert form.bias is not None and torch.equal(form.bias, bias)
    y = F.conv_transpose2d(x, form.weight, form.bias, stride, groups=groups)
    if min(side for pair in form.crop for side in pair) >= 0:
        torch.testing.assert_close(cropped(y, form.crop, form.bias), expected, rtol=0, atol=EXACT)
    else:  # more zeros than the taps reach: biases in front
        wider = y.new_zeros(*expected.shape) + form.bias.view(-1, 1, 1)
        (top, bottom), (left, right) = form.crop
        inner = y[..., max(top, 0) : y.shape[-2] - max(bottom, 0), max(left, 0) : y.shape[-1] - max(right, 0)]
        at = (
            ...,
            slice(max(-top, 0), max(-top, 0) + inner.shape[-2]),
            slice(max(-left, 0), max(-left, 0) + inner.shape[-1]),
        )
        wider[at] = inner
        torch.testing.assert_close(wider, expected, rtol=0, atol=EXACT)


def test_phases_with_biases_of_their_own_are_no_transposed_convolution() -> None:
    w = torch.randn(8, 2, 3, 3)
    with pytest.raises(ValueError, match=r"bias: .*1 of 2 differ.*eq\. 9"):
        rewrites.transposed_form(w, torch.tensor([1.0, 1, 1, 1, 2, 2, 2, 3]), stride=2, around=((1, 1), (1, 1)))


def test_dcgan_layers_are_plain_subpixel_layers() -> None:
    form = rewrites.subpixel_form(drawn((5, 5)), stride=2, padding=2, output_padding=1)
    assert (form.around, form.crop) == (((1, 1), (1, 1)), ((0, 0), (0, 0)))
    assert form.weight.shape == (8, 4, 3, 3)


@GROUPED
@EVERY
def test_layouts_are_exchanged_and_a_convolution_of_stride_one_is_a_transposed_one(
    kernel: tuple[int, ...], stride: tuple[int, ...], groups: int
) -> None:
    d = len(kernel)
    v, x = drawn(kernel), torch.randn(1, 4, *[8] * d, dtype=torch.float64)
    w = rewrites.as_convolution(v, groups=groups)
    assert w.shape == (2 * groups, 4 // groups, *kernel)
    y = CONV[d](x, w, padding=[m - 1 for m in kernel], groups=groups)
    torch.testing.assert_close(y, DECONV[d](x, v, groups=groups), rtol=0, atol=EXACT)
    assert torch.equal(rewrites.as_convolution(w, groups=groups), v)
