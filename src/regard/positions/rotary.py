"""Positions by which queries and keys are rotated, so that their product depends on their distance."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from regard.errors import OptionError, ShapeError
from regard.positions.axes import Axes
from regard.positions.base import Position, Positions, checked
from regard.positions.configs import parse_rope_config
from regard.positions.scaling import Scaling, base_frequencies
from regard.spec.values import readable


class _Frequencies(NamedTuple):
    """The rotation speeds of the pairs of one head size, on one device."""

    frequencies: Float[Tensor, " half"]
    """Radians per position, from fast to slow."""
    order: Int[Tensor, " half"] | None
    """Of each pair, which of the frequencies it has; None: as they come."""
    axes: Int[Tensor, " half"] | None
    """Of each pair, the axis of its positions; None: there is one."""
    size: int
    """Components that the frequencies are for."""


@dataclass(frozen=True)
class Rotary(Position):
    """Queries and keys rotated by angles that grow with position (RoFormer, Su et al., 2021).

    Pair i of components (x, y) is rotated by the angle a = ``position · base^(−2 i / size)`` to
    (x cos a − y sin a, y cos a + x sin a). A product of query and key then depends on their distance alone.
    Angles are computed in float64, and rotations in at least float32.

    >>> q = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    >>> turned, _ = Rotary().turn(q, q, torch.tensor([0, 1]))
    >>> turned.flatten().round(decimals=3).tolist()
    [1.0, 0.0, 0.5400000214576721, 0.8410000205039978]
    """

    base: float = 10_000.0
    size: int | None = None
    """Number of components of a head that are rotated, the first ones (GPT-J, GPT-NeoX); None rotates all."""
    pairs: str = "halves"
    """"halves": component i goes with i + size / 2 (GPT-NeoX, Llama); "interleaved": 2 i with 2 i + 1, as in
    the paper (GPT-J, Cohere). The same up to the order of components, that is, of a projection's rows."""
    scaling: Scaling | None = None
    """For more positions than were trained: `Linear`, `NTK`, `DynamicNTK`, `YaRN`, `Llama3`, `LongRoPE`."""
    axes: Axes | None = None
    """For positions on several axes, (n, axes) or (b, n, axes): `Axial`, `Alternating`, `Sections`."""

    def __post_init__(self) -> None:
        if not self.base > 1:
            raise OptionError("Rotary(base=…)", self.base, "a number above 1", "Most models use 10000.")
        if self.size is not None and (self.size < 2 or self.size % 2):
            raise OptionError(
                "Rotary(size=…)", self.size, "an even number ≥ 2, or None", "None turns every component of a head."
            )
        if self.pairs not in ("halves", "interleaved"):
            raise OptionError(
                "Rotary(pairs=…)",
                repr(self.pairs),
                "'halves' or 'interleaved'",
                "Llama has halves, GPT-J is interleaved.",
            )

    @classmethod
    def from_config(
        cls,
        rope: Mapping[str, Any] | None,
        *,
        head_size: int,
        trained: int | None = None,
        base: float = 10_000.0,
        share: float = 1.0,
        pairs: str = "halves",
    ) -> Rotary:
        """The positions of a model, from the `rope_parameters` or `rope_scaling` of its transformers config.

        Args:
            rope: The dict. If it has one for each kind of layer (Gemma 3), pass one of these. None: no scaling.
            head_size: The components of a head.
            trained: The config's max_position_embeddings. Needed where the dict leaves out how long the
                trained sequences were, or how much longer they may be.
            base: The config's rope_theta, where the dict has none.
            share: The config's partial_rotary_factor or rotary_pct, where the dict has none.
            pairs: Not in the config: "interleaved" for GPT-J, Cohere and GLM.

        Raises:
            OptionError: a kind or a key of the dict that is unknown, or a key that is missing.

        >>> rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}
        >>> Rotary.from_config(rope, head_size=64)
        Rotary(base=1000000.0, size=None, pairs='halves', scaling=Linear(factor=4.0), axes=None)
        """
        config = parse_rope_config(rope or {}, trained, base, share)
        size = int(head_size * config.share)
        return cls(config.base, None if size == head_size else size, pairs, config.scaling, config.axes)

    def turn(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b g m d"],
        positions: Positions,
        key_positions: Positions | None = None,
    ) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b g m d"]]:
        of_q, of_k = self.angles(q, k, positions, key_positions)
        waves = self.waves(of_q)
        of_keys = waves if of_k is of_q else self.waves(of_k)
        return self.turned(q, *waves), self.turned(k, *of_keys)

    def angles(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b g m d"],
        positions: Positions,
        key_positions: Positions | None = None,
    ) -> tuple[Float[Tensor, "... n half"], Float[Tensor, "... m half"]]:
        """The angle of every pair of components of queries and of keys, in radians.

        The same tensor twice where both have the same positions.
        """
        d = q.shape[-1]
        size = d if self.size is None else self.size
        if size > d or size % 2:
            raise ShapeError(
                "Rotary",
                f"head size {d}",
                f"an even head size of at least {max(size, 2)}",
                "Give Rotary(size=…), the components to turn.",
            )
        axes = None if self.axes is None else self.axes.number
        positions = checked(positions, q.shape[-2], axes)
        if key_positions is None:
            key_positions = checked(positions, k.shape[-2], axes, "key_positions")
        elif key_positions is not positions:
            key_positions = checked(key_positions, k.shape[-2], axes, "key_positions")

        table = _frequencies_for(self, size, q)
        frequencies = table.frequencies
        if self.scaling is not None and self.scaling.by_length:
            length = _length(positions, key_positions)
            frequencies = self.scaling.stretched(frequencies, self.base, table.size, length)
        if table.order is not None:
            frequencies = frequencies[table.order]
        of_q = _angles(positions, frequencies, table.axes)
        same = key_positions is positions
        return of_q, of_q if same else _angles(key_positions, frequencies, table.axes)

    def turned(
        self, x: Float[Tensor, "b h n d"], cos: Float[Tensor, "... n half"], sin: Float[Tensor, "... n half"]
    ) -> Float[Tensor, "b h n d"]:
        """Each pair of components rotated, by the cosine and the sine of its angle."""
        half, wide = cos.shape[-1], torch.promote_types(x.dtype, torch.float32)
        halves = self.pairs == "halves"
        first = slice(0, half) if halves else slice(0, 2 * half, 2)
        second = slice(half, 2 * half) if halves else slice(1, 2 * half, 2)
        cos, sin, x_wide = cos.to(wide), sin.to(wide), x.to(wide)
        both = torch.cat((cos, cos), -1) if halves else torch.stack((cos, cos), -1).flatten(-2)
        # Few passes, and none that changes the memory layout of x.
        out = x_wide * F.pad(both, (0, x.shape[-1] - 2 * half), value=1.0)
        out[..., first].addcmul_(x_wide[..., second], sin, value=-1)
        out[..., second].addcmul_(x_wide[..., first], sin)
        return out.to(x.dtype)

    def waves(
        self, angles: Float[Tensor, "... n half"]
    ) -> tuple[Float[Tensor, "... n half"], Float[Tensor, "... n half"]]:
        """The cosine and the sine of angles, times the magnitude of the scaling."""
        cos, sin = angles.cos(), angles.sin()
        magnitude = 1.0 if self.scaling is None else self.scaling.magnitude
        return (cos, sin) if magnitude == 1 else (cos * magnitude, sin * magnitude)


@dataclass(frozen=True)
class XPos(Position):
    """Rotary positions whose products fade with distance, fast pairs first (Sun et al., 2023).

    On top of `rotary`, pair i of a query at position n is multiplied by ``ζ_i^((n − centre) / scale)``, and
    that of a key at m by ``ζ_i^((centre − m) / scale)``, where ``ζ_i = (2 i / size + γ) / (1 + γ)`` and γ is
    0.4. A product then has the factor ``ζ_i^((n − m) / scale)``. It *grows* for keys ahead of their query:
    the paper's models are causal. Its pairs are ``Rotary(pairs="interleaved")``.

    `centre` does not change products, only how far both sides are from 1. A number is safe for a cache of
    rotated keys; None takes the middle of each call's positions, which is not. Positions so far from the
    centre that a dtype cannot represent the factors (some 14,000 in float32, 1,800 in float16) are an error.

    >>> q = torch.ones(1, 1, 3, 4)
    >>> turned, keys = XPos().turn(q, q, torch.tensor([0, 512, 1024]))
    >>> [round(float(x), 3) for x in turned.norm(dim=-1).flatten()]
    [2.0, 0.995, 0.596]
    """

    rotary: Rotary = Rotary()
    scale: float = 512.0
    gamma: float = 0.4
    centre: int | None = 0

    def __post_init__(self) -> None:
        for name, number in (("scale", self.scale), ("gamma", self.gamma)):
            if not 0 < number < math.inf:
                raise OptionError(
                    f"XPos({name}=…)", number, "a number above 0", "The paper has scale=512 and gamma=0.4."
                )
        if self.rotary.axes is not None:
            raise OptionError(
                "XPos(rotary=…)", self.rotary, "positions on one axis", "Decay needs one distance; leave axes out."
            )

    def turn(
        self,
        q: Float[Tensor, "b h n d"],
        k: Float[Tensor, "b g m d"],
        positions: Positions,
        key_positions: Positions | None = None,
    ) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b g m d"]]:
        of_q, of_k = self.rotary.angles(q, k, positions, key_positions)
        key_positions = positions if key_positions is None else key_positions
        from_q, from_k = self._from_centre(positions, key_positions, of_q.dtype)
        self._check(from_q, from_k, q)
        pairs = torch.arange(of_q.shape[-1], dtype=of_q.dtype, device=of_q.device)
        log_zeta = torch.log((pairs / of_q.shape[-1] + self.gamma) / (1 + self.gamma))

        def rotated(x: Tensor, angles: Tensor, distance: Tensor) -> Tensor:
            # The factor is that of the pair, so cosine and sine are multiplied by it.
            growth = torch.exp(distance[..., None] / self.scale * log_zeta)
            if growth.ndim == 3:
                growth = growth[:, None]
            cos, sin = self.rotary.waves(angles)
            return self.rotary.turned(x, cos * growth, sin * growth)

        return rotated(q, of_q, from_q), rotated(k, of_k, -from_k)

    def _from_centre(self, q: Tensor, k: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self.centre is not None:
            return (q - self.centre).to(dtype), (k - self.centre).to(dtype)
        if not q.numel() or not k.numel():
            return q.to(dtype), k.to(dtype)
        least, greatest = torch.minimum(q.amin(), k.amin()), torch.maximum(q.amax(), k.amax())
        middle = (least + greatest).to(dtype) / 2
        return q.to(dtype) - middle, k.to(dtype) - middle

    def _check(self, of_q: Tensor, of_k: Tensor, x: Tensor) -> None:
        if not readable(x) or not of_q.numel() or not of_k.numel():
            return
        # The limit on factors leaves a margin for the numbers that they multiply, and for keys ahead.
        steepest = abs(math.log(self.gamma / (1 + self.gamma)))
        limit = int(0.4 * math.log(torch.finfo(x.dtype).max) / steepest * self.scale)
        farthest = int(torch.maximum(of_q.abs().amax(), of_k.abs().amax()).ceil())
        if farthest > limit:
            allowed = f"at most {limit} from the centre, in {str(x.dtype).removeprefix('torch.')}"
            raise OptionError(
                "positions",
                f"{farthest} from the centre of XPos",
                allowed,
                "Give XPos(centre=…) near the middle of the positions, or None for each call's middle; "
                "for positions farther apart, a greater scale or a wider dtype.",
            )


def _angles(positions: Tensor, frequencies: Tensor, axes: Tensor | None) -> Tensor:
    per_pair = positions[..., None] if axes is None else positions[..., axes]
    angles = per_pair * frequencies
    return angles[:, None] if angles.ndim == 3 else angles  # the same for every head


def _length(*positions: Tensor) -> Tensor:
    ends = [p.amax() + 1 for p in positions if p.numel()]
    return functools.reduce(torch.maximum, ends) if ends else positions[0].new_zeros(())


def _frequencies_for(rotary: Rotary, size: int, x: Tensor) -> _Frequencies:
    # No cache while tracing, where tensors are symbolic.
    if readable(x) and type(x) in (Tensor, Parameter):
        return _cached_frequencies(rotary, size, x.device)
    return _frequencies(rotary, size, x.device)


def _frequencies(rotary: Rotary, size: int, device: torch.device) -> _Frequencies:
    assignment = None if rotary.axes is None else rotary.axes.deal(size)
    inner = size if assignment is None else assignment.size
    scaling = rotary.scaling
    numbers = base_frequencies(rotary.base, inner) if scaling is None else scaling.frequencies(rotary.base, inner)
    # float32 is too coarse for angles of large positions: 24 bits at position 10^6 are 0.06 rad.
    wide = torch.float32 if device.type == "mps" else torch.float64
    frequencies = torch.tensor(numbers, dtype=wide, device=device)
    if assignment is None:
        return _Frequencies(frequencies, None, None, inner)
    order, axes = (torch.tensor(x, device=device) for x in (assignment.frequencies, assignment.axes))
    return _Frequencies(frequencies, order, axes, inner)


_cached_frequencies = functools.lru_cache(maxsize=64)(_frequencies)
