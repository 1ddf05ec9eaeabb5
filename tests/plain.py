"""Textbook attention, eager, in the dtype of its inputs: the error budget of every backend.

It shares with the backends only the meaning of masks (`dense`) and dropout's `keeps`; each score, bias, normalizer and
statistic is implemented independently. A backend may be at most twice as far from float64 as this.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cases import Call
from regard.cache.positions import PositionBias
from regard.shapes import Box
from regard.spec import biases, normalizers, observers, scores
from regard.spec.dropout import keeps
from regard.spec.masks import as_mask, dense
from regard.spec.observers import Observer
from regard.spec.values import Aligned


def run(call: Call, *requested: Observer[Any]) -> tuple[Tensor, dict[Observer[Any], Any]]:
    """The output and each observer's result, in the dtype of the queries throughout."""
    problem = call.problem(*requested)
    s = problem.sizes
    times = s.h // max(s.g, 1)
    k, v = call.k.repeat_interleave(times, 1), call.v.repeat_interleave(times, 1)
    distance = (torch.arange(s.q)[:, None] + s.k - s.q) - torch.arange(s.k)
    raw = score(call.score, call.q, k, distance) + bias(call.bias, distance, call.q.dtype)
    raw = raw.masked_fill(~dense(as_mask(call.mask), s), -torch.inf)
    sees = (raw > -torch.inf).any(-1, keepdim=True)
    rows = torch.where(sees, raw, 0)
    weights = torch.where(sees, weigh(call.normalizer, rows), 0) if s.k else rows
    dropped = weights
    if call.dropout:
        box = Box(range(s.b), range(s.h), range(s.q), range(s.k))
        stays = keeps(problem.seed, call.dropout, box, torch.arange(s.k))
        dropped = weights * stays / (1 - call.dropout)
    results = {o: statistic(o, weights, raw, rows, sees, distance, call.normalizer) for o in requested}
    return dropped @ v, results


def score(value: scores.Score, q: Tensor, k: Tensor, distance: Tensor) -> Tensor:
    root = 1 / math.sqrt(max(q.shape[-1], 1))
    match value:
        case scores.Dot():
            x = (q @ k.mT) * (root if value.scale is None else value.scale)
            return x if value.softcap is None else value.softcap * torch.tanh(x / value.softcap)
        case scores.Cosine():
            lengths = [x.square().sum(-1).clamp(min=1e-12).sqrt() for x in (q, k)]
            scale = value.scale
            scale = scale[:, None, None] if isinstance(scale, Tensor) else scale
            return scale * (q @ k.mT) / (lengths[0][..., :, None] * lengths[1][..., None, :])
        case scores.Euclidean():
            apart = (q[..., :, None, :] - k[..., None, :, :]).square().sum(-1)
            return apart * (-(root if value.scale is None else value.scale) / 2)
        case scores.Additive():
            both = torch.tanh(q[..., :, None, :] + k[..., None, :, :])
            return (both * value.weight[:, None, None, :]).sum(-1)
        case scores.Shaw():
            m = value.table.shape[-2] // 2
            moved = distance if value.offset is None else distance + value.offset - k.shape[2] + q.shape[2]
            keys = k[..., None, :, :] + value.table[..., m + moved.clamp(-m, m), :]
            return (q[..., :, None, :] * keys).sum(-1) * (root if value.scale is None else value.scale)
        case scores.Custom():
            return value.function(q, k)
    raise NotImplementedError(f"write {type(value).__name__} here")


def bias(value: biases.Bias, distance: Tensor, dtype: torch.dtype) -> Tensor:
    """The bias of all pairs; `distance` is for a bias without an offset."""
    if isinstance(value, biases.ByDistance) and value.offset is not None:
        q, k = distance.shape
        distance = distance - (k - q) + value.offset
    match value:
        case biases.Nothing():
            return torch.zeros((), dtype=dtype)
        case biases.ALiBi():
            return -value.slopes[:, None, None] * distance.abs()
        case biases.T5():
            return value.table[t5_bucket(distance, value)].permute(2, 0, 1)
        case biases.Kerple():
            a, c = value.a[:, None, None], value.c[:, None, None]
            return -a * torch.log(1 + c * distance.abs())
        case biases.Relative():
            m = value.table.shape[1] // 2
            return value.table[:, m + distance.clamp(-m, m)]
        case biases.FIRE():
            q, k = distance.shape
            c, least = value.c.abs(), value.multiplier.abs() * value.length
            first = k - q if value.offset is None else value.offset
            position = (torch.arange(q) + first).to(dtype)[:, None]
            apart = (position - torch.arange(k)).abs()
            x = torch.log(1 + c * apart) / torch.log(1 + c * torch.maximum(position, least))
            units = zip(value.hidden_weight, value.hidden_bias, value.weight.T, strict=True)
            parts = [torch.relu(w * x + b) * v[:, None, None] for w, b, v in units]
            return sum(parts, value.bias[:, None, None])
        case biases.Dense():
            return value.table
        case biases.Sum():
            return bias(value.left, distance, dtype) + bias(value.right, distance, dtype)
        case PositionBias():
            assert value.queries is not None
            q, k = distance.shape
            apart = value.queries[..., :, None] - value.keys[..., None, :] + k - q
            rows = [[bias(value.inner, of_head, dtype) for of_head in row] for row in apart]
            if not rows or not rows[0]:
                return torch.zeros((), dtype=dtype)
            heads = range(len(rows[0][0]))
            times = len(heads) // apart.shape[1]
            return torch.stack([torch.stack([row[i // times][i] for i in heads]) for row in rows])
    raise NotImplementedError(f"write {type(value).__name__} here")


def t5_bucket(distance: Tensor, value: biases.T5) -> Tensor:
    """Number by number, from the paper's description."""

    def bucket(n: int) -> int:
        buckets, start = value.table.shape[0], 0
        if not value.causal:
            buckets //= 2
            start = buckets if n < 0 else 0
            n = abs(n)
        n = max(n, 0)
        exact = buckets // 2
        if n < exact:
            return start + n
        far = math.log(n / exact) / math.log(value.max_distance / exact) * (buckets - exact)
        return start + min(exact + math.floor(far + 1e-12), buckets - 1)

    return torch.tensor([bucket(int(n)) for n in distance.flatten()], dtype=torch.int64).reshape(distance.shape)


def weigh(value: normalizers.Normalizer, rows: Tensor) -> Tensor:
    match value:
        case normalizers.Softmax():
            top = rows.detach().amax(-1, keepdim=True)
            if value.sink is None:
                e = torch.exp(rows - top)
                return e / e.sum(-1, keepdim=True)
            sink = value.sink[:, None, None]
            top = torch.maximum(top, sink.detach())
            e = torch.exp(rows - top)
            return e / (e.sum(-1, keepdim=True) + torch.exp(sink - top))
        case normalizers.Sigmoid():
            shift = -math.log(max(rows.shape[-1], 1)) if value.shift is None else value.shift
            return torch.sigmoid(rows + shift)
        case normalizers.Sparsemax():
            inside, n = _support(rows, lambda z, t: z - t, 1.0)
            mean = torch.where(inside, rows, 0).sum(-1, keepdim=True) / n
            return torch.where(inside, rows - mean + 1 / n, 0).clamp(min=0)
        case normalizers.Entmax15():
            inside, n = _support(rows / 2, lambda z, t: (z - t) ** 2, 1.0)
            z = torch.where(inside, rows / 2, 0)
            mean = z.sum(-1, keepdim=True) / n
            spread = torch.where(inside, (z - mean) ** 2, 0).sum(-1, keepdim=True)
            threshold = mean - ((1 - spread) / n).clamp(min=1e-12).sqrt()
            return torch.where(inside, z - threshold, 0).clamp(min=0) ** 2
    raise NotImplementedError(f"write {type(value).__name__} here")


def _support(z: Tensor, weight: Any, reach: float) -> tuple[Tensor, Tensor]:
    """Which scores have weight, by bisection of the threshold; and how many in each row."""
    exact = z.detach().double()
    high = exact.amax(-1, keepdim=True)
    low = high - reach
    for _ in range(60):
        middle = (low + high) / 2
        total = weight(exact.clamp(min=middle), middle).sum(-1, keepdim=True)
        low, high = torch.where(total >= 1, middle, low), torch.where(total >= 1, high, middle)
    inside = exact > low
    inside |= exact == exact.amax(-1, keepdim=True)
    return inside, inside.sum(-1, keepdim=True).to(z.dtype)


def statistic(
    value: Observer[Any],
    w: Tensor,
    raw: Tensor,
    rows: Tensor,
    sees: Tensor,
    distance: Tensor,
    normalizer: normalizers.Normalizer,
) -> Any:
    b, h, q, k = w.shape
    if isinstance(value, Aligned) and value.offset is not None:
        distance = distance - (k - q) + value.offset
    match value:
        case observers.TopK():
            order = w.detach().sort(dim=-1, descending=True, stable=True)
            n = min(value.count, k)
            weights, indices = (
                order.values[..., :n],
                order.indices[..., :n].masked_fill(order.values[..., :n] <= 0, -1),
            )
            full = (b, h, q, value.count)
            top = observers.Top(w.new_full(full, -1, dtype=torch.int64), w.new_zeros(full))
            top.keys[..., :n], top.weights[..., :n] = indices, weights
            return top
        case observers.Entropy():
            some = torch.where(w > 0, w, 1)
            return -(some * some.log()).sum(-1)
        case observers.Received():
            parts = [w[..., start:stop, :].sum(-2) for start, stop in value.spans]
            return torch.stack(parts, 2) if parts else w.sum(-2)
        case observers.MeanDistance():
            return (w * distance.abs()).sum(-1)
        case observers.SpanMass():
            each = [w.new_zeros((b, h, q)) for _ in range(value.count)]
            for (start, stop), column in zip(value.spans, value.columns, strict=True):
                each[column] = each[column] + w[..., start:stop].sum(-1)
            return torch.stack(each, -1) if each else w.new_zeros((b, h, q, 0))
        case observers.DistanceMass():
            return (w * ((distance >= value.low) & (distance <= value.high))).sum(-1)
        case observers.Pooled():
            return pooled(w.detach(), value)
        case observers.Rows():
            return w.detach()[:, :, list(value.queries)]
        case observers.LogSumExp():
            sink = normalizer.sink if isinstance(normalizer, normalizers.Softmax) else None
            if sink is not None:
                rows = torch.cat((rows, sink[:, None, None].expand(b, h, q, 1)), -1)
            return torch.where(sees[..., 0], torch.logsumexp(rows, -1), -torch.inf)
        case observers.MaxScore():
            return raw.detach().amax(-1) if k else raw.new_full((b, h, q), -torch.inf)
    raise NotImplementedError(f"write {type(value).__name__} here")


def pooled(w: Tensor, value: observers.Pooled) -> Tensor:
    """Cell by cell, from the pairs that fall into it."""
    (first, last), (left, right) = value.queries or (0, w.shape[2]), value.keys or (0, w.shape[3])
    w = w[:, :, first:last, left:right]
    b, h, q, k = w.shape
    rows, cols = min(value.rows, max(q, 1)), min(value.cols, max(k, 1))
    result = w.new_zeros((b, h, rows, cols))
    for i in range(rows if q and k else 0):
        for j in range(cols):
            in_row = [n for n in range(q) if n * rows // q == i]
            in_column = [n for n in range(k) if n * cols // k == j]
            cell = w[:, :, in_row[0] : in_row[-1] + 1, in_column[0] : in_column[-1] + 1].flatten(2)
            if value.how == "max":
                result[:, :, i, j] = cell.amax(-1)
            else:
                result[:, :, i, j] = cell.sum(-1) if value.how == "sum" else cell.mean(-1)
    return result
