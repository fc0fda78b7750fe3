"""Neighbouring keypoints move alike: exact inference on a minimum spanning tree."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist
from torch import Tensor

_SMALLEST_DISTANCE = 0.1
_CHUNK_VALUES = 300_000


@dataclass(frozen=True)
class Tree:
    """A rooted tree over n nodes.

    Attributes:
        parent: (n,) the parent of every node; the root is its own.
        length: (n,) the length of the edge to the parent; 1 at the root.
        levels: the nodes of every depth, from the root downwards.
    """

    parent: np.ndarray
    length: np.ndarray
    levels: list[np.ndarray]


def spanning_tree(points: np.ndarray, intensities: np.ndarray, beta: float, neighbours: int = 64) -> Tree:
    """The minimum spanning tree of the keypoints: distance in voxels, plus difference in intensity over `beta`.

    Edges across which the intensity jumps are long, so that organs may slide along each other.

    Args:
        points: (n, nD) in voxels.
        intensities: (n,) the mean intensity around each point.
        beta: how much intensity counts as one voxel.
        neighbours: only the edges to that many nearest points are looked at; twice as many as long as the graph falls
            apart.
    """
    count = len(points)
    distance = np.maximum(cdist(points, points), _SMALLEST_DISTANCE)
    distance += np.abs(intensities[:, None] - intensities[None]) / beta
    np.fill_diagonal(distance, np.inf)
    while True:
        kept = min(neighbours, count - 1)
        nearest = np.argpartition(distance, kept - 1, axis=1)[:, :kept].astype(np.int32)
        rows = np.repeat(np.arange(count, dtype=np.int32), kept)
        edges = coo_array((distance[rows, nearest.ravel()], (rows, nearest.ravel())), (count, count)).tocsr()
        edges = edges.maximum(edges.T)
        if kept == count - 1 or connected_components(edges, directed=False)[0] == 1:
            break
        neighbours *= 2
    order, parent = breadth_first_order(minimum_spanning_tree(edges), 0, directed=False)
    parent[0] = 0
    depth = np.zeros(count, int)
    for node in order[1:]:
        depth[node] = depth[parent[node]] + 1
    length = np.where(np.arange(count) == 0, 1.0, distance[np.arange(count), parent])
    return Tree(parent, length, [np.flatnonzero(depth == level) for level in range(depth.max() + 1)])


def min_marginals(costs: Tensor, tree: Tree) -> Tensor:
    """For every node and label, the lowest cost of all nodes together if this node takes this label, up to a constant.

    Minimises ``sum_p costs[p, d_p] + sum_pq |d_p - d_q|^2 / length_pq`` exactly, by messages from the leaves to the
    root and back (Felzenszwalb and Huttenlocher 2005); d counted in labels.

    Args:
        costs: (n, *labels); overwritten.
        tree: over the n nodes.

    Returns:
        (n, *labels).
    """
    parent = torch.as_tensor(tree.parent, dtype=torch.long, device=costs.device)
    stiffness = torch.as_tensor(1 / tree.length, dtype=costs.dtype, device=costs.device)
    upward = torch.zeros_like(costs)
    size = max(1, _CHUNK_VALUES // costs[0].numel())

    def chunks(level: np.ndarray) -> tuple[Tensor, ...]:
        return torch.as_tensor(level, device=costs.device).split(size)

    for level in reversed(tree.levels[1:]):
        for nodes in chunks(level):
            upward[nodes] = _message(costs[nodes], stiffness[nodes])
            costs.index_add_(0, parent[nodes], upward[nodes])
    for level in tree.levels[1:]:
        for nodes in chunks(level):
            without = costs[parent[nodes]] - upward[nodes]
            costs[nodes] += _message(without, stiffness[nodes])
    return costs


def _message(costs: Tensor, stiffness: Tensor) -> Tensor:
    message = min_convolution(costs, stiffness)
    return message - message.flatten(1).amin(1).reshape(-1, *[1] * (costs.ndim - 1))


def min_convolution(costs: Tensor, stiffness: Tensor) -> Tensor:
    """``min_e costs[e] + stiffness * |d - e|^2`` for every label d.

    Axis by axis, as a sequence of three-tap minima whose side taps cost 1, 3, 5, ... times the stiffness: a shift by
    k labels takes k of them, at best the first k, whose costs add up to k^2. Taps that cost more than the steepest
    step between neighbouring labels change nothing, so that few are needed.

    Args:
        costs: (n, *labels).
        stiffness: (n,).
    """
    stiffness = stiffness.reshape(-1, *[1] * (costs.ndim - 1))
    softest = float(stiffness.min())
    for axis in range(1, costs.ndim):
        size = costs.shape[axis]
        if size == 1:
            continue
        steepest = float(costs.diff(dim=axis).abs().max())
        for k in range(1, size):
            if softest * (2 * k - 1) >= steepest:
                break
            raised = costs + stiffness * (2 * k - 1)
            costs = costs.clone()
            upper, lower = costs.narrow(axis, 1, size - 1), costs.narrow(axis, 0, size - 1)
            torch.minimum(upper, raised.narrow(axis, 0, size - 1), out=upper)
            torch.minimum(lower, raised.narrow(axis, 1, size - 1), out=lower)
    return costs
