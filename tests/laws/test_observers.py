"""A law of every observer: the statistics of blocks of rows, joined, are the statistic of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import FP32, FP64, Draw, Shape, observers
from regard.spec.observers import Observer, WeightRows

SHAPE = Shape(2, 3, 3, 23, 37, 4, 4)


def block(scores: Tensor, queries: range, keys: Tensor) -> WeightRows:
    rows = scores[:, :, queries.start : queries.stop][..., keys]
    blind = (rows == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(rows.masked_fill(blind, 0), -1).masked_fill(blind, 0)
    lse = torch.logsumexp(rows, -1)
    return WeightRows(weights, rows, lambda: lse, queries, keys, SHAPE.sizes())


@pytest.mark.parametrize("dtype", [FP32, FP64], ids=str)
@pytest.mark.parametrize("observer", observers(SHAPE), ids=repr)
@given(data=st.data())
def test_joined_blocks_are_the_whole(observer: Observer[Any], dtype: torch.dtype, data: st.DataObject) -> None:
    draw = Draw(str(data.draw(st.integers(0, 5))))
    observer = observer.bind(SHAPE.sizes())
    scores = draw.normal(SHAPE.b, SHAPE.h, SHAPE.q, SHAPE.k).to(dtype) * 2
    seen = draw.bools(0.5, SHAPE.q, SHAPE.k)
    seen[4] = False
    scores = scores.masked_fill(~seen, -torch.inf)
    cuts = sorted(data.draw(st.sets(st.integers(1, SHAPE.q - 1), max_size=6)))
    drop = data.draw(st.booleans())
    parts: list[tuple[Tensor, ...]] = []
    for start, stop in zip([0, *cuts], [*cuts, SHAPE.q], strict=True):
        keys = torch.arange(SHAPE.k)
        # Keys that none of these queries may see can be absent.
        keys = keys[seen[start:stop].any(0)] if drop else keys
        parts.append(observer.of(block(scores, range(start, stop), keys)))
    whole = observer.of(block(scores, range(SHAPE.q), torch.arange(SHAPE.k)))
    assert len(whole) == observer.tensors_made
    for i, expected in enumerate(whole):
        joined = observer.join([part[i] for part in parts])
        assert joined.dtype == expected.dtype
        torch.testing.assert_close(joined, expected, rtol=3e-6, atol=3e-6)
        if observer.by_row:
            for part, (start, stop) in zip(parts, zip([0, *cuts], [*cuts, SHAPE.q], strict=True), strict=True):
                if expected.shape[2] == SHAPE.q:
                    rows = observer.part(joined, range(start, stop))
                    torch.testing.assert_close(rows, part[i], rtol=0, atol=0)


@pytest.mark.parametrize("observer", observers(SHAPE), ids=repr)
def test_only_what_is_differentiable_carries_a_gradient(observer: Observer[Any]) -> None:
    scores = Draw("gradient").normal(*SHAPE[:2], SHAPE.q, SHAPE.k).requires_grad_()
    observer = observer.bind(SHAPE.sizes())
    made = observer.of(block(scores, range(SHAPE.q), torch.arange(SHAPE.k)))
    assert all(tensor.requires_grad == observer.differentiable for tensor in made)
