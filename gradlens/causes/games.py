"""Games of n players: a coalition is a number whose bit i is player i, and v gives a value, or an array, for each."""

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np


def shapley(values: np.ndarray) -> np.ndarray:
    """The Shapley values `[n ...]` of a game whose every coalition is known.

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)); over i they sum to v(all) - v(none).

    Args:
        values: v by coalition `[2^n ...]`.

    Raises:
        ValueError: their number is no power of two.

    Source: Shapley 1953.

    Example:
        >>> shapley(np.array([0.0, 1.0, 2.0, 7.0])).tolist()
        [3.0, 4.0]
    """
    n = len(values).bit_length() - 1
    if len(values) != 2**n:
        raise ValueError(f"values: must be those of all 2^n coalitions, got {len(values)}")
    coalitions = np.arange(2**n)
    sizes = np.array([int(s).bit_count() for s in coalitions])
    found = np.zeros((n, *values.shape[1:]))
    for player in range(n):
        without = coalitions[coalitions >> player & 1 == 0]
        weights = np.array([1 / (n * comb(n - 1, size)) for size in sizes[without]])
        found[player] = np.tensordot(weights, values[without | 1 << player] - values[without], axes=1)
    return found


def antithetic_orders(players: int, count: int, *, seed: int = 0) -> list[tuple[int, ...]]:
    """`count` random orders of the players, each second one the one before it backwards.

    Raises:
        ValueError: `count` is odd or below 4: an error needs two pairs.
    """
    if count < 4 or count % 2:
        raise ValueError(f"permutations: must be even and at least 4, for pairs, got {count}")
    generator = np.random.default_rng(seed)
    drawn = (tuple(map(int, generator.permutation(players))) for _ in range(count // 2))
    return [order for one in drawn for order in (one, one[::-1])]


def coalitions_of(orders: Sequence[Sequence[int]]) -> list[int]:
    """The coalitions that grow in `orders`, each once."""
    found = {0: None}
    for order in orders:
        coalition = 0
        for player in order:
            coalition |= 1 << player
            found[coalition] = None
    return list(found)


def sampled_shapley(values: Mapping[int, np.ndarray], orders: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Shapley values `[n ...]` from some orders, and what each pair of orders says `[pairs n ...]`.

    The mean over orders of what each player adds when it joins: without bias, and the sum over players is exactly
    v(all) - v(none). The standard error is that of the mean over pairs, which are independent.

    Args:
        values: v by coalition, of at least those in `coalitions_of(orders)`.
        orders: from `antithetic_orders`.

    Source: Castro, Gomez, Tejada 2009; Mitchell et al. 2022.

    Example:
        >>> game = {s: np.float64(bin(s).count("1") ** 2) for s in range(8)}
        >>> sampled_shapley(game, antithetic_orders(3, 4))[0].tolist()
        [3.0, 3.0, 3.0]
    """
    gains = []
    for order in orders:
        gain: list[np.ndarray] = [np.zeros(())] * len(order)
        coalition = 0
        for player in order:
            joined = coalition | 1 << player
            gain[player] = values[joined] - values[coalition]
            coalition = joined
        gains.append(np.stack(gain))
    pairs = np.stack(gains).reshape(len(orders) // 2, 2, *gains[0].shape).mean(1)
    return pairs.mean(0), pairs
