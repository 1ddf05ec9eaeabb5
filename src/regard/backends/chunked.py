"""Exact attention in plain PyTorch: every feature, any device, O(n · chunk) memory, forward and backward.

Queries are taken a block at a time, with all the keys that the block may see, so that a row of weights is
whole when it is normalized and observed. Nothing of a block is stored: the backward pass recomputes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from regard.backends.prepared import Memory, Prepared, PreparedInPyTorch
from regard.lowering.tiles import KeyRun, key_runs
from regard.problem import Answer, Problem
from regard.shapes import Box
from regard.spec.biases import Nothing
from regard.spec.dropout import keeps
from regard.spec.masks import Mask, Tile
from regard.spec.observers import Observer, WeightRows
from regard.spec.scores import Custom
from regard.spec.values import readable

name = "chunked"

Result = TypeVar("Result")

BUDGET = 1 << 20
"""Scores in memory at a time, about: 4 MiB in float32, which stays in a processor's last cache."""

LEAST_ROWS, GOOD_ROWS, MOST_ROWS = 16, 128, 256


def available() -> str | None:
    """Why this backend cannot run on this machine, or None."""
    return None


def why_not(problem: Problem) -> str | None:
    """Why this backend cannot run the call, or None."""
    del problem
    return None


def prepare(problem: Problem, lse: Tensor | None = None, recorded: bool = False) -> Prepared:
    """One call; nothing of it is computed yet."""
    del recorded  # whatever is observed takes a pass over the keys here
    return PreparedInPyTorch(problem, lse, run, memory, problem.compute_dtype)


def memory(problem: Problem) -> Memory:
    """Queries that are computed together, and the bytes of scores in memory at a time."""
    sizes = problem.sizes
    rows, together = block_rows(problem)
    heads = min(sizes.h // max(sizes.g, 1) * together, sizes.b * sizes.h)
    item = torch.finfo(problem.compute_dtype).bits // 8
    return Memory(rows, item * heads * min(rows, sizes.q) * sizes.k)


def run(problem: Problem) -> Answer:
    """Attention a block of queries at a time."""
    clean, *bad = problem.finite()
    exact = clean.cast(problem.compute_dtype)
    tensors = exact.tensors()
    recompute = (
        torch.is_grad_enabled()
        and any(t.requires_grad for t in tensors)
        and readable(problem.q)
        and not _has_tangent(tensors)
        and not _captures(exact)
    )
    if recompute:
        flat = list(_Recomputed.apply(exact, tuple(bad), *tensors))  # pyright: ignore[reportArgumentType, reportCallIssue]
    else:
        flat = _evaluate(exact, (bad[0], bad[1]))
    return _answer(problem, flat)


def _exactly(function: Callable[..., Result]) -> Callable[..., Result]:
    """Outside of autocast, which would round scores and sums to half precision."""

    @functools.wraps(function)
    def wrapped(problem: Problem, *rest: Any) -> Result:
        device = problem.sizes.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):  # pyright: ignore[reportUnknownMemberType]
            return function(problem, *rest)
        with torch.autocast(device, enabled=False):
            return function(problem, *rest)

    return wrapped


@dataclass(frozen=True)
class _Part:
    """A block of queries of some batch rows and heads, with the keys that it may see."""

    b: range
    h: range
    g: range
    q: range
    runs: tuple[KeyRun, ...]

    @property
    def spans(self) -> list[range]:
        """The keys as few spans as possible: runs that touch, whatever their kind, are one."""
        spans: list[range] = []
        for run in self.runs:
            if spans and spans[-1].stop == run.keys.start:
                spans[-1] = range(spans[-1].start, run.keys.stop)
            else:
                spans.append(run.keys)
        return spans

    def of_queries(self, tensor: Tensor) -> Tensor:
        """This part's rows of a tensor (b, h, q, …)."""
        return _cut(tensor, self.b, self.h, self.q)

    def of_keys(self, tensor: Tensor) -> list[Tensor]:
        """This part's keys of a tensor (b, g, k, …), span by span."""
        return [_cut(tensor, self.b, self.g, span) for span in self.spans]


@dataclass(frozen=True)
class _Group:
    """Some batch rows and heads of a call, and their queries block by block."""

    b: range
    h: range
    parts: tuple[_Part, ...]


def block_rows(problem: Problem) -> tuple[int, int]:
    """Queries in a block, and key heads (of any batch row) taken together, within the budget."""
    sizes, mask = problem.sizes, problem.mask
    everything = range(sizes.b), range(sizes.h)
    visible = 1
    for start in {0, sizes.q // 2, max(sizes.q - LEAST_ROWS, 0)}:
        q = range(start, min(start + LEAST_ROWS, sizes.q))
        visible = max(visible, sum(len(run.keys) for run in key_runs(mask, *everything, q, sizes.k)))
    inner = max(problem.score.inner(sizes.d), problem.bias.per_pair())
    per_head = max(sizes.h // max(sizes.g, 1), 1) * visible * inner
    heads = sizes.b * sizes.g
    together = min(max(BUDGET // (per_head * GOOD_ROWS), 1), max(heads, 1))
    rows = BUDGET // (per_head * together)
    return min(max(rows, LEAST_ROWS), MOST_ROWS), together


def _groups(problem: Problem) -> Iterator[_Group]:
    sizes, mask = problem.sizes, problem.mask
    rows, together = block_rows(problem)
    if not readable(problem.q):
        together = sizes.b * sizes.g
    # Whole batch rows together where the budget allows it, else some heads of one batch row.
    batch = max(together // max(sizes.g, 1), 1)
    repeats = sizes.h // max(sizes.g, 1)
    for b in _ranges(sizes.b, batch):
        for g in _ranges(sizes.g, min(together, max(sizes.g, 1))):
            h = range(g.start * repeats, g.stop * repeats)
            blocks = _ranges(sizes.q, rows)
            yield _Group(b, h, tuple(_Part(b, h, g, q, key_runs(mask, b, h, q, sizes.k)) for q in blocks))


Bad = tuple[Tensor | None, Tensor | None]
Permitted = list[tuple[range, Tensor]]


def _owners(problem: Problem) -> list[Observer[Any]]:
    """Whose tensor each of the flat results is: the output's (joined like a row's statistic) comes first."""
    return [Observer(), *(o for o in problem.observers for _ in range(o.tensors_made))]


@_exactly
def _evaluate(problem: Problem, bad: Bad) -> list[Tensor]:
    """The output and every observer's tensors, differentiable by plain autograd."""
    owners = _owners(problem)
    whole: dict[range, list[list[Tensor]]] = {}
    for group in _groups(problem):
        columns: list[list[Tensor]] = [[] for _ in owners]
        for part in group.parts:
            for owner, column, tensor in zip(owners, columns, _of_part(problem, bad, part), strict=True):
                column.append(tensor)
                if not owner.by_row:
                    column[:] = [owner.join(column)]
        joined = [owner.join(column) for owner, column in zip(owners, columns, strict=True)]
        whole.setdefault(group.b, []).append(joined)
    rows = [[_cat(tensor, 1) for tensor in zip(*heads, strict=True)] for heads in whole.values()]
    return [_cat(tensor, 0) for tensor in zip(*rows, strict=True)]


def _of_part(problem: Problem, bad: Bad, part: _Part) -> list[Tensor]:
    return _attend(
        problem.with_spec(bias=problem.bias.cut(part.b, part.h, part.q)),
        bad,
        part,
        part.of_queries(problem.q),
        part.of_keys(problem.k),
        part.of_keys(problem.v),
    )


def _attend(
    problem: Problem, bad: Bad, part: _Part, q: Tensor, ks: Sequence[Tensor], vs: Sequence[Tensor]
) -> list[Tensor]:
    """One block of queries: its output rows, and each observer's tensors."""
    sizes, spans = problem.sizes, part.spans
    none = _cut(problem.k, part.b, part.g, range(0)), _cut(problem.v, part.b, part.g, range(0))
    k, v = (_cat(ks, 2), _cat(vs, 2)) if spans else none
    keys = [torch.arange(span.start, span.stop, device=sizes.device) for span in spans]
    keys = _cat(keys, 0) if keys else torch.zeros(0, dtype=torch.int64, device=sizes.device)

    scores = problem.score.heads(part.h).at(q, k, part.q, keys)
    custom = isinstance(problem.score, Custom)
    if custom:
        scores = scores.clone()  # the user's function may still use what it returned
    # Where nothing else uses the scores, they are changed in place: each pass over them counts.
    in_place = not scores.requires_grad and readable(q)
    biased = bool(spans) and not isinstance(problem.bias, Nothing)
    if biased:
        blocks = [problem.bias.block(Box(part.b, part.h, part.q, span)) for span in spans]
        bias = _cat_last(blocks, [len(span) for span in spans]).to(scores.dtype)
        scores = scores.add_(bias) if in_place else scores + bias
    permitted = _permitted(problem.mask, part, sizes.device)
    for columns, allowed in permitted:
        if in_place or len(columns) < len(keys):
            scores[..., columns.start : columns.stop].masked_fill_(~allowed, -torch.inf)
        else:
            scores = scores.masked_fill(~allowed, -torch.inf)

    sees_nothing = _sees_nothing(scores, permitted, custom or (biased and problem.bias.may_mask()))
    normalizer = problem.normalizer.heads(part.h)
    rows = scores if sees_nothing is None else scores.masked_fill(sees_nothing, 0)
    weights = normalizer.weigh(rows) if len(keys) else rows
    if sees_nothing is not None:
        weights = weights.masked_fill(sees_nothing, 0)
    non_finite = _non_finite(bad, part, keys, scores)
    if non_finite is not None:
        weights = weights.masked_fill(non_finite, torch.nan)

    def log_sum_exp() -> Tensor:
        lse = normalizer.lse(rows)
        lse = lse if sees_nothing is None else lse.masked_fill(sees_nothing[..., 0], -torch.inf)
        return lse if non_finite is None else lse.masked_fill(non_finite[..., 0], torch.nan)

    after_dropout = weights
    if problem.dropout:
        stays = keeps(problem.seed, problem.dropout, Box(part.b, part.h, part.q, range(0)), keys)
        after_dropout = torch.where(stays, weights / (1 - problem.dropout), 0)
    out = mix(after_dropout, v)
    if not problem.observers:
        return [out]
    block = WeightRows(weights, scores, log_sum_exp, part.q, keys, sizes)
    return [out, *(tensor for observer in problem.observers for tensor in observer.of(block))]


def _permitted(mask: Mask, part: _Part, device: torch.device) -> Permitted:
    """Where only some queries may see some keys: the columns of the block, and which queries may see them."""
    permitted: Permitted = []
    start = 0
    for run in part.runs:
        columns = range(start, start + len(run.keys))
        start = columns.stop
        if run.kind is Tile.MIXED:
            permitted.append((columns, mask.block(Box(part.b, part.h, part.q, run.keys), device)))
    return permitted


def _sees_nothing(scores: Tensor, permitted: Permitted, uncertain: bool) -> Tensor | None:
    """Which rows see nothing, (…, q, 1); None where it is sure that none is."""
    n = scores.shape[-1]
    if not n:
        return torch.ones((*scores.shape[:-1], 1), dtype=torch.bool, device=scores.device)
    if uncertain:
        sees_nothing = scores.detach().amax(-1, keepdim=True) == -torch.inf
    elif sum(len(columns) for columns, _ in permitted) == n:
        sees = [allowed.any(-1, keepdim=True) for _, allowed in permitted]
        sees_nothing = ~functools.reduce(torch.logical_or, sees)
    else:
        return None  # some keys may be seen by all
    return sees_nothing if not readable(scores) or bool(sees_nothing.any()) else None


def _non_finite(bad: Bad, part: _Part, keys: Tensor, scores: Tensor) -> Tensor | None:
    """Which rows see a number that is not finite, or hold one and see anything, (b, h, q, 1)."""
    if bad[0] is None or bad[1] is None:
        return None
    repeats = len(part.h) // max(len(part.g), 1)
    bad_keys = _cut(bad[1], part.b, part.g)[:, :, keys].repeat_interleave(repeats, dim=1)
    pairs = part.of_queries(bad[0])[..., None] | bad_keys[:, :, None]
    return (pairs & (scores.detach() > -torch.inf)).any(-1, keepdim=True)


class _Recomputed(torch.autograd.Function):
    """The whole call as one step of autograd that stores its inputs only."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, bad: Bad, *tensors: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(*tensors)
        ctx.problem, ctx.bad = problem, bad
        ctx.set_materialize_grads(False)
        flat = _evaluate(problem, bad)
        owners = _owners(problem)[1:]
        still = [t for o, t in zip(owners, flat[1:], strict=True) if not o.differentiable]
        ctx.mark_non_differentiable(*still)
        return tuple(flat)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tensors = ctx.saved_tensors
        problem: Problem = ctx.problem.with_tensors(tensors)
        needed: tuple[bool, ...] = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # a backward that will be differentiated again
            flat = _evaluate(problem, ctx.bad)
            gradients = _grads(flat, grads, [t for t, n in zip(tensors, needed, strict=True) if n], True)
            result = iter(gradients)
            return None, None, *(next(result) if n else None for n in needed)
        return None, None, *_gradients(problem, ctx.bad, grads, needed)


@_exactly
def _gradients(
    problem: Problem, bad: Bad, grads: Sequence[Tensor | None], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradient of every tensor, a block of queries at a time."""
    tensors = problem.tensors()
    totals = [torch.zeros_like(t) if n else None for t, n in zip(tensors, needed, strict=True)]
    # The same call with totals in place of tensors: cut alike, its pieces are where gradients belong.
    sums = problem.with_tensors([t if s is None else s for t, s in zip(tensors, totals, strict=True)])
    owners = _owners(problem)
    for group in _groups(problem):
        for part in group.parts:
            sources, targets = _pieces(problem, part), _pieces(sums, part)
            flags = _piece_flags(problem, part, needed)
            leaves = [t.detach().requires_grad_(n) for t, n in zip(sources, flags, strict=True)]
            with torch.enable_grad():
                flat = _attend_pieces(problem, bad, part, leaves)
            output_grads = [
                None if g is None else owner.part(_cut(g, part.b, part.h), part.q)
                for owner, g in zip(owners, grads, strict=True)
            ]
            requested = [leaf for leaf in leaves if leaf.requires_grad]
            into = [target for target, n in zip(targets, flags, strict=True) if n]
            for target, gradient in zip(into, _grads(flat, output_grads, requested, False), strict=True):
                if gradient is not None:
                    target.add_(gradient)
    return totals


def _pieces(problem: Problem, part: _Part) -> list[Tensor]:
    """The views of a call's tensors that a part works on, in a fixed order."""
    bias = problem.bias.cut(part.b, part.h, part.q)
    values = (problem.score, bias, problem.normalizer)
    return [
        part.of_queries(problem.q),
        *part.of_keys(problem.k),
        *part.of_keys(problem.v),
        *(t for value in values for t in value.tensors()),
    ]


def _piece_flags(problem: Problem, part: _Part, needed: Sequence[bool]) -> list[bool]:
    q, k, v, *rest = needed
    spans = len(part.spans)
    return [q, *[k] * spans, *[v] * spans, *rest]


def _attend_pieces(problem: Problem, bad: Bad, part: _Part, pieces: Sequence[Tensor]) -> list[Tensor]:
    n = len(part.spans)
    q, ks, vs, rest = pieces[0], pieces[1 : n + 1], pieces[n + 1 : 2 * n + 1], pieces[2 * n + 1 :]
    cut = problem.with_spec(bias=problem.bias.cut(part.b, part.h, part.q))
    return _attend(cut.with_tensors([problem.q, problem.k, problem.v, *rest]), bad, part, q, ks, vs)


def _grads(
    outputs_of_part: Sequence[Tensor], grads: Sequence[Tensor | None], inputs: Sequence[Tensor], create_graph: bool
) -> Sequence[Tensor | None]:
    """The gradients of what was outputs_of_part, of those that have one."""
    pairs = [(t, g) for t, g in zip(outputs_of_part, grads, strict=True) if g is not None and t.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    outputs, output_grads = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, output_grads, create_graph=create_graph, allow_unused=True)


def _answer(problem: Problem, flat: Sequence[Tensor]) -> Answer:
    out, *rest = flat
    observed: list[tuple[Tensor, ...]] = []
    for observer in problem.observers:
        observed.append(tuple(rest[: observer.tensors_made]))
        rest = rest[observer.tensors_made :]
    return Answer(out.to(problem.q.dtype), tuple(observed))


def mix(weights: Tensor, v: Tensor) -> Tensor:
    """The weighted sum of the values; the query heads of a group are the rows of one matrix product."""
    b, h, n, k = weights.shape
    g = v.shape[1]
    if g in (0, h):
        return weights @ v
    return (weights.reshape(b, g, (h // g) * n, k) @ v).reshape(b, h, n, v.shape[-1])


def _has_tangent(tensors: Sequence[Tensor]) -> bool:
    """Whether forward-mode differentiation is under way: it runs through the plain operations."""
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def _captures(problem: Problem) -> bool:
    """Whether a user's score function holds learned tensors of its own, which only autograd can find."""
    if not isinstance(problem.score, Custom):
        return False
    with torch.enable_grad():
        first = problem.q[:, :, :1].detach(), problem.k[:, :, :1].detach()
        return problem.score.of(*first).requires_grad


def _cut(tensor: Tensor, *parts: range) -> Tensor:
    for dim, part in enumerate(parts):
        if len(part) != tensor.shape[dim]:
            tensor = tensor.narrow(dim, part.start, len(part))
    return tensor


def _cat(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=dim)


def _cat_last(blocks: Sequence[Tensor], widths: Sequence[int]) -> Tensor:
    """Blocks side by side, each of its width, where they may still have to be expanded."""
    if len(blocks) == 1:
        return blocks[0]
    shape = torch.broadcast_shapes(*(block.shape[:-1] for block in blocks))
    return torch.cat([b.expand(*shape, n) for b, n in zip(blocks, widths, strict=True)], dim=-1)


def _ranges(n: int, step: int) -> list[range]:
    """0 … n in pieces of `step`; one empty piece for n = 0, so that shapes come out right."""
    return [range(i, min(i + step, n)) for i in range(0, n, step)] or [range(0)]
