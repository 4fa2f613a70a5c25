"""One forward pass and many backward passes, each with other layers replaced, that share what they have in common.

Backwards a switch changes only what comes after it, on the way to the image. Where all ways from the score to the image
lead through one node of autograd's graph, the graph is cut; the gradient at a cut depends on the switches above it alone, so
each is worked out once. Of a network with n switches in line that is a tree of 2^n leaves, whose long branches are few.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from gradlens.rules import Rules, Switch

Layers = frozenset[str]


@dataclass(frozen=True)
class Segment:
    """A part of the graph between two cuts, and the layers whose switches are in it."""

    start: GradientEdge
    end: GradientEdge
    layers: Layers


def segments(score: Tensor, image: Tensor) -> list[Segment]:
    """The graph from `score`, one number, to the leaf `image`, cut where all ways lead through one node.

    What lies between two cuts without a switch is one segment; a switch shares its own with as little as can be.
    """
    root, leaf = get_gradient_edge(score), get_gradient_edge(image)
    order = _order(root.node)
    from_root: dict[Node, int] = dict.fromkeys(order, 0)  # ways; their number is exact, however large
    to_leaf: dict[Node, int] = dict.fromkeys(order, 0)
    from_root[root.node], to_leaf[leaf.node] = 1, 1
    inputs: dict[Node, set[int]] = {node: set() for node in order}
    for node in reversed(order):
        to_leaf[node] += sum(to_leaf[after] for after, _ in _edges(node))
    for node in order:
        for after, number in _edges(node):
            from_root[after] += from_root[node]
            if to_leaf[node]:
                inputs[after].add(number)
    inputs[root.node] = {root.output_nr}
    alive = [node for node in order if to_leaf[node]]
    whole = to_leaf[root.node]
    found: list[Segment] = []
    start, layers = root, set()
    for node in alive[1:]:
        if from_root[node] * to_leaf[node] == whole and len(inputs[node]) == 1:
            here = GradientEdge(node, next(iter(inputs[node])))
            if layers or not found or found[-1].layers:
                found.append(Segment(start, here, frozenset(layers)))
            else:
                found[-1] = Segment(found[-1].start, here, frozenset())
            start, layers = here, set()
        layers |= _layers(node)
    return found


def _layers(node: Node) -> set[str]:
    switch = getattr(node, "switch", None)
    return {switch.layer} if isinstance(switch, Switch) else set()


def _edges(node: Node) -> list[tuple[Node, int]]:
    return [(after, number) for after, number in node.next_functions if after is not None]


def _order(root: Node) -> list[Node]:
    """All nodes that `root` leads to, each before those that it leads to."""
    found: list[Node] = []
    seen: set[Node] = set()
    waiting: list[tuple[Node, bool]] = [(root, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            found.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(after, False) for after, _ in _edges(node) if after not in seen]
    return found[::-1]


def gradients(
    score: Tensor, image: Tensor, active: Rules, wanted: Collection[Layers]
) -> Iterator[tuple[list[Layers], Tensor]]:
    """d `score` / d `image` with each set of layers in `wanted` replaced; sets that come to the same come together.

    Args:
        score: one number, made of `image` while `active` were at work.
        image: the leaf.
        active: the rules, all of whose switches may be set; afterwards all are on.
        wanted: sets of `active.layers`.
    """
    parts = segments(score, image)

    def descend(number: int, gradient: Tensor, chosen: list[Layers]) -> Iterator[tuple[list[Layers], Tensor]]:
        if number == len(parts):
            yield chosen, gradient
            return
        part = parts[number]
        groups: dict[Layers, list[Layers]] = {}
        for layers in chosen:
            groups.setdefault(layers & part.layers, []).append(layers)
        for here, members in groups.items():
            active.only(here)
            (found,) = torch.autograd.grad(part.start, part.end, gradient, retain_graph=True)
            yield from descend(number + 1, found, members)

    try:
        yield from descend(0, torch.ones_like(score), list(wanted))
    finally:
        active.only(None)
