"""What becomes of energy in each operation of autograd's backward formulas: one file a kind, one line an operation.

A rule gets the operation and its arguments, some of them `Energy`, and returns what the operation would. Every operation
here is linear in the gradient, g' = M g; with the gradient's entries independent the rule is e' = (M * M) e, exactly.
A file's `RULES` are of variances, and means pass by the operation itself; its `WHOLE` are of both. Keys are names of aten
operations, separated by blanks.
"""

from collections.abc import Mapping

from gradlens.geometry.energy.rules import (
    convolution,
    elementwise,
    normalisation,
    pooling,
    products,
    sampling,
    structure,
)
from gradlens.geometry.energy.rules.means import with_mean
from gradlens.geometry.energy.tensor import Rule

KINDS = (structure, products, convolution, elementwise, normalisation, pooling, sampling)

RULES: Mapping[str, Rule] = {
    **{name: with_mean(rule) for kind in KINDS for names, rule in kind.RULES.items() for name in names.split()},
    **{
        name: rule
        for kind in (structure, elementwise, pooling)
        for names, rule in kind.WHOLE.items()
        for name in names.split()
    },
}
