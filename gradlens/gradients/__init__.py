"""Gradients of a network's score with respect to its input, and to its layers on the way down, signed and unclipped.

    g = d score(model(x)) / d x

Nothing is resized, rectified or quantised on the way to a spectrum. The gradient of a summed score is each image's own,
because in eval mode the images of a batch do not touch. Attributions are what people show instead of the gradient.
"""

from gradlens.gradients.attributions import METHODS, Method, attribute
from gradlens.gradients.faithfulness import deletion, insertion
from gradlens.gradients.inputs import input_gradient
from gradlens.gradients.scores import Score, logits, output_tensor, top_logit
from gradlens.gradients.stream import GradientStatistics, collect, network_periods, stage_periods

__all__ = [
    "METHODS",
    "GradientStatistics",
    "Method",
    "Score",
    "attribute",
    "collect",
    "deletion",
    "input_gradient",
    "insertion",
    "logits",
    "network_periods",
    "output_tensor",
    "stage_periods",
    "top_logit",
]
