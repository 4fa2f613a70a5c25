"""What becomes of energy in each operation of autograd's backward formulas: one file a kind, one line an operation.

A rule gets the operation and its arguments, some of them `Energy`, and returns what the operation would. Every operation
here is linear in the gradient, g' = M g; with the gradient's entries independent the rule is e' = (M * M) e, exactly.
"""

from collections.abc import Mapping

from gradlens.geometry.energy.rules import activations, convolution, normalisation, pooling, products, sampling, structure
from gradlens.geometry.energy.tensor import Rule

RULES: Mapping[str, Rule] = {
    **structure.RULES,
    **products.RULES,
    **convolution.RULES,
    **activations.RULES,
    **normalisation.RULES,
    **pooling.RULES,
    **sampling.RULES,
}
