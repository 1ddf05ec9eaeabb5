"""What `explain` says: the backend, what is skipped, work and memory."""

from __future__ import annotations

import pytest
import torch

import regard
from regard import Causal, Entropy, Tile, Window, explain
from regard.backends import ALL, ORDER

pytestmark = pytest.mark.usefixtures("as_users_run_it")  # thousands of tiles are asked


def qkv(n: int = 1024, k: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (torch.zeros(2, 4, n, 16), torch.zeros(2, 2, k or n, 16), torch.zeros(2, 2, k or n, 8))


def test_the_pairs_of_a_causal_call() -> None:
    plan = explain(*qkv(), Entropy(), mask=Causal(), backend="chunked")
    n, visible = 1024, 1024 * 1025 // 2
    assert sum(plan.pairs.values()) == n * n
    assert plan.pairs[Tile.EMPTY] <= n * n - visible
    assert plan.pairs[Tile.FULL] <= visible
    assert plan.pairs[Tile.EMPTY] > 0.35 * n * n  # and it does skip
    assert plan.flops == 2 * 2 * 4 * (n * n - plan.pairs[Tile.EMPTY]) * (16 + 8)


def test_nothing_is_skipped_without_a_mask() -> None:
    plan = explain(*qkv(), backend="chunked")
    assert plan.pairs == {Tile.EMPTY: 0, Tile.FULL: 1024**2, Tile.MIXED: 0}
    assert plan.flops == 2 * 2 * 4 * 1024**2 * 24
    assert plan.whole_bytes == 4 * 2 * 4 * 1024**2
    assert plan.scores_bytes <= plan.whole_bytes


def test_the_chosen_backend_and_why_the_others_were_passed_over() -> None:
    plan = explain(*qkv())
    names = [backend.name for backend in ORDER]
    assert plan.backend in names
    assert list(plan.reasons) == names[: names.index(plan.backend)]
    assert all(plan.reasons.values())
    for backend in ALL:
        if backend.here() is None:
            assert explain(*qkv(), backend=backend.name).backend == backend.name
            assert explain(*qkv(), backend=backend.name).reasons == {}


def test_the_reference_holds_everything_at_once() -> None:
    plan = explain(*qkv(), mask=Window(4), backend="reference")
    assert plan.scores_bytes == plan.whole_bytes == 8 * 2 * 4 * 1024**2
    assert plan.flops == 2 * 2 * 4 * 1024**2 * 24


def test_memory_grows_linearly() -> None:
    short, long = (explain(*qkv(n), backend="chunked") for n in (2048, 32768))
    assert long.scores_bytes <= 16 * short.scores_bytes
    assert long.whole_bytes == 256 * short.whole_bytes


def test_it_prints_as_a_table() -> None:
    lines = str(explain(*qkv(), mask=Causal(), backend="chunked")).splitlines()
    assert lines[0].split() == ["backend", "chunked"]
    assert [line.split("  ")[0] for line in lines] == [
        "backend", "empty tiles", "full tiles", "mixed tiles", "work", "scores held"
    ]  # fmt: skip
    assert "all at once: 32 MiB" in lines[-1]


def test_it_checks_like_the_call_itself() -> None:
    q, k, v = qkv()
    with pytest.raises(regard.RegardError):
        explain(q, k, v[:, :, 1:])
