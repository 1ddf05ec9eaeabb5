"""What each mask allows, pair by pair, in plain Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from regard.shapes import Sizes
from regard.spec.masks import (
    Blocks,
    Causal,
    Dilated,
    Documents,
    Everything,
    Given,
    Mask,
    Padding,
    Prefix,
    Where,
    Window,
    dense,
)

B, H, Q, K = 2, 3, 5, 8
SHIFT = K - Q
TABLE = torch.tensor([[True, False, True], [False, True, True]])
IDS = torch.tensor([[0, 0, 1, 1, 2, 2, 2, 0], [5, 5, 5, 5, 5, 1, 1, 1]])
GIVEN = torch.rand(B, 1, Q, K, generator=torch.Generator().manual_seed(0)) < 0.5

MEANING: dict[str, tuple[Mask, Callable[[int, int, int, int], bool]]] = {
    "everything": (Everything(), lambda b, h, q, k: True),
    "causal": (Causal(), lambda b, h, q, k: k <= q + SHIFT),
    "causal from the first": (Causal(offset=0), lambda b, h, q, k: k <= q),
    "window": (Window(2, 1), lambda b, h, q, k: -1 <= q + SHIFT - k <= 2),
    "window offset": (Window(1, offset=1), lambda b, h, q, k: k in (q + 1, q)),
    "dilated": (Dilated(3), lambda b, h, q, k: abs(q + SHIFT - k) % 3 == 0),
    "prefix": (Prefix(4), lambda b, h, q, k: k < 4),
    "no prefix": (Prefix(0), lambda b, h, q, k: False),
    "right": (Padding(torch.tensor([3, 0])), lambda b, h, q, k: k < (3, 0)[b]),
    "left": (Padding(torch.tensor([3, 8]), "left"), lambda b, h, q, k: k >= (5, 0)[b]),
    "shared": (Padding(torch.tensor([6])), lambda b, h, q, k: k < 6),
    "documents": (Documents(IDS), lambda b, h, q, k: bool(IDS[b, q + SHIFT] == IDS[b, k])),
    "packed": (
        Documents.of_lengths(3, 1, 4),
        lambda b, h, q, k: [0, 0, 0, 1, 2, 2, 2, 2][q + SHIFT] == [0, 0, 0, 1, 2, 2, 2, 2][k],
    ),
    "blocks": (Blocks(TABLE, 3), lambda b, h, q, k: bool(TABLE[q // 3, k // 3])),
    "where": (Where(lambda b, h, q, k: (b + h + q + k) % 2 == 0), lambda b, h, q, k: (b + h + q + k) % 2 == 0),
    "given": (Given(GIVEN), lambda b, h, q, k: bool(GIVEN[b, 0, q, k])),
    "and": (Causal() & Prefix(5), lambda b, h, q, k: k <= q + SHIFT and k < 5),
    "or": (Causal() | GIVEN, lambda b, h, q, k: k <= q + SHIFT or bool(GIVEN[b, 0, q, k])),
    "not": (~Window(1), lambda b, h, q, k: not 0 <= q + SHIFT - k <= 1),
}


@pytest.mark.parametrize("name", MEANING)
def test_a_mask_allows_what_its_words_say(name: str) -> None:
    mask, meaning = MEANING[name]
    table = dense(mask, Sizes(B, H, H, Q, K, 1, 1, torch.device("cpu")))
    want = [[[[meaning(b, h, q, k) for k in range(K)] for q in range(Q)] for h in range(H)] for b in range(B)]
    assert table.tolist() == want
