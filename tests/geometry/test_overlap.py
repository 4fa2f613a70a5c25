"""Overlap against convolutions of ones, the counts that Distill and its readers published, and the laws of stacks."""

from collections.abc import Callable
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradlens.geometry import (
    TransposedConv,
    box_response,
    coverage,
    overlap,
    overlap_class,
    stack_coverage,
    stack_overlap,
    stack_periods,
)

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def painted(layers: list[TransposedConv], length: tuple[int, ...]) -> Tensor:
    """The same count as a person would make it: ones through transposed convolutions whose kernels are ones."""
    x = torch.ones(1, 1, *length, dtype=torch.float64)
    for layer in layers:
        size = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * len(length)
        x = TRANSPOSED[len(length)](
            x, torch.ones(1, 1, *size, dtype=torch.float64), None, layer.stride, layer.padding, layer.output_padding, 1,
            layer.dilation,
        )  # fmt: skip
    return x[0, 0].long()


@st.composite
def transposed_convs(draw: st.DrawFn, axes: int, most: int = 5) -> TransposedConv:
    rows = []
    for _ in range(axes):
        kernel, stride, dilation = (draw(st.integers(1, n)) for n in (most, 4, 3))
        padding = draw(st.integers(0, dilation * (kernel - 1) // 2))
        rows.append((kernel, stride, padding, draw(st.integers(0, max(stride, dilation) - 1)), dilation))
    return TransposedConv(*zip(*rows, strict=True))


@given(st.data(), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_counts_what_a_transposed_convolution_of_ones_gives(data: st.DataObject, axes: int) -> None:
    layer = data.draw(transposed_convs(axes))
    length = data.draw(st.tuples(*[st.integers(1, 5)] * axes))
    ours = overlap(
        layer.kernel_size, layer.stride, length, padding=layer.padding, output_padding=layer.output_padding,
        dilation=layer.dilation,
    )  # fmt: skip
    assert ours.dtype == torch.int64
    assert torch.equal(ours, painted([layer], length))


@given(st.data(), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_counts_the_paths_through_stacks(data: st.DataObject, axes: int) -> None:
    layers = data.draw(st.lists(transposed_convs(axes, most=4), min_size=1, max_size=3))
    length = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    assert torch.equal(stack_overlap(layers, length), painted(layers, length))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (7, 2, 3, 1), (1, 2, 0, 1), (3, 3, 0, 2)]
)
@pytest.mark.parametrize("size", [8, 9, 11])
def test_is_the_backward_pass_of_a_strided_convolution(
    axes: int, kernel: int, stride: int, padding: int, dilation: int, size: int
) -> None:
    x = torch.zeros(1, 1, *[size] * axes, dtype=torch.float64, requires_grad=True)
    y = CONV[axes](x, torch.ones(1, 1, *[kernel] * axes, dtype=torch.float64), None, stride, padding, dilation)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    ours = overlap(
        kernel, stride, tuple(y.shape[2:]), padding=padding, dilation=dilation,
        output_padding=(size + 2 * padding - dilation * (kernel - 1) - 1) % stride,
    )  # fmt: skip
    assert torch.equal(ours, gradient[0, 0].long())


@given(st.data(), st.integers(1, 2))
@settings(max_examples=80, deadline=None)
def test_far_from_the_border_a_stack_has_its_coverage_at_the_phase_it_names(data: st.DataObject, axes: int) -> None:
    layers = data.draw(st.lists(transposed_convs(axes, most=4), min_size=1, max_size=2))
    period, steady = [1] * axes, stack_coverage(layers)
    offset = [0] * axes
    for layer in layers:
        for axis in range(axes):
            period[axis] *= layer.stride[axis]  # type: ignore[index]
            offset[axis] = layer.stride[axis] * offset[axis] + layer.padding[axis]  # type: ignore[index]
    assert list(steady.shape) == period
    assert int(steady.sum()) == prod(prod(layer.kernel_size) for layer in layers)  # type: ignore[arg-type]
    whole = stack_overlap(layers, 24)
    for axis in range(axes):
        middle = whole.shape[axis] // 2
        phases = (torch.arange(whole.shape[axis]) + offset[axis]) % period[axis]
        whole = whole.index_select(axis, torch.arange(middle, middle + period[axis]))
        steady = steady.index_select(axis, phases[middle : middle + period[axis]])
    assert torch.equal(whole, steady)


def test_the_numbers_of_the_article_and_of_the_post() -> None:
    assert coverage(3, 2).tolist() == [2, 1]
    assert coverage(3, (2, 2)).tolist() == [[4, 2], [2, 1]]  # "a factor of four"
    assert coverage(4, 2).tolist() == [2, 2]
    assert coverage(1, (2, 2)).tolist() == [[1, 0], [0, 0]]  # three pixels in four get nothing
    assert coverage(5, 2).tolist() == [3, 2]
    assert sorted(coverage(5, (2, 2)).flatten().tolist()) == [4, 6, 6, 9]
    assert overlap(3, (2, 2), 2).flatten().unique().tolist() == [1, 2, 4]  # "up to four times, others just once"
    four = overlap(4, (2, 2), 2)
    assert four.max() == 4 and four[2:4, 2:4].tolist() == [[4, 4], [4, 4]] and int((four == 4).sum()) == 4
    assert stack_coverage([TransposedConv(3, 2)] * 2).tolist() == [3, 2, 3, 1]
    assert stack_periods([TransposedConv(3, 2)] * 2) == ((2, 4),)
    assert stack_periods([TransposedConv(5, 2), TransposedConv(11, 3)]) == (
        (2, 3, 6),
    )  # 3, 6 and the 3rd harmonic of 6
    assert stack_periods([TransposedConv(3, 2), TransposedConv(2, 2)]) == ((4,),)  # the even layer hands on what it got
    assert stack_periods([TransposedConv(3, 2), TransposedConv(4, 2)]) == ((),)  # its four taps are also a tail


@given(st.integers(1, 12), st.integers(1, 7), st.integers(1, 3))
@settings(deadline=None)
def test_the_class_says_what_the_kernel_and_the_stride_decide(kernel: int, stride: int, axes: int) -> None:
    word = overlap_class(kernel, (stride,) * axes)
    assert (word == "holes") == (kernel < stride)
    assert (word == "none") == (kernel == stride)
    assert (word == "partial") == (kernel > stride and kernel % stride > 0)
    assert (word == "full") == (kernel > stride and kernel % stride == 0)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3))
@settings(deadline=None)
def test_periods_are_those_of_the_fourier_transform(sizes: list[tuple[int, int, int]]) -> None:
    layers = [TransposedConv(k, s, dilation=d) for k, s, d in sizes]
    count = stack_coverage(layers).double()
    total = len(count)
    lines = torch.fft.fft(count).abs() / count.sum()
    expected = {
        total // torch.gcd(torch.tensor(m), torch.tensor(total)).item() for m in range(1, total) if lines[m] > 1e-9
    }
    assert set(stack_periods(layers)[0]) == expected  # 1e-9: a line is at least 1e-4 here, rounding at most 1e-15


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
@settings(deadline=None)
def test_the_box_is_the_fourier_transform_of_its_taps(kernel: int, period: int, dilation: int) -> None:
    taps = torch.zeros(period, dtype=torch.float64)
    for tap in range(kernel):
        taps[tap * dilation % period] += 1 / kernel
    response = box_response(kernel, period, dilation=dilation)
    torch.testing.assert_close(response, torch.fft.fft(taps).abs(), rtol=0, atol=1e-14)  # double rounding
    if dilation == 1:
        assert (response[1:] == 0).all() == (kernel % period == 0)
        assert bool((response[1:] < 1).all()) == (kernel > 1 or period == 1)


@given(st.integers(2, 9), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=2))
@settings(deadline=None)
def test_a_tail_counted_is_a_tail_calculated(kernel: int, sizes: list[tuple[int, int]]) -> None:
    layers = [TransposedConv(*size) for size in sizes]
    before, after = stack_coverage(layers), stack_coverage([*layers, TransposedConv(kernel)])
    lines = torch.fft.fft(before.double()).abs() * kernel * box_response(kernel, len(before))
    torch.testing.assert_close(torch.fft.fft(after.double()).abs(), lines, rtol=1e-12, atol=1e-9)  # double rounding
    assert all(kernel % period for period in stack_periods([*layers, TransposedConv(kernel)])[0])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: overlap(0, 2, 4), ValueError, "kernel_size: must be at least 1, got 0"),
        (lambda: overlap(3, 2, 4, padding=-1), ValueError, "padding: must be at least 0, got -1"),
        (lambda: overlap(3, 2, 4, padding="same"), TypeError, "padding: must be an int .* got 'same'"),  # type: ignore[arg-type]
        (lambda: overlap(3, 2, 4, output_padding=2), ValueError, "output_padding: must be less than the stride 2 .* got 2"),
        (lambda: overlap((3, 3), (2, 2, 2), 4), ValueError, "2 for kernel_size, 3 for stride"),
        (lambda: overlap(3, 2, 1, padding=2), ValueError, "padding: 2 at both ends .* take at most 1"),
        (lambda: overlap(3.0, 2, 4), TypeError, "got 3.0"),  # type: ignore[arg-type]
        (lambda: coverage(True, 2), TypeError, "got True"),
        (lambda: coverage((), 2), TypeError, r"got \(\)"),
        (lambda: stack_coverage([]), ValueError, "layers: at least one"),
        (lambda: stack_overlap([TransposedConv(3), TransposedConv(3, 0)], 4), ValueError, r"layers\[1\].stride: .* got 0"),
        (lambda: stack_coverage([TransposedConv((9, 9))] * 11), ValueError, "do not fit 64 bits"),
        (lambda: box_response(3, 0), ValueError, "period: must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_refuses_in_one_sentence(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
