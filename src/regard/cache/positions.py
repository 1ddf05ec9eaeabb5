"""Masks and biases for keys that do not stand where they lie.

In a plain call key ``j`` is token ``j``. In a cache it need not be: old keys were dropped, prompts of unequal
lengths were padded, and what lies side by side may stand far apart. `Slots` says which token each key of a
cache was, and makes of a mask or a bias that was meant for tokens the one that is right for these keys.
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

Places = Int[Tensor, "#b #g k"]
"""The position of the token in each slot; −1 where a slot holds padding, which nobody sees."""

_FEW = 1 << 22  # pairs that are asked about at once to find their spans


@dataclass(frozen=True, eq=False)
class Slots:
    """Which token each of `count` slots holds: those from `start` on in order, or what `places` says."""

    count: int
    device: torch.device
    start: int = 0
    places: Places | None = None

    def table(self) -> Places:
        """The position of each slot's token."""
        if self.places is not None:
            return self.places
        return torch.arange(self.start, self.start + self.count, device=self.device)[None, None]

    def extended(self, places: Tensor) -> Slots:
        """With tokens at these positions, (n,) in order or (b, n), behind."""
        n = places.shape[-1]
        if places.ndim == 1 and self.places is None:
            first = int(places[0]) if n else self.start + self.count
            if not self.count or first == self.start + self.count:
                start = self.start if self.count else first
                return Slots(self.count + n, places.device, start)
        mine = self.table().to(places.device)
        new = places[None, None] if places.ndim == 1 else places[:, None]
        b, g = max(mine.shape[0], new.shape[0]), mine.shape[1]
        joined = torch.cat((mine.expand(b, g, -1), new.expand(b, g, -1)), -1)
        return Slots(self.count + n, places.device, 0, joined)

    def since(self, first: int) -> Slots:
        """From a slot on."""
        places = None if self.places is None else self.places[..., first:]
        return Slots(self.count - first, self.device, self.start + first, places)

    def at(self, index: Int[Tensor, "#b #g kept"]) -> Slots:
        """These slots only, in ascending order."""
        count = index.shape[-1]
        if self.places is None and index.shape[:2] == (1, 1) and count and readable(index):
            first = int(index[0, 0, 0])
            if int(index[0, 0, -1]) - first == count - 1:
                return Slots(count, self.device, self.start + first)
        mine = self.table()
        b, g = (max(pair) for pair in zip(mine.shape[:2], index.shape[:2], strict=True))
        places = torch.take_along_dim(mine.expand(b, g, -1), index.expand(b, g, -1), -1)
        return Slots(count, self.device, 0, places)

    def reordered(self, rows: Int[Tensor, " rows"]) -> Slots:
        """Of other batch rows."""
        if self.places is None or self.places.shape[0] == 1:
            return self
        return replace(self, places=self.places[rows])

    @functools.cached_property
    def steady(self) -> bool:
        """Whether slots lie as far apart as their tokens stood, in every batch row and head."""
        if self.places is None:
            return True
        if not readable(self.places):
            return False
        shift = self.places - torch.arange(self.count, device=self.device)
        real = self.places >= 0
        greatest = torch.where(real, shift, -self.count).amax(-1, keepdim=True)
        return bool(((shift == greatest) | ~real).all())

    def mask(self, mask: Mask | Tensor | None) -> Mask:
        """A mask that was meant for tokens, on these slots; the last query is the token in the last slot.

        A bool tensor counts slots, as it is made for one call.
        """
        found = self._mask(as_mask(mask), self.steady)
        if self.places is None:
            return found
        filled = SlotPadding(keys=self.places)
        return filled if isinstance(found, Everything) else found & filled

    def bias(self, bias: Bias | Tensor | None) -> Bias:
        """A bias that was meant for tokens, on these slots; a float tensor counts slots."""
        return self._bias(as_bias(bias), self.steady)

    def score(self, score: AnyValue) -> AnyValue:
        """A score that was meant for tokens, on these slots, where it may be."""
        if isinstance(score, Aligned) and not self.steady:
            self.refuse("score", score)
        return _from_the_last("score", score)

    def refuse(self, name: str, value: Value) -> None:
        """Say that a value which counts keys cannot be used, where slots are not tokens."""
        if self.places is not None or self.start:
            raise OptionError(
                name,
                f"{type(value).__name__} with a cache that has dropped or padded keys",
                "what depends on positions or distances alone, or a tensor for this call",
                "Keep every key, or give a tensor over the keys of the cache.",
            )

    def _mask(self, mask: Mask, steady: bool) -> Mask:
        match mask:
            case And(left, right):
                return self._mask(left, steady) & self._mask(right, steady)
            case Or(left, right):
                return self._mask(left, steady) | self._mask(right, steady)
            case Not(inner):
                return ~self._mask(inner, steady)
            case Everything() | Given():
                return mask
            case Padding() | Documents() | Blocks():
                self.refuse("mask", mask)
                return _from_the_last("mask", mask)
            case Causal() | Window() | Dilated() if steady and not mask.offset:
                return mask if mask.offset is None else replace(mask, offset=None)
            case Prefix() if self.places is None:
                return Prefix(max(mask.length - self.start, 0))
            case _:
                return PositionMask(_from_the_first(mask), keys=self.table())

    def _bias(self, bias: Bias, steady: bool) -> Bias:
        match bias:
            case Sum(left, right):
                return self._bias(left, steady) + self._bias(right, steady)
            case Nothing() | Dense():
                return bias
            case ByDistance() if steady and not bias.offset:
                return bias if bias.offset is None else replace(bias, offset=None)
            case ByDistance():
                return PositionBias(_from_the_first(bias), keys=self.table())
            case _:
                self.refuse("bias", bias)
                return _from_the_last("bias", bias)


@dataclass(frozen=True, eq=False)
class _Slotted(Value):
    """A value that knows the position of the token in each slot, and that of each query.

    Without `queries` these are the tokens in the last slots, as everywhere in this library.
    """

    keys: Places = field(kw_only=True)
    queries: Int[Tensor, "#b #g q"] | None = field(default=None, kw_only=True)
    _per: int = field(default=1, kw_only=True, repr=False)
    """Query heads that share a row of `keys`."""

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        name, places, queries = type(self).__name__, self.keys, self.queries
        if queries is None:
            if sizes.q > sizes.k:
                raise ShapeError(
                    name,
                    f"{sizes.q} queries and {sizes.k} keys",
                    "at most as many queries",
                    "Queries are the last tokens of the cache.",
                )
            queries = places[..., places.shape[-1] - sizes.q :]
        for what, given, count in (("keys", places, sizes.k), ("queries", queries, sizes.q)):
            b, g, n = given.shape
            if b not in (1, sizes.b) or g not in (1, sizes.g) or n != count:
                raise ShapeError(
                    f"{name}({what}=…)",
                    f"shape {tuple(given.shape)}",
                    f"({sizes.b}, {sizes.g}, {count}); the first two may be 1",
                    "Take mask and bias from the cache whose keys these are.",
                )
        return bound._with(queries=queries, _per=sizes.h // max(sizes.g, 1) or 1)

    def _places(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The positions of queries and keys with these indices."""
        assert self.queries is not None, "used before bind()"
        return _at(self.queries, b, h // self._per, q), _at(self.keys, b, h // self._per, k)

    def tile(self, box: Box) -> Tile:
        """What a block of pairs holds: nothing is known of it but by looking at all of them."""
        if not readable(self.keys):
            return Tile.MIXED
        allowed = self.block(box, self.keys.device)  # pyright: ignore[reportAttributeAccessIssue]
        if not bool(allowed.any()):
            return Tile.EMPTY
        return Tile.FULL if bool(allowed.all()) else Tile.MIXED


@dataclass(frozen=True, eq=False)
class SlotPadding(_Slotted, Mask):
    """Slots that hold padding are seen by nobody, and padding itself sees nothing.

    >>> from regard.spec.masks import show
    >>> show(SlotPadding(keys=torch.tensor([[[-1, 0, 1]]])), queries=2, keys=3)
    .##
    .##
    """

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        query, key = self._places(b, h, q, k)
        return (query >= 0) & (key >= 0)

    def spans(self, sizes: Sizes) -> Spans | None:
        if not readable(self.keys) or not sizes.k:
            return None
        assert self.queries is not None, "SlotPadding was used before bind()"
        if sizes.q and self.keys.numel() and min(self.keys.min(), self.queries.min()) >= 0:
            return Everything().spans(sizes)  # nothing was padded: keys were only dropped
        queries, keys = (
            (places >= 0).repeat_interleave(self._per if places.shape[1] > 1 else 1, 1).cpu().numpy()
            for places in (self.queries, self.keys)
        )
        found = spans.of_table(keys[:, :, None], sizes.k)
        return None if found is None else found * queries[..., None, None]


@dataclass(frozen=True, eq=False)
class PositionMask(_Slotted, Mask):
    """A mask that is asked about positions of tokens, not about where they lie.

    `inner` counts from the first token, ``offset=0``.

    >>> from regard.spec.masks import show
    >>> kept = torch.tensor([[[0, 4, 5, 6]]])
    >>> show(PositionMask(Causal(offset=0) & Window(2, offset=0), keys=kept), queries=2, keys=4)
    .##.
    .###
    """

    inner: Mask

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.inner.allows(b, h, *self._places(b, h, q, k))

    def spans(self, sizes: Sizes) -> Spans | None:
        pairs = sizes.b * sizes.h * sizes.q * sizes.k
        if not readable(self.keys) or not 0 < pairs <= _FEW:
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
class PositionBias(_Slotted, Bias):
    """A bias by distance that is asked about positions of tokens, not about where they lie.

    The kernels take it as a tensor over all pairs: little in a step of decoding, as much as the weights
    would take in a long chunk. `inner` counts from the first token, ``offset=0``.
    """

    inner: ByDistance

    def may_mask(self) -> bool:
        return self.inner.may_mask()

    def block(self, box: Box) -> Tensor:
        b, h, q, k = box.indices(self.keys.device)
        query, key = self._places(b, h, q, k)
        distance = query + self.inner.shift - key
        if not distance.numel():
            return torch.zeros([len(part) for part in box], device=distance.device)
        least, greatest = (int(end) for end in distance.aminmax())
        table = self.inner.of_distance(torch.arange(least, greatest + 1, device=distance.device))
        return table[h, distance - least]


def _at(places: Places, b: Tensor, g: Tensor, index: Tensor) -> Tensor:
    """The places of these slots, (b, h, q, 1) or (b, h, 1, k); of 1 where all share them.

    Indices lie across each other, as `Mask.allows` has them: one dimension after another is quicker.
    """
    found = places.index_select(2, index.reshape(-1))
    for dim, which in ((1, g), (0, b)):
        if places.shape[dim] > 1:
            found = found.index_select(dim, which.reshape(-1))
    return found.reshape(*found.shape[:2], *(index if index.ndim > 1 else index[None]).shape[-2:])


def _from_the_first(value: AnyValue) -> AnyValue:
    """The same value counting from the first token, where it would count from the last key."""
    changes: dict[str, Any] = {
        part.name: _from_the_first(content)
        for part in fields(value)
        if isinstance(content := getattr(value, part.name), Value)
    }
    if isinstance(value, Aligned) and value.offset is None:
        changes["offset"] = 0
    return replace(value, **changes) if changes else value


def _from_the_last(name: str, value: AnyValue) -> AnyValue:
    """The same value counting from the last key, where it counts from the first and all keys are there."""
    if not isinstance(value, Aligned) or value.offset is None:
        return value
    if value.offset:
        raise OptionError(
            name,
            f"{type(value).__name__} with offset {value.offset} in a cache",
            "None or 0",
            "A token of a cache stands where it stood in the text.",
        )
    return replace(value, offset=None)
