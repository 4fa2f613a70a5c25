"""gradlens shows where checkerboards come from in neural networks, proves it with numbers, and builds without them.

`import gradlens` loads nothing; a submodule loads when it is first named: `gradlens.spectra`, `gradlens.models`, ...
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

SUBMODULES = (
    "analyze",
    "causes",
    "checkpoints",
    "compare",
    "console",
    "convolution",
    "downsampling",
    "dream",
    "dreams",
    "figures",
    "filters",
    "geometry",
    "gradients",
    "hub",
    "images",
    "lint",
    "measure",
    "metrics",
    "models",
    "modules",
    "networks",
    "pictures",
    "predict",
    "probes",
    "redesign",
    "redesigns",
    "report",
    "results",
    "retraining",
    "rules",
    "samples",
    "spectra",
    "training",
    "upsampling",
)


def __getattr__(name: str) -> ModuleType:
    if name in SUBMODULES:
        return import_module(f"gradlens.{name}")
    raise AttributeError(f"module 'gradlens' has no attribute {name!r}; submodules: {', '.join(SUBMODULES)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *SUBMODULES])
