"""Which layer writes the lattice: strided layers and pools replaced in the backward pass alone, and the change measured.

The players of the game are layers, or kinds of them; v(S) is the lattice of the input gradient where those in S run
backwards as they are and all others are replaced. Replacements interact, so three questions are asked of each player i:

    leave-one-out  v(all) - v(all without i)      what goes if it is replaced
    only-one       v({i}) - v(none)               what it writes into a gradient without lattice
    Shapley        the mean of v(S + i) - v(S) over all orders in which S grows; over players they sum to v(all) - v(none)

Source: Shapley 1953; Castro, Gomez, Tejada 2009 for sampling orders, Mitchell et al. 2022 for antithetic ones.
"""

from gradlens.causes.blaming import METRICS, blame
from gradlens.causes.games import antithetic_orders, sampled_shapley, shapley
from gradlens.causes.remedies import Remedy, remedy

__all__ = ["METRICS", "Remedy", "antithetic_orders", "blame", "remedy", "sampled_shapley", "shapley"]
