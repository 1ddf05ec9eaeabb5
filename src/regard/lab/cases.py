"""What `regard bench` measures: the cases, and the arms that each of them is run through.

A case more is a row more in `CASES`; an arm more (a backend, another library) is a row more in `ARMS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from regard.attend import attention, observe
from regard.biases import Dense
from regard.masks import Causal
from regard.observers import Entropy, MeanDistance, Observer, Received, TopK

STATISTICS: tuple[Observer[Any], ...] = (Entropy(), TopK(8), MeanDistance(), Received())


@dataclass(frozen=True)
class Case:
    """One self-attention call, as sizes and options."""

    shape: tuple[int, int, int, int]
    """(batch, heads, sequence, head size)."""
    mask: str = "full"
    """"full" or "causal"."""
    dtype: torch.dtype = torch.float32
    passes: str = "forward"
    """"forward", or "forward + backward" with gradients to everything that is learned."""
    special: str = ""
    """What is not plain: one of `SPECIALS`."""
    sets: tuple[str, ...] = ("default",)
    """The sets that it belongs to: "quick", "default", "memory". `--all` runs every case."""

    @property
    def name(self) -> str:
        """All of it in one line.

        >>> Case((1, 8, 2048, 64), "causal").name
        '1×8×2048×64 causal, float32, forward'
        """
        return f"{self.short}, {self.kind}, {self.passes}"

    @property
    def short(self) -> str:
        """Shape, mask and what is special."""
        sizes = "×".join(str(size) for size in self.shape)
        return f"{sizes} {self.mask}" + (f", {self.special}" if self.special else "")

    @property
    def kind(self) -> str:
        """The dtype by its name."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def backward(self) -> bool:
        """Whether gradients are asked for."""
        return self.passes != "forward"


DROPOUT, BIAS, WIDE, SEEN = "dropout 0.1", "learned bias", "dv = 128", "statistics"
SPECIALS = (DROPOUT, BIAS, WIDE, SEEN)
"""The first three are where `scaled_dot_product_attention` leaves its fused kernel on a CPU."""

_SMALL, _MIDDLE, _LONG = (1, 12, 512, 64), (1, 8, 2048, 64), (1, 4, 8192, 64)
_F32, _BF16 = torch.float32, torch.bfloat16
_FORWARD, _BOTH = "forward", "forward + backward"
_QUICK, _DEFAULT, _MEMORY = ("quick", "default"), ("default",), ("default", "memory")

CASES = (
    Case(_SMALL, "full", _F32, _FORWARD, sets=_QUICK),
    Case(_SMALL, "causal", _F32, _FORWARD, sets=_QUICK),
    Case(_MIDDLE, "full", _F32, _FORWARD),
    Case(_MIDDLE, "causal", _F32, _FORWARD, sets=(*_QUICK, "memory")),
    Case(_LONG, "full", _F32, _FORWARD, sets=()),
    Case(_LONG, "causal", _F32, _FORWARD, sets=_MEMORY),
    Case(_SMALL, "full", _F32, _BOTH),
    Case(_SMALL, "causal", _F32, _BOTH, sets=_QUICK),
    Case(_MIDDLE, "full", _F32, _BOTH),
    Case(_MIDDLE, "causal", _F32, _BOTH, sets=_MEMORY),
    Case(_LONG, "full", _F32, _BOTH, sets=()),
    Case(_LONG, "causal", _F32, _BOTH, sets=()),
    Case(_SMALL, "full", _BF16, _FORWARD, sets=_QUICK),
    Case(_SMALL, "causal", _BF16, _FORWARD),
    Case(_MIDDLE, "full", _BF16, _FORWARD),
    Case(_MIDDLE, "causal", _BF16, _FORWARD),
    Case(_LONG, "full", _BF16, _FORWARD, sets=()),
    Case(_LONG, "causal", _BF16, _FORWARD, sets=()),
    Case(_SMALL, "full", _BF16, _BOTH, sets=()),
    Case(_SMALL, "causal", _BF16, _BOTH),
    Case(_MIDDLE, "full", _BF16, _BOTH, sets=()),
    Case(_MIDDLE, "causal", _BF16, _BOTH),
    Case(_LONG, "full", _BF16, _BOTH, sets=()),
    Case(_LONG, "causal", _BF16, _BOTH, sets=()),
    Case(_MIDDLE, "causal", _F32, _BOTH, DROPOUT),
    Case(_MIDDLE, "full", _F32, _BOTH, BIAS),
    Case(_MIDDLE, "causal", _F32, _FORWARD, WIDE),
    Case(_MIDDLE, "causal", _F32, _BOTH, WIDE),
    Case(_SMALL, "causal", _F32, _FORWARD, SEEN, sets=_QUICK),
    Case(_MIDDLE, "causal", _F32, _FORWARD, SEEN, sets=_MEMORY),
    Case(_LONG, "causal", _F32, _FORWARD, SEEN, sets=()),
)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensors of a case."""

    case: Case
    q: Float[Tensor, "b h n d"]
    k: Float[Tensor, "b h n d"]
    v: Float[Tensor, "b h n dv"]
    bias: Float[Tensor, "1 h n n"] | None
    upstream: Float[Tensor, "b h n dv"]
    """The gradient of the output."""

    @classmethod
    def of(cls, case: Case, seed: int = 0) -> Inputs:
        """The same tensors each time.

        >>> Inputs.of(Case((1, 2, 16, 8))).q.shape
        torch.Size([1, 2, 16, 8])
        """
        random = torch.Generator().manual_seed(seed)
        b, h, n, d = case.shape
        dv = 2 * d if case.special == WIDE else d

        def normal(*sizes: int) -> Tensor:
            made = torch.randn(sizes, generator=random).to(case.dtype)
            return made.requires_grad_(case.backward)

        q, k, v = normal(b, h, n, d), normal(b, h, n, d), normal(b, h, n, dv)
        bias = normal(1, h, n, n) if case.special == BIAS else None
        return cls(case, q, k, v, bias, normal(b, h, n, dv).detach())

    @property
    def causal(self) -> bool:
        return self.case.mask == "causal"

    @property
    def dropout(self) -> float:
        return 0.1 if self.case.special == DROPOUT else 0.0

    @property
    def learned(self) -> list[Tensor]:
        """What gets a gradient."""
        return [t for t in (self.q, self.k, self.v, self.bias) if t is not None]


Result = tuple[Tensor, ...]
"""The output, and after it the statistics, where the case asks for them."""


@dataclass(frozen=True)
class Arm:
    """One way to run a case."""

    name: str
    forward: Callable[[Inputs], Result]
    why_not: Callable[[Case], str | None]
    """One sentence why this arm cannot run the case, or None."""

    def run(self, inputs: Inputs) -> Result:
        """The case once: the output, and gradients if it asks for them."""
        with torch.set_grad_enabled(inputs.case.backward):
            result = self.forward(inputs)
        if inputs.case.backward:
            result += torch.autograd.grad(result[0], inputs.learned, inputs.upstream)
        return result


def _sdpa(inputs: Inputs) -> Result:
    i = inputs
    return (
        functional.scaled_dot_product_attention(
            i.q, i.k, i.v, attn_mask=i.bias, dropout_p=i.dropout, is_causal=i.causal
        ),
    )


def _sdpa_not(case: Case) -> str | None:
    return "never has the weights" if case.special == SEEN else None


def _eager(inputs: Inputs) -> Result:
    """The formula as the textbooks write it, all scores at once."""
    i = inputs
    n = i.q.shape[2]
    scores = i.q @ i.k.mT * i.q.shape[3] ** -0.5
    if i.bias is not None:
        scores = scores + i.bias
    if i.causal:
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
    weights = scores.softmax(-1)
    out = functional.dropout(weights, i.dropout) @ i.v if i.dropout else weights @ i.v
    if i.case.special != SEEN:
        return (out,)
    place = torch.arange(n)
    apart = (place[:, None] - place).abs().to(weights.dtype)
    top = weights.topk(8)
    return (
        out,
        torch.special.entr(weights).sum(-1),
        top.indices,
        top.values,
        (weights * apart).sum(-1),
        weights.sum(-2),
    )


def _eager_not(case: Case) -> str | None:
    b, h, n, _ = case.shape
    maps = 5 if case.backward else 3  # maps of n² that are alive at a time
    needed = maps * b * h * n * n * case.dtype.itemsize
    available = _memory()
    if available is None or needed < 0.7 * available:
        return None
    return f"needs {needed / 2**30:.1f} GiB, here are {available / 2**30:.1f}"


def _regard(backend: str) -> Callable[[Inputs], Result]:
    def forward(inputs: Inputs) -> Result:
        i = inputs
        mask = Causal() if i.causal else None
        bias = None if i.bias is None else Dense(i.bias)
        if i.case.special != SEEN:
            return (
                attention(i.q, i.k, i.v, mask=mask, bias=bias, dropout=i.dropout, backend=backend),
            )
        seen = observe(i.q, i.k, i.v, *STATISTICS, mask=mask, bias=bias, backend=backend)
        top = seen[TopK(8)]
        return (seen.out, seen[Entropy()], *top, seen[MeanDistance()], seen[Received()])

    return forward


ARMS = (
    Arm("SDPA", _sdpa, _sdpa_not),
    Arm("eager", _eager, _eager_not),
    Arm("regard chunked", _regard("chunked"), lambda case: None),
)
"""Ratios are to the first arm that runs the case."""


@dataclass(frozen=True)
class Timing:
    """How long an arm takes for a case."""

    seconds: float
    """The median."""
    spread: float
    """Half the distance between the quartiles, as a share of the median."""
    ratio: float
    """To the first arm of the case: the median over turns; 1 for that arm itself."""
    turns: int


@dataclass(frozen=True)
class Row:
    """A case and what its arms took. An arm that did not run has its reason in `reasons`."""

    case: Case
    timings: dict[str, Timing] = field(default_factory=dict[str, Timing])
    extra_bytes: dict[str, int] = field(default_factory=dict[str, int])
    reasons: dict[str, str] = field(default_factory=dict[str, str])


def _memory() -> int | None:
    """Bytes that are free to use now, where the system says so."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
