"""The three calls: `attention` returns the output, `observe` also statistics, `explain` how the call would run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from regard.backends import call_cache, choose, prepare
from regard.display import repr_html
from regard.errors import OptionError
from regard.integrations import compile_operator
from regard.integrations.compat.torch_internals import exclude_from_graphs
from regard.lowering import tiles
from regard.problem import Answer, Problem
from regard.shapes import Keys, Output, Queries, Values
from regard.spec.attention_spec import AttentionSpec, ScoreFunction
from regard.spec.biases import Bias, as_bias
from regard.spec.masks import Mask, Tile, as_mask
from regard.spec.normalizers import Normalizer, as_normalizer
from regard.spec.observers import Observer
from regard.spec.scores import Dot, Score, as_score

Result = TypeVar("Result")


def attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    score: Score | ScoreFunction | None = None,
    normalizer: Normalizer | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Output:
    """Exact attention: for each query, the sum of the values weighted by how well their keys fit.

    Args:
        q, k, v: Queries, keys and values, in one floating dtype on one device. There may be fewer key
            heads than query heads: query head i reads key head i // (h / g).
        mask: Which keys a query may see: a `Mask`, or a bool tensor that broadcasts to (b, h, q, k), True
            where it may. A row that may see nothing gives zeros.
        bias: What is added to the scores: a `Bias`, or a float tensor that broadcasts to (b, h, q, k).
        score: How queries and keys are compared; `Dot` by default, q·k / √d.
        normalizer: How scores become weights; `Softmax` by default.
        dropout: The probability that a weight is dropped; the rest grow by 1 / (1 − dropout).
        backend: "auto", or the name of one, which then never falls back.

    Raises:
        RegardError: an argument that does not fit, and what to do about it.

    >>> import torch
    >>> from regard import attention, Causal
    >>> q, k, v = torch.randn(3, 1, 8, 1000, 64).unbind()
    >>> attention(q, k, v, mask=Causal()).shape
    torch.Size([1, 8, 1000, 64])
    """
    if torch.compiler.is_compiling():
        # Not AttentionSpec.of, whose short cuts Dynamo does not trace.
        spec = AttentionSpec(as_mask(mask), as_bias(bias), as_score(score), as_normalizer(normalizer), dropout)
        out = compile_operator.attention_in_graph(q, k, v, spec, backend)
        return _outside_of_graphs(q, k, v, (), spec, backend)[1].out if out is None else out
    handler = attention_handler.get()
    if handler is not None:
        return handler(q, k, v, AttentionSpec.of(mask, bias, score, normalizer, dropout), backend=backend)
    if (
        bias is None
        and normalizer is None
        and backend in ("auto", "native")
        and type(dropout) is float
        and dropout == 0.0
        and isinstance(mask, Mask | None)
        and isinstance(score, Dot | None)
        and _as_long(q, k, v)  # while a cache grows, no call is like one before
    ):
        out = call_cache.lookup(q, k, v, mask, score)
        if out is not None:
            return out
        problem, answer = _run(q, k, v, (), AttentionSpec.of(mask, None, score), backend)
        call_cache.store(problem, mask, score)
        return answer.out
    return _run(q, k, v, (), AttentionSpec.of(mask, bias, score, normalizer, dropout), backend)[1].out


@runtime_checkable
class AttentionHandler(Protocol):
    """Computes calls of `attention` in its place."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: AttentionSpec,
        *,
        backend: str = "auto",
        position: tuple[int, int] | None = None,
    ) -> Tensor:
        """The output of the call; `position` is that of the first query and key in the text, where known."""
        ...


attention_handler: ContextVar[AttentionHandler | None] = ContextVar("attention_handler", default=None)
"""Computes calls of `attention` in this context instead: `capture.interceptor.intercept_attention` sets it."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What `observe` saw: the output, and each observer's result under the observer."""

    out: Tensor
    """(b, h, q, dv); where a layer was observed, the layer's output."""
    _results: dict[Observer[Any], Any]

    def __getitem__(self, observer: Observer[Result]) -> Result:
        try:
            return cast("Result", self._results[observer])
        except KeyError:
            requested = ", ".join(repr(known) for known in self._results) or "none"
            raise OptionError(
                "seen[…]", repr(observer), f"the observers asked for: {requested}", "Ask for it in observe(…)."
            ) from None

    def __iter__(self) -> Iterator[Observer[Any]]:
        return iter(self._results)

    def __repr__(self) -> str:
        return f"Seen(out={tuple(self.out.shape)}, {', '.join(repr(observer) for observer in self._results)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: each result in small."""
        return repr_html.observer_results(f"Seen: out {repr_html.size(self.out)}", self._results)


def observe(
    q: Queries,
    k: Keys,
    v: Values,
    *observers: Observer[Any],
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    score: Score | ScoreFunction | None = None,
    normalizer: Normalizer | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Seen:
    """`attention`, and exact statistics of its weights from the same run, in linear memory.

    The observers are values such as ``TopK(8)``, ``Entropy()`` or ``Received()``; the other arguments are
    those of `attention`.

    >>> import torch
    >>> from regard import observe, Causal, Entropy, TopK
    >>> q, k, v = torch.randn(3, 1, 8, 1000, 64).unbind()
    >>> seen = observe(q, k, v, TopK(8), Entropy(), mask=Causal())
    >>> seen.out.shape, seen[Entropy()].shape, seen[TopK(8)].keys.shape
    (torch.Size([1, 8, 1000, 64]), torch.Size([1, 8, 1000]), torch.Size([1, 8, 1000, 8]))
    """
    spec = AttentionSpec.of(mask, bias, score, normalizer, dropout)
    return observe_spec(q, k, v, observers, spec, backend)


def observe_spec(
    q: Queries, k: Keys, v: Values, observers: Sequence[Observer[Any]], spec: AttentionSpec, backend: str = "auto"
) -> Seen:
    """`observe`, of a specification."""
    run = _outside_of_graphs if torch.compiler.is_compiling() else _run
    problem, answer = run(q, k, v, tuple(observers), spec, backend)
    results = {
        observer: bound.result(*tensors)
        for observer, bound, tensors in zip(dict.fromkeys(observers), problem.observers, answer.observed, strict=True)
    }
    return Seen(answer.out, results)


@dataclass(frozen=True)
class Plan:
    """How a call would run. Prints as a table."""

    backend: str
    reasons: dict[str, str]
    """Why each backend before the chosen one was passed over."""
    pairs: dict[Tile, int]
    """Query-key pairs of one head in tiles of each kind; EMPTY ones cost nothing."""
    flops: int
    """Multiplications and additions of the two matrix products of the forward pass, over all heads."""
    scores_bytes: int
    """Memory for the scores that are computed at a time."""
    whole_bytes: int
    """What all scores would take at once: what is not allocated."""

    def __str__(self) -> str:
        total = max(sum(self.pairs.values()), 1)
        lines = [("backend", self.backend)]
        lines += [(f"  not {name}", why) for name, why in self.reasons.items()]
        lines += [(f"{kind.value} tiles", f"{100 * n / total:.1f} % of pairs") for kind, n in self.pairs.items()]
        lines += [
            ("work", f"{self.flops / 1e9:.3g} GFLOP forward"),
            ("scores held", f"{_bytes(self.scores_bytes)} (all at once: {_bytes(self.whole_bytes)})"),
        ]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def explain(
    q: Queries,
    k: Keys,
    v: Values,
    *observers: Observer[Any],
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    score: Score | ScoreFunction | None = None,
    normalizer: Normalizer | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Plan:
    """How the same call of `observe` would run: which backend and why, what is skipped, what it takes.

    >>> import torch
    >>> from regard import explain, Causal
    >>> q = k = v = torch.zeros(1, 8, 1024, 64)
    >>> plan = explain(q, k, v, mask=Causal())
    >>> plan.backend, round(plan.pairs[Tile.EMPTY] / 1024**2, 2)
    ('native', 0.38)
    """
    spec = AttentionSpec.of(mask, bias, score, normalizer, dropout)
    problem = Problem.bound(q, k, v, spec, observers)
    chosen, reasons = choose(problem, backend)
    sizes = problem.sizes
    rows, scores_bytes = chosen.prepare(problem).memory()
    whole = chosen.name == "reference"
    everything = range(sizes.b), range(sizes.h)
    pairs = tiles.count_pairs(problem.mask, *everything, sizes.q, sizes.k, rows)
    visited = sum(pairs.values()) - (0 if whole else pairs[Tile.EMPTY])
    item = torch.finfo(torch.float64 if whole else problem.compute_dtype).bits // 8
    all_scores = item * sizes.b * sizes.h * sizes.q * sizes.k
    return Plan(
        backend=chosen.name,
        reasons=reasons,
        pairs=pairs,
        flops=2 * sizes.b * sizes.h * visited * (sizes.d + sizes.dv),
        scores_bytes=min(scores_bytes, all_scores),
        whole_bytes=all_scores,
    )


def _as_long(q: object, k: object, v: object) -> bool:
    """Whether these are tensors, and there are as many keys as queries."""
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)):
        return False
    return q.shape[-2:] == k.shape[-2:]


def _run(
    q: Queries, k: Keys, v: Values, observers: tuple[Observer[Any], ...], spec: AttentionSpec, backend: str
) -> tuple[Problem, Answer]:
    problem = Problem.bound(q, k, v, spec, observers)
    return problem, prepare(problem, backend).forward()


# What a graph cannot name is left out of it: a trace would unroll every block of queries, for one mask.
_outside_of_graphs = exclude_from_graphs(_run)


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} GiB"
