"""`Weights`: any part of the weights of a call, beside the whole of them in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from cases import Case
from regard import Causal, LogSumExp, Observer, Pooled, Received, Rows, Softmax, Sparsemax, Weights
from regard.errors import OptionError
from regard.nn import MultiHeadAttention

CASES = [
    Case("causal", shape="grouped"),
    Case("sinks", "relative", "cosine per head", "sink", shape="grouped"),
    Case("tensor", "sum", "soft-capped"),
    Case("documents", "dense", "euclidean", shape="fewer queries"),
    Case("causal left padding", "t5", normalizer="sink", shape="many heads"),
    Case("nothing", "alibi"),
]


def asked(case: Case) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """A call's values, its queries and keys, and all its weights, exactly."""
    exact = case.build(torch.float64)
    every = Rows(*range(case.sizes.q))
    whole = exact.observe(every, backend="reference")[every]
    call = case.build()
    parts = {name: part for name, part in call.parts.items() if name not in ("dropout", "seed")}
    return parts, call.q, call.k, whole


@pytest.mark.parametrize("double", [False, True], ids=["", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_part_is_that_of_the_whole(case: Case, double: bool) -> None:
    if double:  # on chunked
        call = case.build(torch.float64)
        parts, _, _, whole = asked(case)
        parts = {name: part for name, part in call.parts.items() if name in parts}
        weights = Weights.of(call.q, call.k, **parts)
    else:
        parts, q, k, whole = asked(case)
        weights = Weights.of(q, k, **parts)
    assert weights.shape == whole.shape
    close = {"rtol": 1e-4, "atol": 1e-6, "check_dtype": False}
    torch.testing.assert_close(weights[:], whole, **close)
    h, q, k = (n - 1 for n in whole.shape[1:])
    for index in (
        (0, h, q, k),
        (0, h, q),
        (slice(None), h, slice(1, q), slice(k // 2, k)),
        (0, slice(0, h), -1, slice(-3, None)),
        (-1,),
        (0, 0, slice(5, 5)),
    ):
        part, wanted = weights[index], whole[index]
        assert part.shape == wanted.shape
        torch.testing.assert_close(part, wanted, **close)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_a_known_log_sum_exp_saves_the_pass(case: Case) -> None:
    parts, q, k, whole = asked(case)
    lse = regard.observe(q, k, k, LogSumExp(), **parts)[LogSumExp()]
    known = Weights.of(q, k, lse, **parts)
    torch.testing.assert_close(known[:], whole, rtol=1e-4, atol=1e-6, check_dtype=False)
    half = whole[..., : whole.shape[2] // 2, :]
    first = Pooled(2, 3, "max", queries=(0, half.shape[2]))
    cells = known.see(first)
    torch.testing.assert_close(cells.amax((-1, -2)), half.amax((-1, -2)).to(cells.dtype))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_row_of_sums_is_what_keys_receive(case: Case) -> None:
    """The kernels add it up another way than maps of other sizes, in the same visit as these."""
    parts, q, k, whole = asked(case)
    queries, keys = (1, whole.shape[2]), (2, whole.shape[3] - 1)
    ends: dict[str, Any] = {"queries": queries, "keys": keys}
    weights = Weights.of(q, k, **parts)
    found = weights.see(Pooled(1, keys[1] - keys[0], "sum", **ends))
    part = whole[:, :, queries[0] : queries[1], keys[0] : keys[1]]
    wanted = part.sum(2, keepdim=True)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, check_dtype=False)
    halved = weights.see(Pooled(1, 2, "sum", **ends))
    torch.testing.assert_close(halved.sum(), wanted.sum(), rtol=1e-4, atol=1e-6, check_dtype=False)


def test_what_keys_receive_is_found_piece_by_piece() -> None:
    q, k = torch.randn(2, 1, 2, 40, 8).unbind()
    whole = regard.observe(q, k, k, LogSumExp(), Received())
    pieces = [Weights.of(q, k[:, :, cut], whole[LogSumExp()]).see(Received()) for cut in (slice(0, 15), slice(15, 40))]
    torch.testing.assert_close(torch.cat(pieces, -1), whole[Received()])


def test_any_other_statistic_is_seen_too() -> None:
    q, k = torch.randn(2, 1, 2, 40, 8).unbind()
    weights = Weights.of(q, k, mask=Causal())
    asked: list[Observer[Any]] = [regard.Entropy(), regard.TopK(3), regard.MeanDistance(), Rows(3, 1)]
    for observer in asked:
        got = weights.see(observer)
        want = regard.observe(q, k, k, observer, mask=Causal())[observer]
        torch.testing.assert_close(got, want)


def test_rows_that_see_what_is_not_finite_are_nan() -> None:
    q, k = torch.randn(2, 1, 1, 20, 8).unbind()
    k[0, 0, 12, 3] = torch.nan
    weights = Weights.of(q, k, mask=Causal())
    assert weights[0, 0, 12:, :10].isnan().all()
    assert weights[0, 0, :12].isfinite().all()


def test_a_layer_gives_its_weights() -> None:
    layer = MultiHeadAttention(32, 4, mask=Causal(), normalizer=Softmax(torch.zeros(4))).train()
    x = torch.randn(2, 30, 32)
    every = Rows(*range(30))
    torch.testing.assert_close(layer.weights(x)[:], layer.observe(x, every)[every])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda q, k: Weights.of(q, k, normalizer=Sparsemax()),
            r"Weights: got normalizer=Sparsemax\(\); allowed: a Softmax. Ask for whole rows",
        ),
        (
            lambda q, k: Weights.of(q, k, torch.zeros(1, 2, 9)),
            r"Weights\(lse=…\): got shape \(1, 2, 9\); allowed: \(1, 2, 10\).",
        ),
        (
            lambda q, k: Weights.of(q, k)[0, 2],
            r"Weights\[…\]: got 2; allowed: for heads a number from -2 to 1, or a slice",
        ),
        (
            lambda q, k: Weights.of(q, k)[0, 0, ::2],
            r"slice\(None, None, 2\); allowed: for queries a number from -10 to 9",
        ),
        (lambda q, k: Weights.of(q, k)[0, 0, 0, 0, 0], "5 indices; allowed: 4 at most"),
        (lambda q, k: Weights.of(q, k).see(Pooled(2, 2, keys=(3, 11))), "spans within the 10 keys"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_does_not_fit_is_said(wrong: Any, said: str) -> None:
    q = torch.randn(1, 2, 10, 8)
    with pytest.raises(OptionError, match=said):
        wrong(q, q)
