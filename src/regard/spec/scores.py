"""Scores: the compatibility of a query and a key, before bias, mask and softmax."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter

from regard.errors import DtypeError, OptionError, ShapeError
from regard.shapes import Keys, Queries, Sizes
from regard.spec.values import Aligned, Value

Compared = tuple[Float[Tensor, "b h q e"], Float[Tensor, "b g k e"], "Dot"]
"""Queries and keys of any size, and the dot product that compares them."""


@dataclass(frozen=True)
class Score(Value):
    """A number for each pair of query and key."""

    def of(self, q: Queries, k: Keys) -> Float[Tensor, "b h q k"]:
        """The score of every query with every key; query head i reads key head i // (h / g)."""
        raise NotImplementedError

    def at(self, q: Queries, k: Keys, queries: range, keys: Int[Tensor, " k"]) -> Float[Tensor, "b h q k"]:
        """The score of a part of a call: of these queries, with the keys that have these indices.

        Only a score that depends on positions uses the indices.
        """
        del queries, keys
        return self.of(q, k)

    def heads(self, h: range) -> Self:
        """The part of this score that these query heads need."""
        del h
        return self

    def components(self, d: int) -> int | None:
        """The size of the vectors that `as_dot` makes; None where this score is not a dot product."""
        del d
        return None

    def as_dot(self, q: Queries, k: Keys) -> Compared:
        """The same score as a dot product of other queries and keys, in at least float32."""
        raise NotImplementedError

    def inner(self, d: int) -> int:
        """Numbers in memory for each pair while scores are computed; 1 where a matrix product computes them."""
        del d
        return 1


@dataclass(frozen=True)
class Dot(Score):
    """scale · q·k, the scaled dot product (Vaswani et al., 2017). `scale` None is 1/√d.

    `softcap` c bounds the scores smoothly: c · tanh(score / c) (Gemma 2, 2024).
    """

    scale: float | None = None
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not math.isfinite(self.scale):
            raise OptionError("Dot(scale=…)", self.scale, "a finite number or None", "None is 1/√d.")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise OptionError(
                "Dot(softcap=…)",
                self.softcap,
                "a positive number or None",
                "None leaves scores as they are; Gemma 2 uses 50.0.",
            )

    def of(self, q: Queries, k: Keys) -> Float[Tensor, "b h q k"]:
        scores = products(q * _scale(self.scale, q.shape[-1]), k)
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def components(self, d: int) -> int | None:
        return d

    def as_dot(self, q: Queries, k: Keys) -> Compared:
        return q, k, self.scaled(q.shape[-1])

    def scaled(self, d: int) -> Dot:
        """The same with its scale filled in, for heads of size d."""
        return self if self.scale is not None else _scaled(d, self.softcap)


@functools.lru_cache(maxsize=64)
def _scaled(d: int, softcap: float | None) -> Dot:
    return Dot(_scale(None, d), softcap)


@dataclass(frozen=True, eq=False)
class Cosine(Score):
    """scale · cos(q, k): only directions matter (query-key normalisation, Henry et al., 2020).

    `scale` is a number, or a tensor of one for each head, which may be learned. A zero vector scores 0.
    """

    scale: float | Float[Tensor, " h"] = 10.0

    def bind(self, sizes: Sizes) -> Self:
        if isinstance(self.scale, Tensor) and self.scale.shape != (sizes.h,):
            raise ShapeError(
                "Cosine(scale=…)",
                f"shape {tuple(self.scale.shape)}",
                f"a number or ({sizes.h},), one for each head of q",
                "Give one scale for each query head.",
            )
        return super().bind(sizes)

    def of(self, q: Queries, k: Keys) -> Float[Tensor, "b h q k"]:
        scale = self.scale[:, None, None] if isinstance(self.scale, Tensor) else self.scale
        return products(_normalized(q) * scale, _normalized(k))

    def heads(self, h: range) -> Self:
        return type(self)(self.scale[h.start : h.stop]) if isinstance(self.scale, Tensor) else self

    def components(self, d: int) -> int | None:
        return d

    def as_dot(self, q: Queries, k: Keys) -> Compared:
        q, k = _at_least_float32(q), _at_least_float32(k)
        scale = self.scale
        scale = scale.to(q.dtype)[:, None, None] if isinstance(scale, Tensor) else scale
        return _normalized(q) * scale, _normalized(k), Dot(1.0)


@dataclass(frozen=True)
class Euclidean(Score):
    """−scale · ‖q − k‖² / 2: near vectors score high (L2 attention, Kim et al., 2021). `scale` None is 1/√d.

    For vectors of equal norms its weights are those of `Dot` with the same scale.
    """

    scale: float | None = None

    def of(self, q: Queries, k: Keys) -> Float[Tensor, "b h q k"]:
        repeats = q.shape[1] // max(k.shape[1], 1)
        lengths = q.square().sum(-1)[..., :, None] + _repeat_heads(k.square().sum(-1), repeats)[..., None, :]
        return (products(q, k) - lengths / 2) * _scale(self.scale, q.shape[-1])

    def components(self, d: int) -> int | None:
        return d + 2

    def as_dot(self, q: Queries, k: Keys) -> Compared:
        # q·k − q²/2 − k²/2 is (q, 1, −q²/2) · (k, −k²/2, 1).
        q, k = _at_least_float32(q), _at_least_float32(k)
        half_q, half_k = (x.square().sum(-1, keepdim=True) / -2 for x in (q, k))
        extended_q = torch.cat((q, torch.ones_like(half_q), half_q), dim=-1)
        extended_k = torch.cat((k, half_k, torch.ones_like(half_k)), dim=-1)
        return extended_q, extended_k, Dot(_scale(self.scale, q.shape[-1]))


@dataclass(frozen=True, eq=False)
class Additive(Score):
    """Σ_d weight_d · tanh(q_d + k_d), the first attention (Bahdanau et al., 2015).

    The maps of the paper's W and U are the learned query and key maps; `weight` is its v, one vector for
    each head. It needs a number for each pair and component, so it is slow.
    """

    weight: Float[Tensor, "h d"]

    def bind(self, sizes: Sizes) -> Self:
        if tuple(self.weight.shape) != (sizes.h, sizes.d):
            raise ShapeError(
                "Additive(weight=…)",
                f"shape {tuple(self.weight.shape)}",
                f"(h, d) = {(sizes.h, sizes.d)}",
                "Give one vector for each query head.",
            )
        return super().bind(sizes)

    def of(self, q: Queries, k: Keys) -> Float[Tensor, "b h q k"]:
        keys = _repeat_heads(k, q.shape[1] // max(k.shape[1], 1))
        hidden = torch.tanh(q[..., :, None, :] + keys[..., None, :, :])
        return (hidden @ self.weight[:, None, :, None]).squeeze(-1)

    def heads(self, h: range) -> Self:
        return type(self)(self.weight[h.start : h.stop])

    def inner(self, d: int) -> int:
        return max(d, 1)


@dataclass(frozen=True, eq=False)
class Shaw(Aligned, Score):
    """scale · q·(k + r), where r is learned for each distance, up to a maximum (Shaw et al., 2018).

    r is ``table[m + clip(i − j, −m, m)]`` for a query at position i, a key at j and a table of 2 m + 1 rows,
    so that the middle row is for a token itself and rows above it for keys behind. (The paper uses
    j − i: flip such a table.) A table of three dimensions has rows for each head (Music Transformer,
    Huang et al., 2018). `scale` None is 1/√d. `Relative` is the bias that does not depend on the query.

    Memory stays linear: a block of queries is multiplied with the 2 m + 1 rows, and each pair gathers its product.

    >>> Shaw.learned(head_size=64, max_distance=16).table.shape
    torch.Size([33, 64])
    """

    table: Float[Tensor, "*h distances d"]
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.table.ndim not in (2, 3) or self.table.shape[-2] % 2 == 0:
            raise ShapeError(
                "Shaw(table=…)",
                f"shape {tuple(self.table.shape)}",
                "(2 m + 1, d) or (h, 2 m + 1, d): an odd number of distances",
                "Shaw.learned makes one.",
            )
        if self.scale is not None and not math.isfinite(self.scale):
            raise OptionError("Shaw(scale=…)", self.scale, "a finite number or None", "None is 1/√d.")

    @classmethod
    def learned(
        cls,
        head_size: int,
        max_distance: int = 16,
        heads: int | None = None,
        scale: float | None = None,
        *,
        offset: int | None = None,
    ) -> Self:
        """With a fresh parameter, normal with deviation 0.02; one for each head where `heads` are given."""
        each = () if heads is None else (heads,)
        table = torch.randn(*each, 2 * max_distance + 1, head_size) * 0.02
        return cls(Parameter(table), scale, offset=offset)

    def bind(self, sizes: Sizes) -> Self:
        *heads, distances, d = self.table.shape
        if d != sizes.d or heads not in ([], [sizes.h]):
            raise ShapeError(
                "Shaw(table=…)",
                f"shape {tuple(self.table.shape)}",
                f"({distances}, {sizes.d}) or ({sizes.h}, {distances}, {sizes.d})",
                "Its rows are added to keys; heads are those of the queries.",
            )
        return super().bind(sizes)

    def of(self, q: Queries, k: Keys) -> Float[Tensor, "b h q k"]:
        n, m = q.shape[-2], k.shape[-2]
        bound = self if self.offset is not None else self._with(offset=m - n)
        return bound.at(q, k, range(n), torch.arange(m, device=q.device))

    def at(self, q: Queries, k: Keys, queries: range, keys: Int[Tensor, " k"]) -> Float[Tensor, "b h q k"]:
        q = q * _scale(self.scale, q.shape[-1])
        most = self.table.shape[-2] // 2
        positions = torch.arange(queries.start, queries.stop, device=q.device) + self.shift
        rows = (positions[:, None] - keys).clamp(-most, most) + most
        of_rows = q @ self.table.transpose(-1, -2)
        return products(q, k) + of_rows.gather(-1, rows.expand(*q.shape[:2], -1, -1))

    def heads(self, h: range) -> Self:
        return self if self.table.ndim == 2 else self._with(table=self.table[h.start : h.stop])

    def inner(self, d: int) -> int:
        return 2


@dataclass(frozen=True)
class Custom(Score):
    """A user's own function of queries (b, h, q, d) and keys (b, h, k, d) that returns (b, h, q, k).

    It is called on blocks, so each score may depend on its own query and key only.
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def of(self, q: Queries, k: Keys) -> Float[Tensor, "b h q k"]:
        keys = _repeat_heads(k, q.shape[1] // max(k.shape[1], 1))
        scores = cast("object", self.function(q, keys))
        expected = (*q.shape[:-1], k.shape[-2])
        if not isinstance(scores, Tensor) or tuple(scores.shape) != expected:
            given = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(type(scores))
            raise ShapeError(
                "score",
                f"{given} from the function",
                f"(b, h, q, k) = {expected}",
                "Return one score for each pair of query and key.",
            )
        return scores


def as_score(score: object) -> Score:
    """The argument `score` of a call as a `Score`."""
    if score is None:
        return Dot()
    if isinstance(score, Score):
        return score
    if isinstance(score, type):
        raise DtypeError(
            "score",
            f"the class {score.__name__}",
            "a Score, a function of (q, k) or None",
            f"Write the parentheses: {score.__name__}(…) is a value.",
        )
    if callable(score):
        return Custom(cast("Callable[[Tensor, Tensor], Tensor]", score))
    raise DtypeError(
        "score",
        f"a {type(score).__name__}",
        "a Score, a function of (q, k) or None",
        "None is Dot(): the dot product over √d.",
    )


def products(q: Queries, k: Keys) -> Float[Tensor, "b h q k"]:
    """Every dot product; the query heads of a group are the rows of one matrix product."""
    b, h, n, d = q.shape
    g = k.shape[1]
    if g in (0, h):
        return q @ k.transpose(-1, -2)
    rows = q.reshape(b, g, (h // g) * n, d)
    return (rows @ k.transpose(-1, -2)).reshape(b, h, n, k.shape[-2])


def _scale(scale: float | None, d: int) -> float:
    return scale if scale is not None else 1.0 / math.sqrt(max(d, 1))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _normalized(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1, eps=1e-12)


def _repeat_heads(k: Tensor, times: int) -> Tensor:
    return k if times == 1 else k.repeat_interleave(times, dim=1)
