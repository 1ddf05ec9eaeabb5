"""How a model knows where a token stands.

A position value answers two questions, and each kind answers one: what to add to the inputs (`add`:
`Sinusoidal`, `Learned`), and how to turn queries and keys (`turn`: `Rotary`, `XPos`). Positions are absolute
and given by the caller, so a cache or packed documents need nothing special. A bias by distance is the third
way (`regard.spec.biases`), relative keys the fourth (`regard.spec.scores.Shaw`), and no position at all the fifth: a
causal mask alone tells a model something of order (NoPE, Kazemnejad et al., 2023).
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
