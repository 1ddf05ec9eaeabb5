"""Rotary frequencies for longer sequences than a model was trained on.

A rotary model rotates pair i by ``position · f_i``, where ``f_i = base^(−2 i / size)``. Past its trained
length, slow pairs reach angles that did not occur in training. Each kind here changes the frequencies to avoid
that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import OptionError
from regard.spec.values import Value


@dataclass(frozen=True)
class Scaling(Value):
    """Rotary frequencies for more positions than were trained."""

    def frequencies(self, base: float, size: int) -> tuple[float, ...]:
        """Radians per position of each of the size / 2 pairs, up to the trained length."""
        raise NotImplementedError

    @property
    def magnitude(self) -> float:
        """The factor of rotated queries and rotated keys."""
        return 1.0

    @property
    def by_length(self) -> bool:
        """Whether frequencies depend on the length of the sequence: then `stretched` computes them."""
        return False

    def stretched(
        self, frequencies: Float[Tensor, " half"], base: float, size: int, length: Int[Tensor, ""]
    ) -> Float[Tensor, " half"]:
        """The frequencies for a sequence of this length, from those up to the trained length."""
        del base, size, length
        return frequencies


def base_frequencies(base: float, size: int) -> tuple[float, ...]:
    """The frequencies of a model as it was trained: base^(−2 i / size)."""
    return tuple(base ** (-2 * i / size) for i in range(size // 2))


@dataclass(frozen=True)
class Linear(Scaling):
    """All frequencies divided by `factor`, as if positions were closer (Chen et al., 2023).

    >>> Linear(4.0).frequencies(10_000.0, 4)
    (0.25, 0.0025)
    """

    factor: float

    def __post_init__(self) -> None:
        _positive("Linear(factor=…)", self.factor)

    def frequencies(self, base: float, size: int) -> tuple[float, ...]:
        return tuple(f / self.factor for f in base_frequencies(base, size))


@dataclass(frozen=True)
class NTK(Scaling):
    """A greater base: ``base · factor^(size / (size − 2))``, fixed (bloc97, 2023; Peng et al., 2024, § 3.1).

    The fastest pair stays as it is, the slowest is slowed down by `factor`.
    """

    factor: float

    def __post_init__(self) -> None:
        _positive("NTK(factor=…)", self.factor)

    def frequencies(self, base: float, size: int) -> tuple[float, ...]:
        _two_pairs("NTK", size)
        return base_frequencies(base * self.factor ** (size / (size - 2)), size)


@dataclass(frozen=True)
class DynamicNTK(Scaling):
    """`NTK` that grows with the sequence (emozilla, 2023; Peng et al., 2024, § 3.3).

    Up to the `trained` length nothing changes. A sequence of length n beyond it has the base
    ``base · (factor · n / trained − (factor − 1))^(size / (size − 2))``. The length is the greatest position
    of the call + 1, of queries and keys and of all batch rows: all have the same frequencies.

    So frequencies change while a sequence grows. A cache of rotated keys keeps the frequencies of the step that
    added each key, as transformers does; a cache of keys that are rotated at every step is exact.
    """

    factor: float
    trained: int

    def __post_init__(self) -> None:
        _at_least("DynamicNTK(factor=…)", self.factor, 1)
        _at_least("DynamicNTK(trained=…)", self.trained, 1)

    def frequencies(self, base: float, size: int) -> tuple[float, ...]:
        _two_pairs("DynamicNTK", size)
        return base_frequencies(base, size)

    @property
    def by_length(self) -> bool:
        return True

    def stretched(
        self, frequencies: Float[Tensor, " half"], base: float, size: int, length: Int[Tensor, ""]
    ) -> Float[Tensor, " half"]:
        n = length.clamp(min=self.trained).to(frequencies.dtype)
        growth = self.factor * n / self.trained - (self.factor - 1)
        pairs = torch.arange(0, size, 2, dtype=frequencies.dtype, device=frequencies.device)
        return frequencies * growth ** (-pairs / (size - 2))


@dataclass(frozen=True)
class YaRN(Scaling):
    """Slow pairs as in `Linear`, fast ones as they are, and a ramp between (Peng et al., 2024).

    A pair makes r rotations in the `trained` length. Pairs of more than `fast` rotations are unchanged, those of
    fewer than `slow` are divided by `factor`; between the pairs where r is `fast` and where it is `slow` the share
    of either grows linearly with the pair. `ends` "whole" rounds these two pairs outwards to whole numbers;
    "exact" does not (gpt-oss).

    Queries and keys are multiplied by `attention`, so that scores grow by its square; None is the paper's
    0.1 · ln(factor) + 1. `mscale` (m, m_all) is DeepSeek's: (0.1 · m · ln(factor) + 1) over the same of
    m_all.
    """

    factor: float
    trained: int
    fast: float = 32.0
    slow: float = 1.0
    ends: str = "whole"
    attention: float | None = None
    mscale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _positive("YaRN(factor=…)", self.factor)
        _at_least("YaRN(trained=…)", self.trained, 1)
        if not self.fast >= self.slow > 0:
            raise OptionError(
                "YaRN(fast=…, slow=…)",
                f"{self.fast} and {self.slow}",
                "fast ≥ slow > 0",
                "They are rotations in the trained length; the paper has 32 and 1.",
            )
        if self.ends not in ("whole", "exact"):
            raise OptionError(
                "YaRN(ends=…)", repr(self.ends), "'whole' or 'exact'", "A config's truncate=False is 'exact'."
            )
        if self.attention is not None and self.mscale is not None:
            raise OptionError(
                "YaRN(attention=…, mscale=…)",
                f"{self.attention} and {self.mscale}",
                "one of them",
                "Both set the scale of scores.",
            )

    def frequencies(self, base: float, size: int) -> tuple[float, ...]:
        def pair(rotations: float) -> float:
            return size * math.log(self.trained / (2 * math.pi * rotations)) / (2 * math.log(base))

        low, high = pair(self.fast), pair(self.slow)
        if self.ends == "whole":
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        width = high - low if high != low else 0.001  # a step, as in the paper's code
        scaled: list[float] = []
        for i, f in enumerate(base_frequencies(base, size)):
            slowed = min(max((i - low) / width, 0.0), 1.0)
            scaled.append(f / self.factor * slowed + f * (1 - slowed))
        return tuple(scaled)

    @property
    def magnitude(self) -> float:
        def magnitude(coefficient: float) -> float:
            return 1.0 if self.factor <= 1 else 0.1 * coefficient * math.log(self.factor) + 1

        if self.attention is not None:
            return self.attention
        return magnitude(1.0) if self.mscale is None else magnitude(self.mscale[0]) / magnitude(self.mscale[1])


@dataclass(frozen=True)
class Llama3(Scaling):
    """Long wavelengths slowed down, short ones unchanged, interpolated between (Llama 3.1, Grattafiori et al., 2024).

    A pair has a wavelength of 2π / f positions, that is r = trained / wavelength rotations in the `trained` length.
    For r < `slow` its frequency is divided by `factor`; for r > `fast` it is unchanged; between, the unchanged share
    is (r − slow) / (fast − slow). In a config `slow` is low_freq_factor, and `fast` high_freq_factor.
    """

    factor: float = 8.0
    trained: int = 8192
    slow: float = 1.0
    fast: float = 4.0

    def __post_init__(self) -> None:
        _positive("Llama3(factor=…)", self.factor)
        _at_least("Llama3(trained=…)", self.trained, 1)
        if not self.fast > self.slow > 0:
            raise OptionError(
                "Llama3(fast=…, slow=…)",
                f"{self.fast} and {self.slow}",
                "fast > slow > 0",
                "They are rotations in the trained length; Llama 3.1 has 4 and 1.",
            )

    def frequencies(self, base: float, size: int) -> tuple[float, ...]:
        scaled: list[float] = []
        for f in base_frequencies(base, size):
            rotations = self.trained * f / (2 * math.pi)
            unchanged = min(max((rotations - self.slow) / (self.fast - self.slow), 0.0), 1.0)
            scaled.append(f * unchanged + f / self.factor * (1 - unchanged))
        return tuple(scaled)


@dataclass(frozen=True)
class LongRoPE(Scaling):
    """A divisor of its own for each pair, found by search (Ding et al., 2024).

    Pair i has the frequency ``f_i / short_i`` in a sequence of at most the `trained` length, and ``f_i /
    long_i`` in a longer one. The length is the greatest position of the call + 1, as in `DynamicNTK`; so is
    the effect on a cache: at the token that exceeds the trained length, keys that were rotated before keep the
    short divisors.

    Queries and keys are multiplied by `attention`, at any length. None takes √(1 + ln(factor) / ln(trained)),
    where `factor` is how much longer the sequences may be; a factor of at most 1 gives 1.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    trained: int
    factor: float = 1.0
    attention: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "short", tuple(self.short))
        object.__setattr__(self, "long", tuple(self.long))
        _at_least("LongRoPE(trained=…)", self.trained, 2)
        if len(self.short) != len(self.long) or not all(x > 0 for x in (*self.short, *self.long)):
            raise OptionError(
                "LongRoPE(short=…, long=…)",
                f"{len(self.short)} and {len(self.long)} divisors",
                "as many of one as of the other, all above 0",
                "Each has one divisor for each pair of components.",
            )

    def frequencies(self, base: float, size: int) -> tuple[float, ...]:
        return self._divided(base, size, self.short)

    @property
    def by_length(self) -> bool:
        return True

    def stretched(
        self, frequencies: Float[Tensor, " half"], base: float, size: int, length: Int[Tensor, ""]
    ) -> Float[Tensor, " half"]:
        longer = torch.tensor(self._divided(base, size, self.long), dtype=frequencies.dtype, device=frequencies.device)
        return torch.where(length > self.trained, longer, frequencies)

    @property
    def magnitude(self) -> float:
        if self.attention is not None:
            return self.attention
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.trained))

    def _divided(self, base: float, size: int, by: tuple[float, ...]) -> tuple[float, ...]:
        if len(by) != size // 2:
            raise OptionError(
                "LongRoPE(short=…, long=…)",
                f"{len(by)} divisors",
                f"{size // 2}, one for each pair of {size} components",
                "They belong to one head size.",
            )
        return tuple(f / x for f, x in zip(base_frequencies(base, size), by, strict=True))


@dataclass(frozen=True)
class Proportional(Scaling):
    """Only the fastest pairs rotate, a `share` of those of a head, at their frequencies in the whole (Gemma 4).

    Unlike `Rotary(size=…)`, pairs are those of the whole head, and frequencies range from the fastest to
    ``base^−share``. All are divided by `factor`.
    """

    share: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        _positive("Proportional(factor=…)", self.factor)
        if not 0 <= self.share <= 1:
            raise OptionError("Proportional(share=…)", self.share, "a number from 0 to 1", "1 rotates every pair.")

    def frequencies(self, base: float, size: int) -> tuple[float, ...]:
        rotating = int(self.share * size // 2)
        return tuple(f / self.factor if i < rotating else 0.0 for i, f in enumerate(base_frequencies(base, size)))


def _positive(name: str, number: float) -> None:
    if not 0 < number < math.inf:
        raise OptionError(name, number, "a number above 0", "2 is for sequences twice as long.")


def _at_least(name: str, number: float, least: int) -> None:
    if not least <= number < math.inf:
        raise OptionError(name, number, f"a number ≥ {least}", "Take it from the model's config.")


def _two_pairs(kind: str, size: int) -> None:
    if size < 4:
        raise OptionError(
            kind, f"{size} components to rotate", "at least 4", "With a single pair there is none to slow down."
        )
