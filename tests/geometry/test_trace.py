"""The trace finds every spatial operation, however it is written, with the periods of each path; and leaves no trace."""

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.geometry import periods, trace
from gradlens.geometry.tracing import INPUT, Trace
from gradlens.networks import DCGANGenerator, LapSRN, SRGANGenerator, StyleTransfer


class Written(nn.Module):
    """A network that is a function; what it needs of parameters is in `parts`."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.run = nn.ModuleDict(parts), run

    def forward(self, x: Tensor) -> Any:
        return self.run(x, **self.parts)


def kinds(run: Trace) -> list[str]:
    return [step.call.kind for step in run.steps]


def spans(run: Trace, direction: str = "backward") -> list[Any]:
    """The period of each step on its first axis; those of every path where there are several."""
    found = [sorted({p[0] for p in run.periods(step, direction)}) for step in run.steps]  # type: ignore[arg-type]
    return [values[0] if len(values) == 1 else tuple(values) for values in found]


def test_the_network_of_captum_852() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 11, stride=3), nn.ReLU(), nn.Conv2d(8, 8, 5, stride=2))
    assert periods(network, (3, 64, 64)) == ((3, 6), (3, 6))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", (2, 4, 8, 16, 32)),
        ("vit_tiny_patch16_224", (16,)),
        ("swin_tiny_patch4_window7_224", (4, 8, 16, 32)),
        ("levit_128s", (2, 4, 8, 16, 32, 64)),
        ("mixer_s32_224", (32,)),
        ("hiera_tiny_224", (4, 8, 16, 32)),
        ("halonet26t", (2, 4, 8, 16, 32, 128)),  # the last of windows of keys with halos
    ],
)
def test_periods_of_architectures(name: str, expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    size = timm.data.resolve_model_data_config(network)["input_size"]
    found = periods(network, size)
    assert found == (expected, expected)


def test_periods_of_generators_are_in_pixels_of_the_output() -> None:
    assert periods(DCGANGenerator(), (100,), direction="forward") == ((2, 4, 8), (2, 4, 8))
    assert periods(DCGANGenerator(), (100,)) == ((), ())
    assert periods(LapSRN(), (1, 8, 8), direction="forward") == ((2, 4), (2, 4))
    assert periods(SRGANGenerator(), (3, 8, 8), direction="forward") == ((2, 4), (2, 4))
    style = StyleTransfer()
    assert periods(style, (3, 32, 32)) == periods(style, (3, 32, 32), direction="forward") == ((2, 4), (2, 4))


def unshuffle_by_slices(x: Tensor) -> Tensor:
    return torch.cat([x[..., i::2, j::2] for i in range(2) for j in range(2)], 1)


def unshuffle_by_view(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def shuffle_by_view(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)


def copies_by_expand(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


def copies_by_stack(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = torch.stack([x, -x], dim=-1).reshape(n, c, h, 2 * w)
    return torch.stack([y, -y], dim=3).reshape(n, c, 2 * h, 2 * w)


def interleaved(phases: list[tuple[int, int]]) -> Callable[[Tensor], Tensor]:
    def write(x: Tensor) -> Tensor:
        out = x.new_zeros(1, 4, 32, 32)
        for i, j in phases:
            out[:, :, i::2, j::2] = x * (i + j + 1)
        return out

    return write


@pytest.mark.parametrize(
    ("write", "kind", "ratio", "kernel"),
    [
        (lambda x: x[:, :, ::2, ::2], "subsample", 2, 1),
        (unshuffle_by_slices, "pixel_unshuffle", 2, 2),
        (unshuffle_by_view, "pixel_unshuffle", 2, 2),
        (lambda x: F.pixel_unshuffle(x, 2), "pixel_unshuffle", 2, 2),
        (shuffle_by_view, "pixel_shuffle", Fraction(1, 2), 2),
        (lambda x: F.pixel_shuffle(x, 2), "pixel_shuffle", Fraction(1, 2), 2),
        (copies_by_expand, "nearest", Fraction(1, 2), 2),
        (copies_by_stack, "pixel_shuffle", Fraction(1, 2), 2),
        (interleaved([(0, 0)]), "interleave", Fraction(1, 2), 1),
        (interleaved([(0, 0), (1, 1)]), "interleave", Fraction(1, 2), 1),
        (interleaved([(0, 0), (1, 1), (0, 1), (1, 0)]), "interleave", Fraction(1, 2), 2),
        (lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, dim=3), "nearest", Fraction(1, 2), 2),
        (lambda x: x.unflatten(2, (8, 2)).unflatten(-1, (8, 2)).mean((3, 5)), "avg_pool", 2, 2),
        (lambda x: x.unflatten(2, (8, 2)).unflatten(-1, (8, 2)).amax((3, 5)), "max_pool", 2, 2),
        (lambda x: (x[..., ::2, :] + x[..., 1::2, :]).unflatten(-1, (8, 2)).sum(-1), "avg_pool", 2, 2),
        (lambda x: F.interpolate(x, scale_factor=2), "nearest", Fraction(1, 2), 2),
        (lambda x: F.interpolate(x, size=32, mode="bilinear"), "bilinear", Fraction(1, 2), 4),
        (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"), "bilinear", 2, 2),
        (lambda x: F.interpolate(x, scale_factor=0.25, mode="bilinear"), "bilinear", 4, 2),
        (lambda x: F.interpolate(x, scale_factor=0.25, mode="bilinear", antialias=True), "bilinear", 4, 4),
        (lambda x: F.max_pool2d(x, 3, 2, 1), "max_pool", 2, 3),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool", 2, 2),
        (lambda x: F.lp_pool2d(x, 2, 2), "lp_pool", 2, 2),
        (lambda x: F.adaptive_avg_pool2d(x, 8), "adaptive_avg_pool", 2, 2),
        (lambda x: F.adaptive_max_pool2d(x, 4), "adaptive_max_pool", 4, 4),
        (lambda x: F.conv2d(x, torch.ones(4, 4, 4, 4), stride=4), "conv", 4, 4),
        (lambda x: F.conv_transpose2d(x, torch.ones(4, 4, 4, 4), stride=2), "conv_transpose", Fraction(1, 2), 4),
        (lambda x: F.unfold(x, 4, stride=2, padding=1), "unfold", 2, 4),
        (lambda x: F.fold(x.reshape(1, 16, 64), 16, 4, stride=2, padding=1), "fold", Fraction(1, 2), 4),
    ],
)  # fmt: skip
def test_one_operation_however_it_is_written(write: Callable, kind: str, ratio: Any, kernel: int) -> None:
    (step,) = trace(Written(write), (4, 16, 16)).steps
    assert (step.call.kind, step.call.ratio, step.call.kernel) == (kind, (ratio, ratio), (kernel, kernel))
    assert step.sources == {INPUT}


def test_channels_last_tokens_and_windows_keep_their_place() -> None:
    def write(x: Tensor, conv: nn.Module, merge: nn.Module, mix: nn.Module, last: nn.Module) -> Tensor:
        x = conv(x).permute(0, 2, 3, 1)  # [N 16 16 8]
        windows = x.view(1, 4, 4, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(16, 16, 8)
        windows = windows + F.scaled_dot_product_attention(windows, windows, windows)
        x = windows.view(1, 4, 4, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(1, 16, 16, 8)
        x = torch.roll(x, 2, dims=1)
        merged = torch.cat([x[:, i::2, j::2] for i in range(2) for j in range(2)], -1)
        tokens = merge(merged).flatten(1, 2)  # [N 64 8]
        tokens = torch.cat([torch.zeros(1, 1, 8), tokens], 1)
        tokens = tokens + mix(tokens.transpose(1, 2)).transpose(1, 2)
        return last(tokens[:, 1:].transpose(1, 2).unflatten(2, (8, 8)))

    parts = {
        "conv": nn.Conv2d(3, 8, 2, 2),
        "merge": nn.Linear(32, 8),
        "mix": nn.Linear(65, 65),
        "last": nn.Conv2d(8, 8, 3, 2, 1),
    }
    run = trace(Written(write, **parts), (3, 32, 32))
    assert kinds(run) == ["conv", "pixel_unshuffle", "conv"]
    assert spans(run) == [2, 4, 8]
    assert [step.layer for step in run.steps] == ["parts.conv", "parts.merge", "parts.last"]


def test_branches_that_meet() -> None:
    def pyramid(x: Tensor, down: nn.Module, up: nn.Module, side: nn.Module) -> Tensor:
        y = down(x)
        return side(x) + F.interpolate(up(y), scale_factor=2)

    run = trace(
        Written(pyramid, down=nn.Conv2d(3, 4, 4, 2, 1), up=nn.Conv2d(4, 4, 1), side=nn.Conv2d(3, 4, 1)), (3, 8, 8)
    )
    assert [(step.layer, sorted(step.sources)) for step in run.steps] == [
        ("parts.down", [INPUT]), ("parts.side", [INPUT]), ("parts.up", [0]), ("(network)", [2]),
    ]  # fmt: skip
    assert run.outputs == (frozenset({1, 3}),)
    assert [meeting.branches for meeting in run.meetings] == [(frozenset({1}), frozenset({3}))]
    assert spans(run) == [2, 1, 2, 2]


def test_two_paths_with_different_strides_have_two_periods() -> None:
    def write(x: Tensor, a: nn.Module, b: nn.Module, last: nn.Module) -> Tensor:
        return last(a(x) + b(x)[..., :7, :7])

    run = trace(Written(write, a=nn.Conv2d(3, 4, 4, 2), b=nn.Conv2d(3, 4, 1), last=nn.Conv2d(4, 4, 2, 2)), (3, 16, 16))
    assert spans(run)[-1] == (2, 4)


def test_attention_over_pooled_keys_stays_on_the_grid_of_its_queries() -> None:
    def write(x: Tensor, pool: nn.Module, last: nn.Module) -> Tensor:
        q, k = x.flatten(2).transpose(1, 2), pool(x).flatten(2).transpose(1, 2)
        y = (q @ k.transpose(1, 2)).softmax(-1) @ k
        return last(y.transpose(1, 2).reshape(x.shape))

    run = trace(Written(write, pool=nn.Conv2d(4, 4, 4, 4), last=nn.Conv2d(4, 4, 2, 2)), (4, 16, 16))
    assert spans(run) == [4, 2]
    assert (run.steps[1].sources, run.steps[1].also) == ({INPUT}, {0})


def test_a_gate_hands_on_no_lattice() -> None:
    def write(x: Tensor, gate: nn.Module, last: nn.Module) -> Tensor:
        return last(x * gate(x.mean((2, 3), keepdim=True)))

    run = trace(Written(write, gate=nn.Conv2d(4, 4, 1), last=nn.Conv2d(4, 4, 2, 2)), (4, 16, 16))
    assert kinds(run) == ["conv"]
    assert spans(run) == [2]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_axes(axes: int) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    network = Written(lambda x, a, b: b(pool(a(x), 2)), a=conv(2, 4, 3, stride=3), b=up(4, 2, 6, stride=6))
    size = (2, *[36] * axes)
    assert periods(network, size) == ((3, 6),) * axes
    assert periods(network, size, direction="forward") == ((6,),) * axes


def test_anisotropic_strides() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, (3, 4), stride=(1, 2)), nn.AvgPool2d((2, 1)))
    assert periods(network, (1, 16, 16)) == ((2,), (2,))


def test_a_module_that_runs_twice_has_two_rows() -> None:
    run = trace(Written(lambda x, step: step(step(x)), step=nn.Conv2d(3, 3, 4, 2, 1)), (3, 16, 16))
    assert [step.layer for step in run.steps] == ["parts.step", "parts.step#2"]
    assert spans(run) == [2, 4]


@pytest.mark.parametrize("wrap", [lambda y: (y, None), lambda y: {"a": [y]}, lambda y: type("Out", (), {})])
def test_whatever_a_network_returns(wrap: Callable) -> None:
    def write(x: Tensor, conv: nn.Module) -> Any:
        out = wrap(conv(x))
        if isinstance(out, type):
            out = out()
            out.sample = conv(x)
        return out

    run = trace(Written(write, conv=nn.Conv2d(3, 3, 4, 2, 1)), (3, 16, 16))
    assert run.outputs == (frozenset({len(run.steps) - 1}),)


def test_an_autoencoder_forgets_the_lattice_in_its_code() -> None:
    parts = {"down": nn.Conv2d(3, 4, 4, 4), "code": nn.Linear(64, 32), "up": nn.ConvTranspose2d(8, 3, 4, 4)}
    write = lambda x, down, code, up: up(code(down(x).flatten(1)).view(1, 8, 2, 2))  # noqa: E731
    run = trace(Written(write, **parts), (3, 16, 16))
    assert spans(run) == [4, ()]
    assert spans(run, "forward") == [(), 4]


def test_fixed_taps_are_weighed() -> None:
    class Blur(nn.Module):
        def __init__(self, taps: list[float]) -> None:
            super().__init__()
            row = torch.tensor(taps)
            self.register_buffer("filter", (row[:, None] * row).expand(3, 1, -1, -1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.filter, stride=2, groups=3)

    def even(network: nn.Module) -> bool | None:
        run = trace(network, (3, 16, 16))
        assert not run.data_dependent
        return run.steps[0].even

    assert even(Blur([1.0, 2.0, 1.0])) is True
    assert even(Blur([1.0, 1.0, 1.0])) is False
    assert even(nn.Conv2d(3, 3, 3, 2)) is None


def test_unused_layers() -> None:
    network = Written(lambda x, used, idle: used(x), used=nn.Conv2d(3, 3, 1), idle=nn.Conv2d(3, 3, 1))
    assert trace(network, (3, 8, 8)).unused == ("parts.idle",)


class Fickle(nn.Module):
    """Its control flow depends on data; it keeps tables, counts its calls and draws random numbers."""

    def __init__(self, *, fail: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4)
        self.fail = fail
        self.calls, self.table, self.seen = 0, {}, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.table[x.shape] = self.cached = torch.zeros(3)
        self.seen.append(x)
        y = self.norm(self.conv(x)) + torch.rand(())
        if self.fail:
            raise RuntimeError("no")
        return y if y.sum() > 1e9 else F.max_pool2d(y, 2)


def test_control_flow_that_depends_on_data_runs_on_noise() -> None:
    run = trace(Fickle(), (3, 16, 16))
    assert run.data_dependent
    assert spans(run) == [2, 4]


@pytest.mark.parametrize("fail", [False, True])
def test_the_network_is_left_as_it_was(fail: bool) -> None:
    network = Fickle(fail=fail).train()
    network.norm.eval()
    network.conv.weight.requires_grad_(False)
    network.norm.weight.grad = torch.ones(4)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    names, random = set(vars(network)), torch.random.get_rng_state()
    grads = torch.is_grad_enabled()
    if fail:
        with pytest.raises(ValueError, match="does not run"):
            trace(network, (3, 16, 16))
    else:
        trace(network, (3, 16, 16))
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert (network.training, network.norm.training) == (True, False)
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert torch.equal(network.norm.weight.grad, torch.ones(4))
    assert (set(vars(network)), network.calls, network.table, network.seen) == (names, 0, {}, [])
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.is_grad_enabled() == grads
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_weights_without_data_suffice_and_are_not_read() -> None:
    with torch.device("meta"):
        large = nn.Sequential(nn.Conv2d(3, 4096, 4, 2, 1), *[nn.Conv2d(4096, 4096, 3, padding=1) for _ in range(2)])
    assert sum(p.numel() for p in large.parameters()) > 300_000_000
    assert periods(large, (3, 512, 512)) == ((2,), (2,))


def test_a_size_that_does_not_run_is_refused_with_one_that_does() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Flatten(), nn.Linear(4 * 16 * 16, 2))
    with pytest.raises(ValueError, match=r"does not run on 3 x 30 x 30: layer '2' fails .*; 3 x 32 x 32 would do"):
        trace(network, (3, 30, 30))
    with pytest.raises(ValueError, match=r"layer '0' fails .*; 3 x 32 x 32 would do"):
        trace(network, (1, 32, 32))


@pytest.mark.parametrize("size", [(), (3, 0), (3, 8, 8, 8, 8), (3, 8.0), (True, 8)])
def test_bad_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match="input_size: must be"):
        trace(nn.Identity(), size)


def test_a_compiled_network_runs_eagerly() -> None:
    inside = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Sequential(nn.Conv2d(4, 4, 2, 2)))
    inside[1].compile()
    for network in (inside, torch.compile(nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 4, 2, 2)))):
        run = trace(network, (3, 16, 16))
        assert (spans(run), run.data_dependent) == ([2, 4], "")


def test_queries_that_all_windows_share_are_on_their_grid() -> None:
    def write(x: Tensor, conv: nn.Module, last: nn.Module) -> Tensor:
        x = conv(x).permute(0, 2, 3, 1)  # [N 8 8 4]
        windows = x.view(1, 2, 4, 2, 4, 4).permute(0, 1, 3, 2, 4, 5).reshape(4, 16, 4)
        shared = F.avg_pool2d(x.permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2).repeat(4, 1, 1)
        by_hand = (shared @ windows.transpose(1, 2)).softmax(-1) @ windows
        y = by_hand + F.scaled_dot_product_attention(shared, windows, windows)
        return last(y.view(1, 2, 2, 4, 4, 4).permute(0, 5, 1, 3, 2, 4).reshape(1, 4, 8, 8))

    run = trace(Written(write, conv=nn.Conv2d(3, 4, 2, 2), last=nn.Conv2d(4, 4, 2, 2)), (3, 16, 16))
    assert (kinds(run), spans(run)) == (["conv", "avg_pool", "conv"], [2, 4, 4])
    assert (run.steps[2].sources, run.steps[2].also) == ({0}, {1})


def test_a_script_module_is_refused() -> None:
    with pytest.raises(ValueError, match="0 is a ScriptModule"):
        trace(nn.Sequential(torch.jit.script(nn.ReLU())), (3, 8, 8))


def test_geometry_loads_torch_and_nothing_heavier() -> None:
    code = "import sys, gradlens.geometry; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "timm", "matplotlib", "scipy", "cyclopts"} & set(done.stdout.split())
