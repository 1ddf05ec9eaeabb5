"""One attention call, checked: the value that every backend takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from regard.errors import DeviceError, DtypeError, ShapeError
from regard.shapes import Keys, Output, Queries, Sizes, Values
from regard.spec.attention_spec import AttentionSpec
from regard.spec.biases import Bias
from regard.spec.masks import Mask
from regard.spec.normalizers import Normalizer
from regard.spec.observers import Observer
from regard.spec.scores import Score
from regard.spec.values import readable

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Problem:
    """A validated attention call: its tensors, its specification bound to their sizes, and its observers.

    Made by `Problem.of` or `Problem.bound`, which check everything.
    """

    q: Queries
    k: Keys
    v: Values
    spec: AttentionSpec
    seed: int
    observers: tuple[Observer[Any], ...]
    sizes: Sizes

    @classmethod
    def of(
        cls,
        q: Queries,
        k: Keys,
        v: Values,
        observers: Sequence[Observer[Any]] = (),
        *,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
        score: Score | Callable[[Tensor, Tensor], Tensor] | None = None,
        normalizer: Normalizer | None = None,
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> Problem:
        """Check a call and bind its parts to its sizes. Without a seed, dropout draws one."""
        return cls.bound(q, k, v, AttentionSpec.of(mask, bias, score, normalizer, dropout), observers, seed)

    @classmethod
    def bound(
        cls,
        q: Queries,
        k: Keys,
        v: Values,
        spec: AttentionSpec,
        observers: Sequence[Observer[Any]] = (),
        seed: int | None = None,
    ) -> Problem:
        """The same from a specification."""
        sizes = sizes_of(q, k, v)
        for observer in cast("Sequence[object]", observers):
            if not isinstance(observer, Observer):
                kind = observer.__name__ if isinstance(observer, type) else type(observer).__name__
                raise DtypeError(
                    "observers",
                    kind,
                    "observer values, such as Entropy() or TopK(8)",
                    "Write the parentheses: an observer is a value.",
                )
        problem = object.__new__(cls)  # a frozen dataclass sets its fields one by one, in twice the time
        problem.__dict__.update(
            q=q,
            k=k,
            v=v,
            spec=spec.bind(sizes),
            seed=draw() if spec.dropout and seed is None else seed or 0,
            observers=tuple(observer.bind(sizes) for observer in dict.fromkeys(observers)) if observers else (),
            sizes=sizes,
        )
        return problem

    @property
    def mask(self) -> Mask:
        """Which keys a query may see."""
        return self.spec.mask

    @property
    def bias(self) -> Bias:
        """What is added to scores."""
        return self.spec.bias

    @property
    def score(self) -> Score:
        """How queries and keys are compared."""
        return self.spec.score

    @property
    def normalizer(self) -> Normalizer:
        """How scores become weights."""
        return self.spec.normalizer

    @property
    def dropout(self) -> float:
        """The probability that a weight is dropped."""
        return self.spec.dropout

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of scores and sums: at least float32."""
        return self.q.dtype if self.q.dtype == torch.float64 else torch.float32

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that may need a gradient."""
        return (self.q, self.k, self.v, *self.spec.differentiable_tensors())

    def with_tensors(self, tensors: Sequence[Tensor]) -> Problem:
        """The same call on other tensors, in the order of `tensors`."""
        q, k, v, *rest = tensors
        return replace(self, q=q, k=k, v=v, spec=self.spec.with_differentiable_tensors(rest))

    def with_spec(self, **parts: Any) -> Problem:
        """The same call with other parts of its specification, which are bound already."""
        return replace(self, spec=self.spec.changed(**parts))

    def observing(self, *observers: Observer[Any]) -> Problem:
        """The same call with these observers."""
        return replace(self, observers=tuple(observer.bind(self.sizes) for observer in observers))

    def cast(self, dtype: torch.dtype) -> Problem:
        """The same call in another dtype."""
        q, k, v = (t.to(dtype) for t in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v, spec=self.spec.cast(dtype))

    def finite(self) -> tuple[Problem, Tensor | None, Tensor | None]:
        """The call with every number that is not finite set to 0, and which queries and keys had one.

        A masked key may hold anything, and 0 · NaN is NaN: so what is not finite is taken out first, and
        a row that *sees* such a key (or is such a query) is made NaN in the end. The queries are (b, h, q),
        the keys (b, g, k). Where all is finite, as nearly always, both answers are None.
        """
        good_q, good_k, good_v = (torch.isfinite(t) for t in (self.q, self.k, self.v))
        if readable(self.q) and bool((good_q.all() & good_k.all() & good_v.all()).item()):
            return self, None, None
        clean = replace(
            self, q=torch.where(good_q, self.q, 0), k=torch.where(good_k, self.k, 0), v=torch.where(good_v, self.v, 0)
        )
        return clean, ~good_q.all(-1), ~(good_k.all(-1) & good_v.all(-1))


@dataclass(frozen=True)
class Answer:
    """What a backend returns: the output, and each observer's whole tensors in order."""

    out: Output
    observed: tuple[tuple[Tensor, ...], ...]


def draw() -> int:
    """One number from PyTorch's generator; every weight's fate under dropout follows from it (dropout.py)."""
    return int(torch.randint(2**31, ()).item())


def sizes_of(q: object, k: object, v: object) -> Sizes:
    """The sizes of a call; raises where its tensors do not fit together."""
    if isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor) and q.ndim == k.ndim == v.ndim == 4:
        b, h, queries, d = q.shape
        b_of_k, g, keys, d_of_k = k.shape
        b_of_v, g_of_v, keys_of_v, dv = v.shape
        dtype, device = q.dtype, q.device
        if (
            dtype in DTYPES
            and dtype == k.dtype == v.dtype
            and ((q.is_cpu and k.is_cpu and v.is_cpu) or device == k.device == v.device)
            and b == b_of_k == b_of_v
            and d == d_of_k
            and g == g_of_v
            and keys == keys_of_v
            and (h % g == 0 if g else h == 0)
        ):
            return Sizes(b, h, g, queries, keys, d, dv, device)
    _complain(q, k, v)


def _complain(q: object, k: object, v: object) -> NoReturn:
    """Say what of q, k and v does not fit."""
    layout = "(batch, heads, sequence, head size)"
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise DtypeError(
                name, f"a {type(tensor).__name__}", f"a tensor {layout}", "Convert it with torch.as_tensor(…)."
            )
        if tensor.ndim != 4:
            raise ShapeError(
                name,
                f"{tensor.ndim} dimensions, shape {tuple(tensor.shape)}",
                f"4: {layout}",
                "Add a batch or a heads dimension with [None].",
            )
        if tensor.dtype not in DTYPES:
            raise DtypeError(
                name, str(tensor.dtype), "float16, bfloat16, float32 or float64", "Convert it with .float()."
            )
    q, k, v = cast("tuple[Tensor, Tensor, Tensor]", (q, k, v))
    for name, tensor in (("k", k), ("v", v)):
        if tensor.device != q.device:
            raise DeviceError(
                name,
                f"a tensor on {tensor.device}",
                f"the device of q, {q.device}",
                f"Move it with .to({str(q.device)!r}).",
            )
        if tensor.dtype != q.dtype:
            raise DtypeError(name, str(tensor.dtype), f"the dtype of q, {q.dtype}", f"Convert it with .to({q.dtype}).")
        if tensor.shape[0] != q.shape[0]:
            raise ShapeError(
                name,
                f"batch {tensor.shape[0]}",
                f"the batch of q, {q.shape[0]}",
                f"Expand a shared one with .expand({q.shape[0]}, -1, -1, -1).",
            )
    if k.shape[3] != q.shape[3]:
        raise ShapeError(
            "k",
            f"head size {k.shape[3]}",
            f"the head size of q, {q.shape[3]}",
            "Queries and keys meet in a dot product; only v may differ.",
        )
    if v.shape[1] != k.shape[1]:
        raise ShapeError("v", f"{v.shape[1]} heads", f"the heads of k, {k.shape[1]}", "Keys and values come in pairs.")
    if v.shape[2] != k.shape[2]:
        raise ShapeError(
            "v", f"{v.shape[2]} positions", f"the positions of k, {k.shape[2]}", "Keys and values come in pairs."
        )
    h, g = q.shape[1], k.shape[1]
    if (g == 0 and h > 0) or (g > 0 and h % g):
        raise ShapeError(
            "k", f"{g} heads", f"a number that divides the {h} heads of q", "Query head i reads key head i // (h / g)."
        )
    raise AssertionError("the sizes fit after all")
