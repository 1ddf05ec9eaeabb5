"""Which keys a query may see.

A mask is a value that defines `Mask.allows`, and optionally two faster descriptions of it, `Mask.tile` and
`Mask.spans`. Masks compose: ``Causal() & (Window(256) | Prefix(16))``, ``~Padding(lengths)``,
``Causal() & tensor``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self, cast

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from regard.errors import DtypeError, OptionError, ShapeError
from regard.shapes import Box, Sizes, broadcasts_to
from regard.spec import spans
from regard.spec.spans import Spans
from regard.spec.values import Aligned, Value, readable, whole_number


class Tile(enum.Enum):
    """Whether no pair of a block is allowed, every pair, or some."""

    EMPTY = "empty"
    FULL = "full"
    MIXED = "mixed"


@dataclass(frozen=True)
class Mask(Value):
    """Which keys each query may see."""

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Whether query ``q`` of head ``h`` in batch row ``b`` may see key ``k``.

        The four are integer tensors of shapes (b, 1, 1, 1), (1, h, 1, 1), (1, 1, q, 1) and (1, 1, 1, k); the
        result is a bool tensor that broadcasts to (b, h, q, k).
        """
        raise NotImplementedError

    def tile(self, box: Box) -> Tile:
        """The kind of a block of pairs. EMPTY and FULL must be true; MIXED is always correct, and only slower."""
        del box
        return Tile.MIXED

    def spans(self, sizes: Sizes) -> Spans | None:
        """The keys that each query may see as spans, where they are a few runs of consecutive keys; else None."""
        del sizes
        return None

    def block(self, box: Box, device: torch.device) -> Tensor:
        """Which pairs of a box are allowed: `allows` of all its indices."""
        return self.allows(*box.indices(device))

    def conjuncts(self) -> tuple[Mask, ...]:
        """Masks whose conjunction is this one."""
        return (self,)

    def __and__(self, other: Mask | Tensor) -> Mask:
        return And(self, as_mask(other))

    def __or__(self, other: Mask | Tensor) -> Mask:
        return Or(self, as_mask(other))

    def __invert__(self) -> Mask:
        return Not(self)


@dataclass(frozen=True)
class Everything(Mask):
    """Every query sees every key: what ``mask=None`` means."""

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=q.device)

    def tile(self, box: Box) -> Tile:
        return Tile.FULL

    def spans(self, sizes: Sizes) -> Spans | None:
        return spans.single(_ZERO, _ZERO + sizes.k, sizes.k)


@dataclass(frozen=True)
class Causal(Aligned, Mask):
    """Each query sees the keys up to its own position.

    With fewer queries than keys the last query is at the position of the last key, as decoding with a cache needs;
    ``Causal(offset=0)`` puts the first query at the first key instead.

    >>> show(Causal(), queries=3, keys=4)
    ##..
    ###.
    ####
    """

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k <= q + self.shift

    def tile(self, box: Box) -> Tile:
        return _tile_of_distances(_distances(box, self.shift), 0, None)

    def spans(self, sizes: Sizes) -> Spans | None:
        return spans.single(_ZERO, _positions(sizes, self.shift) + 1, sizes.k)


@dataclass(frozen=True)
class Window(Aligned, Mask):
    """Each query sees itself, the `back` keys before it and the `ahead` keys after it.

    >>> show(Causal() & Window(1), queries=4, keys=4)
    #...
    ##..
    .##.
    ..##
    """

    back: int
    ahead: int = 0

    def __post_init__(self) -> None:
        for name in ("back", "ahead"):
            whole_number(f"Window({name}=…)", getattr(self, name), 0)

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = q + self.shift - k
        return (distance <= self.back) & (-distance <= self.ahead)

    def tile(self, box: Box) -> Tile:
        return _tile_of_distances(_distances(box, self.shift), -self.ahead, self.back)

    def spans(self, sizes: Sizes) -> Spans | None:
        positions = _positions(sizes, self.shift)
        return spans.single(positions - self.back, positions + self.ahead + 1, sizes.k)


@dataclass(frozen=True)
class Dilated(Aligned, Mask):
    """Each query sees every `step`-th key, relative to its own position, in both directions (Longformer, 2020).

    >>> show(Causal() & Dilated(2), queries=4, keys=4)
    #...
    .#..
    #.#.
    .#.#
    """

    step: int

    def __post_init__(self) -> None:
        whole_number("Dilated(step=…)", self.step, 1)

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q + self.shift - k) % self.step == 0

    def tile(self, box: Box) -> Tile:
        if self.step == 1:
            return Tile.FULL
        near, far = _distances(box, self.shift)
        first_multiple = -(-near // self.step) * self.step
        if first_multiple > far:
            return Tile.EMPTY
        return Tile.FULL if near == far else Tile.MIXED


@dataclass(frozen=True)
class Prefix(Mask):
    """Every query sees the first `length` keys; with `Causal` by ``|``, a prefix language model.

    >>> show(Causal() | Prefix(2), queries=3, keys=3)
    ##.
    ##.
    ###
    """

    length: int

    def __post_init__(self) -> None:
        whole_number("Prefix(length=…)", self.length, 0)

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k < self.length

    def tile(self, box: Box) -> Tile:
        if box.k.start >= self.length:
            return Tile.EMPTY
        return Tile.FULL if box.k.stop <= self.length else Tile.MIXED

    def spans(self, sizes: Sizes) -> Spans | None:
        return spans.single(_ZERO, _ZERO + self.length, sizes.k)


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Only the real keys of each batch row may be seen; padding is on the right, or on the left.

    `lengths` counts the real keys of each batch row. The contents of padded keys and values never matter, and
    a row of length 0 gives zeros.

    >>> show(Padding(torch.tensor([2])), queries=2, keys=4)
    ##..
    ##..
    """

    lengths: Int[Tensor, " b"]
    side: str = "right"
    keys: int | None = field(default=None, kw_only=True, repr=False)
    _bounds: np.ndarray | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.side not in ("left", "right"):
            raise OptionError("Padding(side=…)", repr(self.side), "'left' or 'right'", "Name the side of the padding.")
        _integers("Padding(lengths=…)", self.lengths)

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        if self.lengths.shape not in ((sizes.b,), (1,)):
            raise ShapeError(
                "Padding(lengths=…)",
                f"shape {tuple(self.lengths.shape)}",
                f"({sizes.b},), one length for each batch row",
                "Give mask.sum(-1) of a 2-D padding mask.",
            )
        return replace(bound, keys=sizes.k, _bounds=_cpu_values(self.lengths))

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        lengths = _each_row(self.lengths, b)[:, None, None, None]
        if self.side == "right":
            return k < lengths
        assert self.keys is not None, "Padding was used before bind()"
        return k >= self.keys - lengths

    def tile(self, box: Box) -> Tile:
        if self._bounds is None or self.keys is None:
            return Tile.MIXED
        lengths = self._bounds if len(self._bounds) == 1 else self._bounds[box.b.start : box.b.stop]
        if self.side == "right":
            kinds = [_tile_of_keys(box, 0, int(n)) for n in np.unique(lengths)]
        else:
            kinds = [_tile_of_keys(box, self.keys - int(n), self.keys) for n in np.unique(lengths)]
        return kinds[0] if len(set(kinds)) == 1 else Tile.MIXED

    def spans(self, sizes: Sizes) -> Spans | None:
        if self._bounds is None:
            return None
        lengths = self._bounds.reshape(-1, 1, 1)
        if self.side == "right":
            return spans.single(_ZERO, lengths, sizes.k)
        return spans.single(sizes.k - lengths, _ZERO + sizes.k, sizes.k)


@dataclass(frozen=True, eq=False)
class Documents(Aligned, Mask):
    """Several documents packed into one sequence: each token sees its own document only.

    `ids` names the document of each key position, for all batch rows or for each; `Documents.of_lengths`
    builds it. A query has the id of the key at its position.

    >>> show(Documents.of_lengths(1, 2), queries=3, keys=3)
    #..
    .##
    .##
    """

    ids: Int[Tensor, " k"] | Int[Tensor, "b k"]
    _bounds: np.ndarray | None = field(default=None, kw_only=True, repr=False)

    @classmethod
    def of_lengths(cls, *lengths: int) -> Documents:
        """Documents of these lengths, one after another."""
        each = torch.tensor(lengths, dtype=torch.int64)
        return cls(torch.repeat_interleave(torch.arange(len(lengths)), each))

    def __post_init__(self) -> None:
        _integers("Documents(ids=…)", self.ids)

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        if self.ids.shape not in ((sizes.k,), (1, sizes.k), (sizes.b, sizes.k)):
            raise ShapeError(
                "Documents(ids=…)",
                f"shape {tuple(self.ids.shape)}",
                f"({sizes.k},) or ({sizes.b}, {sizes.k}): the document of each key",
                "Give one id for each key position; the lengths must add up to the keys.",
            )
        if bound.shift < 0 or sizes.q + bound.shift > sizes.k:
            raise ShapeError(
                "Documents(ids=…)",
                f"{sizes.q} queries at offset {bound.shift} and {sizes.k} keys",
                "queries whose positions are among the keys",
                "Give at most as many queries as keys, or use Where.",
            )
        return replace(bound, _bounds=_cpu_values(self.ids))

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        ids = self.ids.reshape(-1, self.ids.shape[-1])
        ids = ids if ids.shape[0] == 1 else ids[b.reshape(-1)]
        of_queries = ids[:, (q + self.shift).reshape(-1)]
        of_keys = ids[:, k.reshape(-1)]
        return (of_queries[:, :, None] == of_keys[:, None, :])[:, None]

    def tile(self, box: Box) -> Tile:
        if self._bounds is None:
            return Tile.MIXED
        ids = self._bounds.reshape(-1, self._bounds.shape[-1])
        ids = ids if len(ids) == 1 else ids[box.b.start : box.b.stop]
        of_queries = ids[:, box.q.start + self.shift : box.q.stop + self.shift]
        of_keys = ids[:, box.k.start : box.k.stop]
        query_low, query_high = of_queries.min(1), of_queries.max(1)
        key_low, key_high = of_keys.min(1), of_keys.max(1)
        if np.all((query_high < key_low) | (key_high < query_low)):
            return Tile.EMPTY
        same_document = (query_low == query_high) & (key_low == key_high) & (query_low == key_low)
        return Tile.FULL if np.all(same_document) else Tile.MIXED

    def spans(self, sizes: Sizes) -> Spans | None:
        if self._bounds is None:
            return None
        ids = self._bounds.reshape(-1, sizes.k)
        changes = ids[:, 1:] != ids[:, :-1]
        rising = bool((ids[:, 1:] >= ids[:, :-1]).all())
        if not rising and any(len(np.unique(row)) <= change.sum() for row, change in zip(ids, changes, strict=True)):
            return None  # some document has several separate parts
        indices, edge = np.arange(sizes.k), np.ones((len(ids), 1), np.bool_)
        first = np.where(np.concatenate((edge, changes), axis=1), indices, 0)
        last = np.where(np.concatenate((changes, edge), axis=1), indices + 1, sizes.k)
        first = np.maximum.accumulate(first, axis=1)
        last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
        queries = slice(self.shift, self.shift + sizes.q)
        return spans.single(first[:, None, queries], last[:, None, queries], sizes.k)


@dataclass(frozen=True, eq=False)
class Blocks(Mask):
    """A table of which blocks of queries see which blocks of keys (BigBird, 2020; sparse patterns).

    ``table[i, j]`` says whether queries ``i·size … (i+1)·size − 1`` may see keys ``j·size … (j+1)·size − 1``.

    >>> show(Blocks(torch.tensor([[True, False], [True, True]]), size=2), queries=4, keys=4)
    ##..
    ##..
    ####
    ####
    """

    table: Bool[Tensor, "rows cols"]
    size: int
    _bounds: np.ndarray | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        whole_number("Blocks(size=…)", self.size, 1)
        _bools("Blocks(table=…)", self.table)

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        needed = (-(-sizes.q // self.size), -(-sizes.k // self.size))
        if tuple(self.table.shape) != needed:
            raise ShapeError(
                "Blocks(table=…)",
                f"shape {tuple(self.table.shape)} with blocks of {self.size}",
                f"{needed}: one entry for each block of {sizes.q} queries × {sizes.k} keys",
                "Build the table for these lengths.",
            )
        return replace(bound, _bounds=_cpu_values(self.table))

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.table[q // self.size, k // self.size]

    def tile(self, box: Box) -> Tile:
        if self._bounds is None:
            return Tile.MIXED
        rows = slice(box.q.start // self.size, (box.q.stop - 1) // self.size + 1)
        cols = slice(box.k.start // self.size, (box.k.stop - 1) // self.size + 1)
        return _tile_of_entries(self._bounds[rows, cols])


@dataclass(frozen=True)
class Where(Mask):
    """A mask from a function of batch row, head, query index and key index, as in FlexAttention.

    The function takes four integer tensors that broadcast and returns a bool tensor.

    >>> show(Where(lambda b, h, q, k: (q + k) % 2 == 0), queries=3, keys=3)
    #.#
    .#.
    #.#
    """

    function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        allowed = cast("object", self.function(b, h, q, k))
        if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
            kind = f"{allowed.dtype} tensor" if isinstance(allowed, Tensor) else repr(type(allowed))
            raise DtypeError(
                "Where(function)",
                f"a {kind} from the function",
                "a bool tensor",
                "Return a comparison, such as q >= k.",
            )
        return allowed


@dataclass(frozen=True, eq=False)
class Given(Mask):
    """A bool tensor that broadcasts to (b, h, q, k), True where a query may see a key.

    >>> show(Given(torch.eye(2, dtype=torch.bool)), queries=2, keys=2)
    #.
    .#
    """

    table: Bool[Tensor, "*#bhqk"]
    _bounds: np.ndarray | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _bools("mask", self.table)

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        needed = (sizes.b, sizes.h, sizes.q, sizes.k)
        if not broadcasts_to(self.table, needed):
            raise ShapeError(
                "mask",
                f"a bool tensor of shape {tuple(self.table.shape)}",
                f"one that broadcasts to (b, h, q, k) = {needed}",
                "Add dimensions of size 1, for example mask[:, None, None, :] for padding.",
            )
        table = self.table.reshape((1,) * (4 - self.table.ndim) + self.table.shape)
        if readable(table):  # the bounds of an expanded dimension are computed once
            table = table[tuple(slice(None if stride else 1) for stride in table.stride())]
        return replace(bound, table=table, _bounds=_cpu_values(table))

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        b, h, q, k = (_inside(i, n) for i, n in zip((b, h, q, k), self.table.shape, strict=True))
        return self.table[b, h, q, k]

    def tile(self, box: Box) -> Tile:
        if self._bounds is None:
            return Tile.MIXED
        index = tuple(
            slice(None) if size == 1 else slice(part.start, part.stop)
            for part, size in zip(box, self._bounds.shape, strict=True)
        )
        return _tile_of_entries(self._bounds[index])

    def spans(self, sizes: Sizes) -> Spans | None:
        return None if self._bounds is None else spans.of_table(self._bounds, sizes.k)

    def block(self, box: Box, device: torch.device) -> Tensor:
        table = self.table
        for dim, part in enumerate(box):
            if table.shape[dim] > 1:
                table = table.narrow(dim, part.start, len(part))
        return table


@dataclass(frozen=True)
class And(Mask):
    """Both masks allow the pair: ``a & b``."""

    left: Mask
    right: Mask

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.left.allows(b, h, q, k) & self.right.allows(b, h, q, k)

    def tile(self, box: Box) -> Tile:
        left = self.left.tile(box)
        if left is Tile.EMPTY:
            return left
        right = self.right.tile(box)
        if left is Tile.FULL or right is Tile.EMPTY:
            return right
        return Tile.MIXED

    def spans(self, sizes: Sizes) -> Spans | None:
        both = _spans_of_both(self.left, self.right, sizes)
        return both and spans.intersection(*both)

    def block(self, box: Box, device: torch.device) -> Tensor:
        return self.left.block(box, device) & self.right.block(box, device)

    def conjuncts(self) -> tuple[Mask, ...]:
        return (*self.left.conjuncts(), *self.right.conjuncts())


@dataclass(frozen=True)
class Or(Mask):
    """Either mask allows the pair: ``a | b``."""

    left: Mask
    right: Mask

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.left.allows(b, h, q, k) | self.right.allows(b, h, q, k)

    def tile(self, box: Box) -> Tile:
        left = self.left.tile(box)
        if left is Tile.FULL:
            return left
        right = self.right.tile(box)
        if left is Tile.EMPTY or right is Tile.FULL:
            return right
        return Tile.MIXED

    def spans(self, sizes: Sizes) -> Spans | None:
        both = _spans_of_both(self.left, self.right, sizes)
        return both and spans.union(*both, sizes.k)

    def block(self, box: Box, device: torch.device) -> Tensor:
        return self.left.block(box, device) | self.right.block(box, device)


@dataclass(frozen=True)
class Not(Mask):
    """The mask does not allow the pair: ``~a``."""

    inner: Mask

    def allows(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ~self.inner.allows(b, h, q, k)

    def tile(self, box: Box) -> Tile:
        swapped = {Tile.EMPTY: Tile.FULL, Tile.FULL: Tile.EMPTY, Tile.MIXED: Tile.MIXED}
        return swapped[self.inner.tile(box)]

    def spans(self, sizes: Sizes) -> Spans | None:
        inner = self.inner.spans(sizes)
        return None if inner is None else spans.complement(inner, sizes.k)

    def block(self, box: Box, device: torch.device) -> Tensor:
        return ~self.inner.block(box, device)


def as_mask(mask: object) -> Mask:
    """The argument `mask` of a call as a `Mask`."""
    if mask is None:
        return Everything()
    if isinstance(mask, Mask):
        return mask
    if isinstance(mask, Tensor):
        return Given(mask)
    if isinstance(mask, type):
        raise DtypeError(
            "mask",
            f"the class {mask.__name__}",
            "a Mask, a bool tensor or None",
            f"Write the parentheses: {mask.__name__}(…) is a value.",
        )
    raise DtypeError(
        "mask",
        f"a {type(mask).__name__}",
        "a Mask, a bool tensor or None",
        "For a function of (b, h, q, k), write Where(function).",
    )


def dense(mask: Mask, sizes: Sizes) -> Bool[Tensor, "b h q k"]:
    """The whole mask of a call as one tensor: for tests, plots and the reference; n² memory."""
    allowed = mask.bind(sizes).allows(*sizes.pairs.indices(sizes.device))
    return allowed.expand(sizes.b, sizes.h, sizes.q, sizes.k)


def show(mask: Mask | Tensor, queries: int, keys: int) -> None:
    """Print a mask's first batch row and head, ``#`` where a query may see a key."""
    sizes = Sizes(1, 1, 1, queries, keys, 1, 1, torch.device("cpu"))
    for row in dense(as_mask(mask), sizes)[0, 0].numpy():
        print("".join("#" if allowed else "." for allowed in row))


_ZERO = np.zeros((1, 1, 1), np.int32)


def _positions(sizes: Sizes, shift: int) -> np.ndarray:
    """The key position of each query, (1, 1, q)."""
    return np.arange(shift, shift + sizes.q)[None, None]


def _spans_of_both(left: Mask, right: Mask, sizes: Sizes) -> tuple[Spans, Spans] | None:
    """The spans of both, where both have some and not so many that tiles are better."""
    left_spans = left.spans(sizes)
    right_spans = None if left_spans is None else right.spans(sizes)
    if left_spans is None or right_spans is None:
        return None
    few = left_spans.shape[-2] * right_spans.shape[-2] <= 4 * spans.MAX_SPANS
    return (left_spans, right_spans) if few else None


def _distances(box: Box, shift: int) -> tuple[int, int]:
    """The least and the greatest distance (query position − key position) in a box."""
    return box.q.start + shift - (box.k.stop - 1), box.q.stop - 1 + shift - box.k.start


def _tile_of_distances(distances: tuple[int, int], low: int | None, high: int | None) -> Tile:
    near, far = distances
    if (low is not None and far < low) or (high is not None and near > high):
        return Tile.EMPTY
    inside = (low is None or near >= low) and (high is None or far <= high)
    return Tile.FULL if inside else Tile.MIXED


def _tile_of_keys(box: Box, start: int, stop: int) -> Tile:
    if box.k.stop <= start or box.k.start >= stop:
        return Tile.EMPTY
    return Tile.FULL if start <= box.k.start and box.k.stop <= stop else Tile.MIXED


def _tile_of_entries(entries: np.ndarray) -> Tile:
    if not entries.any():
        return Tile.EMPTY
    return Tile.FULL if entries.all() else Tile.MIXED


def _cpu_values(tensor: Tensor) -> np.ndarray | None:
    """The tensor's values on the CPU, for `tile`; None where they cannot be read."""
    return tensor.detach().cpu().numpy() if readable(tensor) else None


def _each_row(values: Tensor, b: Tensor) -> Tensor:
    return values if values.shape[0] == 1 else values[b.reshape(-1)]


def _inside(index: Tensor, size: int) -> Tensor:
    return torch.zeros_like(index) if size == 1 else index


def _integers(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor) or tensor.is_floating_point() or tensor.dtype == torch.bool:
        kind = str(tensor.dtype) if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
        raise DtypeError(name, kind, "an integer tensor", "Convert it with torch.as_tensor(…).long().")


def _bools(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.bool:
        kind = f"a {tensor.dtype} tensor" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
        raise DtypeError(
            name,
            kind,
            "a bool tensor, True where a query may see a key",
            "Convert it with .bool(); numbers that are added to scores are a bias.",
        )
