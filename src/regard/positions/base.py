"""The base class of positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import DtypeError, ShapeError
from regard.spec.values import Value

Positions = Int[Tensor, "..."]
"""The position of every token: (n,), or (b, n) where batch rows differ; with axes (n, axes) or (b, n, axes)."""


@dataclass(frozen=True)
class Position(Value):
    """A positional encoding: adds to the inputs, or rotates queries and keys."""

    def add(self, x: Float[Tensor, "b n width"], positions: Positions) -> Float[Tensor, "b n width"]:
        """The inputs of a layer with their positions added; unchanged by default."""
        del positions
        return x

    def turn(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b g m d"],
        positions: Positions,
        key_positions: Positions | None = None,
    ) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b g m d"]]:
        """Queries and keys rotated by their positions; unchanged by default.

        Both are arguments, because some kinds treat them differently (`XPos`), and others depend on the length
        of the sequence (`DynamicNTK`, `LongRoPE`). Without `key_positions` keys have the positions of the queries.
        """
        del positions, key_positions
        return q, k


def checked(positions: Tensor, n: int, axes: int | None = None, name: str = "positions") -> Tensor:
    """The positions, after checking that they are integers for n tokens, and on `axes` axes."""
    if positions.is_floating_point() or positions.dtype == torch.bool:
        raise DtypeError(name, f"a {positions.dtype} tensor", "an integer tensor", "Convert it with .long().")
    last = () if axes is None else (axes,)
    tokens = positions.shape[: positions.ndim - len(last)]
    if len(tokens) not in (1, 2) or tokens[-1] != n or positions.shape[len(tokens) :] != last:
        each = "" if axes is None else f", {axes}"
        unbatched = f"({n},)" if axes is None else f"({n}, {axes})"
        what = "position" if axes is None else "position on each axis"
        raise ShapeError(
            name,
            f"shape {tuple(positions.shape)}",
            f"{unbatched} or (batch, {n}{each})",
            f"Give the {what} of every token.",
        )
    return positions
