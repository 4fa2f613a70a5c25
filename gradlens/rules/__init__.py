"""Backward-only replacements of layers: the forward pass is bit-identical, the gradient of one layer is another's.

A layer is a linear map of gradients, g_in = J^T g_out, and a rule puts another in its place, for the gradient with
respect to the layer's input; those of its parameters stay the true ones:

    max-pool               average, L2, softmax: the weights with which a window hands its gradient on
    strided convolution    held, blurred, equalised: J^T, and then a filter of the accumulated gradient
    ReLU                   smooth, identity: another gate

Source: ours; Springenberg et al. 2015 for the idea of a backward pass of one's own, Kinoshita and Kiya 2020 for the hold.
"""

from gradlens.rules.gates import identity, smooth
from gradlens.rules.kinds import OTHER, UNSTRIDED_POOL, kinds
from gradlens.rules.pools import average, l2, softmax
from gradlens.rules.replacing import NAMES, Rules, Switch
from gradlens.rules.rule import Linear, Met, RefusalError, Rule
from gradlens.rules.strided import blurred, equalised, held

__all__ = [
    "NAMES",
    "OTHER",
    "UNSTRIDED_POOL",
    "Linear",
    "Met",
    "RefusalError",
    "Rule",
    "Rules",
    "Switch",
    "average",
    "blurred",
    "equalised",
    "held",
    "identity",
    "kinds",
    "l2",
    "smooth",
    "softmax",
]
