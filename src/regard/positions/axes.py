"""Rotary positions on more than one axis: which pairs of components rotate with which axis.

An image has rows and columns, a video frames as well. Positions then have a number for each axis, and each
pair of components rotates with one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from regard.errors import OptionError
from regard.spec.values import Value


class PairAssignment(NamedTuple):
    """The frequency and the axis of each pair of components."""

    size: int
    """The frequencies are those of a head of this size."""
    frequencies: tuple[int, ...]
    """Of each pair, which of the frequencies it has, from fast to slow."""
    axes: tuple[int, ...]
    """Of each pair, the axis of its positions."""


@dataclass(frozen=True)
class Axes(Value):
    """How the pairs of components of a head are assigned to the axes of positions."""

    @property
    def number(self) -> int:
        """How many axes there are."""
        raise NotImplementedError

    def deal(self, size: int) -> PairAssignment:
        """The frequency and the axis of each of the size / 2 pairs."""
        raise NotImplementedError


@dataclass(frozen=True)
class Axial(Axes):
    """An equal share of the pairs for each axis, each with all frequencies from 1 radian down.

    With `count` axes a, pair i of axis a rotates by ``position_a · base^(−2 i / (size / count))`` (Heo et al.,
    2024, RoPE-axial; Qwen2-VL's and Llama 4's vision).

    >>> Axial(2).deal(8)
    PairAssignment(size=4, frequencies=(0, 1, 0, 1), axes=(0, 0, 1, 1))
    """

    count: int = 2

    def __post_init__(self) -> None:
        _at_least_one("Axial(count=…)", self.count)

    @property
    def number(self) -> int:
        return self.count

    def deal(self, size: int) -> PairAssignment:
        pairs = _share("Axial(count=…)", self.count, size)
        each = tuple(range(pairs))
        return PairAssignment(size // self.count, each * self.count, _blocks((pairs,) * self.count))


@dataclass(frozen=True)
class Alternating(Axes):
    """An equal share of the pairs for each axis; the frequencies of a whole head alternate between axes.

    Pair i of axis a rotates by ``position_a · base^(−2 (count · i + a) / size)`` (Pixtral, Agrawal et al.,
    2024).

    >>> Alternating(2).deal(8)
    PairAssignment(size=8, frequencies=(0, 2, 1, 3), axes=(0, 0, 1, 1))
    """

    count: int = 2

    def __post_init__(self) -> None:
        _at_least_one("Alternating(count=…)", self.count)

    @property
    def number(self) -> int:
        return self.count

    def deal(self, size: int) -> PairAssignment:
        pairs = _share("Alternating(count=…)", self.count, size)
        frequencies = tuple(f for axis in range(self.count) for f in range(axis, size // 2, self.count))
        return PairAssignment(size, frequencies, _blocks((pairs,) * self.count))


@dataclass(frozen=True)
class Sections(Axes):
    """Each pair keeps its frequency; `pairs` is how many rotate with each axis (M-RoPE, Qwen2-VL, Wang et al., 2024).

    A token of text has the same position on all axes, and rotates as without axes. `order` "blocks" gives the
    fastest pairs to the first axis, then those of the second; "woven" alternates between axes while they
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

    def deal(self, size: int) -> PairAssignment:
        if 2 * sum(self.pairs) != size:
            raise OptionError(
                "Sections(pairs=…)",
                f"{self.pairs}, {sum(self.pairs)} pairs",
                f"{size // 2} pairs in all, half of the rotated components",
                "Every pair rotates with one axis.",
            )
        axes = list(_blocks(self.pairs))
        if self.order == "woven":
            axes = [0] * len(axes)
            for axis, pairs in enumerate(self.pairs[1:], 1):
                for pair in range(axis, min(pairs * self.number, len(axes)), self.number):
                    axes[pair] = axis
        return PairAssignment(size, tuple(range(size // 2)), tuple(axes))


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
