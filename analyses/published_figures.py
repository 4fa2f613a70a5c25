"""Do the published figures of Odena, Dumoulin and Olah 2016 carry the lattices that their captions name?

Each group of figures is tested jointly at periods 2 and 4. Run: `python -m analyses.published_figures IMAGES`, with the
eleven figures of the article at native size (distillpub/post--deconv-checkerboard, CC BY 4.0) in the folder IMAGES.
"""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter

from gradlens.compare import SIGNIFICANCE, measure
from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.images import open_image
from gradlens.results import Results, circumstances, new_run, run_folder
from gradlens.spectra import lattice_statistics

PERIODS = (2, 4)
GROUPS: dict[str, tuple[str, tuple[int, ...]]] = {  # files, and the periods that the caption names
    "deconvolution in the last two layers": ("fix_two_*.png", (2, 4)),
    "deconvolution in the last layer": ("fix_one_*.png", (2,)),
    "all resize-convolution": ("fix_zero_*.png", ()),
    "untrained, deconvolution in the last two layers": ("im_rand_two_*.png", (2, 4)),
    "untrained, deconvolution in the last layer": ("im_rand_one_*.png", (2,)),
    "untrained, all resize-convolution": ("im_rand_zero_*.png", ()),
    "style transfer, transposed convolution": ("style_artifacts*.png", (2, 4)),
    "style transfer, resize-convolution": ("style_clean*.png", ()),
}


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where the figures are."""

    images: Annotated[Path, Parameter(help="Folder with the article's figures at native size.")]
    _: KW_ONLY
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/published_figures-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def run(config: Config) -> Results:
    """The table of every group, with its joint p.

    Raises:
        ValueError: a group has no file in the folder.
    """
    tables = []
    for group, (pattern, _) in GROUPS.items():
        files = sorted(config.images.glob(pattern))
        if not files:
            raise ValueError(f"images: {str(config.images)!r} holds no {pattern}")
        pixels = [np.asarray(open_image(f).convert("RGB"), dtype=np.float32) / 255 for f in files]
        images = torch.as_tensor(np.stack(pixels)).movedim(-1, 1)
        names = [f.name for f in files]
        tables.append(measure(lattice_statistics(images, PERIODS), model=group, subject="sample", names=names))
    manifest = circumstances() | {"command": "python -m analyses.published_figures IMAGES", "seed": 0}
    return Results(pd.concat(tables, ignore_index=True), {}, manifest)


def verdicts(results: Results) -> pd.DataFrame:
    """One row a group and period: what the caption says, what was measured, and whether they agree."""
    t = results.table
    t = t.loc[(t["image"] == "") & (t["metric"] == "lattice_contrast") & (t["kind"] == "signed")]
    rows = []
    for record in t.to_dict("records"):
        expected = record["period"] in GROUPS[record["model"]][1]
        found = record["p"] <= SIGNIFICANCE and record["value"] > 0
        keep = {k: record[k] for k in ("model", "period", "value", "p", "n")}
        rows.append(keep | {"caption": expected, "found": found, "agrees": expected == found})
    return pd.DataFrame(rows)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.published_figures", "Test the published figures against their captions.")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "published_figures")
        with new_run(target, "published_figures", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        print(verdicts(results).to_string(index=False, float_format="{:.4g}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
