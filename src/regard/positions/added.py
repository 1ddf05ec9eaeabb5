"""Positions that are added to the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from regard.errors import OptionError, ShapeError
from regard.positions.base import Position, Positions, checked
from regard.spec.values import readable


@dataclass(frozen=True)
class Sinusoidal(Position):
    """Fixed sines and cosines added to the inputs (Vaswani et al., 2017).

    Component ``2 i`` is ``sin(position · base^(−2 i / width))`` and component ``2 i + 1`` its cosine.

    >>> Sinusoidal().add(torch.zeros(1, 2, 2), torch.tensor([0, 1])).round(decimals=2).tolist()
    [[[0.0, 1.0], [0.8399999737739563, 0.5400000214576721]]]
    """

    base: float = 10_000.0

    def __post_init__(self) -> None:
        if not self.base > 1:
            raise OptionError("Sinusoidal(base=…)", self.base, "a number above 1", "The paper uses 10000.")

    def add(self, x: Float[Tensor, "b n width"], positions: Positions) -> Float[Tensor, "b n width"]:
        width = x.shape[-1]
        positions = checked(positions, x.shape[-2])
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        pairs = torch.arange(0, width, 2, dtype=wide, device=x.device)
        angles = positions[..., None] * self.base ** (-pairs / width)
        encoding = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
        return x + encoding[..., :width].to(x.dtype)


@dataclass(frozen=True, eq=False)
class Learned(Position):
    """A learned vector for each position, added to the inputs: x + table[position] (Gehring et al., 2017).

    Used by BERT and GPT-2. Positions beyond the table are an error.

    >>> Learned.fresh(length=8, width=4).table.shape
    torch.Size([8, 4])
    """

    table: Float[Tensor, "length width"]

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or not self.table.is_floating_point():
            raise ShapeError(
                "Learned(table=…)",
                f"a {self.table.dtype} tensor {tuple(self.table.shape)}",
                "a float tensor (length, width)",
                "Learned.fresh makes one.",
            )

    @classmethod
    def fresh(cls, length: int, width: int) -> Self:
        """With a fresh parameter, normal with deviation 0.02 as in BERT and GPT-2."""
        return cls(Parameter(torch.randn(length, width) * 0.02))

    def add(self, x: Float[Tensor, "b n width"], positions: Positions) -> Float[Tensor, "b n width"]:
        length, width = self.table.shape
        if width != x.shape[-1]:
            raise ShapeError(
                "Learned(table=…)",
                f"width {width}",
                f"the width of the inputs, {x.shape[-1]}",
                "Make the table as wide as the model.",
            )
        positions = checked(positions, x.shape[-2])
        if readable(positions) and positions.numel():
            low, high = int(positions.min()), int(positions.max())
            if low < 0 or high >= length:
                raise OptionError(
                    "positions",
                    f"{low} to {high}",
                    f"0 to {length - 1}, the learned ones",
                    "Make a longer table, or use Rotary or a bias by distance.",
                )
        return x + self.table[positions].to(x.dtype)
