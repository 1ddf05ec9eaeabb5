"""What a wrong call is told: the argument, what was given, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import regard
from regard import (
    T5,
    Additive,
    ALiBi,
    Blocks,
    Causal,
    Cosine,
    Dense,
    Dilated,
    DistanceMass,
    Documents,
    Dot,
    Entropy,
    Kerple,
    Padding,
    Pooled,
    Prefix,
    RegardError,
    Relative,
    Rows,
    Sigmoid,
    Softmax,
    SpanMass,
    TopK,
    Where,
    Window,
)
from regard.backends import ALL
from regard.errors import BackendError, DeviceError, DtypeError, OptionError, ShapeError

pytestmark = pytest.mark.usefixtures("as_users_run_it")

Q, K, V = torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 7, 8), torch.zeros(2, 2, 7, 6)
LAYOUT = "(batch, heads, sequence, head size)"


def call(q: Any = Q, k: Any = K, v: Any = V, *observers: Any, **options: Any) -> Callable[[], Any]:
    return lambda: regard.observe(q, k, v, *observers, **options)


def seeing(*observers: Any) -> Callable[[], Any]:
    return call(Q, K, V, *observers)


TABLE: list[tuple[Callable[[], Any], type[RegardError], str]] = [
    # q, k, v
    (call(q=[1.0]), DtypeError, f"q: got a list; allowed: a tensor {LAYOUT}. Convert it with torch.as_tensor(…)."),
    (
        call(q=Q[0]),
        ShapeError,
        f"q: got 3 dimensions, shape (4, 5, 8); allowed: 4: {LAYOUT}. Add a batch or a heads dimension with [None].",
    ),
    (
        call(v=V[None]),
        ShapeError,
        f"v: got 5 dimensions, shape (1, 2, 2, 7, 6); allowed: 4: {LAYOUT}. "
        "Add a batch or a heads dimension with [None].",
    ),
    (
        call(q=Q.long()),
        DtypeError,
        "q: got torch.int64; allowed: float16, bfloat16, float32 or float64. Convert it with .float().",
    ),
    (
        call(k=K.double()),
        DtypeError,
        "k: got torch.float64; allowed: the dtype of q, torch.float32. Convert it with .to(torch.float32).",
    ),
    (
        call(v=V.half()),
        DtypeError,
        "v: got torch.float16; allowed: the dtype of q, torch.float32. Convert it with .to(torch.float32).",
    ),
    (
        call(k=K.to("meta")),
        DeviceError,
        "k: got a tensor on meta; allowed: the device of q, cpu. Move it with .to('cpu').",
    ),
    (
        call(k=K[:1]),
        ShapeError,
        "k: got batch 1; allowed: the batch of q, 2. Expand a shared one with .expand(2, -1, -1, -1).",
    ),
    (
        call(k=K[..., :4]),
        ShapeError,
        "k: got head size 4; allowed: the head size of q, 8. "
        "Queries and keys meet in a dot product; only v may differ.",
    ),
    (call(v=V[:, :1]), ShapeError, "v: got 1 heads; allowed: the heads of k, 2. Keys and values come in pairs."),
    (
        call(v=V[:, :, 1:]),
        ShapeError,
        "v: got 6 positions; allowed: the positions of k, 7. Keys and values come in pairs.",
    ),
    (
        call(q=Q[:, :3]),
        ShapeError,
        "k: got 2 heads; allowed: a number that divides the 3 heads of q. Query head i reads key head i // (h / g).",
    ),
    (
        call(k=K[:, :0], v=V[:, :0]),
        ShapeError,
        "k: got 0 heads; allowed: a number that divides the 4 heads of q. Query head i reads key head i // (h / g).",
    ),
    # masks
    (
        call(mask=torch.zeros(5, 7)),
        DtypeError,
        "mask: got a torch.float32 tensor; allowed: a Mask or a bool tensor, True = may attend. "
        "A float tensor that is added to scores is a bias: bias=tensor.",
    ),
    (
        call(mask=torch.zeros(5, 7, dtype=torch.int64)),
        DtypeError,
        "mask: got a torch.int64 tensor; allowed: a bool tensor, True where a query may see a key. "
        "Convert it with .bool(); numbers that are added to scores are a bias.",
    ),
    (
        call(mask=torch.ones(7, 5, dtype=torch.bool)),
        ShapeError,
        "mask: got a bool tensor of shape (7, 5); allowed: one that broadcasts to (b, h, q, k) = "
        "(2, 4, 5, 7). Add dimensions of size 1, for example mask[:, None, None, :] for padding.",
    ),
    (
        call(mask="causal"),
        DtypeError,
        "mask: got a str; allowed: a Mask, a bool tensor or None. "
        "For a function of (b, h, q, k), write Where(function).",
    ),
    (
        call(mask=Causal),
        DtypeError,
        "mask: got the class Causal; allowed: a Mask, a bool tensor or None. "
        "Write the parentheses: Causal(…) is a value.",
    ),
    (
        call(score=regard.Dot),
        DtypeError,
        "score: got the class Dot; allowed: a Score, a function of (q, k) or None. "
        "Write the parentheses: Dot(…) is a value.",
    ),
    (
        lambda: Causal() & torch.zeros(5, 7),
        DtypeError,
        "mask: got a torch.float32 tensor; allowed: a bool tensor, True where a query may see a key. "
        "Convert it with .bool(); numbers that are added to scores are a bias.",
    ),
    (lambda: Window(-1), OptionError, "Window(back=…): got -1; allowed: a whole number ≥ 0. Count in tokens."),
    (
        lambda: Window(3, 1.5),  # pyright: ignore[reportArgumentType]
        OptionError,
        "Window(ahead=…): got 1.5; allowed: a whole number ≥ 0. Count in tokens.",
    ),
    (lambda: Dilated(0), OptionError, "Dilated(step=…): got 0; allowed: a whole number ≥ 1. Count in tokens."),
    (lambda: Prefix(-2), OptionError, "Prefix(length=…): got -2; allowed: a whole number ≥ 0. Count in tokens."),
    (
        call(mask=Padding(torch.tensor([1, 2, 3]))),
        ShapeError,
        "Padding(lengths=…): got shape (3,); allowed: (2,), one length for each batch row. "
        "Give mask.sum(-1) of a 2-D padding mask.",
    ),
    (
        lambda: Padding(torch.tensor([1.0])),
        DtypeError,
        "Padding(lengths=…): got torch.float32; allowed: an integer tensor. Convert it with torch.as_tensor(…).long().",
    ),
    (
        lambda: Padding([3, 4]),  # pyright: ignore[reportArgumentType]
        DtypeError,
        "Padding(lengths=…): got a list; allowed: an integer tensor. Convert it with torch.as_tensor(…).long().",
    ),
    (
        lambda: Padding(torch.tensor([1]), "top"),
        OptionError,
        "Padding(side=…): got 'top'; allowed: 'left' or 'right'. Name the side of the padding.",
    ),
    (
        call(mask=Documents.of_lengths(3, 3)),
        ShapeError,
        "Documents(ids=…): got shape (6,); allowed: (7,) or (2, 7): the document of each key. "
        "Give one id for each key position; the lengths must add up to the keys.",
    ),
    (
        call(mask=Documents(torch.zeros(7, dtype=torch.int64), offset=3)),
        ShapeError,
        "Documents(ids=…): got 5 queries at offset 3 and 7 keys; allowed: queries whose positions are among the keys. "
        "Give at most as many queries as keys, or use Where.",
    ),
    (
        call(mask=Blocks(torch.ones(2, 2, dtype=torch.bool), 2)),
        ShapeError,
        "Blocks(table=…): got shape (2, 2) with blocks of 2; allowed: (3, 4): one entry for each block of "
        "5 queries × 7 keys. Build the table for these lengths.",
    ),
    (
        lambda: Blocks(torch.ones(2, 2), 2),
        DtypeError,
        "Blocks(table=…): got a torch.float32 tensor; allowed: a bool tensor, True where a query may see a key. "
        "Convert it with .bool(); numbers that are added to scores are a bias.",
    ),
    (
        call(mask=Where(lambda b, h, q, k: q - k)),
        DtypeError,
        "Where(function): got a torch.int64 tensor from the function; allowed: a bool tensor. "
        "Return a comparison, such as q >= k.",
    ),
    (
        call(mask=torch.ones(5, 7, dtype=torch.bool, device="meta")),
        DeviceError,
        "Given: got a tensor on meta; allowed: the device of the queries, cpu. Move it with .to('cpu').",
    ),
    # biases
    (
        call(bias=torch.zeros(5, 7, dtype=torch.int64)),
        DtypeError,
        "bias: got a torch.int64 tensor; allowed: a floating-point tensor. "
        "A bool tensor, True = may attend, is a mask: mask=tensor.",
    ),
    (
        call(bias=torch.ones(5, 7, dtype=torch.bool)),
        DtypeError,
        "bias: got a torch.bool tensor; allowed: a floating-point tensor. "
        "A bool tensor, True = may attend, is a mask: mask=tensor.",
    ),
    (
        call(bias=torch.zeros(7, 5)),
        ShapeError,
        "bias: got a tensor of shape (7, 5); allowed: one that broadcasts to (b, h, q, k) = (2, 4, 5, 7). "
        "Add dimensions of size 1 where it is shared.",
    ),
    (
        call(bias=3.0),
        DtypeError,
        "bias: got a float; allowed: a Bias, a float tensor or None. "
        "Any bias can be written as a tensor that broadcasts to (b, h, q, k).",
    ),
    (
        call(bias=Dense(torch.zeros(7, device="meta"))),
        DeviceError,
        "Dense: got a tensor on meta; allowed: the device of the queries, cpu. Move it with .to('cpu').",
    ),
    (
        call(bias=ALiBi(8)),
        ShapeError,
        "ALiBi(slopes=…): got 8 heads; allowed: 4, the heads of the queries. Make the bias for as many heads as q has.",
    ),
    (
        lambda: ALiBi(),
        OptionError,
        "ALiBi: got heads=None, slopes=None; allowed: one of heads and slopes. Write ALiBi(heads=8).",
    ),
    (lambda: ALiBi(0), OptionError, "ALiBi(heads=…): got 0; allowed: a whole number ≥ 1. Give the query heads."),
    (
        call(bias=T5.learned(2)),
        ShapeError,
        "T5(table=…): got 2 heads; allowed: 4, the heads of the queries. Make the bias for as many heads as q has.",
    ),
    (
        lambda: T5(torch.zeros(1, 4)),
        ShapeError,
        "T5(table=…): got shape (1, 4); allowed: (buckets, h) with at least 2 buckets. T5.learned makes one.",
    ),
    (
        lambda: T5(torch.zeros(32, 4), max_distance=16),
        OptionError,
        "T5(max_distance=…): got 16; allowed: more than the 16 distances that have a bucket of their own. "
        "Give fewer buckets or a greater distance.",
    ),
    (
        lambda: call(bias=Kerple(torch.ones(4), torch.ones(3)))(),
        ShapeError,
        "Kerple(c=…): got 3 heads; allowed: 4, the heads of the queries. Make the bias for as many heads as q has.",
    ),
    (
        lambda: Relative(torch.zeros(4, 6)),
        ShapeError,
        "Relative(table=…): got shape (4, 6); allowed: (h, 2 m + 1): an odd width. Relative.learned makes one.",
    ),
    # scores
    (
        call(score="dot"),
        DtypeError,
        "score: got a str; allowed: a Score, a function of (q, k) or None. None is Dot(): the dot product over √d.",
    ),
    (
        lambda: Dot(scale=float("nan")),
        OptionError,
        "Dot(scale=…): got nan; allowed: a finite number or None. None is 1/√d.",
    ),
    (
        lambda: Dot(softcap=0.0),
        OptionError,
        "Dot(softcap=…): got 0.0; allowed: a positive number or None. "
        "None leaves scores as they are; Gemma 2 uses 50.0.",
    ),
    (
        call(score=Cosine(torch.ones(3))),
        ShapeError,
        "Cosine(scale=…): got shape (3,); allowed: a number or (4,), one for each head of q. "
        "Give one scale for each query head.",
    ),
    (
        call(score=Additive(torch.ones(4, 5))),
        ShapeError,
        "Additive(weight=…): got shape (4, 5); allowed: (h, d) = (4, 8). Give one vector for each query head.",
    ),
    (
        call(score=lambda q, k: q.sum(-1)),
        ShapeError,
        "score: got shape (2, 4, 5) from the function; allowed: (b, h, q, k) = (2, 4, 5, 7). "
        "Return one score for each pair of query and key.",
    ),
    # normalizers
    (
        call(normalizer="softmax"),
        DtypeError,
        "normalizer: got a str; allowed: a Normalizer or None. "
        "None is Softmax(); others are Sigmoid(), Sparsemax(), Entmax15().",
    ),
    (
        call(normalizer=Softmax(torch.zeros(2))),
        ShapeError,
        "Softmax(sink=…): got shape (2,); allowed: (4,), one logit for each head of q. "
        "Expand a shared sink with .expand(heads).",
    ),
    (
        lambda: Sigmoid(shift=float("inf")),
        OptionError,
        "Sigmoid(shift=…): got inf; allowed: a finite number or None. None is −log(number of keys).",
    ),
    # dropout, backend
    *(
        (
            call(dropout=given),
            OptionError,
            f"dropout: got {given!r}; allowed: a probability, 0 ≤ dropout < 1. Give 0.0 outside training.",
        )
        for given in (1.0, -0.1, True, "0.1", float("nan"))
    ),
    (
        call(backend="fast"),
        OptionError,
        "backend: got 'fast'; allowed: 'auto', 'native', 'chunked', 'reference'. "
        "'auto' takes the fastest that can run.",
    ),
    # observers
    (
        seeing(Entropy),
        DtypeError,
        "observers: got Entropy; allowed: observer values, such as Entropy() or TopK(8). "
        "Write the parentheses: an observer is a value.",
    ),
    (
        seeing("entropy"),
        DtypeError,
        "observers: got str; allowed: observer values, such as Entropy() or TopK(8). "
        "Write the parentheses: an observer is a value.",
    ),
    (lambda: TopK(0), OptionError, "TopK(count): got 0; allowed: a whole number ≥ 1. Ask for at least one."),
    (lambda: SpanMass((3, 2)), OptionError, "SpanMass: got (3, 2); allowed: 0 ≤ start ≤ stop. Spans are half-open."),
    (
        seeing(SpanMass((0, 8))),
        OptionError,
        "SpanMass: got (0, 8); allowed: spans within the 7 keys. Cut the span at the last key.",
    ),
    (
        lambda: DistanceMass(3, 1),
        OptionError,
        "DistanceMass: got (3, 1); allowed: low ≤ high. Distances are query position − key position.",
    ),
    (lambda: Pooled(0, 3), OptionError, "Pooled(rows): got 0; allowed: a whole number ≥ 1. Ask for at least one."),
    (
        lambda: Pooled(3, 3, "median"),
        OptionError,
        "Pooled(how): got 'median'; allowed: 'mean', 'max' or 'sum'. A maximum keeps single strong weights visible.",
    ),
    (seeing(Rows(2, 5)), OptionError, "Rows: got 5; allowed: 0 to 4, the queries of this call. Count queries from 0."),
    (seeing(Rows(-1)), OptionError, "Rows: got -1; allowed: 0 to 4, the queries of this call. Count queries from 0."),
    (
        lambda: regard.observe(Q, K, V, Entropy())[TopK(2)],
        OptionError,
        "seen[…]: got TopK(count=2); allowed: the observers asked for: Entropy(). Ask for it in observe(…).",
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), TABLE, ids=[row[2][:60] for row in TABLE])
def test_a_wrong_call_is_told_what_to_do(wrong: Callable[[], Any], kind: type[RegardError], message: str) -> None:
    with pytest.raises(RegardError) as caught:
        wrong()
    assert str(caught.value) == message
    assert type(caught.value) is kind


def test_a_backend_asked_for_by_name_never_falls_back() -> None:
    for backend in ALL:
        if (why := backend.available()) is None:
            continue
        with pytest.raises(BackendError) as caught:
            regard.attention(Q, K, V, backend=backend.name)
        assert str(caught.value) == (
            f"backend: got {backend.name!r}; allowed: a backend that can run this call. "
            f"{backend.name}: {why}. Use backend='auto'."
        )
        assert isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize("kind", [ShapeError, DeviceError, OptionError])
def test_errors_are_the_ones_that_python_programmers_expect(kind: type[RegardError]) -> None:
    assert issubclass(kind, ValueError)
    assert issubclass(DtypeError, TypeError)


@pytest.mark.parametrize("name", ["attention", "observe", "explain"])
def test_all_three_calls_check(name: str) -> None:
    with pytest.raises(ShapeError, match="v: got 6 positions"):
        getattr(regard, name)(Q, K, V[:, :, 1:])
