"""`gradlens ls models|images|metrics`: what there is."""

import inspect
from typing import Annotated, Literal

from cyclopts import App, Parameter

from gradlens.console import application


def build_app() -> App:
    app = application("ls", "List the bundled models, the sample images or the metrics.")

    @app.default
    def ls(what: Annotated[Literal["models", "images", "metrics"], Parameter(help="What to list.")], /) -> int:
        rows = {"models": _models, "images": _images, "metrics": _metrics}[what]()
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            print(f"{name:<{width}}  {text}")
        return 0

    return app


def _models() -> list[tuple[str, str]]:
    from gradlens.models import BUNDLED

    rows = [(name, f"bundled {' and '.join(roles)}") for name, roles in BUNDLED.items()]
    return [
        *rows,
        ("any timm name", "timm's weights from the hub, or --weights FILE"),
        ("module:factory", "your own network"),
    ]


def _images() -> list[tuple[str, str]]:
    from gradlens.images import SAMPLES, sample

    return [(name, "{} x {} px, scikit-image, public domain or CC0".format(*sample(name).size)) for name in SAMPLES]


def _metrics() -> list[tuple[str, str]]:
    from gradlens import spectra

    found = [(name, getattr(spectra, name)) for name in spectra.__all__]
    told = [(name, inspect.getdoc(f) or "") for name, f in found if inspect.isfunction(f)]
    return [(name, text.splitlines()[0]) for name, text in told if "Range:" in text or "Range, " in text]
