"""The cases of `regard bench`: the sizes and options of a call, and its amount of work."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

FORWARD, BOTH = "forward", "forward + backward"

FULL, CAUSAL, WINDOW, DOCUMENTS = "full", "causal", "window", "documents"
"""Masks. The last two have a size after them: "window 512" (and causal), "documents 512" (of that length)."""

DROPOUT, RELATIVE, SOFTCAP, SINKS, WIDE, DENSE, ALIBI, ASCENDING = TWISTS = (
    "dropout 0.1",
    "learned relative bias",
    "soft-cap",
    "sinks",
    "dv = 2 d",
    "learned dense bias",
    "ALiBi",
    "ascending scores",
)
"""The features that a case may have and plain attention has not."""

FOUR, SIX, PENALTY = SEEN = ("four statistics", "six statistics", "entropy penalty")
"""The sets of statistics that a case may compute (`statistics.py`). A training step minimizes the penalty too."""

BACKWARD_WORK = 2.5
"""The work of a backward pass in forward passes: five matrix products instead of two."""

Sizes = tuple[int, int, int, int]
"""(batch, heads, sequence, head size)."""


@dataclass(frozen=True)
class Case:
    """One attention call, as sizes and options."""

    section: str
    shape: Sizes
    """Of the queries."""
    mask: str = FULL
    dtype: torch.dtype = torch.float32
    passes: str = FORWARD
    twist: str = ""
    """The feature that is not plain: one of `TWISTS`."""
    seen: str = ""
    """The statistics of the weights: one of `SEEN`."""
    keys: Sizes | None = None
    """Of the keys and values, where it is not that of the queries."""
    sets: tuple[str, ...] = ()
    """Which runs take it: "quick", "default", "goals"; "memory" measures its memory too, and "alone" times it
    in the process that measures its memory, in a single turn. `--all` takes every case."""
    also: tuple[str, ...] = ()
    """Slow methods that the quick and the default run include for this case."""

    @property
    def name(self) -> str:
        """The whole case in one line.

        >>> Case("plain", (1, 8, 2048, 64), "causal").name
        'plain: 1×8×2048×64 causal, float32, forward'
        """
        return f"{self.section}: {self.short}, {self.kind}, {self.passes}"

    @property
    def short(self) -> str:
        """Shape, mask, feature and statistics.

        >>> Case("decode", (1, 32, 1, 128), keys=(1, 8, 8192, 128)).short
        '1×32×1×128 on 1×8×8192×128'
        """
        sizes = "×".join(str(size) for size in self.shape)
        if self.keys is not None:
            return f"{sizes} on {'×'.join(str(size) for size in self.keys)}"
        return ", ".join((f"{sizes} {self.mask}", *filter(None, (self.twist, self.seen))))

    @property
    def kind(self) -> str:
        """The name of the dtype."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def backward(self) -> bool:
        """Whether gradients are computed."""
        return self.passes != FORWARD

    @property
    def alone(self) -> bool:
        """Whether it takes so long that time and memory are measured in one call."""
        return "alone" in self.sets

    @property
    def key_shape(self) -> Sizes:
        """(batch, key heads, keys, head size)."""
        return self.keys or self.shape

    @property
    def value_size(self) -> int:
        """The head size of the values."""
        return self.shape[3] * (2 if self.twist == WIDE else 1)

    @property
    def pattern(self) -> str:
        """The mask without its size."""
        return self.mask.split()[0]

    @property
    def span(self) -> int:
        """The size after the name of the mask; 0 where it has none."""
        return int(self.mask.partition(" ")[2] or 0)

    @property
    def pairs(self) -> float:
        """Pairs of query and key that one head sees; by convention half of all under a causal mask.

        >>> Case("", (1, 1, 6, 8), "window 1").pairs, Case("", (1, 1, 6, 8), "documents 4").pairs
        (11, 20)
        """
        q, k, span = self.shape[2], self.key_shape[2], self.span
        if self.pattern == CAUSAL:
            return q * k / 2
        if self.pattern == WINDOW:
            full = min(span, q)  # the first queries have fewer keys before them
            return full * (full + 1) // 2 + (q - full) * (span + 1)
        if self.pattern == DOCUMENTS:
            return q // span * span**2 + (q % span) ** 2
        return q * k

    @property
    def flops(self) -> float:
        """Multiplications and additions: 4·b·h·n²·d for a plain forward pass.

        >>> Case("plain", (1, 8, 2048, 64)).flops == 4 * 8 * 2048**2 * 64
        True
        """
        forward = 2 * self.shape[0] * self.shape[1] * self.pairs * (self.shape[3] + self.value_size)
        return forward * (1 + BACKWARD_WORK if self.backward else 1)

    @property
    def read_bytes(self) -> int:
        """Bytes of keys and values together: what a decoding step has to read."""
        b, g, k, d = self.key_shape
        return b * g * k * (d + self.value_size) * self.dtype.itemsize

    @property
    def map_bytes(self) -> int:
        """Bytes of one number for every pair of query and key, in the case's dtype."""
        b, h, q, _ = self.shape
        return b * h * q * self.key_shape[2] * self.dtype.itemsize

    def plain(self) -> Case:
        """The same call without mask, feature and statistics.

        >>> Case("features", (1, 1, 64, 8), "causal", twist="sinks").plain().short
        '1×1×64×8 full'
        """
        return dataclasses.replace(self, mask=FULL, twist="", seen="")

    def unobserved(self) -> Case:
        """The same call without statistics.

        >>> Case("statistics", (1, 1, 64, 8), "causal", seen=FOUR).unobserved().short
        '1×1×64×8 causal'
        """
        return dataclasses.replace(self, seen="")

    def small(self, n: int) -> Case:
        """The same with at most `n` positions, and the mask's size in proportion.

        >>> Case("window", (1, 2, 32768, 64), "window 512").small(40).short
        '1×2×40×64 window 8'
        """
        b, h, q, d = self.shape
        mask = f"{self.pattern} {n // 5}" if self.span else self.mask
        keys = self.keys and (*self.keys[:2], min(n, self.keys[2]), self.keys[3])
        return dataclasses.replace(self, shape=(b, h, min(n, q), d), mask=mask, keys=keys)
