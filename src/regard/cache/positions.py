"""Masks and biases for keys whose index is not the position of their token.

In a plain call key ``j`` is token ``j``. In a cache it need not be: keys were dropped, or prompts of unequal
lengths were padded, so neighbouring slots may be distant tokens. `Slots` maps each slot of a cache to the position of
its token, and translates a mask, bias or score on tokens to one on slots.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from regard.errors import OptionError, ShapeError
from regard.shapes import Box, Sizes
from regard.spec import spans
from regard.spec.biases import Bias, ByDistance, Dense, Nothing, Sum, as_bias
from regard.spec.masks import (
    And,
    Blocks,
    Causal,
    Dilated,
    Documents,
    Everything,
    Given,
    Mask,
    Not,
    Or,
    Padding,
    Prefix,
    Tile,
    Window,
    as_mask,
)
from regard.spec.spans import Spans
from regard.spec.values import Aligned, Value, readable

AnyValue = TypeVar("AnyValue", bound=Value)

SlotPositions = Int[Tensor, "#b #g k"]
"""The position of the token in each slot; −1 for padding, which no query may see."""

_MAX_PAIRS = 1 << 22  # pairs whose mask is evaluated at once to find its spans


@dataclass(frozen=True, eq=False)
class Slots:
    """The token of each of `count` slots: those from `start` on in order, or at `positions`."""

    count: int
    device: torch.device
    start: int = 0
    positions: SlotPositions | None = None

    def table(self) -> SlotPositions:
        """The position of each slot's token."""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.start, self.start + self.count, device=self.device)[None, None]

    def extended(self, positions: Tensor) -> Slots:
        """With tokens at these positions, (n,) in order or (b, n), after the present ones."""
        n = positions.shape[-1]
        if positions.ndim == 1 and self.positions is None:
            first = int(positions[0]) if n else self.start + self.count
            if not self.count or first == self.start + self.count:
                start = self.start if self.count else first
                return Slots(self.count + n, positions.device, start)
        old = self.table().to(positions.device)
        new = positions[None, None] if positions.ndim == 1 else positions[:, None]
        b, g = max(old.shape[0], new.shape[0]), old.shape[1]
        joined = torch.cat((old.expand(b, g, -1), new.expand(b, g, -1)), -1)
        return Slots(self.count + n, positions.device, 0, joined)

    def since(self, first: int) -> Slots:
        """The slots from `first` on."""
        positions = None if self.positions is None else self.positions[..., first:]
        return Slots(self.count - first, self.device, self.start + first, positions)

    def at(self, index: Int[Tensor, "#b #g kept"]) -> Slots:
        """These slots only, in ascending order."""
        count = index.shape[-1]
        if self.positions is None and index.shape[:2] == (1, 1) and count and readable(index):
            first = int(index[0, 0, 0])
            if int(index[0, 0, -1]) - first == count - 1:
                return Slots(count, self.device, self.start + first)
        table = self.table()
        b, g = (max(pair) for pair in zip(table.shape[:2], index.shape[:2], strict=True))
        positions = torch.take_along_dim(table.expand(b, g, -1), index.expand(b, g, -1), -1)
        return Slots(count, self.device, 0, positions)

    def reordered(self, rows: Int[Tensor, " rows"]) -> Slots:
        """The slots of these batch rows."""
        if self.positions is None or self.positions.shape[0] == 1:
            return self
        return replace(self, positions=self.positions[rows])

    @functools.cached_property
    def preserves_distances(self) -> bool:
        """Whether distances of slots are those of their tokens, in every batch row and head."""
        if self.positions is None:
            return True
        if not readable(self.positions):
            return False
        shift = self.positions - torch.arange(self.count, device=self.device)
        real = self.positions >= 0
        greatest = torch.where(real, shift, -self.count).amax(-1, keepdim=True)
        return bool(((shift == greatest) | ~real).all())

    def mask(self, mask: Mask | Tensor | None) -> Mask:
        """A mask on tokens as one on these slots; the last query is the token in the last slot.

        A bool tensor is indexed by slot already, since it is for one call.
        """
        result = self._mask(as_mask(mask), self.preserves_distances)
        if self.positions is None:
            return result
        filled = SlotPadding(keys=self.positions)
        return filled if isinstance(result, Everything) else result & filled

    def bias(self, bias: Bias | Tensor | None) -> Bias:
        """A bias on tokens as one on these slots; a float tensor is indexed by slot already."""
        return self._bias(as_bias(bias), self.preserves_distances)

    def score(self, score: AnyValue) -> AnyValue:
        """A score on tokens as one on these slots; an error where it cannot be."""
        if isinstance(score, Aligned) and not self.preserves_distances:
            self.raise_unsupported("score", score)
        return _aligned_to_last("score", score)

    def raise_unsupported(self, name: str, value: Value) -> None:
        """Raise an error for a value that is indexed by key, unless every slot is the token of its index."""
        if self.positions is not None or self.start:
            raise OptionError(
                name,
                f"{type(value).__name__} with a cache that has dropped or padded keys",
                "what depends on positions or distances alone, or a tensor for this call",
                "Keep every key, or give a tensor over the keys of the cache.",
            )

    def _mask(self, mask: Mask, preserves_distances: bool) -> Mask:
        match mask:
            case And(left, right):
                return self._mask(left, preserves_distances) & self._mask(right, preserves_distances)
            case Or(left, right):
                return self._mask(left, preserves_distances) | self._mask(right, preserves_distances)
            case Not(inner):
                return ~self._mask(inner, preserves_distances)
            case Everything() | Given():
                return mask
            case Padding() | Documents() | Blocks():
                self.raise_unsupported("mask", mask)
                return _aligned_to_last("mask", mask)
            case Causal() | Window() | Dilated() if preserves_distances and not mask.offset:
                return mask if mask.offset is None else replace(mask, offset=None)
            case Prefix() if self.positions is None:
                return Prefix(max(mask.length - self.start, 0))
            case _:
                return PositionMask(_aligned_to_first(mask), keys=self.table())

    def _bias(self, bias: Bias, preserves_distances: bool) -> Bias:
        match bias:
            case Sum(left, right):
                return self._bias(left, preserves_distances) + self._bias(right, preserves_distances)
            case Nothing() | Dense():
                return bias
            case ByDistance() if preserves_distances and not bias.offset:
                return bias if bias.offset is None else replace(bias, offset=None)
            case ByDistance():
                return PositionBias(_aligned_to_first(bias), keys=self.table())
            case _:
                self.raise_unsupported("bias", bias)
                return _aligned_to_last("bias", bias)


@dataclass(frozen=True, eq=False)
class _SlotValue(Value):
    """A value with the position of the token in each slot, and that of each query.

    Without `queries` the queries are the tokens in the last slots.
    """

    keys: SlotPositions = field(kw_only=True)
    queries: Int[Tensor, "#b #g q"] | None = field(default=None, kw_only=True)
    _heads_per_row: int = field(default=1, kw_only=True, repr=False)
    """Query heads that share a row of `keys`."""

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        name, positions, queries = type(self).__name__, self.keys, self.queries
        if queries is None:
            if sizes.q > sizes.k:
                raise ShapeError(
                    name,
                    f"{sizes.q} queries and {sizes.k} keys",
                    "at most as many queries",
                    "Queries are the last tokens of the cache.",
                )
            queries = positions[..., positions.shape[-1] - sizes.q :]
        for what, given, count in (("keys", positions, sizes.k), ("queries", queries, sizes.q)):
            b, g, n = given.shape
            if b not in (1, sizes.b) or g not in (1, sizes.g) or n != count:
                raise ShapeError(
                    f"{name}({what}=…)",
                    f"shape {tuple(given.shape)}",
                    f"({sizes.b}, {sizes.g}, {count}); the first two may be 1",
                    "Take mask and bias from the cache whose keys these are.",
                )
        return bound._with(queries=queries, _heads_per_row=sizes.h // max(sizes.g, 1) or 1)

    def _positions_of(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The positions of queries and keys with these indices."""
        assert self.queries is not None, "used before bind()"
        g = h // self._heads_per_row
        return _positions_at(self.queries, b, g, q), _positions_at(self.keys, b, g, k)

    def tile(self, box: Box) -> Tile:
        """Found by evaluating every pair of the block."""
        if not readable(self.keys):
            return Tile.MIXED
        allowed = self.block(box, self.keys.device)  # pyright: ignore[reportAttributeAccessIssue]
        if not bool(allowed.any()):
            return Tile.EMPTY
        return Tile.FULL if bool(allowed.all()) else Tile.MIXED


@dataclass(frozen=True, eq=False)
class SlotPadding(_SlotValue, Mask):
    """No query sees a slot of padding, and padding sees nothing.

    >>> from regard.spec.masks import show
    >>> show(SlotPadding(keys=torch.tensor([[[-1, 0, 1]]])), queries=2, keys=3)
    .##
    .##
    """

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        query, key = self._positions_of(b, h, q, k)
        return (query >= 0) & (key >= 0)

    def spans(self, sizes: Sizes) -> Spans | None:
        if not readable(self.keys) or not sizes.k:
            return None
        assert self.queries is not None, "SlotPadding was used before bind()"
        if sizes.q and self.keys.numel() and min(self.keys.min(), self.queries.min()) >= 0:
            return Everything().spans(sizes)  # no padding: keys were only dropped
        queries, keys = (
            (positions >= 0).repeat_interleave(self._heads_per_row if positions.shape[1] > 1 else 1, 1).cpu().numpy()
            for positions in (self.queries, self.keys)
        )
        result = spans.of_table(keys[:, :, None], sizes.k)
        return None if result is None else result * queries[..., None, None]


@dataclass(frozen=True, eq=False)
class PositionMask(_SlotValue, Mask):
    """A mask evaluated at the positions of tokens instead of the indices of slots.

    `inner` is aligned to the first token, ``offset=0``.

    >>> from regard.spec.masks import show
    >>> kept = torch.tensor([[[0, 4, 5, 6]]])
    >>> show(PositionMask(Causal(offset=0) & Window(2, offset=0), keys=kept), queries=2, keys=4)
    .##.
    .###
    """

    inner: Mask

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.inner.allows(b, h, *self._positions_of(b, h, q, k))

    def spans(self, sizes: Sizes) -> Spans | None:
        pairs = sizes.b * sizes.h * sizes.q * sizes.k
        if not readable(self.keys) or not 0 < pairs <= _MAX_PAIRS:
            return None
        assert self.queries is not None, "PositionMask was used before bind()"
        if (
            isinstance(self.inner, Causal)
            and self.inner.shift >= 0
            and bool((self.queries.amin(-1) >= self.keys.amax(-1)).all())
        ):
            return Everything().spans(sizes)  # a step of one token
        table = self.block(sizes.pairs, sizes.device)
        table = table[(None,) * (4 - table.ndim)].expand(-1, -1, sizes.q, sizes.k)
        return spans.of_table(table.cpu().numpy(), sizes.k)


@dataclass(frozen=True, eq=False)
class PositionBias(_SlotValue, Bias):
    """A bias by distance evaluated at the positions of tokens instead of the indices of slots.

    The kernels take it as a tensor over all pairs: little in a step of decoding, as much as the weights
    would take in a long chunk. `inner` is aligned to the first token, ``offset=0``.
    """

    inner: ByDistance

    def may_mask(self) -> bool:
        return self.inner.may_mask()

    def block(self, box: Box) -> Tensor:
        b, h, q, k = box.indices(self.keys.device)
        query, key = self._positions_of(b, h, q, k)
        distance = query + self.inner.shift - key
        if not distance.numel():
            return torch.zeros([len(part) for part in box], device=distance.device)
        least, greatest = (int(end) for end in distance.aminmax())
        table = self.inner.of_distance(torch.arange(least, greatest + 1, device=distance.device))
        return table[h, distance - least]


def _positions_at(positions: SlotPositions, b: Tensor, g: Tensor, index: Tensor) -> Tensor:
    """The positions of these slots, (b, h, q, 1) or (b, h, 1, k); shared dimensions have size 1.

    The indices broadcast against each other, as in `Mask.allows`: selecting one dimension at a time is faster.
    """
    result = positions.index_select(2, index.reshape(-1))
    for dim, which in ((1, g), (0, b)):
        if positions.shape[dim] > 1:
            result = result.index_select(dim, which.reshape(-1))
    return result.reshape(*result.shape[:2], *(index if index.ndim > 1 else index[None]).shape[-2:])


def _aligned_to_first(value: AnyValue) -> AnyValue:
    """The same value aligned to the first token, where it would be aligned to the last key."""
    changes: dict[str, Any] = {
        part.name: _aligned_to_first(content)
        for part in fields(value)
        if isinstance(content := getattr(value, part.name), Value)
    }
    if isinstance(value, Aligned) and value.offset is None:
        changes["offset"] = 0
    return replace(value, **changes) if changes else value


def _aligned_to_last(name: str, value: AnyValue) -> AnyValue:
    """The same value aligned to the last key, where it is aligned to the first and no key is missing."""
    if not isinstance(value, Aligned) or value.offset is None:
        return value
    if value.offset:
        raise OptionError(
            name,
            f"{type(value).__name__} with offset {value.offset} in a cache",
            "None or 0",
            "A token of a cache keeps its position in the text.",
        )
    return replace(value, offset=None)
