"""The kernels called as they are, without `regard.backends.native` between; and what they should return.

A `Recipe` says what a call is like, `build` makes its tensors in any memory (`guard.py` puts pages
behind them that nobody may touch), and `check` compares the results with the formula in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from regard._native import core
from regard.shapes import Box
from regard.spec.dropout import keeps

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

New = Callable[[Sequence[int], torch.dtype], Tensor]
"""An empty contiguous tensor, in memory of the caller's choice."""


def empty(sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(sizes), dtype=dtype)


def view(t: Tensor) -> core.View:
    """A dimension of one element has no stride: the kernels shall not depend on what is written there."""
    b, h, n, d = (s if size > 1 else 0 for s, size in zip(t.stride(), t.shape, strict=True))
    return t.data_ptr(), b, h, n, d


def shared(t: Tensor) -> tuple[int, int]:
    """The strides over batch rows and heads of a mask's array, 0 where one serves all."""
    return tuple(s if n > 1 else 0 for s, n in zip(t.stride()[:2], t.shape[:2], strict=True))  # pyright: ignore[reportReturnType]


@dataclass
class Call:
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float = 1.0
    softcap: float = 0.0
    shift: float | None = None
    """Of a sigmoid."""
    sink: Tensor | None = None
    spans: Tensor | None = None  # (b or 1, h or 1, q, count, 2)
    tiles: Tensor | None = None  # (b or 1, h or 1, ⌈q/64⌉, ⌈k/64⌉)
    bitmaps: Tensor | None = None
    table: Tensor | None = None  # (h or 1, q + k − 1)
    bias: Tensor | None = None  # four dimensions, each whole or 1
    dropout: float = 0.0
    seed: int = 0
    non_finite: tuple[Tensor | None, Tensor | None] | None = None
    new: New = empty
    layout: str = "heads apart"
    """Of what is written."""

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int, int]:
        b, h, q, d = self.q.shape
        return b, h, self.k.shape[1], q, self.k.shape[2], d, self.v.shape[3]

    def core(self) -> core.Call:
        call = core.Call(
            TYPES[self.q.dtype], self.sizes, view(self.q), view(self.k), view(self.v), self.scale, self.softcap
        )
        if self.shift is not None:
            call.set_sigmoid(self.shift)
        if self.sink is not None:
            call.set_sink(self.sink.data_ptr())
        if self.spans is not None:
            call.set_spans(self.spans.data_ptr(), self.spans.shape[3], *shared(self.spans))
        if self.tiles is not None and self.bitmaps is not None:
            call.set_tiles(self.tiles.data_ptr(), *shared(self.tiles), self.bitmaps.data_ptr())
        if self.table is not None:
            call.set_table(self.table.data_ptr(), self.table.stride(0) if len(self.table) > 1 else 0)
        if self.bias is not None:
            call.set_bias(view(self.bias), TYPES[self.bias.dtype])
        if self.dropout:
            call.set_dropout(self.seed, int(self.dropout * 2**32), 1 / (1 - self.dropout))
        if self.non_finite is not None:
            call.set_non_finite(*(0 if t is None else t.data_ptr() for t in self.non_finite))
        return call

    def forward(self, threads: int = 1) -> tuple[Tensor, Tensor] | None:
        """The output and (3, b, h, q) numbers of its rows; None where a number is not finite."""
        b, h, _, q, _, _, dv = self.sizes
        out = empty_strided((b, h, q, dv), self.q.dtype, self.layout, self.new)
        rows = self.new((3, b, h, q), torch.float32)
        for t in (out, rows):
            t.fill_(torch.nan)
        done = core.forward(self.core(), view(out), rows.data_ptr(), None, threads)
        return (out, rows) if done else None

    def backward(
        self, out: Tensor, rows: Tensor, out_grad: Tensor, lse_grad: Tensor | None = None, threads: int = 1
    ) -> dict[str, Tensor]:
        b, h, _, q, k, _, _ = self.sizes
        grads = {
            name: empty_strided(t.shape, t.dtype, self.layout, self.new).fill_(torch.nan)
            for name, t in (("q", self.q), ("k", self.k), ("v", self.v))
        }
        grads["delta"] = self.new((b, h, q), torch.float32).fill_(torch.nan)
        if self.table is not None:
            grads["table"] = self.new((h, q + k - 1), torch.float32).fill_(torch.nan)
        if self.bias is not None:
            grads["bias"] = self.new(self.bias.shape, torch.float32).zero_()
        core.backward(
            self.core(),
            view(out),
            view(out_grad),
            rows.data_ptr(),
            0 if lse_grad is None else lse_grad.data_ptr(),
            grads["delta"].data_ptr(),
            view(grads["q"]),
            view(grads["k"]),
            view(grads["v"]),
            grads["table"].data_ptr() if "table" in grads else 0,
            view(grads["bias"]) if "bias" in grads else None,
            None,
            threads,
        )
        return grads

    def allowed(self) -> Tensor:
        """Which pairs may meet, (b, h, q, k)."""
        b, h, _, q, k, _, _ = self.sizes
        ok = torch.ones(1, 1, q, k, dtype=torch.bool)
        keys = torch.arange(k)
        if self.spans is not None:
            first, last = self.spans[..., None].unbind(-2)
            ok = ((keys >= first) & (keys < last)).any(-2)
        if self.tiles is not None and self.bitmaps is not None:
            at = self.tiles.long().repeat_interleave(64, 2).repeat_interleave(64, 3)[..., :q, :k]
            words = self.bitmaps[(at - 2).clamp(min=0) * 64 + keys % 64]
            bit = (words >> (torch.arange(q) % 64)[:, None]) & 1
            ok = ok & torch.where(at > 1, bit == 1, at == 1)
        return ok.expand(b, h, q, k)


def reference(call: Call, out_grad: Tensor, lse_grad: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
    """What the call should return, in float64; beside each result, what its rounding errors grow from."""
    b, h, g, q, k, _, _ = call.sizes
    leaves = {"q": call.q, "k": call.k, "v": call.v, "table": call.table, "bias": call.bias}
    leaves = {n: t.detach().double().requires_grad_() for n, t in leaves.items() if t is not None}
    if "table" in leaves:
        leaves["table"] = leaves["table"].detach().expand(h, -1).clone().requires_grad_()
    keys, values = (leaves[n].repeat_interleave(h // g, 1) for n in "kv")
    score = call.scale * leaves["q"] @ keys.mT
    slope = torch.ones_like(score)
    if call.softcap:
        slope = 1 - torch.tanh(score.detach() / call.softcap) ** 2
        score = call.softcap * torch.tanh(score / call.softcap)
    if "table" in leaves:
        distance = torch.arange(q)[:, None] - torch.arange(k) + k - 1
        score = score + leaves["table"][:, distance]
    if "bias" in leaves:
        score = score + leaves["bias"]
    allowed = call.allowed()
    score = score.masked_fill(~allowed, -torch.inf)
    dead = ~allowed.any(-1)
    if call.shift is not None:
        p = torch.sigmoid(score + call.shift)
        lse = torch.zeros(dead.shape, dtype=torch.float64)
    else:
        top = score.detach().amax(-1)
        if call.sink is not None:
            top = torch.maximum(top, call.sink.double()[:, None].expand_as(top))
        top = torch.where(dead, 0, top)
        p = torch.exp(score - top[..., None])
        total = p.sum(-1)
        if call.sink is not None:
            total = total + torch.exp(call.sink.double()[:, None] - top)
        total = torch.where(dead, 1, total)
        p = p / total[..., None]
        lse = torch.where(dead, -torch.inf, top + torch.log(total))
    weight = p
    factor = torch.ones(b, h, q, k, dtype=torch.float64)
    if call.dropout:
        box = Box(range(b), range(h), range(q), range(k))
        stays = keeps(call.seed, call.dropout, box, torch.arange(k))
        factor = stays.double() / (1 - call.dropout)
        weight = p * factor
    out = weight @ values
    loss = (out * out_grad.double()).sum()
    if lse_grad is not None:
        loss = loss + (torch.where(dead, 0, lse) * lse_grad.double()).sum()
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    with torch.no_grad():  # the same with every term positive
        dp = factor * (out_grad.double().abs() @ values.abs().mT)
        ds = p * (dp + (p * dp).sum(-1, keepdim=True))
        if lse_grad is not None:
            ds = ds + p * lse_grad.double().abs()[..., None]
        products = ds * slope * abs(call.scale)
        grown = {
            "q": products @ keys.abs(),
            "k": (products.mT @ leaves["q"].abs()).unflatten(1, (g, -1)).sum(2),
            "v": (weight.mT @ out_grad.double().abs()).unflatten(1, (g, -1)).sum(2),
            "table": ds.sum((0, 2, 3))[:, None],
            "bias": ds.sum_to_size(call.bias.shape) if call.bias is not None else ds,
        }
        answers = {name: (grads[name], grown[name]) for name in grads}
        answers["out"] = out, weight @ values.abs()
        if call.shift is None:
            answers["lse"] = lse, torch.where(dead, 0, lse).abs() + 1
            delta = (out * out_grad.double()).sum(-1)
            if lse_grad is not None:
                delta = delta - lse_grad
            answers["delta"] = delta, (out.abs() * out_grad.double().abs()).sum(-1) + 1
    return {name: (want.detach(), size.detach()) for name, (want, size) in answers.items()}


# Of what a result's errors grow from: how far it may be off. Half precision rounds outputs, and (where the
# processor multiplies pairs) weights.
ALLOWED = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def compare(got: dict[str, Tensor], want: dict[str, tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
    for name, (exact, size) in want.items():
        result = got[name].double()
        dead = exact == -torch.inf
        assert torch.equal(result == -torch.inf, dead), f"{name}: −∞ in other places"
        gap = torch.where(dead, 0, result - exact).abs()
        allowed = ALLOWED[dtype] * float(size.max()) + 1e-6
        assert float(gap.max()) <= allowed, (  # NaN is not ≤ either
            f"{name}: {float(gap.max()):.3g} off, allowed {allowed:.3g}, at {gap.argmax().item()} of {tuple(gap.shape)}"
        )


# ------------------------------------------------------------------ recipes

LAYOUTS = ("heads apart", "heads in rows", "wide rows", "every other", "one head", "one row", "turned")


def empty_strided(sizes: Sequence[int], dtype: torch.dtype, layout: str, new: New) -> Tensor:
    """An empty tensor in exactly the memory that it needs."""
    _, h, n, d = sizes
    strides = {
        "heads apart": (h * n * d, n * d, d, 1),
        "heads in rows": (n * h * d, d, h * d, 1),
        "wide rows": (h * (n * (d + 3) + 1) + 5, n * (d + 3) + 1, d + 3, 1),
        "every other": (2 * h * n * d, 2 * n * d, 2 * d, 2),
        "one head": (n * d, 0, d, 1),
        "one row": (h * d, d, 0, 1),
        "turned": (h * n * d, n * d, 1, n),
    }[layout]
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return new((last + 1,), dtype).as_strided(tuple(sizes), strides)


@dataclass(frozen=True)
class Recipe:
    dtype: torch.dtype = torch.float32
    b: int = 1
    g: int = 1
    repeats: int = 1
    q: int = 5
    k: int = 7
    d: int = 8
    dv: int = 8
    layouts: tuple[str, str, str] = ("heads apart", "heads apart", "heads apart")
    written: str = "heads apart"
    mask: str = "none"
    """One of none, causal, spans, tiles, both."""
    own: tuple[bool, bool] = (False, False)
    """Whether each batch row, each head has a mask of its own."""
    table: str = "none"
    """One of none, shared, by head."""
    bias: tuple[bool, bool, bool, bool] | None = None
    """Which of its dimensions are whole."""
    wide_bias: bool = False
    """float32 whatever the call's type."""
    sink: bool = False
    sigmoid: bool = False
    softcap: float = 0.0
    scale: float | None = None
    dropout: float = 0.0
    lse_grad: bool = False
    seed: int = field(default=0)

    def build(self, new: New = empty) -> tuple[Call, Tensor, Tensor | None]:
        """The call, the gradient of its output and that of its log-sum-exp."""
        random = torch.Generator().manual_seed(self.seed)
        b, g, h, q, k = self.b, self.g, self.g * self.repeats, self.q, self.k

        def normal(*sizes: int, dtype: torch.dtype = self.dtype, layout: str | None = None) -> Tensor:
            result = new(sizes, dtype) if layout is None else empty_strided(sizes, dtype, layout, new)
            once = (slice(1) if s == 0 else slice(None) for s in result.stride())
            part = result[tuple(once)]  # each place in memory is written once
            part.copy_(torch.randn(part.shape, generator=random))
            return result

        def integers(low: int, high: int, *sizes: int) -> Tensor:
            return torch.randint(low, high, sizes, generator=random)

        def copied(t: Tensor, dtype: torch.dtype) -> Tensor:
            return new(t.shape, dtype).copy_(t)

        of_q, of_k, of_v = self.layouts
        call = Call(
            normal(b, h, q, self.d, layout=of_q),
            normal(b, g, k, self.d, layout=of_k),
            normal(b, g, k, self.dv, layout=of_v),
            scale=1 / math.sqrt(self.d) if self.scale is None else self.scale,
            softcap=self.softcap,
            shift=-1.0 if self.sigmoid else None,
            dropout=self.dropout,
            seed=self.seed,
            new=new,
            layout=self.written,
        )
        own_b, own_h = b if self.own[0] else 1, h if self.own[1] else 1
        if self.mask == "causal":
            last = (torch.arange(q) + 1 + k - q).clamp(0, k)
            spans = torch.stack([torch.zeros_like(last), last], 1)[None, None, :, None]
            call.spans = copied(spans.expand(own_b, own_h, -1, -1, -1), torch.int32)
        if self.mask in ("spans", "both"):
            count = int(integers(1, 5, 1))
            cuts = integers(0, k + 1, own_b, own_h, q, 2 * count).sort(-1).values
            if self.seed % 3 == 0:  # neighbours see much the same
                cuts = cuts[:, :, :1].expand_as(cuts) + 0
            cuts[:, :, :: int(integers(2, 20, 1))] = 0
            call.spans = copied(cuts.unflatten(-1, (count, 2)), torch.int32)
        if self.mask in ("tiles", "both"):
            kinds = integers(0, 5, own_b, own_h, -(-q // 64), -(-k // 64))
            call.tiles = copied(kinds, torch.int32)
            bits = integers(-(2**62), 2**62, 3 * 64) * 2 + integers(0, 2, 3 * 64)
            call.bitmaps = copied(bits & integers(-(2**62), 2**62, 3 * 64), torch.int64)
        if self.table != "none":
            call.table = normal(h if self.table == "by head" else 1, q + k - 1, dtype=torch.float32)
        if self.bias is not None:
            sizes = (n if w else 1 for n, w in zip((b, h, q, k), self.bias, strict=True))
            call.bias = normal(*sizes, dtype=torch.float32 if self.wide_bias else self.dtype)
        if self.sink and not self.sigmoid:
            call.sink = normal(h, dtype=torch.float32)
        out_grad = normal(b, h, q, self.dv, layout=of_q)
        lse_grad = None
        if self.lse_grad and not self.sigmoid:
            lse_grad = normal(b, h, q, dtype=torch.float32)
            lse_grad *= call.allowed().any(-1)
        return call, out_grad, lse_grad


def run(recipe: Recipe, threads: int = 1, new: New = empty) -> dict[str, Tensor]:
    call, out_grad, lse_grad = recipe.build(new)
    result = call.forward(threads)
    assert result is not None, "all numbers are finite"
    out, rows = result
    return {"out": out, "lse": rows[0], **call.backward(out, rows, out_grad, lse_grad, threads)}


def check(recipe: Recipe, isas: Sequence[str], threads: int = 1, new: New = empty) -> None:
    """Run the recipe on each instruction set, and compare the results with the formula."""
    used = core.isa()
    want = reference(*recipe.build())
    try:
        for isa in isas:
            core.use(isa)
            try:
                compare(run(recipe, threads, new), want, recipe.dtype)
            except AssertionError as error:
                raise AssertionError(f"{isa}, {recipe}: {error}") from None
    finally:
        core.use(used)
