"""Each normalizer against its definition, found by other means."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import FP32, FP64, Draw
from regard.shapes import Sizes
from regard.spec.normalizers import Entmax15, Normalizer, Sigmoid, Softmax, Sparsemax

SIZES = Sizes(1, 2, 2, 3, 7, 4, 4, torch.device("cpu"))


def by_bisection(scores: list[float], power: float, scale: float) -> list[float]:
    """The weights max(scale·z − τ, 0)^power that sum to 1."""
    z = [scale * x for x in scores]
    low, high = max(z) - 1, max(z)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(max(x - middle, 0) ** power for x in z) >= 1:
            low = middle
        else:
            high = middle
    return [max(x - low, 0) ** power for x in z]


numbers = st.floats(-30, 30) | st.sampled_from([0.0, 1.0, -1.0, 0.5, -math.inf])


@pytest.mark.parametrize("dtype", [FP32, FP64], ids=str)
@pytest.mark.parametrize(("normalizer", "power", "scale"), [(Sparsemax(), 1, 1), (Entmax15(), 2, 0.5)])
@given(rows=st.lists(numbers, min_size=1, max_size=12).filter(lambda x: max(x) > -math.inf))
def test_sparse_weights_by_bisection(
    rows: list[float], normalizer: Normalizer, power: int, scale: float, dtype: torch.dtype
) -> None:
    scores = torch.tensor(rows, dtype=dtype)
    got = normalizer.weigh(scores[None, None, None])[0, 0, 0]
    want = by_bisection(scores.double().tolist(), power, scale)
    slack = 2e-5 if dtype == FP32 else 1e-9
    torch.testing.assert_close(got.double(), torch.tensor(want, dtype=FP64), atol=slack, rtol=0)
    assert not got[scores == -math.inf].any()


def test_sparsemax_of_the_paper_and_of_ties() -> None:
    def weigh(*row: float) -> list[float]:
        return Sparsemax().weigh(torch.tensor(row, dtype=FP64)[None, None, None])[0, 0, 0].tolist()

    assert weigh(0.0, 0.0) == [0.5, 0.5]
    assert weigh(0.5, 0.0) == [0.75, 0.25]
    assert weigh(3.0, 0.0) == [1.0, 0.0]  # beyond 1 apart all goes to one
    assert weigh(1.0, 1.0, 0.0) == [0.5, 0.5, 0.0]


def test_sparse_weights_do_not_care_how_low_the_low_ones_are() -> None:
    for normalizer in (Sparsemax(), Entmax15()):
        a = torch.tensor([[[[1.0, 0.7, -3.0, -1e30]]]], dtype=FP32)
        b = torch.tensor([[[[1.0, 0.7, -torch.inf, -torch.inf]]]], dtype=FP32)
        assert torch.equal(normalizer.weigh(a), normalizer.weigh(b))


def test_sigmoid_is_each_score_by_itself() -> None:
    scores = Draw("sigmoid").normal(1, 2, 3, 7)
    got = Sigmoid(shift=0.5).weigh(scores)
    want = [1 / (1 + math.exp(-(x + 0.5))) for x in scores.flatten().tolist()]
    assert got.flatten().tolist() == pytest.approx(want, rel=1e-12)
    bound = Sigmoid().bind(SIZES)
    assert bound.shift == -math.log(7)
    assert bound.weigh(torch.zeros(1, 1, 1, 7)).sum() == pytest.approx(7 / 8)


@pytest.mark.parametrize("sink", [None, torch.tensor([0.0, 1.5], dtype=FP64)])
def test_softmax_by_its_formula(sink: Tensor | None) -> None:
    scores = Draw("softmax").normal(1, 2, 3, 7)
    scores[..., 2] = -torch.inf
    normalizer = Softmax(sink).bind(SIZES)
    weights, lse = normalizer.weigh(scores), normalizer.lse(scores)
    for h in range(2):
        for q in range(3):
            e = [math.exp(x) for x in scores[0, h, q].tolist()]
            total = sum(e) + (math.exp(float(sink[h])) if sink is not None else 0)
            assert weights[0, h, q].tolist() == pytest.approx([x / total for x in e], rel=1e-12)
            assert float(lse[0, h, q]) == pytest.approx(math.log(total), rel=1e-12)


def test_a_learned_sink_starts_as_softmax_off_by_one() -> None:
    normalizer = Softmax.with_learned_sink(2)
    assert isinstance(normalizer.sink, torch.nn.Parameter)
    weights = normalizer.weigh(torch.zeros(1, 2, 1, 3))
    assert weights.flatten().tolist() == [0.25] * 6


def test_only_some_heads() -> None:
    sink = torch.arange(4.0)
    assert Softmax(sink).heads(range(1, 3)).tensors()[0].tolist() == [1.0, 2.0]
    assert Sparsemax().heads(range(1, 3)) == Sparsemax()
