"""Statistics of the kernels called as they are: the call of a recipe with statistics, a second pass,
and a backward pass with gradients of the statistics.

The recipe's seed decides which statistics; results are compared with float64. All memory that is read or written
is allocated by `new`, as in `raw.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from native.raw import Call, New, Recipe, empty, empty_strided, view
from regard._native import core


def weights_of(call: Call) -> tuple[Tensor, Tensor]:
    """Scores and weights before dropout, (b, h, q, k), in float64."""
    _, h, g, q, k, _, _ = call.sizes
    score = call.scale * call.q.double() @ call.k.double().repeat_interleave(h // g, 1).mT
    if call.softcap:
        score = call.softcap * torch.tanh(score / call.softcap)
    if call.table is not None:
        distance = torch.arange(q)[:, None] - torch.arange(k) + k - 1
        score = score + call.table.double()[:, distance]
    if call.bias is not None:
        score = score + call.bias.double()
    score = score.masked_fill(~call.allowed(), -torch.inf)
    rows = score
    if call.sink is not None:
        sink = call.sink.double()[:, None, None].expand(*score.shape[:3], 1)
        rows = torch.cat((score, sink), -1)
    sees = (score > -torch.inf).any(-1, keepdim=True)
    return score, torch.where(sees, torch.where(sees, rows, 0).softmax(-1)[..., :k], 0)


class StatisticsCase:
    """Statistics of one call, in memory of the caller's choice, and their expected values."""

    def __init__(self, call: Call, seed: int, new: New) -> None:
        self.call, self.new = call, new
        self.random = torch.Generator().manual_seed(seed)
        self.score, self.w = weights_of(call)
        b, h, _, q, k, _, _ = call.sizes
        self.place = torch.arange(q)[:, None], torch.arange(k)
        self.top = self.integer(1, 2 * min(k, 34) + 1)
        self.offsets = tuple(self.integer(-k, k + 1) for _ in range(self.integer(1, 4)))
        ends = [sorted((self.integer(-q, k + 1), self.integer(-q, k + 1))) for _ in range(self.integer(1, 4))]
        self.bands = tuple((first, last) for first, last in ends)
        cuts = sorted({self.integer(0, k + 1) for _ in range(2 * self.integer(1, 9))})
        self.ranges = [*zip(cuts[::2], cuts[1::2], strict=False)]
        self.sets = self.integer(1, 5)
        self.members = [[s for s in range(self.sets) if self.integer(0, 2)] for _ in self.ranges]
        self.group_count = self.integer(1, 4)
        group_of_query = torch.randint(-1, self.group_count, (q,), generator=self.random).sort().values
        self.group_of_query = self.copied(
            group_of_query if self.integer(0, 2) else group_of_query[torch.randperm(q, generator=self.random)],
            torch.int32,
        )
        self.received_grad = self.copied(torch.randn(b, h, self.group_count, k, generator=self.random))

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=self.random))

    def copied(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.new(t.shape, dtype).copy_(t) if t.numel() else torch.empty(t.shape, dtype=dtype)

    def allocate(self) -> dict[str, Tensor]:
        """Memory for results, or for gradients."""
        b, h, _, q, _, _, _ = self.call.sizes
        columns: dict[str, tuple[int, ...]] = {
            "entropy": (),
            "max_score": (),
            "top_weights": (self.top,),
            "distances": (len(self.offsets),),
            "bands": (len(self.bands),),
            "masses": (self.sets,),
            "received_grad_sums": (),
        }
        buffers = {name: self.new((b, h, q, *n), torch.float32).fill_(torch.nan) for name, n in columns.items()}
        return {**buffers, "top_keys": self.new((b, h, q, self.top), torch.int64).fill_(-7)}

    def statistics(self, at: dict[str, Tensor], grads: bool) -> core.Statistics:
        """The same for the core; `self` and `at` must live as long."""
        statistics = core.Statistics()
        statistics.set_entropy(at["entropy"].data_ptr())
        statistics.set_distances(self.offsets, at["distances"].data_ptr())
        statistics.set_bands(self.bands, at["bands"].data_ptr())
        ends = torch.tensor([0, *(len(m) for m in self.members)]).cumsum(0)
        lists = self.ranges, ends.tolist(), [s for m in self.members for s in m]
        self.lists = [self.copied(torch.tensor(t, dtype=torch.int32), torch.int32) for t in lists]
        ranges, in_sets, members = (t.data_ptr() for t in self.lists)
        statistics.set_key_sets(len(self.ranges), ranges, in_sets, members, self.sets, at["masses"].data_ptr())
        sums = 0 if grads else at["received_grad_sums"].data_ptr()
        statistics.set_received_gradient(
            self.group_count, self.group_of_query.data_ptr(), self.received_grad.data_ptr(), sums
        )
        if not grads:
            statistics.set_max_score(at["max_score"].data_ptr())
            statistics.set_top_keys(self.top, at["top_keys"].data_ptr(), at["top_weights"].data_ptr())
        return statistics

    def expected(self) -> dict[str, Tensor]:
        w, (query, key) = self.w, self.place
        some = torch.where(w > 0, w, 1)
        masses = torch.zeros(*w.shape[:3], self.sets, dtype=torch.float64)
        for (start, stop), sets in zip(self.ranges, self.members, strict=True):
            masses[..., sets] += w[..., start:stop].sum(-1, keepdim=True)
        inside = [(key >= query + first) & (key < query + last) for first, last in self.bands]
        received_grad = torch.where(
            self.group_of_query[:, None] >= 0,
            self.received_grad.double()[:, :, self.group_of_query.long().clamp(min=0)],
            0,
        )
        best = w.sort(dim=-1, descending=True).values[..., : self.top]
        return {
            "entropy": -(some * some.log()).sum(-1),
            "max_score": self.score.amax(-1),
            "top_weights": torch.nn.functional.pad(best, (0, self.top - best.shape[-1])),
            "distances": torch.stack([(w * (query + x - key).abs()).sum(-1) for x in self.offsets], -1),
            "bands": torch.stack([(w * i).sum(-1) for i in inside], -1),
            "masses": masses,
            "received_grad_sums": (w * received_grad).sum(-1),
        }

    def second_pass(self, rows: Tensor, threads: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A second pass over some box: its results, and the expected ones."""
        b, h, _, q, k, _, _ = self.call.sizes
        box = [sorted((self.integer(0, n), self.integer(1, n + 1))) for n in (b, h, q, k)]
        box = [(low, max(high, low + 1)) for low, high in box]
        if self.integer(0, 2):
            box[2:] = (0, q), (0, k)
        second_pass = core.SecondPass(rows[1].data_ptr(), rows[2].data_ptr(), tuple(x for side in box for x in side))
        slices = tuple(slice(*side) for side in box)
        w, sizes = self.w[slices], [high - low for low, high in box]
        group_of_query = self.group_of_query.long()[slices[2]]
        received = torch.stack([w[:, :, group_of_query == i].sum(2) for i in range(self.group_count)], 2)
        expected = {"weights": w, "received": received}
        results = {name: self.new(t.shape, torch.float32).zero_() for name, t in expected.items()}
        second_pass.set_weights(results["weights"].data_ptr())
        second_pass.set_received(self.group_count, self.group_of_query.data_ptr(), results["received"].data_ptr())
        for i in range(self.integer(0, 4)):
            (_, _, q, k), n = sizes, [self.integer(1, min(size, 70) + 1) for size in sizes[2:]]
            at = torch.arange(q) * n[0] // q, torch.arange(k) * n[1] // k
            name, cells = f"pooled {i} {n}", torch.zeros(*sizes[:2], *n, dtype=torch.float64)
            if most := bool(self.integer(0, 2)):
                flat = (at[0][:, None] * n[1] + at[1]).flatten().expand(*sizes[:2], -1)
                cells.flatten(2).scatter_reduce_(2, flat, w.flatten(2), "amax")
            else:
                lines = torch.zeros(*sizes[:2], n[0], sizes[3], dtype=torch.float64).index_add(2, at[0], w)
                cells.index_add_(3, at[1], lines)
            expected[name], results[name] = cells, self.new(cells.shape, torch.float32).zero_()
            second_pass.add_pooling(n[0], n[1], most, results[name].data_ptr())
        core.second_pass(self.call.core(), second_pass, threads)
        return results, expected


def compare_statistics(results: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, expected_result in expected.items():
        result = results[name].double()
        assert torch.equal(result == -torch.inf, expected_result == -torch.inf), f"{name}: −∞ in other places"
        gap = torch.where(expected_result == -torch.inf, 0, result - expected_result).abs()
        size = float(torch.where(expected_result == -torch.inf, 0, expected_result).abs().max())
        assert float(gap.max()) <= 2e-5 * size + 2e-6, f"{name}: {float(gap.max()):.3g} off, of {size:.3g}"


def run_with_statistics(recipe: Recipe, threads: int = 1, new: New = empty) -> None:
    """The recipe's call with statistics, then a second pass, then a backward pass with their gradients."""
    call, out_grad, lse_grad = recipe.build(new)
    check_statistics = StatisticsCase(call, recipe.seed, new)
    b, h, _, q, k, _, dv = call.sizes
    out, rows = (empty_strided((b, h, q, dv), call.q.dtype, call.layout, new), new((3, b, h, q), torch.float32))
    buffers = check_statistics.allocate()
    assert core.forward(call.core(), view(out), rows.data_ptr(), check_statistics.statistics(buffers, False), threads)
    compare_statistics(buffers, check_statistics.expected())
    keys, weights = buffers["top_keys"], buffers["top_weights"]
    assert torch.equal(keys == -1, weights == 0)
    compare_statistics(
        {"weights at top keys": torch.where(keys >= 0, check_statistics.w.gather(-1, keys.clamp(min=0)), 0)},
        {"weights at top keys": weights.double()},
    )
    there = keys.sort(-1).values
    assert not ((there[..., 1:] == there[..., :-1]) & (there[..., 1:] >= 0)).any(), "the same key twice"
    compare_statistics(*check_statistics.second_pass(rows, threads))

    for grad in buffers.values():  # the same memory, now of gradients
        grad.copy_(torch.randn(grad.shape, generator=check_statistics.random)) if grad.is_floating_point() else None
    grads = {
        name: empty_strided(t.shape, t.dtype, call.layout, new).fill_(torch.nan)
        for name, t in (("q", call.q), ("k", call.k), ("v", call.v))
    }
    delta = new((b, h, q), torch.float32)
    of_table = None if call.table is None else new((h, q + k - 1), torch.float32).fill_(torch.nan)
    of_bias = None if call.bias is None else new(call.bias.shape, torch.float32).zero_()
    core.backward(
        call.core(),
        view(out),
        view(out_grad),
        rows.data_ptr(),
        0 if lse_grad is None else lse_grad.data_ptr(),
        delta.data_ptr(),
        view(grads["q"]),
        view(grads["k"]),
        view(grads["v"]),
        0 if of_table is None else of_table.data_ptr(),
        None if of_bias is None else view(of_bias),
        check_statistics.statistics(buffers, True),
        threads,
    )
    assert all(t.isfinite().all() for t in (*grads.values(), delta, of_table, of_bias) if t is not None)


def check_statistics(recipe: Recipe, isas: Sequence[str], threads: int = 1, new: New = empty) -> None:
    """A recipe's softmax with statistics, on each instruction set."""
    used, recipe = core.isa(), dataclasses.replace(recipe, sigmoid=False)
    try:
        for isa in isas:
            core.use(isa)
            try:
                run_with_statistics(recipe, threads, new)
            except AssertionError as error:
                raise AssertionError(f"{isa}, {recipe}: {error}") from None
    finally:
        core.use(used)
