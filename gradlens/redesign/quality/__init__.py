"""How good generated samples are, against real images, always beside the control: real images against other real images.

`rate` says all of it in one table. `FD[backbone, n]` and `KID[backbone, n]` are distances of two sets in the features of a
classifier; their values hold for that backbone, and FD, which falls as n grows, for that n: so both stand in the name.
"""

from gradlens.redesign.quality.backbone import features
from gradlens.redesign.quality.distances import Distance, frechet_distance, kernel_distance
from gradlens.redesign.quality.neighbours import (
    Nearest,
    Share,
    copied_share,
    nearest,
    nearest_neighbour,
    training_share,
)
from gradlens.redesign.quality.table import Rating, radial_distance, rate, rating

__all__ = [
    "Distance",
    "Nearest",
    "Rating",
    "Share",
    "copied_share",
    "features",
    "frechet_distance",
    "kernel_distance",
    "nearest",
    "nearest_neighbour",
    "radial_distance",
    "rate",
    "rating",
    "training_share",
]
