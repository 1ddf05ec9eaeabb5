"""Positional encodings.

A `Position` either adds to the inputs (`add`: `Sinusoidal`, `Learned`) or rotates queries and keys (`turn`: `Rotary`,
`XPos`). Positions are absolute and given by the caller, so a cache or packed documents need nothing special.
Alternatives are a bias by distance (`regard.spec.biases`), relative keys (`regard.spec.scores.Shaw`), and no positions
at all: a causal mask alone lets a model learn order (NoPE, Kazemnejad et al., 2023).
"""

from regard.positions.added import Learned, Sinusoidal
from regard.positions.axes import Alternating, Axes, Axial, Sections
from regard.positions.base import Position, Positions
from regard.positions.rotary import Rotary, XPos
from regard.positions.scaling import NTK, DynamicNTK, Linear, Llama3, LongRoPE, Proportional, Scaling, YaRN

__all__ = [
    "NTK",
    "Alternating",
    "Axes",
    "Axial",
    "DynamicNTK",
    "Learned",
    "Linear",
    "Llama3",
    "LongRoPE",
    "Position",
    "Positions",
    "Proportional",
    "Rotary",
    "Scaling",
    "Sections",
    "Sinusoidal",
    "XPos",
    "YaRN",
]
