"""Biases: what is added to the scores before the softmax.

A bias by distance is one function of the distance between query and key (`ByDistance.of_distance`); backends and
gradients need nothing more. Biases can be added: ``ALiBi(heads=8) + tensor``. The parameters of learned ones are
tensors; ``T5.learned(heads=8)`` makes fresh ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from regard.errors import DtypeError, OptionError, ShapeError
from regard.shapes import Box, Sizes, broadcasts_to
from regard.spec.values import Aligned, Value, readable


class BiasTensors(NamedTuple):
    """A bias as kernels take it (`native/kernel.h`): the sum of two tensors, either of which may be absent."""

    table: Float[Tensor, "#h distances"] | None = None
    """float32; entry q − key + (k − 1), for the indices of a query and a key, is the bias of their distance."""
    pairs: Float[Tensor, "#b #h #q #k"] | None = None


@dataclass(frozen=True)
class Bias(Value):
    """A number for each pair of query and key, added to its score."""

    def block(self, box: Box) -> Tensor:
        """The bias of a box of pairs: broadcasts to the box's (b, h, q, k)."""
        raise NotImplementedError

    def may_mask(self) -> bool:
        """Whether it may contain −inf, so that it can mask every key of a row."""
        return True

    def per_pair(self) -> int:
        """Numbers in memory for each pair while a block is computed; 1 where that is the bias alone."""
        return 1

    def by_block(self) -> bool:
        """Whether it is computed pair by pair, so that the bias of a whole call should never be in memory."""
        return False

    def lowered(self, sizes: Sizes) -> BiasTensors:
        """The bound bias of a whole call as kernels take it: by distance, and for each pair."""
        return BiasTensors(None, self.block(sizes.pairs))

    def __add__(self, other: Bias | Tensor) -> Bias:
        return Sum(self, as_bias(other))


@dataclass(frozen=True)
class Nothing(Bias):
    """No bias: what ``bias=None`` means."""

    def block(self, box: Box) -> Tensor:
        return torch.zeros(())

    def may_mask(self) -> bool:
        return False

    def lowered(self, sizes: Sizes) -> BiasTensors:
        return BiasTensors()


@dataclass(frozen=True)
class ByDistance(Aligned, Bias):
    """A bias that depends on the head and on the distance alone."""

    def of_distance(self, distance: Tensor) -> Float[Tensor, "h n"]:
        """The bias of each head at each of these distances (query position − key position)."""
        raise NotImplementedError

    def may_mask(self) -> bool:
        return not _finite(self)

    def lowered(self, sizes: Sizes) -> BiasTensors:
        first = self.shift - (sizes.k - 1)
        distance = torch.arange(first, sizes.q + self.shift, device=sizes.device)
        return BiasTensors(self.of_distance(distance).to(torch.float32))

    def block(self, box: Box) -> Float[Tensor, "1 h q k"]:
        # One number per diagonal. In a table from the greatest distance down, the keys of a query are
        # consecutive entries, and those of the query before it start one entry later.
        queries, keys = box.q, box.k
        if not len(queries) or not len(keys):
            return torch.zeros(1, len(box.h), len(queries), len(keys))
        greatest = queries.stop - 1 + self.shift - keys.start
        least = queries.start + self.shift - (keys.stop - 1)
        distances = torch.arange(greatest, least - 1, -1, device=self.tensors()[0].device)
        table = self.of_distance(distances)[None, box.h.start : box.h.stop]
        return table.unfold(-1, len(keys), 1).flip(-2)


@dataclass(frozen=True, eq=False)
class ALiBi(ByDistance):
    """Attention with linear biases: −slope · |distance|, a fixed slope for each head (Press et al., 2022).

    Head ``i`` of ``n`` has the slope ``2 ** (−8 (i + 1) / n)`` where ``n`` is a power of two; for other
    counts the paper's code interleaves the slopes of the next power. `slopes` gives them directly.

    >>> ALiBi(heads=4).slopes.tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """

    slopes: Float[Tensor, " h"]

    def __init__(
        self, heads: int | None = None, *, slopes: Float[Tensor, " h"] | None = None, offset: int | None = None
    ) -> None:
        if (heads is None) == (slopes is None):
            raise OptionError(
                "ALiBi", f"heads={heads}, slopes={slopes}", "one of heads and slopes", "Write ALiBi(heads=8)."
            )
        if heads is not None and heads < 1:
            raise OptionError("ALiBi(heads=…)", heads, "a whole number ≥ 1", "Give the query heads.")
        chosen = slopes if slopes is not None else torch.tensor(_alibi_slopes(heads or 1))
        object.__setattr__(self, "slopes", chosen)
        object.__setattr__(self, "offset", offset)

    def bind(self, sizes: Sizes) -> Self:
        _one_per_head("ALiBi(slopes=…)", self.slopes, sizes.h, 0)
        return super().bind(sizes)

    def of_distance(self, distance: Tensor) -> Float[Tensor, "h n"]:
        return -self.slopes[:, None] * distance.abs()


@dataclass(frozen=True, eq=False)
class T5(ByDistance):
    """A learned number for each head and each bucket of distances (Raffel et al., 2020).

    It is ``table[bucket(distance), head]``. Half of the n buckets, m, are of one distance each; a distance r ≥ m
    has the bucket ``m + ⌊(n − m) · log(r / m) / log(max_distance / m)⌋``, and the last one includes all greater
    distances. In a `causal` model all buckets are of keys behind, and keys ahead have bucket 0; otherwise half of
    them are of keys ahead. T5 itself uses ``Dot(scale=1.0)`` with it.
    """

    table: Float[Tensor, "buckets h"]
    max_distance: int = 128
    causal: bool = True

    def __post_init__(self) -> None:
        least = 2 if self.causal else 4
        if self.table.ndim != 2 or self.table.shape[0] < least:
            raise ShapeError(
                "T5(table=…)",
                f"shape {tuple(self.table.shape)}",
                f"(buckets, h) with at least {least} buckets",
                "T5.learned makes one.",
            )
        exact = self.table.shape[0] // (2 if self.causal else 4)
        if self.max_distance <= exact:
            raise OptionError(
                "T5(max_distance=…)",
                self.max_distance,
                f"more than the {exact} distances that have a bucket of their own",
                "Give fewer buckets or a greater distance.",
            )

    @classmethod
    def learned(cls, heads: int, buckets: int = 32, max_distance: int = 128, causal: bool = True) -> Self:
        """With a fresh parameter of zeros."""
        return cls(Parameter(torch.zeros(buckets, heads)), max_distance, causal)

    def bind(self, sizes: Sizes) -> Self:
        _one_per_head("T5(table=…)", self.table, sizes.h, 1)
        return super().bind(sizes)

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance."""
        buckets = self.table.shape[0] if self.causal else self.table.shape[0] // 2
        past = distance.clamp(min=0) if self.causal else distance.abs()
        exact = buckets // 2
        growth = torch.log(past.clamp(min=1).double() / exact) / math.log(self.max_distance / exact)
        far = exact + (growth * (buckets - exact)).long()
        bucket = torch.where(past < exact, past, far.clamp(max=buckets - 1))
        return bucket if self.causal else bucket + buckets * (distance < 0)

    def of_distance(self, distance: Tensor) -> Float[Tensor, "h n"]:
        return self.table[self.bucket(distance)].T


@dataclass(frozen=True, eq=False)
class Kerple(ByDistance):
    """A learned logarithmic decay for each head: −a · log(1 + c · |distance|) (Chi et al., 2022).

    `a` and `c` must be positive; `Kerple.learned` starts them so. It extrapolates to lengths that
    were never trained on.
    """

    a: Float[Tensor, " h"]
    c: Float[Tensor, " h"]

    @classmethod
    def learned(cls, heads: int) -> Self:
        """With fresh parameters: decays from gentle to steep over the heads."""
        return cls(Parameter(torch.linspace(0.5, 2.0, heads)), Parameter(torch.ones(heads)))

    def bind(self, sizes: Sizes) -> Self:
        _one_per_head("Kerple(a=…)", self.a, sizes.h, 0)
        _one_per_head("Kerple(c=…)", self.c, sizes.h, 0)
        return super().bind(sizes)

    def of_distance(self, distance: Tensor) -> Float[Tensor, "h n"]:
        return -self.a[:, None] * torch.log1p(self.c[:, None] * distance.abs())


@dataclass(frozen=True, eq=False)
class Relative(ByDistance):
    """A learned number for each head and each distance, the same beyond a greatest one (Shaw et al., 2018).

    ``table[h, m + distance]`` for −m ≤ distance ≤ m, where the table is 2 m + 1 wide.
    """

    table: Float[Tensor, "h distances"]

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or self.table.shape[1] % 2 == 0:
            raise ShapeError(
                "Relative(table=…)",
                f"shape {tuple(self.table.shape)}",
                "(h, 2 m + 1): an odd width",
                "Relative.learned makes one.",
            )

    @classmethod
    def learned(cls, heads: int, max_distance: int = 128) -> Self:
        """With a fresh parameter of zeros."""
        return cls(Parameter(torch.zeros(heads, 2 * max_distance + 1)))

    def bind(self, sizes: Sizes) -> Self:
        _one_per_head("Relative(table=…)", self.table, sizes.h, 0)
        return super().bind(sizes)

    def of_distance(self, distance: Tensor) -> Float[Tensor, "h n"]:
        greatest = self.table.shape[1] // 2
        return self.table[:, distance.clamp(-greatest, greatest) + greatest]


@dataclass(frozen=True, eq=False)
class FIRE(Aligned, Bias):
    """A learned function of a distance over its query's position (functional interpolation, Li et al., 2024).

    For a query at position i and a key at j it is ``f(ψ(|i − j|) / ψ(max(L, i)))``, with
    ψ(x) = log(|c| x + 1) and f(x) = weight · relu(hidden_weight · x + hidden_bias) + bias, one output for
    each head. The learned c scales distances, and the threshold L = |multiplier| · `length` keeps short
    inputs from being stretched. For keys at or before their query, the input of f is from 0 to 1 at any length:
    that is why it extrapolates. A key ahead is treated like one as far behind, as in the paper's code, and its
    input may exceed 1.

    Positions are relative to the first key of the call, which a cache that drops keys would move. The bias
    differs for every pair, so it is computed block by block, on the chunked backend.

    >>> FIRE.learned(heads=8).weight.shape
    torch.Size([8, 32])
    """

    c: Float[Tensor, ""]
    multiplier: Float[Tensor, ""]
    hidden_weight: Float[Tensor, " hidden"]
    hidden_bias: Float[Tensor, " hidden"]
    weight: Float[Tensor, "h hidden"]
    bias: Float[Tensor, " h"]
    length: float = 512.0

    def __post_init__(self) -> None:
        if not 0 < self.length < math.inf:
            raise OptionError(
                "FIRE(length=…)", self.length, "a number above 0", "The paper starts the threshold at 512."
            )
        hidden = self.hidden_weight.shape
        if not self.weight.shape[-1:] == hidden == self.hidden_bias.shape:
            given = [tuple(t.shape) for t in (self.hidden_weight, self.hidden_bias, self.weight)]
            raise ShapeError(
                "FIRE(hidden_weight=…, hidden_bias=…, weight=…)",
                f"shapes {given}",
                "(hidden,), (hidden,) and (h, hidden)",
                "FIRE.learned makes them.",
            )

    @classmethod
    def learned(cls, heads: int, hidden: int = 32, length: float = 512.0, *, offset: int | None = None) -> Self:
        """With fresh parameters: c = 0.1 and multiplier 1 as in the paper, f as a fresh nn.Linear pair."""
        first, second = torch.nn.Linear(1, hidden), torch.nn.Linear(hidden, heads)
        initial = torch.tensor(0.1), torch.tensor(1.0), first.weight.detach()[:, 0].clone()
        c, multiplier, hidden_weight = map(Parameter, initial)
        return cls(c, multiplier, hidden_weight, first.bias, second.weight, second.bias, length, offset=offset)

    def bind(self, sizes: Sizes) -> Self:
        _one_per_head("FIRE(weight=…)", self.weight, sizes.h, 0)
        _one_per_head("FIRE(bias=…)", self.bias, sizes.h, 0)
        return super().bind(sizes)

    def may_mask(self) -> bool:
        return not _finite(self)

    def per_pair(self) -> int:
        return max(self.hidden_weight.shape[0], 1)

    def by_block(self) -> bool:
        return True

    def block(self, box: Box) -> Float[Tensor, "1 h q k"]:
        queries = torch.arange(box.q.start, box.q.stop, device=self.c.device) + self.shift
        keys = torch.arange(box.k.start, box.k.stop, device=self.c.device)
        threshold = self.multiplier.abs() * self.length
        scale = torch.log1p(torch.maximum(threshold, queries) * self.c.abs())
        relative = torch.log1p((queries[:, None] - keys).abs() * self.c.abs()) / scale[:, None]
        hidden = torch.relu(relative[..., None] * self.hidden_weight + self.hidden_bias)
        heads = slice(box.h.start, box.h.stop)
        return (hidden @ self.weight[heads].T + self.bias[heads]).permute(2, 0, 1)[None]


@dataclass(frozen=True, eq=False)
class Dense(Bias):
    """A float tensor that broadcasts to (b, h, q, k). −inf masks the pair, as in PyTorch."""

    table: Float[Tensor, "*#bhqk"]
    origin: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if not self.table.is_floating_point():
            raise DtypeError(
                "bias",
                f"a {self.table.dtype} tensor",
                "a floating-point tensor",
                "A bool tensor, True = may attend, is a mask: mask=tensor.",
            )

    def bind(self, sizes: Sizes) -> Self:
        needed = (sizes.b, sizes.h, sizes.q, sizes.k)
        if not broadcasts_to(self.table, needed):
            raise ShapeError(
                "bias",
                f"a tensor of shape {tuple(self.table.shape)}",
                f"one that broadcasts to (b, h, q, k) = {needed}",
                "Add dimensions of size 1 where it is shared.",
            )
        missing = (1,) * (4 - self.table.ndim)
        return replace(super().bind(sizes), table=self.table.reshape(missing + self.table.shape))

    def cast(self, dtype: torch.dtype) -> Self:
        return self  # as large as the weights: backends cast it block by block

    def cut(self, b: range, h: range, q: range) -> Self:
        return replace(self, table=self._cut((b, h, q)), origin=(b.start, h.start, q.start))

    def block(self, box: Box) -> Tensor:
        return self._cut(box)

    def lowered(self, sizes: Sizes) -> BiasTensors:
        return BiasTensors(None, self.table)

    def _cut(self, parts: tuple[range, ...]) -> Tensor:
        table = self.table
        for dim, (part, start) in enumerate(zip(parts, (*self.origin, 0), strict=False)):
            if table.shape[dim] > 1:
                table = table.narrow(dim, part.start - start, len(part))
        return table


@dataclass(frozen=True)
class Sum(Bias):
    """Two biases added: ``a + b``."""

    left: Bias
    right: Bias

    def block(self, box: Box) -> Tensor:
        return self.left.block(box) + self.right.block(box)

    def may_mask(self) -> bool:
        return self.left.may_mask() or self.right.may_mask()

    def per_pair(self) -> int:
        return max(self.left.per_pair(), self.right.per_pair())

    def by_block(self) -> bool:
        return self.left.by_block() or self.right.by_block()

    def cast(self, dtype: torch.dtype) -> Self:
        return replace(self, left=self.left.cast(dtype), right=self.right.cast(dtype))

    def lowered(self, sizes: Sizes) -> BiasTensors:
        parts = zip(self.left.lowered(sizes), self.right.lowered(sizes), strict=True)
        return BiasTensors(*(a if b is None else b if a is None else a + b for a, b in parts))

    def cut(self, b: range, h: range, q: range) -> Self:
        return replace(self, left=self.left.cut(b, h, q), right=self.right.cut(b, h, q))


def as_bias(bias: object) -> Bias:
    """The argument `bias` of a call as a `Bias`."""
    if bias is None:
        return Nothing()
    if isinstance(bias, Bias):
        return bias
    if isinstance(bias, Tensor):
        return Dense(bias)
    raise DtypeError(
        "bias",
        f"a {type(bias).__name__}",
        "a Bias, a float tensor or None",
        "Any bias can be written as a tensor that broadcasts to (b, h, q, k).",
    )


def _alibi_slopes(heads: int) -> list[float]:
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-4.0 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]
    return slopes + between


def _finite(value: Value) -> bool:
    """Whether all of its tensors are known to be finite."""
    return all(readable(t) and bool(t.isfinite().all()) for t in value.tensors())


def _one_per_head(name: str, tensor: Tensor, heads: int, dim: int) -> None:
    if tensor.shape[dim] != heads:
        raise ShapeError(
            name,
            f"{tensor.shape[dim]} heads",
            f"{heads}, the heads of the queries",
            "Make the bias for as many heads as q has.",
        )
