"""What all tests share: one thread (two wait for each other on a busy machine), and the assets."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests cache stays with them, in processes that they start as well."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and images; the test is skipped where it is absent."""
    folder = Path(os.environ.get("GRADLENS_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"no assets at {folder}; set GRADLENS_ASSETS")
    return folder


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Dynamo counts recompilations of a code object, `nn.Sequential.forward`, over all tests of a process, and stops at eight."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
