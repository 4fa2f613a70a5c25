"""`gradlens redesign --train`: what is proposed, what is trained, what is chosen, what is left, faults."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pypdf import PdfReader
from torch import nn

from gradlens import commands, models
from gradlens.networks import DCGANGenerator, Rebuilt, StagedDiscriminator, StagedGenerator
from gradlens.networks.rebuilt import described
from gradlens.redesign import TrainConfig, swap, train
from gradlens.redesign.choice import choose, excess
from gradlens.redesign.gan.build import Ready
from gradlens.redesign.gan.dataset import of_tensor
from gradlens.redesign.proposals import BEFORE, FRESH, propose
from gradlens.redesigns import Config, redesign
from gradlens.report.retraining import Retrained, short_table
from gradlens.report.run import number
from gradlens.report.training_quality import measured
from gradlens.results import Results

pytestmark = pytest.mark.slow  # their cells and runs take tens of seconds

TINY = {"resolution": 16, "latent": 4, "width": 2, "upsampler": "deconv:5"}
STAGED = "gradlens.networks:StagedGenerator"


def staged() -> models.Model:
    return models.generator(STAGED, weights="random", model_args=TINY, input_size=[4], mean=[0.5], std=[0.5])


def latents(*size: int) -> torch.Tensor:
    return torch.randn(16, *size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number_ in range(24):
        ramp = np.linspace(0, 200, 16)[:, None, None] + rng.integers(0, 50, (16, 16, 3))
        Image.fromarray(ramp.astype(np.uint8)).save(folder / f"{number_:02}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    torch.manual_seed(0)
    config = Config(
        STAGED, train=True, data=(pictures,), weights="random", model_args=TINY, input_size=(4,), mean=(0.5,), std=(0.5,),
        to=("resize",), count=16, periods=(2, 4), brief_steps=2, steps=4, batch_size=4, rated=20,
        discriminator_args={"width": 2}, out=tmp_path_factory.mktemp("retraining") / "run",
    )  # fmt: skip
    return redesign(config)


# A rebuilt network


@pytest.mark.parametrize("to", ["resize", "even"])
def test_a_rebuilt_network_is_what_the_surgery_gave(to: str) -> None:
    model = models.generator()
    found, _ = propose(model, *models.built_by("dcgan_svhn", "generator"), latents(100), to=[to])
    proposal, after = found[1], swap(model, to, example=latents(100)).model
    made = 2 * after(latents(100)) - 1
    torch.testing.assert_close(proposal.network.eval()(latents(100)), made, atol=2e-6, rtol=0)
    arguments = json.loads(json.dumps(proposal.arguments))
    again = models.factory(proposal.builder)(**arguments)
    again.load_state_dict(proposal.network.state_dict())
    torch.testing.assert_close(again.eval()(latents(100)), made, atol=2e-6, rtol=0)


@pytest.mark.parametrize("upsampler", ["deconv", "deconv:5", "subpixel"])
@pytest.mark.parametrize("to", ["resize", "hold"])
def test_layers_of_the_zoo_are_rebuilt_too(upsampler: str, to: str) -> None:
    arguments = TINY | {"upsampler": upsampler}
    model = models.generator(STAGED, weights="random", model_args=arguments, input_size=[4], mean=[0.5], std=[0.5])
    proposal = propose(model, STAGED, arguments, latents(4), to=[to])[0][1]
    made = 2 * swap(model, to, example=latents(4)).model(latents(4)) - 1
    torch.testing.assert_close(proposal.network.eval()(latents(4)), made, atol=2e-6, rtol=0)
    assert proposal.builder == "gradlens.networks:Rebuilt" and json.dumps(proposal.arguments)


def test_a_generator_of_maps_is_given_vectors() -> None:
    network = Rebuilt("MNISTGenerator", {"latent": 4, "width": 2}, maps=True).eval()
    assert network(latents(4)).shape == (16, 1, 28, 28)
    torch.testing.assert_close(network(latents(4)), network.network(latents(4)[:, :, None, None]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"builder": "Rebuilt", "arguments": {}}, "builder: must be another network"),
        ({"builder": "nothing", "arguments": {}}, "builder: must be another network"),
        ({"builder": "DCGANGenerator", "arguments": {}, "layers": {"up9": {"kind": "held"}}}, "has no 'up9'"),
        (
            {"builder": "DCGANGenerator", "arguments": {}, "layers": {"up1": {"kind": "exec"}}},
            "kind must be one of held",
        ),
    ],
)
def test_what_cannot_be_rebuilt_is_one_sentence(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rebuilt(**arguments)


def test_only_layers_that_it_knows_are_described() -> None:
    with pytest.raises(ValueError, match="a Linear is of no kind"):
        described(nn.Linear(1, 1))


# What is proposed


def test_designs_that_pass_and_keep_weights_are_proposed_and_one_that_is_fresh() -> None:
    found, refused = propose(staged(), STAGED, TINY, latents(4))
    assert [p.name for p in found] == [BEFORE, "even", "resize", "hold", FRESH]
    assert refused["subpixel"] == "it does not pass the certificate" and refused["sinc"] == "it keeps no weights"
    fitted, fresh = (next(p for p in found if p.name == name).network for name in ("resize", FRESH))
    for one, other in zip(fitted.network.parameters(), fresh.network.parameters(), strict=True):
        if one.ndim == 4:
            assert not torch.allclose(one, other) and one.std().item() == pytest.approx(other.std().item(), rel=0.3)


def test_the_model_is_left_alone() -> None:
    model = staged()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found, _ = propose(model, STAGED, TINY, latents(4))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for proposal in found for p in proposal.network.parameters())


# Training a pair that is ready


def ready(seed: int = 0) -> tuple[TrainConfig, Ready]:
    torch.manual_seed(seed)
    config = TrainConfig(
        generator=STAGED, generator_args=TINY, resolution=16, width=2, latent=4, batch_size=4, steps=4, rated=0, periods=(2,),
        accelerator="cpu",
    )  # fmt: skip
    return config, Ready(StagedGenerator(**TINY), StagedDiscriminator(16, width=2, downsampler="stride1"))


PIXELS = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_a_ready_pair_is_trained_in_copies_from_its_own_weights(tmp_path: Path) -> None:
    config, pair = ready()
    before = {k: v.clone() for k, v in pair.generator.state_dict().items()}
    results = train(config, folder=tmp_path, images=PIXELS, networks=pair)
    assert all(torch.equal(v, before[k]) for k, v in pair.generator.state_dict().items())
    assert results.manifest["training"]["generator"]["origin"] == "given"
    _, other = ready(seed=1)
    apart = train(config, images=PIXELS, networks=other)
    assert not np.allclose(results.arrays["samples"], apart.arrays["samples"])


def test_a_ready_pair_is_resumed_to_the_same_weights(tmp_path: Path) -> None:
    config, pair = ready()
    whole = train(config, images=of_tensor(PIXELS), networks=pair)
    train(dataclasses.replace(config, steps=2), folder=tmp_path, images=PIXELS, networks=pair)
    for networks in (pair, None):  # the configuration builds its like
        again = train(config, folder=tmp_path, resume=True, images=PIXELS, networks=networks)
        assert np.array_equal(whole.arrays["samples"], again.arrays["samples"])


def test_a_pair_that_the_configuration_does_not_build_is_refused() -> None:
    config, pair = ready()
    wrong = dataclasses.replace(pair, generator=DCGANGenerator(4, (2, 2)))
    with pytest.raises(
        ValueError, match=r"networks: the generator is not what 'gradlens.networks:StagedGenerator' builds"
    ):
        train(config, images=PIXELS, networks=wrong)


@pytest.mark.parametrize(("side", "left"), [(28, 4), (9, 3), (16, 4), (48, 3)])
def test_a_discriminator_takes_any_side(side: int, left: int) -> None:
    network = StagedDiscriminator(side, width=2, downsampler="stride1")
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 1)
    assert network.fc.in_features % left**2 == 0


# The choice


def rows(label: str, lattice: float, fd: float, *, sure: bool = True) -> list[dict]:
    common = {"model": label, "subject": "sample", "layer": "", "image": "", "n": 100, "unit": "dB"}
    low = lattice - (0.5 if sure else 50)
    return [
        common
        | {
            "metric": "lattice_contrast",
            "period": 2,
            "kind": "signed",
            "value": lattice,
            "low": low,
            "high": lattice + 1,
        }
        | {"p": 0.001 if sure else 0.3},
        common
        | {"metric": "FD[x, 100]", "period": np.nan, "kind": "", "value": fd, "low": fd, "high": fd, "p": np.nan},
    ]


REAL = [
    {
        "model": "data", "subject": "image", "layer": "", "image": "", "n": 100, "unit": "dB", "metric": "lattice_contrast",
        "period": 2, "kind": "signed", "value": -3.0, "low": -3.5, "high": -2.5, "p": 1.0,
    }
]  # fmt: skip


def test_excess_is_what_is_found_and_the_real_images_have_not() -> None:
    table = pd.DataFrame([*rows("a", 5, 1), *rows("b", 5, 1, sure=False), *REAL])
    assert excess(table, "a") == pytest.approx(8) and excess(table, "b") == 0
    shared = [REAL[0] | {"value": 5.0, "low": 4.0, "high": 6.0}]
    assert excess(pd.DataFrame([*rows("a", 5, 1), *shared]), "a") == 0


def test_of_the_front_the_least_lattice_is_chosen_and_of_equals_the_least_distance() -> None:
    made = [*rows(BEFORE, 8, 1), *rows("far", -3, 9), *rows("near", -3, 4), *rows("worse", 9, 2), *REAL]
    choice = choose(pd.DataFrame(made), [BEFORE, "far", "near", "worse"])
    assert choice.chosen == "near" and choice.front.tolist() == [True, False, True, False]
    assert choice.metric == "FD[x, 100]" and choice.points.tolist() == [[11, 1], [0, 9], [0, 4], [12, 2]]


def test_training_alone_may_be_chosen() -> None:
    choice = choose(pd.DataFrame([*rows(BEFORE, -3, 1), *rows("even", -3, 2), *REAL]), [BEFORE, "even"])
    assert choice.chosen == BEFORE and choice.why.endswith("training alone did it, no design is needed")


# A run


def test_a_run_is_whole(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert names == {"table.csv", "arrays.safetensors", "manifest.json", "figures", "report.pdf", "steps.png", "winner"}
    r = Retrained(Results.read(run))
    steps = [(s["design"], s["steps"]) for s in r.stages]
    designs = [BEFORE, "resize"]
    assert steps == [(d, 0) for d in designs] + [(d, 2) for d in designs] + [(r.choice["design"], 4)]
    assert r.told["discriminator"].startswith("a fresh StagedDiscriminator")


def test_the_choice_follows_from_the_table(run: Path) -> None:
    r = Retrained(Results.read(run))
    brief = [s["label"] for s in r.stages if s["steps"] == 2]
    choice = choose(r.results.table, brief, control=brief[0])
    assert choice.chosen == r.choice["label"] and choice.why == r.choice["why"]


def test_the_checkpoint_loads_and_makes_what_was_drawn(run: Path) -> None:
    r = Retrained(Results.read(run))
    generator = models.generator(run / "winner")
    training = Results.read(run / "winner")
    assert training.manifest["training"]["steps"] == 4 and not training.manifest["partial"]
    assert generator(latents(4)).shape == (16, 3, 16, 16)
    assert generator.info.weights.endswith("generator.safetensors")
    card = (run / "winner/checkpoints/step-00000004/README.md").read_text()
    assert 'models.generator("generator.safetensors")' in card
    assert r.last is not None and f"picture/{r.last['label']}" in r.results.arrays


def test_the_pdf_says_what_the_table_holds(run: Path) -> None:
    r = Retrained(Results.read(run))
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(run / "report.pdf").pages).split())
    for stage in r.stages:
        assert number(r.contrast(stage["label"], 2).value) in text
        assert measured(r.distance(stage["label"], r.metric).value) in text
    printed = short_table(r.results)
    assert printed.count("steps") >= 3 and "real images" in printed


def test_the_run_goes_on_as_one_of_train(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(run / "winner", tmp_path / "winner")
    words = ["train", "--out", str(tmp_path / "winner"), "--resume", "--steps", "5", "--rated", "0"]
    monkeypatch.setattr("sys.argv", ["gradlens", *words])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 0 and Results.read(tmp_path / "winner").manifest["training"]["steps"] == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train"], "--data: --train learns from pictures"),
        (["--data", "."], "--data: is for --train"),
        (["--brief-steps", "3"], "--brief-steps: is for --train"),
        (["--train", "--data", "nowhere"], "--data: there is no 'nowhere'"),
        (["--train", "--data", "PICTURES", "--brief-steps", "0"], "--brief-steps: must be at least 1"),
        (["--train", "--data", "PICTURES", "--steps", "9"], "--steps: must be at least --brief-steps=200, got 9"),
        (["--train", "--data", "PICTURES", "--mean", "0", "--std", "1"], "needs a network whose images are in [-1, 1]"),
        (["--train", "--data", "LARGE", "--to", "subpixel"], "no design of 'dcgan_svhn' is worth a training"),
        (["--train", "--data", "LARGE", "--to", "resise"], "to: 'resise' is none of"),
        (["--train", "--data", "PICTURES"], "none of 24 pictures will do at 32 px"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    words: list[str],
    said: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "large").mkdir()
    for number_ in range(2):
        Image.new("RGB", (32, 32), (number_, 9, 9)).save(tmp_path / "large" / f"{number_}.png")
    places = {"PICTURES": str(pictures), "LARGE": str(tmp_path / "large")}
    words = [places.get(word, word) for word in words]
    monkeypatch.setattr("sys.argv", ["gradlens", "redesign", "dcgan_svhn", *words, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_network_that_takes_pictures_is_refused(pictures: Path, tmp_path: Path) -> None:
    config = Config(
        "gradlens.networks:SRGANGenerator", train=True, data=(pictures,), weights="random", input_size=(3, 8, 8),
        count=2, out=tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"needs a generator of latents \[N L\] or \[N L 1 1\]"):
        redesign(config)


# A user's factory


THEIRS = """
from torch import nn

def make():
    first = nn.ConvTranspose2d(4, 4, 4), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*first, nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 5, 2, 2, 1), nn.Tanh())
"""


def test_the_card_of_a_users_network_says_how_it_is_built(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "theirs.py"
    module.write_text(THEIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = Config(
        "theirs:make", train=True, data=(pictures,), weights="random", input_size=(4, 1, 1), mean=(0.5,), std=(0.5,),
        to=("resize",), count=16, periods=(2,), brief_steps=2, steps=2, batch_size=4, rated=20,
        discriminator_args={"width": 2}, out=tmp_path / "run",
    )  # fmt: skip
    folder = redesign(config)
    step = folder / "winner/checkpoints/step-00000002"
    lines = (step / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(step)
    space: dict = {}
    exec(lines, space)
    assert space["generator"](torch.randn(2, 4, 1, 1)).shape == (2, 3, 16, 16)


@pytest.mark.slow
@pytest.mark.assets
def test_the_published_mnist_generator_is_redesigned(assets: Path, tmp_path: Path) -> None:
    import gzip

    raw = gzip.decompress((assets / "data/mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    digits = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    (tmp_path / "digits").mkdir()
    for at, digit in enumerate(digits[:80]):
        Image.fromarray(digit).save(tmp_path / f"digits/{at:03}.png")
    config = Config(
        "gradlens.networks:MNISTGenerator", train=True, data=(tmp_path / "digits",), input_size=(64, 1, 1), mean=(0.5,),
        std=(0.5,), weights=str(assets / "weights/dcgan_mnist/generator.pth"), to=("resize",), count=16, brief_steps=2,
        steps=4, batch_size=4, rated=40, discriminator_args={"width": 4}, out=tmp_path / "run",
    )  # fmt: skip
    r = Retrained(Results.read(redesign(config)))
    assert r.told["data"]["channels"] == 1 and r.passed(r.stages[0]) == "0 / 3"
    assert models.generator(tmp_path / "run/winner")(torch.randn(2, 64)).shape == (2, 1, 28, 28)
