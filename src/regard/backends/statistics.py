"""Statistics of weights from the kernels: buffers, the second pass that some need, and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regard._native import core
from regard.lowering.reductions import KINDS, POOLED, RECEIVED, ROWS, Buffers, Kind, Reductions
from regard.shapes import Box, Sizes
from regard.spec.observers import Pooled


def allocate(reductions: Reductions, sizes: Sizes) -> Buffers:
    """Empty buffers for what the forward pass computes."""
    rows = sizes.b, sizes.h, sizes.q
    return {kind: kind.allocate(reductions, rows) for kind in reductions.forward_kinds if kind.allocate is not None}


def attach(reductions: Reductions, buffers: Buffers) -> core.Statistics:
    """Buffers, or gradients of them, as the core takes them. It keeps none of the tensors alive."""
    statistics = core.Statistics()
    for kind, tensors in buffers.items():
        if kind.attach is not None:
            kind.attach(statistics, reductions, tensors)
    return statistics


def second_pass(reductions: Reductions, call: core.Call, sizes: Sizes, top: Tensor, share: Tensor) -> Buffers:
    """What needs final weights; `top` and `share` are what a forward pass left of the rows, (b, h, q)."""
    b, h, q, k = (range(n) for n in (sizes.b, sizes.h, sizes.q, sizes.k))
    groups = reductions.query_groups
    buffers: Buffers = {}
    maps: dict[Pooled, Tensor] = {}
    whole = q, k
    regions: dict[tuple[range, range], list[Pooled]] = {whole: []} if groups else {}
    for pooled in reductions.pooled_maps:
        regions.setdefault(pooled.rectangle, []).append(pooled)
    for region, observers in regions.items():
        request = _request(Box(b, h, *region), top, share)
        for pooled in observers:
            maps[pooled] = cells = torch.zeros((sizes.b, sizes.h, pooled.rows, pooled.cols))
            if (pooled.rows, pooled.cols, pooled.how) == (1, len(region[1]), "sum") and not groups:
                request.set_received(1, 0, cells.data_ptr())  # added up while weights are computed
            else:
                request.add_pooling(pooled.rows, pooled.cols, pooled.how == "max", cells.data_ptr())
        if groups is not None and region == whole:
            received = torch.zeros((sizes.b, sizes.h, groups.count, len(k)))
            buffers[RECEIVED] = (received,)
            of_query = groups.of_query.data_ptr() if groups.count > 1 else 0
            request.set_received(groups.count, of_query, received.data_ptr())
        core.second_pass(call, request, torch.get_num_threads())
    if maps:
        buffers[POOLED] = tuple(maps[pooled] for pooled in reductions.pooled_maps)
    if reductions.rows:
        parts = [weights(call, Box(b, h, run, k), top, share) for run in _runs(reductions.rows)]
        buffers[ROWS] = (torch.cat(parts, 2),)
    return buffers


def weights(call: core.Call, box: Box, top: Tensor, share: Tensor) -> Float[Tensor, "b h q k"]:
    """The weights of a box, in time that its size alone decides."""
    result = torch.zeros([len(side) for side in box])
    request = _request(box, top, share)
    request.set_weights(result.data_ptr())
    core.second_pass(call, request, torch.get_num_threads())
    return result


def _request(box: Box, top: Tensor, share: Tensor) -> core.SecondPass:
    ends = tuple(end for side in box for end in (side.start, side.stop))
    return core.SecondPass(top.data_ptr(), share.data_ptr(), ends)


def _runs(queries: Sequence[int]) -> list[range]:
    """Sorted numbers as runs of neighbours."""
    runs: list[range] = []
    for query in queries:
        if runs and runs[-1].stop == query:
            runs[-1] = range(runs[-1].start, query + 1)
        else:
            runs.append(range(query, query + 1))
    return runs


def gradients(
    reductions: Reductions, sizes: Sizes, sees: Tensor, grads: Mapping[Kind, Tensor | None]
) -> tuple[core.Statistics, Buffers, list[Tensor]] | None:
    """Gradients of statistics for the core, and the tensors that must live as long; None: there are none.

    Args:
        reductions: What was observed.
        sizes: Of the call.
        sees: (b, h, q) of bool: rows that see a key; the others have no gradient.
        grads: The gradient of each kind's buffer.
    """
    buffer_grads: Buffers = {}
    for kind, grad in grads.items():
        if grad is not None and kind is RECEIVED:
            buffer_grads[kind] = (grad.float().contiguous(),)
        elif grad is not None:
            rows = sees[(..., *(None,) * (grad.ndim - 3))]
            buffer_grads[kind] = (torch.where(rows, grad, 0).float().contiguous(),)
    if not buffer_grads:
        return None
    statistics = attach(reductions, buffer_grads)
    alive: list[Tensor] = []
    if RECEIVED in buffer_grads:
        alive.append(_attach_received_gradient(statistics, reductions, buffer_grads[RECEIVED][0], 0))
    return statistics, buffer_grads, alive


def _attach_received_gradient(statistics: core.Statistics, reductions: Reductions, grad: Tensor, sums: int) -> Tensor:
    groups = reductions.query_groups
    assert groups is not None
    statistics.set_received_gradient(groups.count, groups.of_query.data_ptr(), grad.data_ptr(), sums)
    return groups.of_query


def weighted_gradients(
    reductions: Reductions,
    sizes: Sizes,
    grads: Buffers,
    buffers: Buffers,
    mass: Tensor,
    run: Callable[[core.Statistics], None],
) -> Tensor:
    """Σ weight · gradient of each row's weights, (b, h, q): the softmax's gradient subtracts it.

    It follows from the statistics themselves, but for attention received: `run` makes a forward pass for it.

    Args:
        reductions: What was observed.
        sizes: Of the call.
        grads: Gradients of the buffers, from `gradients`.
        buffers: The statistics.
        mass: The sum of each row's weights, (b, h, q).
        run: Makes a forward pass with some statistics.
    """
    total = torch.zeros_like(mass)
    for kind in KINDS:
        if kind in grads and kind.weighted is not None:
            total += kind.weighted(grads[kind][0], buffers[kind][0], mass)
    if RECEIVED in grads:
        sums = torch.empty((sizes.b, sizes.h, sizes.q))
        statistics = core.Statistics()
        _attach_received_gradient(statistics, reductions, grads[RECEIVED][0], sums.data_ptr())
        run(statistics)
        total += sums
    return total
