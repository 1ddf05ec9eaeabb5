"""Rotary positions on more than one axis: which pairs of components turn with which axis.

An image has rows and columns, a video frames as well. Positions then have a number for each axis, and each
pair of components turns with one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from regard.errors import OptionError
from regard.spec.values import Value


class Dealt(NamedTuple):
    """What each pair of components turns with."""

    size: int
    """The frequencies are those of a head of this size."""
    frequencies: tuple[int, ...]
    """Of each pair, which of the frequencies it has, from fast to slow."""
    axes: tuple[int, ...]
    """Of each pair, the axis of its positions."""


@dataclass(frozen=True)
class Axes(Value):
    """How the pairs of components of a head are dealt to the axes of positions."""

    @property
    def number(self) -> int:
        """How many axes there are."""
        raise NotImplementedError

    def deal(self, size: int) -> Dealt:
        """What each of the size / 2 pairs turns with."""
        raise NotImplementedError


@dataclass(frozen=True)
class Axial(Axes):
    """An equal share of the pairs for each axis, each with all speeds from 1 radian down.

    With `count` axes a, pair i of axis a turns by ``position_a · base^(−2 i / (size / count))`` (Heo et al.,
    2024, RoPE-axial; Qwen2-VL's and Llama 4's vision).

    >>> Axial(2).deal(8)
    Dealt(size=4, frequencies=(0, 1, 0, 1), axes=(0, 0, 1, 1))
    """

    count: int = 2

    def __post_init__(self) -> None:
        _at_least_one("Axial(count=…)", self.count)

    @property
    def number(self) -> int:
        return self.count

    def deal(self, size: int) -> Dealt:
        pairs = _share("Axial(count=…)", self.count, size)
        each = tuple(range(pairs))
        return Dealt(size // self.count, each * self.count, _blocks((pairs,) * self.count))


@dataclass(frozen=True)
class Alternating(Axes):
    """An equal share of the pairs for each axis, the speeds of a whole head dealt out in turn.

    Pair i of axis a turns by ``position_a · base^(−2 (count · i + a) / size)`` (Pixtral, Agrawal et al.,
    2024).

    >>> Alternating(2).deal(8)
    Dealt(size=8, frequencies=(0, 2, 1, 3), axes=(0, 0, 1, 1))
    """

    count: int = 2

    def __post_init__(self) -> None:
        _at_least_one("Alternating(count=…)", self.count)

    @property
    def number(self) -> int:
        return self.count

    def deal(self, size: int) -> Dealt:
        pairs = _share("Alternating(count=…)", self.count, size)
        speeds = tuple(s for axis in range(self.count) for s in range(axis, size // 2, self.count))
        return Dealt(size, speeds, _blocks((pairs,) * self.count))


@dataclass(frozen=True)
class Sections(Axes):
    """Each pair keeps its speed, and so many pairs turn with each axis (M-RoPE, Qwen2-VL, Wang et al., 2024).

    A token of text has the same place on all axes, and turns as without axes. `order` "blocks" gives the
    fastest pairs to the first axis, then come those of the second; "woven" takes axes in turn while they
    have pairs left, and the first axis gets the rest (Qwen3-VL).

    >>> Sections((1, 2, 1)).deal(8).axes, Sections((2, 1, 1), order="woven").deal(8).axes
    ((0, 1, 1, 2), (0, 1, 2, 0))
    """

    pairs: tuple[int, ...]
    order: str = "blocks"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(self.pairs))
        if not self.pairs or min(self.pairs) < 0:
            raise OptionError(
                "Sections(pairs=…)",
                self.pairs,
                "whole numbers ≥ 0",
                "Give the pairs of each axis; Qwen2-VL has (16, 24, 24).",
            )
        if self.order not in ("blocks", "woven"):
            raise OptionError(
                "Sections(order=…)", repr(self.order), "'blocks' or 'woven'", "Qwen2-VL has blocks, Qwen3-VL is woven."
            )

    @property
    def number(self) -> int:
        return len(self.pairs)

    def deal(self, size: int) -> Dealt:
        if 2 * sum(self.pairs) != size:
            raise OptionError(
                "Sections(pairs=…)",
                f"{self.pairs}, {sum(self.pairs)} pairs",
                f"{size // 2} pairs in all, half of what is turned",
                "Every pair turns with one axis.",
            )
        axes = list(_blocks(self.pairs))
        if self.order == "woven":
            axes = [0] * len(axes)
            for axis, pairs in enumerate(self.pairs[1:], 1):
                for pair in range(axis, min(pairs * self.number, len(axes)), self.number):
                    axes[pair] = axis
        return Dealt(size, tuple(range(size // 2)), tuple(axes))


def _blocks(pairs: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis, n in enumerate(pairs) for _ in range(n))


def _at_least_one(name: str, count: int) -> None:
    if count < 1:
        raise OptionError(name, count, "a whole number ≥ 1", "An image has 2: rows and columns.")


def _share(name: str, count: int, size: int) -> int:
    """The pairs of each axis."""
    if size % (2 * count):
        raise OptionError(
            name,
            f"{count} for {size} components",
            "a divisor of the pairs of components",
            "Give Rotary(size=…), as many components as can be shared equally.",
        )
    return size // (2 * count)
