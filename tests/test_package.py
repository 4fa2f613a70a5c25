"""The package as an import: nothing heavy before it is asked for, no name in the way of `python -m`."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import gradlens

HEAVY = ("torch", "timm", "pandas", "matplotlib", "scipy", "skimage", "captum", "typst", "torchvision", "torchmetrics")


def loaded_after(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_gradlens_loads_nothing() -> None:
    assert not loaded_after("import gradlens").intersection((*HEAVY, "numpy", "cyclopts"))


def test_importing_spectra_loads_torch_and_nothing_heavier() -> None:
    loaded = loaded_after("import gradlens.spectra")
    assert "torch" in loaded
    assert not loaded.intersection(set(HEAVY) - {"torch"} | {"cyclopts", "rich", "PIL"})


@pytest.mark.parametrize("module", ["gradlens.analyze", "gradlens.commands"])
def test_command_modules_load_no_torch(module: str) -> None:
    assert not loaded_after(f"import {module}").intersection((*HEAVY, "numpy"))


def test_submodules_load_when_named() -> None:
    assert gradlens.spectra is importlib.import_module("gradlens.spectra")
    assert set(gradlens.SUBMODULES) <= set(dir(gradlens))
    with pytest.raises(AttributeError, match="no attribute 'spectre'"):
        _ = gradlens.spectre


def test_every_submodule_is_announced() -> None:
    found = {module.name for module in pkgutil.iter_modules(gradlens.__path__)} - {"commands"}
    assert found == set(gradlens.SUBMODULES)


def test_no_function_shadows_a_submodule() -> None:
    assert not [name for name in gradlens.SUBMODULES if callable(vars(gradlens).get(name))]
