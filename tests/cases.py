"""The one list of attention calls that every backend is tested with.

A case names one part of each kind; `Case.build` makes its tensors, always the same. A new mask, bias,
score, normalizer or observer takes a row in its dictionary here, and every law and every backend is then
tested with it (tests/house/test_cases.py asserts that none is missing).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

import regard
from regard.cache.positions import PositionBias, PositionMask, SlotPadding
from regard.lowering.tiles import Tabled
from regard.problem import Problem
from regard.shapes import Sizes
from regard.spec.biases import FIRE, T5, ALiBi, Bias, Kerple, Relative, as_bias
from regard.spec.masks import Blocks, Causal, Dilated, Documents, Everything, Mask, Padding, Prefix, Where, Window
from regard.spec.normalizers import Entmax15, Normalizer, Sigmoid, Softmax, Sparsemax, as_normalizer
from regard.spec.observers import (
    DistanceMass,
    Entropy,
    LogSumExp,
    MaxScore,
    MeanDistance,
    Observer,
    Pooled,
    Received,
    Rows,
    SpanMass,
    TopK,
)
from regard.spec.scores import Additive, Cosine, Dot, Euclidean, Score, Shaw, as_score
from regard.spec.values import Value

FP16, BF16, FP32, FP64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


class Shape(NamedTuple):
    """The sizes of a call."""

    b: int
    h: int
    g: int
    q: int
    k: int
    d: int
    dv: int

    def sizes(self) -> Sizes:
        return Sizes(*self, torch.device("cpu"))


class Draw:
    """Random numbers that depend on a name only, all representable in every dtype of the list."""

    def __init__(self, name: str) -> None:
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape: int) -> Tensor:
        x = torch.randn(shape, generator=self.generator, dtype=FP64)
        return x.to(BF16).to(FP16).to(FP64)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def bools(self, share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) < share


SHAPES: dict[str, Shape] = {
    "square": Shape(2, 2, 2, 33, 33, 8, 8),
    "grouped": Shape(2, 6, 2, 21, 29, 8, 8),
    "one key head": Shape(1, 4, 1, 17, 17, 4, 4),
    "fewer queries": Shape(2, 2, 2, 11, 40, 8, 5),
    "more queries": Shape(2, 2, 1, 40, 11, 8, 12),
    "one query": Shape(2, 4, 2, 1, 50, 8, 8),
    "one key": Shape(1, 2, 2, 9, 1, 8, 8),
    "ones": Shape(1, 1, 1, 1, 1, 1, 1),
    "many heads": Shape(3, 6, 3, 10, 12, 4, 4),
    "long": Shape(1, 2, 1, 290, 700, 4, 4),
    "no queries": Shape(2, 2, 2, 0, 9, 8, 8),
    "no keys": Shape(2, 2, 2, 9, 0, 8, 8),
    "no batch": Shape(0, 2, 2, 9, 9, 8, 8),
    "no heads": Shape(2, 0, 0, 9, 9, 8, 8),
    "no query heads": Shape(2, 0, 2, 9, 9, 8, 8),
    "no head size": Shape(2, 2, 2, 9, 9, 0, 8),
    "no value size": Shape(2, 2, 2, 9, 9, 8, 0),
}

Part = Callable[[Shape, Draw], Any]
Kind = TypeVar("Kind", bound=Value)


def _documents(s: Shape) -> Tensor:
    return torch.arange(s.k) * 3 // max(s.k, 1)


def _with_uniform_rows(table: Tensor, value: bool) -> Tensor:
    """The table with its last row, and all of its first batch row's first row, set."""
    table[..., -1, :] = value
    table[:1, ..., :1, :] = value
    return table


def _blocks(s: Shape, r: Draw) -> Mask:
    table = r.bools(0.5, -(-s.q // 4), -(-s.k // 4))
    table[:, :1] = True
    return Blocks(table, 4)


def _slot_positions(s: Shape, r: Draw, *sizes: int) -> Tensor:
    """Positions of a cache's keys, ascending, with gaps; those of some batch rows begin with padding."""
    b, g, n = sizes
    padding = torch.arange(n) < torch.arange(b)[:, None, None] * 2
    return torch.where(padding, -1, (2 * r.integers(1, 3, b, g, n)).cumsum(-1))


MASKS: dict[str, Part] = {
    "no mask": lambda s, r: None,
    "everything": lambda s, r: Everything(),
    "nothing": lambda s, r: ~Everything(),
    "causal": lambda s, r: Causal(),
    "causal from the first": lambda s, r: Causal(offset=0),
    "causal offset": lambda s, r: Causal(offset=5),
    "anticausal": lambda s, r: ~Causal(offset=-2),
    "window": lambda s, r: Window(5),
    "window both": lambda s, r: Window(4, 3),
    "not window": lambda s, r: ~Window(6, 6),
    "prefix": lambda s, r: Prefix(6),
    "causal prefix": lambda s, r: Causal() | Prefix(7),
    "sinks": lambda s, r: Causal() & (Window(8) | Prefix(3)),
    "right padding": lambda s, r: Padding(r.integers(0, s.k + 1, s.b)),
    "left padding": lambda s, r: Padding(r.integers(0, s.k + 1, s.b), "left"),
    "shared padding": lambda s, r: Padding(torch.tensor([s.k * 2 // 3])),
    "causal left padding": lambda s, r: Causal() & Padding(torch.arange(s.b) * s.k // 2, "left"),
    "documents": lambda s, r: Documents(_documents(s), offset=0),
    "documents of each": lambda s, r: Causal() & Documents(r.integers(0, 3, s.b, s.k).sort().values),
    "documents unordered": lambda s, r: Documents(r.integers(0, 3, s.k)),
    "blocks": _blocks,
    "dilated": lambda s, r: Dilated(3),
    "causal dilated": lambda s, r: Causal() & Dilated(2) & ~Window(1),
    "where": lambda s, r: Where(lambda b, h, q, k: (q + 2 * k + h + b) % 3 != 0),
    "where causal": lambda s, r: Causal() & Where(lambda b, h, q, k: (k + h) % 4 != 1),
    "tensor": lambda s, r: _with_uniform_rows(r.bools(0.7, s.b, s.h, s.q, s.k), False),
    "tensor of keys": lambda s, r: r.bools(0.6, s.b, 1, 1, s.k),
    "tensor of heads": lambda s, r: r.bools(0.6, s.h, s.q, 1),
    "causal tensor": lambda s, r: Causal() & r.bools(0.8, s.q, s.k),
    "placed": lambda s, r: PositionMask(
        Causal(offset=0) & Window(20, offset=0),
        keys=_slot_positions(s, r, s.b, s.g, s.k),
        queries=_slot_positions(s, r, s.b, 1, s.q),
    ),
    "filled": lambda s, r: SlotPadding(
        keys=_slot_positions(s, r, s.b, 1, s.k), queries=_slot_positions(s, r, s.b, 1, s.q)
    ),
    "tabled": lambda s, r: Tabled.of(Window(7, 2) & Where(lambda b, h, q, k: (q + 2 * k + h) % 5 != 0), s.sizes()),
}

NEED_A_KEY_FOR_EACH_QUERY = {"documents", "documents of each", "documents unordered"}
"""Masks that raise an error for more queries than keys."""


def _masking_bias(s: Shape, r: Draw) -> Tensor:
    bias = r.normal(s.b, 1, s.q, s.k)
    bias = bias.masked_fill(r.bools(0.3, s.b, 1, s.q, s.k), -torch.inf)
    bias[..., -1, :] = -torch.inf
    return bias


BIASES: dict[str, Part] = {
    "no bias": lambda s, r: None,
    "alibi": lambda s, r: ALiBi(s.h),
    "alibi slopes": lambda s, r: ALiBi(slopes=r.normal(s.h), offset=2),
    "t5": lambda s, r: T5(r.normal(8, s.h), max_distance=20),
    "t5 both": lambda s, r: T5(r.normal(12, s.h), max_distance=24, causal=False),
    "fire": lambda s, r: _fire(s, r),
    "kerple": lambda s, r: Kerple(r.normal(s.h).abs() + 0.5, r.normal(s.h).abs() + 0.25),
    "relative": lambda s, r: Relative(r.normal(s.h, 15)),
    "dense": lambda s, r: r.normal(s.b, s.h, s.q, s.k),
    "dense of keys": lambda s, r: r.normal(s.h, 1, s.k),
    "dense of queries": lambda s, r: r.normal(s.b, 1, s.q, 1),
    "dense number": lambda s, r: r.normal(1, 1),
    "forbidding": _masking_bias,
    "placed": lambda s, r: PositionBias(
        ALiBi(s.h, offset=0), keys=_slot_positions(s, r, s.b, s.g, s.k), queries=_slot_positions(s, r, 1, 1, s.q)
    ),
    "sum": lambda s, r: ALiBi(s.h) + r.normal(s.q, s.k) + Relative(r.normal(s.h, 3)),
}


def _fire(s: Shape, r: Draw) -> Bias:
    c, multiplier = torch.tensor(0.5, dtype=FP64), torch.tensor(-1.5, dtype=FP64)
    inner = r.normal(6), r.normal(6)
    return FIRE(c, multiplier, *inner, r.normal(s.h, 6), r.normal(s.h), length=8.0)


SCORES: dict[str, Part] = {
    "dot": lambda s, r: None,
    "plain dot": lambda s, r: Dot(scale=1.0),
    "soft-capped": lambda s, r: Dot(softcap=1.5),
    "cosine": lambda s, r: Cosine(),
    "cosine per head": lambda s, r: Cosine(r.normal(s.h) * 4),
    "euclidean": lambda s, r: Euclidean(),
    "additive": lambda s, r: Additive(r.normal(s.h, s.d)),
    "shaw": lambda s, r: Shaw(r.normal(9, s.d)),
    "shaw per head": lambda s, r: Shaw(r.normal(s.h, 5, s.d), scale=0.5, offset=2),
    "custom": lambda s, r: _sum_of_sines,
    "custom hardtanh": lambda s, r: lambda q, k: torch.tanh(q @ k.transpose(-1, -2)),
    "custom forbidding": lambda s, r: _mask_by_first_component,
}


def _sum_of_sines(q: Tensor, k: Tensor) -> Tensor:
    return torch.sin(q.sum(-1))[..., :, None] * k.sum(-1)[..., None, :]


def _mask_by_first_component(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2)
    return scores.masked_fill((q[..., :, None, :1] < k[..., None, :, :1])[..., 0], -torch.inf)


NORMALIZERS: dict[str, Part] = {
    "softmax": lambda s, r: None,
    "sink": lambda s, r: Softmax(sink=r.normal(s.h)),
    "sigmoid": lambda s, r: Sigmoid(),
    "sigmoid shifted": lambda s, r: Sigmoid(shift=-1.0),
    "sparsemax": lambda s, r: Sparsemax(),
    "entmax15": lambda s, r: Entmax15(),
}

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    # (b, n, h, d) in memory, as a projection makes it
    "projected": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "every second": lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, ::2, ::2],
    "columns first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "shared over batch": lambda x: x[:1].expand_as(x),
    "shared over positions": lambda x: x[:, :, :1].expand_as(x),
}


@dataclass
class Call:
    """The arguments of a case for `attention` or `observe`."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Mask | Tensor | None
    bias: Bias
    score: Score
    normalizer: Normalizer
    dropout: float
    seed: int

    @property
    def parts(self) -> dict[str, Any]:
        return {
            "mask": self.mask,
            "bias": self.bias,
            "score": self.score,
            "normalizer": self.normalizer,
            "dropout": self.dropout,
        }

    def leaves(self) -> dict[str, Tensor]:
        """Every tensor that may require a gradient, by name."""
        leaves = {"q": self.q, "k": self.k, "v": self.v}
        for name, part in (("bias", self.bias), ("score", self.score), ("normalizer", self.normalizer)):
            leaves |= {f"{name} {i}": tensor for i, tensor in enumerate(part.tensors()) if tensor.is_floating_point()}
        return leaves

    def with_leaves(self, *leaves: Tensor) -> Call:
        q, k, v, *rest = leaves
        others = iter(rest)
        bias, score, normalizer = (
            part.with_tensors([next(others) if t.is_floating_point() else t for t in part.tensors()])
            for part in (self.bias, self.score, self.normalizer)
        )
        return replace(self, q=q, k=k, v=v, bias=bias, score=score, normalizer=normalizer)

    def requiring_gradients(self) -> Call:
        return self.with_leaves(*(t.detach().requires_grad_() for t in self.leaves().values()))

    def problem(self, *observers: Observer[Any]) -> Problem:
        torch.manual_seed(self.seed)
        return Problem.of(self.q, self.k, self.v, observers, **self.parts)

    def observe(self, *observers: Observer[Any], backend: str = "auto") -> regard.Seen:
        torch.manual_seed(self.seed)
        return regard.observe(self.q, self.k, self.v, *observers, **self.parts, backend=backend)

    def attention(self, backend: str = "auto") -> Tensor:
        torch.manual_seed(self.seed)
        return regard.attention(self.q, self.k, self.v, **self.parts, backend=backend)


@dataclass(frozen=True)
class Case:
    """One attention call, by the names of its parts."""

    mask: str = "no mask"
    bias: str = "no bias"
    score: str = "dot"
    normalizer: str = "softmax"
    shape: str = "square"
    dtype: torch.dtype = FP32
    layout: str = "contiguous"
    dropout: float = 0.0

    def __str__(self) -> str:
        usual = Case()
        given = [self.mask]
        given += [
            str(getattr(self, name))
            for name in ("bias", "score", "normalizer", "shape", "layout")
            if getattr(self, name) != getattr(usual, name)
        ]
        given += [f"dropout {self.dropout}"] if self.dropout else []
        return ", ".join((*given, str(self.dtype).removeprefix("torch.")))

    @property
    def sizes(self) -> Shape:
        return SHAPES[self.shape]

    def build(self, dtype: torch.dtype | None = None) -> Call:
        """The call's tensors, the same numbers at each call and in each dtype."""
        dtype = dtype or self.dtype
        s, lay = self.sizes, LAYOUTS[self.layout]
        draw = Draw(str(s))
        q = draw.normal(s.b, s.h, s.q, s.d) * 1.5
        k = draw.normal(s.b, s.g, s.k, s.d) * 1.5
        v = draw.normal(s.b, s.g, s.k, s.dv)
        q, k, v = (lay(x.to(BF16).to(FP16).to(dtype)) for x in (q, k, v))

        def part(table: dict[str, Part], name: str) -> Any:
            return table[name](s, Draw(name + str(s)))

        def cast(value: Kind) -> Kind:
            return value.with_tensors([t.to(FP32).to(dtype) if t.is_floating_point() else t for t in value.tensors()])

        bias = cast(as_bias(part(BIASES, self.bias)))
        score = cast(as_score(part(SCORES, self.score)))
        normalizer = cast(as_normalizer(part(NORMALIZERS, self.normalizer)))
        mask = part(MASKS, self.mask)
        return Call(q, k, v, mask, bias, score, normalizer, self.dropout, zlib.crc32(b"seed"))


def observers(s: Shape) -> tuple[Observer[Any], ...]:
    """Every observer, with settings that suit a call of these sizes."""
    last, end = max(s.q - 1, 0), s.k
    return (
        TopK(1),
        TopK(3),
        TopK(60),
        Entropy(),
        Received(),
        Received((0, s.q // 3), (s.q // 4, s.q), (0, 0)),
        MeanDistance(),
        MeanDistance(offset=0),
        SpanMass((0, end // 3), (end // 2, end), (0, 0), (0, end)),
        SpanMass(),
        SpanMass.by_label([(i * i // 3 + i) % 4 - 1 for i in range(s.k)]),
        DistanceMass(1),
        DistanceMass(1, offset=0),
        DistanceMass(-2, 1),
        DistanceMass(0, 30),
        Pooled(3, 5),
        Pooled(7, 2, "max"),
        Pooled(64, 64, "sum"),
        Pooled(3, 4, "max", queries=(s.q // 3, s.q), keys=(s.k // 4, s.k - s.k // 5)),
        Pooled(2, 300, keys=(s.k // 2, s.k)),
        Rows(*((last, 0, last // 2, 0) if s.q else ())),
        LogSumExp(),
        MaxScore(),
    )


def _all_cases() -> tuple[Case, ...]:
    of = Case
    cases = [of(mask=mask) for mask in MASKS]
    cases += [of(mask=m, shape="fewer queries", bias="alibi", dtype=FP64) for m in MASKS]
    cases += [of(mask=m, shape="grouped", dtype=BF16, normalizer="sink") for m in list(MASKS)[3::3]]
    cases += [of(bias=b, mask="causal") for b in BIASES]
    cases += [of(bias=b, mask="window both", shape="grouped", dtype=FP64) for b in BIASES]
    cases += [of(bias=b, mask="tensor", shape="more queries", dtype=FP16) for b in BIASES]
    cases += [of(score=s, mask="sinks", shape="grouped") for s in SCORES]
    cases += [of(score=s, bias="relative", shape="fewer queries", dtype=FP16) for s in SCORES]
    cases += [of(score=s, mask="tensor", normalizer="entmax15", dtype=FP64) for s in SCORES]
    cases += [of(normalizer=n, mask="causal") for n in NORMALIZERS]
    cases += [of(normalizer=n, mask="tensor", shape="grouped", dtype=FP64) for n in NORMALIZERS]
    cases += [of(normalizer=n, mask="not window", bias="dense", dtype=BF16) for n in NORMALIZERS]
    cases += [of(normalizer=n, bias="forbidding", mask="right padding") for n in NORMALIZERS]
    cases += [of(shape=s) for s in SHAPES]
    cases += [of(shape=s, mask="causal", bias="relative", dtype=FP64) for s in SHAPES]
    cases += [of(shape=s, mask="window", normalizer="sink", dtype=BF16) for s in SHAPES]
    cases += [of(layout=x, mask="causal", shape="grouped") for x in LAYOUTS]
    cases += [of(layout=x, bias="dense", shape="fewer queries", dtype=FP64) for x in LAYOUTS]
    cases += [of(dtype=t) for t in (FP16, BF16, FP64)]
    cases += [of(dtype=t, mask="causal", shape="grouped", bias="t5") for t in (FP16, BF16, FP64)]
    for mask in ("window", "documents of each", "not window", "blocks", "sinks", "shared padding"):
        cases += [of(mask=mask, shape="long"), of(mask=mask, shape="long", dtype=FP16, bias="kerple")]
    for share, mask in ((0.1, "no mask"), (0.5, "causal"), (0.9, "tensor"), (0.3, "window")):
        cases += [of(dropout=share, mask=mask), of(dropout=share, mask=mask, shape="grouped", dtype=FP64)]
    cases += [of(dropout=0.25, mask="sinks", bias="sum", score="cosine per head", normalizer="sink", shape="grouped")]
    cases += [of(dropout=0.2, shape="long", mask="window"), of(dropout=0.2, dtype=BF16)]
    cases += [of(mask="where", bias="sum", score="soft-capped", normalizer="sparsemax", dtype=FP64)]
    cases += [of(mask="causal prefix", bias="t5 both", score="euclidean", normalizer="sigmoid", shape="many heads")]
    cases += [of(mask="causal left padding", bias="dense of keys", dtype=FP16, shape="many heads")]
    unique = dict.fromkeys(cases)
    return tuple(c for c in unique if not (c.sizes.q > c.sizes.k and c.mask in NEED_A_KEY_FOR_EACH_QUERY))


CASES: tuple[Case, ...] = _all_cases()
"""Every case. `str(case)` is its id."""
