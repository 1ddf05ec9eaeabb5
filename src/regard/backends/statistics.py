"""What the kernels see of the weights: room for it, the second visit that some takes, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regard._native import core
from regard.lowering.reductions import Asked, Sets
from regard.shapes import Box, Sizes
from regard.spec.observers import Pooled

Found = dict[str, Tensor]
"""What was found, or gradients of it, by name: `regard.lowering.reductions.results` knows the names."""


def room(asked: Asked, sizes: Sizes) -> Found:
    """Empty tensors for what the forward pass gives."""
    b, h, q = sizes.b, sizes.h, sizes.q
    found: Found = {}

    def add(name: str, wanted: object, *columns: int, dtype: torch.dtype = torch.float32) -> None:
        if wanted:
            found[name] = torch.empty((b, h, q, *columns), dtype=dtype)

    add("entropy", asked.entropy)
    add("greatest", asked.greatest)
    add("top_keys", asked.top, asked.top, dtype=torch.int64)
    add("top_weights", asked.top, asked.top)
    add("distances", asked.offsets, len(asked.offsets))
    add("bands", asked.bands, len(asked.bands))
    add("masses", asked.sets, asked.sets.count if asked.sets else 0)
    return found


def statistics(asked: Asked, found: Mapping[str, Tensor]) -> core.Statistics:
    """The same for the core; also for gradients of it, those that there are. Nothing is kept alive."""
    made = core.Statistics()
    if (one := found.get("entropy")) is not None:
        made.set_entropy(one.data_ptr())
    if (one := found.get("greatest")) is not None:
        made.set_greatest(one.data_ptr())
    if (one := found.get("top_weights")) is not None:
        made.set_top(asked.top, found["top_keys"].data_ptr(), one.data_ptr())
    if (one := found.get("distances")) is not None:
        made.set_distances(asked.offsets, one.data_ptr())
    if (one := found.get("bands")) is not None:
        made.set_bands(asked.bands, one.data_ptr())
    if (one := found.get("masses")) is not None:
        _set_sets(made, asked.sets, one)
    return made


def _set_sets(made: core.Statistics, sets: Sets | None, masses: Tensor) -> None:
    assert sets is not None
    ranges, in_sets, members = (t.data_ptr() for t in (sets.ranges, sets.in_sets, sets.members))
    made.set_sets(len(sets.ranges), ranges, in_sets, members, sets.count, masses.data_ptr())


def revisit(asked: Asked, call: core.Call, sizes: Sizes, top: Tensor, share: Tensor) -> Found:
    """What takes the final weights; `top` and `share` are what a forward pass left of the rows, (b, h, q)."""
    b, h, q, k = (range(n) for n in (sizes.b, sizes.h, sizes.q, sizes.k))
    found: Found = {}
    everything = q, k
    regions: dict[tuple[range, range], list[Pooled]] = {everything: []} if asked.lots else {}
    for one in asked.maps:
        regions.setdefault(one.rectangle, []).append(one)
    for region, maps in regions.items():
        visit = _visit(Box(b, h, *region), top, share)
        for one in maps:
            cells = torch.zeros((sizes.b, sizes.h, one.rows, one.cols))
            found[f"map {asked.maps.index(one)}"] = cells
            if (one.rows, one.cols, one.how) == (1, len(region[1]), "sum") and not asked.lots:
                visit.set_received(1, 0, cells.data_ptr())  # added up while weights are made
            else:
                visit.add_pooling(one.rows, one.cols, one.how == "max", cells.data_ptr())
        if asked.lots is not None and region == everything:
            found["received"] = received = torch.zeros((sizes.b, sizes.h, asked.lots.count, len(k)))
            lot = asked.lots.of_query.data_ptr() if asked.lots.count > 1 else 0
            visit.set_received(asked.lots.count, lot, received.data_ptr())
        core.revisit(call, visit, torch.get_num_threads())
    if asked.rows:
        parts = [weights(call, Box(b, h, run, k), top, share) for run in _runs(asked.rows)]
        found["rows"] = torch.cat(parts, 2)
    return found


def weights(call: core.Call, box: Box, top: Tensor, share: Tensor) -> Float[Tensor, "b h q k"]:
    """The weights of a box, in time that its size alone decides."""
    found = torch.zeros([len(side) for side in box])
    visit = _visit(box, top, share)
    visit.set_weights(found.data_ptr())
    core.revisit(call, visit, torch.get_num_threads())
    return found


def _visit(box: Box, top: Tensor, share: Tensor) -> core.Revisit:
    ends = tuple(end for side in box for end in (side.start, side.stop))
    return core.Revisit(top.data_ptr(), share.data_ptr(), ends)


def _runs(queries: Sequence[int]) -> list[range]:
    """Sorted numbers as runs of neighbours."""
    found: list[range] = []
    for query in queries:
        if found and found[-1].stop == query:
            found[-1] = range(found[-1].start, query + 1)
        else:
            found.append(range(query, query + 1))
    return found


def gradients(
    asked: Asked, sizes: Sizes, sees: Tensor, grads: Mapping[str, Tensor | None]
) -> tuple[core.Statistics, Found] | None:
    """Gradients of statistics for the core, and the tensors that must live as long; None: there are none.

    Args:
        asked: What was observed.
        sizes: Of the call.
        sees: (b, h, q) of bool: the others have no gradient, whatever they are asked.
        grads: By name.
    """
    kept: Found = {}
    for name, grad in grads.items():
        if grad is not None and name == "received":
            kept[name] = grad.float().contiguous()
        elif grad is not None:
            rows = sees[(..., *(None,) * (grad.ndim - 3))]
            kept[name] = torch.where(rows, grad, 0).float().contiguous()
    if not kept:
        return None
    made = statistics(asked, kept)
    if (keyed := kept.get("received")) is not None:
        _set_keyed(made, asked, sizes, kept, keyed, 0)
    return made, kept


def _set_keyed(made: core.Statistics, asked: Asked, sizes: Sizes, kept: Found, keyed: Tensor, sums: int) -> None:
    assert asked.lots is not None
    kept["lot"] = asked.lots.of_query
    made.set_keyed(asked.lots.count, kept["lot"].data_ptr(), keyed.data_ptr(), sums)


def along(
    asked: Asked,
    sizes: Sizes,
    kept: Found,
    found: Mapping[str, Tensor],
    mass: Tensor,
    run: Callable[[core.Statistics], None],
) -> Tensor:
    """Σ weight · gradient of each row's weights, (b, h, q): by how much all of them may shift without effect.

    What the weights of a row give follows from the statistics themselves, but for what keys receive: `run`
    makes a forward pass for it.

    Args:
        asked: What was observed.
        sizes: Of the call.
        kept: Gradients, of `gradients`.
        found: The statistics.
        mass: The sum of each row's weights, (b, h, q).
        run: Makes a forward pass with some statistics.
    """
    total = torch.zeros_like(mass)
    if (grad := kept.get("entropy")) is not None:
        total += grad * (found["entropy"] - mass)
    for name in ("distances", "bands", "masses"):
        if (grad := kept.get(name)) is not None:
            total += (grad * found[name]).sum(-1)
    if (keyed := kept.get("received")) is not None:
        sums = torch.empty((sizes.b, sizes.h, sizes.q))
        made = core.Statistics()
        _set_keyed(made, asked, sizes, kept, keyed, sums.data_ptr())
        run(made)
        total += sums
    return total
