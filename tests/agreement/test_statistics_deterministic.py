"""Statistics of the native backend are the same from run to run, alone and among others, and of any length."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from cases import BF16, FP32, Draw, Shape, observers
from regard import Causal, Entropy, LogSumExp, MeanDistance, Pooled, Received, Rows, SpanMass, TopK
from regard.backends import native
from regard.spec.observers import Observer

pytestmark = [
    pytest.mark.skipif(native.available() is not None, reason=str(native.available())),
    pytest.mark.usefixtures("as_users_run_it"),
]


Results = dict[str, tuple[Tensor, ...]]

WHOLE = Shape(1, 8, 4, 100, 700, 16, 16)
"""Blocks of queries enough for all threads: keys are not cut."""
CUT = Shape(1, 2, 1, 100, 1700, 16, 16)
FEW = Shape(1, 4, 2, 3, 1700, 16, 16)


def observe(
    s: Shape, *requested: Observer[Any], dtype: torch.dtype = FP32, learns: bool = False
) -> tuple[Results, Tensor]:
    """Statistics by name, and the output."""
    draw = Draw(f"steady {s}")
    q, k, v = (
        draw.normal(s.b, h, n, s.d).to(dtype).requires_grad_(learns) for h, n in ((s.h, s.q), (s.g, s.k), (s.g, s.k))
    )
    torch.manual_seed(1)
    seen = regard.observe(q, k, v, *requested, mask=Causal(), bias=regard.ALiBi(s.h), dropout=0.1, backend="native")
    results: Results = {}
    for observer in requested:
        result: Any = seen[observer]
        results[repr(observer)] = tuple(result) if isinstance(result, tuple) else (result,)
    if learns:
        total = seen.out.float().sum()
        for observer in requested:
            if observer.differentiable:
                total = total + results[repr(observer)][0].square().sum()
        results["gradients"] = torch.autograd.grad(total, (q, k, v))
    return results, seen.out


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", [WHOLE, CUT, FEW])
def test_the_same_bits_on_any_number_of_threads(shape: Shape) -> None:
    requested = observers(shape)
    first, out = observe(shape, *requested, learns=True)
    used = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            again, out_again = observe(shape, *requested, learns=True)
            assert torch.equal(out, out_again)
            for name, results in first.items():
                for result, expected in zip(results, again[name], strict=True):
                    assert torch.equal(result, expected), f"{name} on {threads} threads"
    finally:
        torch.set_num_threads(used)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_alone_and_among_others_the_same_bits(dtype: torch.dtype) -> None:
    # One of each kind: spans are added up in pieces, cut wherever any span that is asked for begins or ends.
    kinds = {type(observer): observer for observer in observers(WHOLE)}.values()
    among, out = observe(WHOLE, *kinds, dtype=dtype)
    assert torch.equal(out, observe(WHOLE, dtype=dtype)[1]), "as attention() has it"
    for observer in kinds:
        alone, out_alone = observe(WHOLE, observer, dtype=dtype)
        assert torch.equal(out_alone, out)
        for result, expected in zip(alone[repr(observer)], among[repr(observer)], strict=True):
            assert torch.equal(result, expected), observer


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", [CUT, FEW])
def test_alone_and_among_others_where_keys_are_cut(shape: Shape) -> None:
    requested = observers(shape)
    among, out = observe(shape, *requested)
    torch.testing.assert_close(observe(shape)[1], out, rtol=1e-5, atol=1e-6)
    for observer in requested:
        alone, out_alone = observe(shape, observer)
        torch.testing.assert_close(out_alone, out, rtol=1e-5, atol=1e-6)
        for result, expected in zip(alone[repr(observer)], among[repr(observer)], strict=True):
            # Alone these follow from a forward pass that observes nothing, and may cut the keys, or decode.
            if isinstance(observer, LogSumExp | Received | Pooled | Rows | SpanMass):
                torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-7)
            else:
                assert torch.equal(result, expected), observer


# ------------------------------------------------------------------ long texts

LEAN = """
    import sys
    sys.path.insert(0, {tests!r})
    import conftest, regard, torch
    from pathlib import Path
    from cases import Shape, observers
    from jaxtyping import config
    config.update("jaxtyping_disable", True)

    def mib(name):
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
        return int(line.split()[1]) / 1024

    def see(n):
        asked = observers(Shape(1, 1, 1, n, n, 16, 16))
        q, k, v = (torch.randn(1, 1, n, 16).requires_grad_() for _ in range(3))
        seen = regard.observe(q, k, v, *asked, mask=regard.Causal(), backend="native")
        sum(seen[one].sum() for one in asked if one.differentiable).backward()
        assert q.grad is not None

    def grown(function):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = mib("VmRSS")
        function()
        return mib("VmHWM") - before

    see(512)
    q = torch.randn(8192, 16)
    print(grown(lambda: see(8192)), grown(lambda: q @ q.T))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts KiB here")
def test_all_statistics_take_linear_memory() -> None:
    text = textwrap.dedent(LEAN).format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    lean, scores = map(float, done.stdout.split())
    assert lean < 64
    assert scores > 200, "the measure shows 8192² scores"


def test_a_long_text_sampled() -> None:
    n, d, late = 32_768, 16, 28_672
    draw = Draw("long")
    q, k, v = (draw.normal(1, 1, n, d).float() for _ in range(3))
    label = torch.arange(n) * 7 // 1000 % 4 - 1
    spans, labels = SpanMass((0, 1), (100, 20_000), (32_000, n)), SpanMass.by_label(label)
    halves, pooled, top = Received((0, late), (late, n)), Pooled(2, 3, "sum"), TopK(20)
    requested = top, Entropy(), MeanDistance(), LogSumExp(), spans, labels, Received(), halves, pooled
    seen = regard.observe(q, k, v, *requested, mask=Causal(), backend="native")

    # The log-sum-exp of all late rows, and of some others, block by block; no score is too great for exp.
    exact_q, exact_k = q[0, 0].double() / d**0.5, k[0, 0].double()
    rows = torch.tensor([0, 1, 255, 256, 8191, 20_001, n - 2, n - 1])
    lse = torch.full((n,), torch.nan, dtype=torch.float64)
    for some in (rows, *torch.arange(late, n).split(128)):
        last = int(some[-1]) + 1
        scores = (exact_q[some] @ exact_k[:last].T).exp_()
        lse[some] = scores.mul_(torch.arange(last) <= some[:, None]).sum(-1).log_()
    torch.testing.assert_close(seen[LogSumExp()][0, 0, late:].double(), lse[late:], rtol=1e-6, atol=1e-6)

    w = (exact_q[rows] @ exact_k.T - lse[rows, None]).exp() * (torch.arange(n) <= rows[:, None])
    some = torch.where(w > 0, w, 1)

    def close(got: Tensor, want: Tensor) -> None:
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)

    close(seen[Entropy()][0, 0, rows], -(some * some.log()).sum(-1))
    close(seen[MeanDistance()][0, 0, rows], (w * (rows[:, None] - torch.arange(n)).abs()).sum(-1))
    close(seen[spans][0, 0, rows], torch.stack([w[:, a:b].sum(-1) for a, b in spans.spans], -1))
    close(seen[labels][0, 0, rows], torch.stack([w[:, label == i].sum(-1) for i in range(3)], -1))
    best = w.sort(dim=-1, descending=True, stable=True)
    close(seen[top].weights[0, 0, rows], best.values[:, :20])
    assert torch.equal(seen[top].keys[0, 0, rows], best.indices[:, :20].masked_fill(best.values[:, :20] <= 0, -1))
    close(seen.out[0, 0, rows], w @ v[0, 0].double())

    keys = torch.tensor([0, 1, 2, 255, 256, 257, 10_000, late - 1, late, late + 1, n - 300, n - 1])
    w = (exact_q[late:] @ exact_k[keys].T - lse[late:, None]).exp() * (keys <= torch.arange(late, n)[:, None])
    close(seen[halves][0, 0, 1, keys], w.sum(0))
    close(seen[Received()][0, 0, keys[-4:]], w[:, -4:].sum(0))
    close(seen[halves].sum(2), seen[Received()].double())
    third = torch.arange(n) * 3 // n
    sums = torch.zeros(3, dtype=torch.float64).index_add(0, third, seen[Received()][0, 0].double())
    torch.testing.assert_close(seen[pooled][0, 0].double().sum(0), sums, rtol=1e-6, atol=0)
    assert float(sums.sum()) == pytest.approx(n, rel=1e-6)
