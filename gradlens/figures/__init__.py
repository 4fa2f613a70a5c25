"""One function draws one thing on given axes; nothing here measures. Figures become SVG with their own pixels.

`canvas` is what all share; beside it one file a kind of thing that is drawn. All public names are here.
"""

from matplotlib.axes import Axes

from gradlens.figures.attacks import draw_attacks
from gradlens.figures.attenuation import draw_attenuation
from gradlens.figures.blame import draw_blame
from gradlens.figures.canvas import (
    CONTROL,
    FAINT,
    GRADIENT,
    INK,
    SERIES,
    STYLE,
    add_scale,
    new_figure,
    place,
    styled,
    svg,
)
from gradlens.figures.contrasts import MOST_DOTS, draw_contrasts, draw_spread, draw_stages
from gradlens.figures.curves import draw_curve
from gradlens.figures.front import Point, draw_front
from gradlens.figures.maps import (
    draw_frame,
    draw_gradient,
    draw_lattice_map,
    draw_phases,
    draw_picture,
    draw_sheet,
    sheet_size,
)
from gradlens.figures.overlap import (
    draw_classes,
    draw_learning,
    draw_matrix,
    draw_overlap,
    draw_overlap_plane,
    draw_painted,
    draw_response,
    draw_tail,
)
from gradlens.figures.pictures import animation, png
from gradlens.figures.prediction import Card, Unevenness, draw_agreement, draw_path, draw_unevenness
from gradlens.figures.spectrum import draw_profile, draw_spectral_difference, draw_spectrum

__all__ = [
    "CONTROL",
    "FAINT",
    "GRADIENT",
    "INK",
    "MOST_DOTS",
    "SERIES",
    "STYLE",
    "Axes",
    "Card",
    "Point",
    "Unevenness",
    "add_scale",
    "animation",
    "draw_agreement",
    "draw_attacks",
    "draw_attenuation",
    "draw_blame",
    "draw_classes",
    "draw_contrasts",
    "draw_curve",
    "draw_frame",
    "draw_front",
    "draw_gradient",
    "draw_lattice_map",
    "draw_learning",
    "draw_matrix",
    "draw_overlap",
    "draw_overlap_plane",
    "draw_painted",
    "draw_path",
    "draw_phases",
    "draw_picture",
    "draw_profile",
    "draw_response",
    "draw_sheet",
    "draw_spectral_difference",
    "draw_spectrum",
    "draw_spread",
    "draw_stages",
    "draw_tail",
    "draw_unevenness",
    "new_figure",
    "place",
    "png",
    "sheet_size",
    "styled",
    "svg",
]
