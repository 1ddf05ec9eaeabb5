"""Attention over some of the keys or queries, and how two such results become one.

Keys may come in pieces: chunks of a cache, splits for more threads, shards on other machines. Each piece
gives an output, its rows' log-sum-exp and its statistics as if there were no other keys; `merge` makes of
two neighbours what one run over both would have given, to rounding. It holds for softmax without a sink; a
sink is one more piece, with `lse` the sink and an output of zeros.

Queries may come in pieces too: prompts chunk by chunk, then token by token, each seeing the keys so far;
`append` goes on with the statistics of those before. What keys receive, and a map, take the log-sum-exp of
whole rows: where keys came in pieces, merge those first, then compute each piece's part with
`Weights.of(q, piece, merged.lse).see(Received())`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import ShapeError
from regard.shapes import Output
from regard.spec.observers import Observer


@dataclass(frozen=True)
class Partial:
    """What a run over `keys` neighbouring keys gave."""

    out: Output
    lse: Float[Tensor, "b h q"]
    keys: int
    observed: tuple[tuple[Tensor, ...], ...] = ()
    """The tensors of each observer, in an order that all pieces share. Positions in them (spans, distances)
    are those of the whole: give each piece's observers the offset that they have in it."""


def merge(first: Partial, second: Partial, observers: Sequence[Observer[Any]] = ()) -> Partial:
    """The result over the keys of both pieces; those of `second` come after those of `first`.

    A row of the whole gives each piece a share of its mass, exp(its lse − the whole lse), and outputs
    and statistics follow from the shares. Merging is associative, to rounding.

    >>> from regard import LogSumExp, attention, observe
    >>> q, k, v = torch.randn(3, 1, 2, 10, 8).unbind()
    >>> cuts = slice(6), slice(6, 10)
    >>> pieces = [observe(q, k[:, :, cut], v[:, :, cut], LogSumExp()) for cut in cuts]
    >>> left, right = (Partial(s.out, s[LogSumExp()], n) for s, n in zip(pieces, (6, 4)))
    >>> torch.allclose(merge(left, right).out, attention(q, k, v), atol=1e-6)
    True
    """
    if first.lse.shape != second.lse.shape:
        shapes = f"rows of shapes {tuple(first.lse.shape)} and {tuple(second.lse.shape)}"
        raise ShapeError(
            "merge",
            shapes,
            "two pieces with the same batch, heads and queries",
            "Only the keys may be split; rows of other queries are concatenated.",
        )
    if not len(observers) == len(first.observed) == len(second.observed):
        raise ShapeError(
            "merge",
            f"{len(first.observed)} and {len(second.observed)} statistics, {len(observers)} observers",
            "the same number of each",
            "Observe the same in both pieces.",
        )
    lse = torch.logaddexp(first.lse, second.lse)
    first_share, second_share = (_share(piece.lse, lse) for piece in (first, second))
    out = first_share[..., None] * first.out.to(lse.dtype) + second_share[..., None] * second.out.to(lse.dtype)
    observed = tuple(
        observer.merge(a, b, (first_share, second_share), first.keys)
        for observer, a, b in zip(observers, first.observed, second.observed, strict=True)
    )
    return Partial(out.to(first.out.dtype), lse, first.keys + second.keys, observed)


def append(first: Partial, second: Partial, observers: Sequence[Observer[Any]] = ()) -> Partial:
    """The result of the queries of both pieces; those of `second` come after, and may see more keys.

    Statistics of rows are put one after the other. What keys receive adds up: keys that came later have
    received nothing before. A map (`Pooled`) has other cells when there are more queries: observe it in the end.

    >>> from regard import Causal, Received, LogSumExp, observe
    >>> q, k, v = torch.randn(3, 1, 2, 10, 8).unbind()
    >>> observers = (Received(),)
    >>> pieces = []
    >>> for cut in (slice(0, 6), slice(6, 10)):
    ...     keys = k[:, :, : cut.stop], v[:, :, : cut.stop]
    ...     seen = observe(q[:, :, cut], *keys, *observers, LogSumExp(), mask=Causal())
    ...     pieces.append(Partial(seen.out, seen[LogSumExp()], cut.stop, ((seen[Received()],),)))
    >>> whole = observe(q, k, v, *observers, mask=Causal())[Received()]
    >>> torch.allclose(append(*pieces, observers).observed[0][0], whole, atol=1e-5)
    True
    """
    if first.lse.shape[:2] != second.lse.shape[:2] or first.keys > second.keys:
        pieces = f"{tuple(first.lse.shape)} on {first.keys} keys, {tuple(second.lse.shape)} on {second.keys}"
        raise ShapeError(
            "append",
            pieces,
            "the same batch and heads, and no fewer keys than before",
            "Append queries in their order; keys are merged.",
        )
    observed = tuple(
        observer.append(a, b) for observer, a, b in zip(observers, first.observed, second.observed, strict=True)
    )
    out, lse = torch.cat((first.out, second.out), 2), torch.cat((first.lse, second.lse), 2)
    return Partial(out, lse, second.keys, observed)


def _share(piece: Tensor, whole: Tensor) -> Tensor:
    """How much of each row's mass a piece has; 0 where the row sees nothing at all."""
    return torch.where(whole == -torch.inf, 0, (piece - whole).exp())
