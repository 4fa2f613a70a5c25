"""Pictures that a network grows: DeepDream and feature visualisation, with and without jitter.

Four things make one: an objective, a parameterisation, a list of transforms, and the ascent `dream`. Every step adds a
gradient, and with it the network's lattice; jitter moves the picture under the lattice, by the law `jitter_attenuation`.
"""

from gradlens.dream.ascent import Dream, dream
from gradlens.dream.law import jitter_attenuation, lattice_attenuation
from gradlens.dream.objectives import (
    IMAGE,
    OUTPUT,
    Objective,
    channel,
    direction,
    distance,
    layer,
    logit,
    named,
    neuron,
    total_variation,
)
from gradlens.dream.parameterisations import PARAMETERISATIONS, Parameterisation, fourier, pixels
from gradlens.dream.transforms import (
    RECIPES,
    Jitter,
    Moment,
    Transform,
    cycle,
    fitted_to,
    jitter,
    moved,
    pad,
    rotate,
    scale,
)

__all__ = [
    "IMAGE",
    "OUTPUT",
    "PARAMETERISATIONS",
    "RECIPES",
    "Dream",
    "Jitter",
    "Moment",
    "Objective",
    "Parameterisation",
    "Transform",
    "channel",
    "cycle",
    "direction",
    "distance",
    "dream",
    "fitted_to",
    "fourier",
    "jitter",
    "jitter_attenuation",
    "lattice_attenuation",
    "layer",
    "logit",
    "moved",
    "named",
    "neuron",
    "pad",
    "pixels",
    "rotate",
    "scale",
    "total_variation",
]
