"""What every kind of position answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import DtypeError, ShapeError
from regard.spec.values import Value

Positions = Int[Tensor, "..."]
"""The place of every token: (n,), or (b, n) where batch rows differ; with axes (n, axes) or (b, n, axes)."""


@dataclass(frozen=True)
class Position(Value):
    """A way to tell a model where tokens stand: adds to the inputs, or turns queries and keys."""

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
        """Queries and keys turned by their positions; unchanged by default.

        Both come at once, because some kinds treat them differently (`XPos`), and others ask how long the
        sequence is (`DynamicNTK`, `LongRoPE`). Without `key_positions` keys stand where queries stand.
        """
        del positions, key_positions
        return q, k


def checked(positions: Tensor, n: int, axes: int | None = None, name: str = "positions") -> Tensor:
    """The positions, once they are known to be whole numbers of n tokens, each of so many axes."""
    if positions.is_floating_point() or positions.dtype == torch.bool:
        raise DtypeError(name, f"a {positions.dtype} tensor", "an integer tensor", "Convert it with .long().")
    last = () if axes is None else (axes,)
    places = positions.shape[: positions.ndim - len(last)]
    if len(places) not in (1, 2) or places[-1] != n or positions.shape[len(places) :] != last:
        each = "" if axes is None else f", {axes}"
        alone = f"({n},)" if axes is None else f"({n}, {axes})"
        what = "place" if axes is None else "place on each axis"
        raise ShapeError(
            name,
            f"shape {tuple(positions.shape)}",
            f"{alone} or (batch, {n}{each})",
            f"Give the {what} of every token.",
        )
    return positions
