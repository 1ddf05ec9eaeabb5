"""What `explain` says: the backend, what is skipped, work and memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import regard
from regard import (
    Additive,
    Causal,
    Dilated,
    Entropy,
    Euclidean,
    LogSumExp,
    MeanDistance,
    Observer,
    Sigmoid,
    Sparsemax,
    Tile,
    TopK,
    Where,
    Window,
    explain,
)
from regard.backends import ALL, ORDER, native
from regard.errors import BackendError
from regard.problem import Problem

pytestmark = pytest.mark.usefixtures("as_users_run_it")  # thousands of tiles are asked


needs_native = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))


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
        if backend.available() is None:
            assert explain(*qkv(), backend=backend.name).backend == backend.name
            assert explain(*qkv(), backend=backend.name).reasons == {}


def test_the_reference_holds_everything_at_once() -> None:
    plan = explain(*qkv(), mask=Window(4), backend="reference")
    assert plan.scores_bytes == plan.whole_bytes == 8 * 2 * 4 * 1024**2
    assert plan.flops == 2 * 2 * 4 * 1024**2 * 24


@pytest.mark.parametrize("backend", [b.name for b in ORDER if b.available() is None])
def test_memory_grows_linearly(backend: str) -> None:
    short, long = (explain(*qkv(n), backend=backend) for n in (2048, 32768))
    assert long.scores_bytes <= 16 * short.scores_bytes
    assert long.whole_bytes == 256 * short.whole_bytes


Reason = tuple[str, dict[str, Any], list[Observer[Any]]]
REASONS: list[Reason] = [
    ("the kernels know Softmax and Sigmoid, not Sparsemax; chunked runs it", {"normalizer": Sparsemax()}, []),
    ("the score Additive is no dot product; chunked runs any score", {"score": Additive(torch.ones(4, 16))}, []),
    ("the score Custom is no dot product; chunked runs any score", {"score": lambda q, k: q @ k.mT}, []),
    ("the kernels know no Observer; chunked runs any observer", {}, [Observer()]),
    ("the kernels keep at most 256 keys in order, not 257; chunked any", {}, [TopK(257)]),
    ("the kernels count distances up to 1073741824; chunked counts any", {}, [MeanDistance(offset=2**30)]),
    (
        "the kernels observe Softmax only, no Sigmoid as LogSumExp would; chunked observes any",
        {"normalizer": Sigmoid()},
        [LogSumExp()],
    ),
]


@needs_native
@pytest.mark.parametrize(("reason", "parts", "asked"), REASONS, ids=[row[0][:40] for row in REASONS])
def test_why_the_kernels_do_not_run_a_call(reason: str, parts: dict[str, Any], asked: list[Observer[Any]]) -> None:
    q = torch.zeros(2, 4, 8, 16)
    plan = explain(q, q, q, *asked, **parts)
    assert plan.backend == "chunked"
    assert plan.reasons == {"native": reason}
    with pytest.raises(BackendError, match=re.escape(reason)):
        explain(q, q, q, *asked, **parts, backend="native")


@needs_native
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's own, of duals
def test_why_the_kernels_do_not_run_certain_tensors() -> None:
    class Mine(torch.Tensor):
        pass

    q, wide = torch.zeros(2, 4, 8, 16), torch.zeros(1, 1, 2, 257)
    told = {
        "the kernels compute in float32; chunked computes in float64": q.double(),
        "a head size of 257 is above 256, the kernels' most; chunked takes any": wide,
        "the kernels run on processors, not on meta; chunked runs anywhere": q.to("meta"),
        "the kernels read plain tensors, not those of a subclass; chunked takes any": q.as_subclass(Mine),
    }
    for reason, x in told.items():
        assert native.why_not(Problem.of(x, x, x)) == reason
    wide = wide[..., :255]
    euclidean = Problem.of(wide, wide, wide, score=Euclidean())
    assert "a head size of 257" in str(native.why_not(euclidean))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q, q)
        assert native.why_not(Problem.of(dual, q, q)) == ("the kernels have no forward-mode derivative; chunked has")
    long = torch.zeros(1, 1, 1, 1).expand(8, 64, 1 << 14, 1)
    scattered = Problem.of(long, long, long, mask=Where(lambda b, h, q, k: (q * k + h + b) % 3 == 0))
    assert native.why_not(scattered) == (
        "the mask may need 16 GiB of bits, more than 4; chunked evaluates it block by block"
    )
    assert native.why_not(Problem.of(long, long, long, mask=Causal() & Dilated(2))) is None

    def traced(x: torch.Tensor) -> torch.Tensor:
        assert native.why_not(Problem.of(x, x, x)) == (
            "numbers cannot be read inside a trace or a torch.func transform; chunked needs none"
        )
        return x

    torch.vmap(traced)(q[None])


def test_it_prints_as_a_table() -> None:
    lines = str(explain(*qkv(), mask=Causal(), backend="chunked")).splitlines()
    assert lines[0].split() == ["backend", "chunked"]
    assert [line.split("  ")[0] for line in lines] == [
        "backend",
        "empty tiles",
        "full tiles",
        "mixed tiles",
        "work",
        "scores held",
    ]
    assert "all at once: 32 MiB" in lines[-1]


def test_it_checks_like_the_call_itself() -> None:
    q, k, v = qkv()
    with pytest.raises(regard.RegardError):
        explain(q, k, v[:, :, 1:])
