"""The cheapest way to move mass: an exact solver for small transport problems.

Layers are few (at most dozens), so successive shortest paths in plain Python are enough: no
further dependency, and the same result on every machine.
"""

from collections.abc import Sequence

__all__ = ["transport"]

# Mass below this part of the whole is rounding.
_DUST = 1e-12


def transport(
    supply: Sequence[float], demand: Sequence[float], costs: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Return the flow from each supply to each demand with the smallest sum of flow times cost.

    Both sides are brought to the sum 1. Costs are zero or more. Mass goes along the shortest path
    of the residual graph until none is left (Bellman-Ford, as paths back have negative costs).
    """
    sources, sinks = len(supply), len(demand)
    left = [mass / sum(supply) for mass in supply]
    open_ = [mass / sum(demand) for mass in demand]
    flow = [[0.0] * sinks for _ in range(sources)]
    scale = max((max(row) for row in costs), default=0.0) or 1.0
    unit = [[cost / scale for cost in row] for row in costs]
    while max(left) > _DUST and max(open_) > _DUST:
        path = _shortest(left, open_, unit, flow)
        forward, back = path[::2], path[1::2]
        amount = min(left[path[0][0]], open_[path[-1][1]], *(flow[i][j] for i, j in back))
        for i, j in forward:
            flow[i][j] += amount
        for i, j in back:
            flow[i][j] -= amount
        left[path[0][0]] -= amount
        open_[path[-1][1]] -= amount
    return flow


def _shortest(
    left: Sequence[float],
    open_: Sequence[float],
    costs: Sequence[Sequence[float]],
    flow: Sequence[Sequence[float]],
) -> list[tuple[int, int]]:
    """Return the cells of the cheapest path from free mass to open demand: forth, back, forth..."""
    infinite = float("inf")
    at_source = [0.0 if mass > _DUST else infinite for mass in left]
    at_sink = [infinite] * len(open_)
    came_from = [-1] * len(open_)
    went_back: list[int] = [-1] * len(left)
    changed = True
    while changed:
        changed = False
        for i, start in enumerate(at_source):
            if start == infinite:
                continue
            for j, cost in enumerate(costs[i]):
                # A margin keeps cycles of rounding errors from being followed for ever.
                if start + cost < at_sink[j] - _DUST:
                    at_sink[j], came_from[j], changed = start + cost, i, True
        for j, start in enumerate(at_sink):
            if start == infinite:
                continue
            for i, row in enumerate(flow):
                if row[j] > _DUST and start - costs[i][j] < at_source[i] - _DUST:
                    at_source[i], went_back[i], changed = start - costs[i][j], j, True
    sink = min((j for j, mass in enumerate(open_) if mass > _DUST), key=at_sink.__getitem__)
    path = []
    while True:
        source = came_from[sink]
        path.append((source, sink))
        if went_back[source] < 0:
            return path[::-1]
        sink = went_back[source]
        path.append((source, sink))
