"""A map by distance, for heads that see a few tokens back: on a map of keys they are a thin line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from regard.observers import Block, Observer
from regard.shapes import Sizes


@dataclass(frozen=True)
class Band(Observer[Tensor]):
    """The weights by how far back their key lies: (b, h, rows, reach), the nearest last.

    Query i falls into row ``i · rows // q``; column ``c`` holds the keys ``reach − 1 − c`` before it. `how`
    is "max" or "mean" over the queries of a row; keys that are not there or may not be seen count as 0.
    """

    rows: int
    reach: int
    how: str
    by_row = False

    def bind(self, sizes: Sizes) -> Self:
        return replace(self, rows=min(self.rows, sizes.q))

    def of(self, block: Block) -> tuple[Tensor, ...]:
        weights, keys, sizes = block.weights.detach(), block.keys, block.sizes
        back = torch.arange(self.reach - 1, -1, -1, device=keys.device)
        wanted = block.positions(sizes.offset)[:, None] - back
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        there = keys[place] == wanted
        near = weights.gather(-1, place.expand(*weights.shape[:2], *place.shape)) * there
        result = weights.new_zeros((*weights.shape[:2], self.rows, self.reach))
        rows = torch.arange(sizes.q, device=keys.device) * self.rows // sizes.q
        mine = rows[block.queries.start : block.queries.stop]
        if self.how == "mean":
            near = near / torch.bincount(rows, minlength=self.rows)[mine][:, None]
            return (result.index_add_(2, mine, near),)
        return (result.scatter_reduce_(2, mine[:, None].expand_as(near), near, "amax"),)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        whole = parts[0]
        for part in parts[1:]:
            whole = torch.maximum(whole, part) if self.how == "max" else whole + part
        return whole
