"""The strongest keys of the native backend among many equal ones, on every instruction set here."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import regard
from cases import BF16, FP32, Draw
from regard import Causal, Rows, TopK, Window
from regard.backends import native
from regard.shapes import Sizes
from regard.spec.masks import Everything, dense
from regard.spec.scores import Dot

pytestmark = [
    pytest.mark.skipif(native.available() is not None, reason=str(native.available())),
    pytest.mark.usefixtures("as_users_run_it", "isa"),
]


N, ROWS = 700, 150


def levels() -> dict[str, Tensor]:
    """Of each key, a whole number below 1024; many are equal."""
    j, draw = torch.arange(N), Draw("levels")
    return {
        "few": draw.integers(0, 4, N),
        "many": draw.integers(0, 500, N),
        "the same in each block": j % 256,
        "blocks of equals": j // 256,
        "runs": j // 10,
        "ascending": j,
        "descending": N - 1 - j,
        "constant": j * 0,
        "sawtooth": j % 32,
        "sawtooth down": 31 - j % 32,
        "sawtooth past the partitions": j % 33,
        "partitions": (j * 7 // 32) % 32,
        "planted": torch.where((j % 97 == 5) | (j % 256 == 255), 900, draw.integers(0, 300, N)),
        "greatest last": torch.where(j >= N - 3, 1000, 500 - j // 2),
        "one partition": torch.where(j % 32 == 9, 800 - j // 64, j % 7),
    }


def ties(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys whose products are whole numbers, and those: a head for each of `levels`."""
    level = torch.stack([*levels().values()])
    k = torch.stack((level // 32, level % 32), -1)[None]
    q = torch.tensor([32, 1]) * torch.tensor([1, -1, 0, 1])[torch.arange(rows) % 4][:, None]
    q = q.expand(1, len(level), -1, -1)
    return q.to(dtype), k.to(dtype), q @ k.mT


SEEN = {"all": Everything(), "causal": Causal(offset=0), "window": Window(300, 20), "few": Causal() & Window(20)}


@functools.cache
def in_order(name: str) -> tuple[Tensor, Tensor]:
    """Of each row the keys by falling weight, of equals the lower first, and weights; unseen: −1 and 0."""
    q, _, products = ties(ROWS, FP32)
    sizes = Sizes(1, q.shape[1], q.shape[1], ROWS, N, 2, 2, q.device)
    allowed = dense(SEEN[name].bind(sizes), sizes)
    scores = (products.double() / 16).masked_fill(~allowed, -torch.inf)
    best = scores.sort(dim=-1, descending=True, stable=True)
    sees = best.values > -torch.inf
    weights = scores.softmax(-1).gather(-1, best.indices)
    return torch.where(sees, best.indices, -1), torch.where(sees, weights, 0)


@pytest.mark.parametrize("count", [1, 2, 8, 16, 17, 32, 33, 64])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_of_equal_weights_the_lower_key_comes_first(count: int, dtype: torch.dtype) -> None:
    q, k, _ = ties(ROWS, dtype)
    for name, mask in SEEN.items():
        keys, weights = in_order(name)
        parts = {"mask": mask, "score": Dot(scale=1 / 16)}
        top = regard.observe(q, k, k, TopK(count), **parts, backend="native")[TopK(count)]
        wrong = (top.keys != keys[..., :count]).nonzero()
        assert not len(wrong), f"{name}: {wrong[:5].tolist()}"
        want = weights[..., :count]
        torch.testing.assert_close(top.weights.double(), want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_equal_keys_have_equal_weights_wherever_they_lie(dtype: torch.dtype) -> None:
    q, distinct = Draw("queries").normal(1, 2, 90, 24), Draw("twins").normal(1, 2, 50, 24)
    which = Draw("which").integers(0, 50, N)
    q, k = q.to(dtype), distinct[:, :, which].to(dtype)
    top, every = TopK(N // 4), Rows(*range(90))
    seen = regard.observe(q, k, k, top, every, backend="native")
    keys, weights = seen[top]
    for twin in range(50):  # bit by bit, and in the order of keys
        row = seen[every][..., which == twin]
        assert torch.equal(row, row[..., :1].expand_as(row))
    later = weights[..., 1:] == weights[..., :-1]
    assert later.any()
    assert (keys[..., 1:] > keys[..., :-1])[later].all()
    assert torch.equal(seen[every].sort(dim=-1, descending=True, stable=True).indices[..., : N // 4], keys)
