"""How a model knows where a token stands.

A position value answers two questions, and each kind answers one: what to add to the inputs (`add`:
`Sinusoidal`, `Learned`), and how to turn queries and keys (`turn`: `Rotary`). Positions are absolute and
given by the caller, so a cache or packed documents need nothing special. A bias by distance is the third
way, and lives in `regard.biases`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter

from regard.errors import DtypeError, OptionError, ShapeError
from regard.values import Value, readable

Positions = Int[Tensor, "*b n"]


@dataclass(frozen=True)
class Position(Value):
    """A way to tell a model where tokens stand: adds to the inputs, or turns queries and keys."""

    def add(
        self, x: Float[Tensor, "b n width"], positions: Positions
    ) -> Float[Tensor, "b n width"]:
        """The inputs of a layer with their positions added; unchanged by default."""
        del positions
        return x

    def turn(self, x: Float[Tensor, "b h n d"], positions: Positions) -> Float[Tensor, "b h n d"]:
        """Queries or keys turned by their positions; unchanged by default."""
        del positions
        return x


@dataclass(frozen=True)
class Rotary(Position):
    """Queries and keys turned by angles that grow with position (RoFormer, Su et al., 2021).

    Component ``i`` of the first half is paired with component ``i`` of the second half, as in GPT-NeoX and
    Llama, and the pair is turned by ``position · base^(−2 i / size)``. A product of query and key then
    depends on their distance alone. `size` turns only the first `size` components of a head (GPT-J,
    GPT-NeoX); None turns all.

    >>> x = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    >>> Rotary().turn(x, torch.tensor([0, 1])).flatten().round(decimals=3).tolist()
    [1.0, 0.0, 0.5400000214576721, 0.8410000205039978]
    """

    base: float = 10_000.0
    size: int | None = None

    def __post_init__(self) -> None:
        if not self.base > 1:
            raise OptionError(
                "Rotary(base=…)", self.base, "a number above 1", "Most models use 10000."
            )
        if self.size is not None and (self.size < 2 or self.size % 2):
            raise OptionError("Rotary(size=…)", self.size, "an even number ≥ 2, or None",
                              "None turns every component of a head.")  # fmt: skip

    def frequencies(self, size: int, device: torch.device) -> Float[Tensor, " half"]:
        """Radians per position of each pair, from fast to slow."""
        # Angles want more than float32 where positions are many: 24 bits at position 10^6 are 0.06 rad.
        wide = torch.float32 if device.type == "mps" else torch.float64
        return self.base ** (-torch.arange(0, size, 2, dtype=wide, device=device) / size)

    def turn(self, x: Float[Tensor, "b h n d"], positions: Positions) -> Float[Tensor, "b h n d"]:
        d = x.shape[-1]
        size = d if self.size is None else self.size
        if size > d or size % 2:
            raise ShapeError("Rotary", f"head size {d}", f"an even head size of at least {max(size, 2)}",
                             "Give Rotary(size=…), the components to turn.")  # fmt: skip
        positions = _checked(positions, x.shape[-2])
        angles = positions[..., None] * self.frequencies(size, x.device)
        if angles.ndim == 3:
            angles = angles[:, None]  # the same for every head
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., : size // 2], x[..., size // 2 : size]
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat(turned if size == d else (*turned, x[..., size:]), dim=-1)


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
            raise OptionError(
                "Sinusoidal(base=…)", self.base, "a number above 1", "The paper uses 10000."
            )

    def add(
        self, x: Float[Tensor, "b n width"], positions: Positions
    ) -> Float[Tensor, "b n width"]:
        width = x.shape[-1]
        positions = _checked(positions, x.shape[-2])
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        pairs = torch.arange(0, width, 2, dtype=wide, device=x.device)
        angles = positions[..., None] * self.base ** (-pairs / width)
        waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
        return x + waves[..., :width].to(x.dtype)


@dataclass(frozen=True, eq=False)
class Learned(Position):
    """A learned vector for each position, added to the inputs (Gehring et al., 2017; BERT, GPT-2).

    >>> Learned.fresh(length=8, width=4).table.shape
    torch.Size([8, 4])
    """

    table: Float[Tensor, "length width"]

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or not self.table.is_floating_point():
            raise ShapeError("Learned(table=…)", f"a {self.table.dtype} tensor {tuple(self.table.shape)}",
                             "a float tensor (length, width)", "Learned.fresh makes one.")  # fmt: skip

    @classmethod
    def fresh(cls, length: int, width: int) -> Self:
        """With a fresh parameter, normal with deviation 0.02 as in BERT and GPT-2."""
        return cls(Parameter(torch.randn(length, width) * 0.02))

    def add(
        self, x: Float[Tensor, "b n width"], positions: Positions
    ) -> Float[Tensor, "b n width"]:
        length, width = self.table.shape
        if width != x.shape[-1]:
            raise ShapeError("Learned(table=…)", f"width {width}", f"the width of the inputs, {x.shape[-1]}",
                             "Make the table as wide as the model.")  # fmt: skip
        positions = _checked(positions, x.shape[-2])
        if readable(positions) and positions.numel():
            low, high = int(positions.min()), int(positions.max())
            if low < 0 or high >= length:
                raise OptionError("positions", f"{low} to {high}", f"0 to {length - 1}, the learned ones",
                                  "Make a longer table, or use Rotary or a bias by distance.")  # fmt: skip
        return x + self.table[positions].to(x.dtype)


def _checked(positions: Tensor, n: int) -> Tensor:
    if positions.is_floating_point() or positions.dtype == torch.bool:
        raise DtypeError("positions", f"a {positions.dtype} tensor", "an integer tensor",
                         "Convert it with .long().")  # fmt: skip
    if positions.ndim not in (1, 2) or positions.shape[-1] != n:
        raise ShapeError("positions", f"shape {tuple(positions.shape)}", f"({n},) or (batch, {n})",
                         "Give the place of every token.")  # fmt: skip
    return positions
