"""PyTorch's attention functions carried out by regard: the same meaning by every way in, and what stays."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention as by_name
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import regard
from regard.integrations.torch_functions import WEIGHTS, torch_functions


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def inputs(*lead: int, dtype: torch.dtype = torch.float32) -> Any:
    shapes = ((*lead, 5, 8), (*lead, 7, 8), (*lead, 7, 6))
    return tuple(draw(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes))


def allowed(*shape: int) -> Tensor:
    table = draw(*shape, seed=9) > -0.5
    table[..., 0] = True
    return table


@contextmanager
def installed() -> Iterator[torch_functions]:
    calls = torch_functions().install()
    try:
        yield calls
    finally:
        calls.remove()


ways = pytest.mark.parametrize("way", [torch_functions, installed], ids=["block", "installed"])


# ------------------------------------------------------------------ scaled_dot_product_attention


CALLS: dict[str, tuple[tuple[Tensor, ...], dict[str, Any]]] = {
    "plain": (inputs(2, 4), {}),
    "no heads": (inputs(3), {}),
    "no batch": (inputs(), {}),
    "five dimensions": (inputs(2, 3, 4), {}),
    "six dimensions": (inputs(2, 1, 3, 4), {"attn_mask": allowed(2, 1, 1, 4, 5, 7)}),
    "one head of keys": ((draw(2, 4, 5, 8), draw(2, 1, 7, 8), draw(2, 1, 7, 6)), {}),
    "one head of keys alone": ((draw(2, 4, 5, 8), draw(2, 1, 7, 8), draw(2, 4, 7, 6)), {}),
    "one batch row of keys": ((draw(2, 4, 5, 8), draw(1, 4, 7, 8), draw(1, 4, 7, 6)), {}),
    "one batch row of queries": ((draw(1, 4, 5, 8), draw(3, 4, 7, 8), draw(1, 4, 7, 6)), {}),
    "one head of queries": ((draw(2, 1, 5, 8), draw(2, 4, 7, 8), draw(2, 4, 7, 6)), {}),
    "keys without a batch": ((draw(2, 4, 5, 8), draw(4, 7, 8), draw(4, 7, 6)), {}),
    "grouped": ((draw(2, 6, 5, 8), draw(2, 2, 7, 8), draw(2, 2, 7, 6)), {"enable_gqa": True}),
    "grouped, no batch": ((draw(6, 5, 8), draw(2, 7, 8), draw(2, 7, 6)), {"enable_gqa": True}),
    "grouped, five dimensions": (
        (draw(2, 1, 6, 5, 8), draw(2, 3, 2, 7, 8), draw(1, 3, 2, 7, 6)),
        {"enable_gqa": True, "attn_mask": draw(3, 1, 5, 7)},
    ),
    "causal": (inputs(2, 4), {"is_causal": True}),
    "causal, more queries": ((draw(2, 9, 8), draw(2, 4, 8), draw(2, 4, 8)), {"is_causal": True}),
    "scale": (inputs(2, 4), {"scale": 0.3}),
    "whole scale": (inputs(2, 4), {"scale": 2}),
    "scale 0": (inputs(2, 4), {"scale": 0.0}),
    "bool mask": (inputs(2, 4), {"attn_mask": allowed(5, 7)}),
    "bool mask of heads": (inputs(2, 4), {"attn_mask": allowed(1, 4, 5, 7)}),
    "mask of keys": (inputs(2, 4), {"attn_mask": allowed(2, 1, 1, 7)}),
    "mask, no heads": (inputs(3), {"attn_mask": allowed(3, 5, 7)}),
    "mask, no batch": (inputs(), {"attn_mask": allowed(5, 1)}),
    "mask, five dimensions": (inputs(2, 3, 4), {"attn_mask": allowed(3, 1, 5, 7)}),
    "mask of heads, five dimensions": (inputs(2, 3, 4), {"attn_mask": allowed(1, 1, 4, 5, 7)}),
    "float mask": (inputs(2, 4), {"attn_mask": draw(2, 1, 5, 7)}),
    "float mask, no heads": (inputs(3), {"attn_mask": draw(3, 5, 7)}),
    "float mask, half": (inputs(2, 4, dtype=torch.bfloat16), {"attn_mask": draw(5, 7)}),
    "half": (inputs(2, 4, dtype=torch.float16), {}),
    "double": (inputs(2, 4, dtype=torch.float64), {"is_causal": True, "scale": 0.3}),
    "no queries": ((draw(2, 0, 8), draw(2, 4, 8), draw(2, 4, 8)), {}),
    "nobody": ((draw(0, 3, 5, 8), draw(0, 3, 4, 8), draw(0, 3, 4, 8)), {"attn_mask": allowed(5, 4)}),
}


@ways
@pytest.mark.parametrize("name", CALLS)
def test_the_meaning_is_pytorchs(way, name) -> None:
    given, options = CALLS[name]
    leaves: Any = [t.clone().requires_grad_() for t in given]
    table = options.get("attn_mask")
    if table is not None and table.dtype.is_floating_point:
        leaves.append(table.clone().requires_grad_())
        options = {**options, "attn_mask": leaves[-1]}
    want = F.scaled_dot_product_attention(*leaves[:3], **options)
    with way() as calls:
        got = F.scaled_dot_product_attention(*leaves[:3], **options)
    assert (calls.taken, calls.left) == (1, {})
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert type(got.grad_fn).__name__ != type(want.grad_fn).__name__  # not by the same function
    half = want.dtype in (torch.float16, torch.bfloat16)
    close: Any = {"rtol": 3e-2, "atol": 3e-2} if half else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(got, want, **close)
    cotangent = torch.ones_like(want) if half else draw(*want.shape, dtype=want.dtype)
    grads = (torch.autograd.grad(out, leaves, cotangent) for out in (got, want))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, **close)


@ways
@pytest.mark.parametrize("table", [allowed(5, 7), draw(5, 7)], ids=["bool", "float"])
def test_a_row_that_sees_nothing_is_zero_with_zero_gradients(way, table) -> None:
    table = table.clone()
    table[2] = False if table.dtype == torch.bool else -torch.inf
    leaves: Any = [t.requires_grad_() for t in inputs(2, 4)]
    with way() as calls:
        out = F.scaled_dot_product_attention(*leaves, attn_mask=table)
    assert calls.taken == 1
    assert (out[:, :, 2] == 0).all()
    want = F.scaled_dot_product_attention(*leaves, attn_mask=table)
    torch.testing.assert_close(out[:, :, [0, 1, 3, 4]], want[:, :, [0, 1, 3, 4]])
    (of_q, *_) = torch.autograd.grad(out.square().sum(), leaves)
    assert (of_q[:, :, 2] == 0).all()
    assert of_q.isfinite().all()


@ways
def test_dropout_is_always_applied_and_repeatable(way) -> None:
    q, k, v = inputs(2, 4)
    with way() as calls:
        torch.manual_seed(3)
        first, second = (F.scaled_dot_product_attention(q, k, v, None, 0.5) for _ in range(2))
        torch.manual_seed(3)
        again = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    assert calls.taken == 3
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, regard.attention(q, k, v, dropout=0.5))


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
@ways
def test_autocast_casts(way, cast) -> None:
    q, k, v = inputs(2, 4)
    with way() as calls, torch.autocast("cpu", cast):
        out = F.scaled_dot_product_attention(q.to(cast), k, v, draw(5, 7))
        double = F.scaled_dot_product_attention(*(t.double() for t in (q, k, v)))
    assert calls.taken == 2
    assert (out.dtype, double.dtype) == (cast, torch.float64)
    with torch.autocast("cpu", cast):
        want = F.scaled_dot_product_attention(q, k, v, draw(5, 7))
    torch.testing.assert_close(out, want, rtol=3e-2, atol=3e-2)


# ------------------------------------------------------------------ ways in


def test_a_block_catches_every_name_on_its_thread_alone() -> None:
    q, k, v = inputs(2, 4)
    core: Any = torch._C
    names = [by_name, F.scaled_dot_product_attention, core._nn.scaled_dot_product_attention]
    with torch_functions() as calls:
        for function in names:
            function(q, k, v)
        other = threading.Thread(target=by_name, args=(q, k, v))
        other.start()
        other.join()
    by_name(q, k, v)
    assert (calls.taken, calls.left) == (3, {})


def test_installed_catches_every_thread_but_no_earlier_name() -> None:
    q, k, v = inputs(2, 4)
    with installed() as calls:
        assert calls.install() is calls  # twice is once
        threads = [threading.Thread(target=lambda: F.scaled_dot_product_attention(q, k, v)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert calls.taken == 4
        by_name(q, k, v)
        assert calls.taken == 4
    F.scaled_dot_product_attention(q, k, v)
    assert calls.taken == 4


def test_what_was_there_comes_back() -> None:
    before = F.scaled_dot_product_attention, F.multi_head_attention_forward
    for fast in (True, False):
        torch.backends.mha.set_fastpath_enabled(fast)
        try:
            first, second = torch_functions().install(), torch_functions().install()
            assert not torch.backends.mha.get_fastpath_enabled()
            first.remove()
            F.scaled_dot_product_attention(*inputs(2, 4))
            assert (first.taken, second.taken) == (0, 1)
            second.remove()
            second.remove()  # nothing is left to be removed
            assert torch.backends.mha.get_fastpath_enabled() is fast
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        assert (F.scaled_dot_product_attention, F.multi_head_attention_forward) == before


def test_blocks_end_with_errors_and_nest() -> None:
    q, k, v = inputs(2, 4)
    outer, inner = torch_functions(), torch_functions()
    with outer:
        with pytest.raises(RuntimeError, match="size"), inner:
            by_name(q, k, v.mT)
        by_name(q, k, v)
        with outer:  # once more
            by_name(q, k, v)
    by_name(q, k, v)
    assert (outer.taken, inner.taken, sum(inner.left.values())) == (2, 0, 1)


def test_a_block_counts_its_calls_where_one_is_installed() -> None:
    with installed() as whole, torch_functions() as block:
        F.scaled_dot_product_attention(*inputs(2, 4))
        mha()(*[draw(2, 5, 16)] * 3, need_weights=False)
    assert (block.taken, whole.taken) == (2, 0)


def test_other_modes_still_see_what_is_not_attention() -> None:
    x = draw(2, 5, 16)
    with torch.device("cpu"), torch_functions() as calls, torch.device("cpu"):
        out = mha()(x, x, x, need_weights=False)[0]
    assert calls.taken == 1
    torch.testing.assert_close(out, mha()(x, x, x)[0])


# ------------------------------------------------------------------ nn.MultiheadAttention


def mha(**options: Any) -> nn.MultiheadAttention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.MultiheadAttention(16, 4, **{"batch_first": True} | options).eval()


PADDING = torch.tensor([[False] * 5, [False, False, True, True, True]])
AHEAD = torch.ones(5, 5, dtype=torch.bool).triu(1)


@ways
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key_padding_mask": PADDING},
        {"attn_mask": AHEAD},
        {"attn_mask": AHEAD, "is_causal": True},
        {"attn_mask": AHEAD, "key_padding_mask": PADDING},
        {"attn_mask": draw(8, 5, 5)},
    ],
    ids=["plain", "padding", "mask", "causal", "both", "added"],
)
def test_the_layer_of_pytorch(way, grad, options) -> None:
    module, x = mha(), draw(2, 5, 16)
    with torch.set_grad_enabled(grad):  # without gradients the layer would take its fast path
        want = module(x, x, x, need_weights=False, **options)[0]
        with way() as calls:
            got, weights = module(x, x, x, need_weights=False, **options)
    assert (calls.taken, calls.left) == (1, {})
    assert weights is None
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@ways
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": False}, {"kdim": 12, "vdim": 12}, {"add_bias_kv": True}, {"add_zero_attn": True}],
    ids=str,
)
def test_every_kind_of_the_layer_and_its_gradients(way, options) -> None:
    module = mha(**options).train()
    x, context = draw(2, 5, 16).requires_grad_(), draw(2, 5, module.kdim)
    want = module(x, context, context, need_weights=False)[0]
    with way() as calls:
        got = module(x, context, context, need_weights=False)[0]
    assert calls.taken == 1
    leaves = [x, *module.parameters()]
    grads = (torch.autograd.grad(out.square().sum(), leaves) for out in (got, want))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@ways
def test_the_weights_of_the_layer_stay_with_pytorch(way) -> None:
    module, x = mha(), draw(2, 5, 16)
    want, weights = module(x, x, x)
    with way() as calls:
        got, again = module(x, x, x)
        unbatched, _ = module(x[0], x[0], x[0])
    assert (calls.taken, calls.left) == (0, {WEIGHTS: 2})
    torch.testing.assert_close(again, weights)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(unbatched, want[0])


@ways
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_encoder_takes_no_path_around_us(way) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    x, empty = draw(2, 5, 16), torch.tensor([[False] * 5, [True] * 5])
    with torch.no_grad():
        want = encoder(x, src_key_padding_mask=PADDING)
        with way() as calls:
            got = encoder(x, src_key_padding_mask=PADDING)
            alone = encoder(x, src_key_padding_mask=empty)
    assert (calls.taken, calls.left) == (4, {})
    torch.testing.assert_close(got[~PADDING], want[~PADDING], rtol=1e-4, atol=1e-5)
    assert alone.isfinite().all()


# ------------------------------------------------------------------ what stays


class Kind(Tensor):
    """A tensor that has its own idea of attention."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


def jagged() -> tuple[Tensor, ...]:
    made = torch.nested.nested_tensor([draw(4, 3, 8), draw(4, 5, 8)], layout=torch.strided)
    return made, made, made


STAYS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "a mask and causal": (lambda: inputs(2, 4), {"attn_mask": allowed(5, 7), "is_causal": True}, "together"),
    "meta": (lambda: tuple(t.to("meta") for t in inputs(2, 4)), {}, "tensors on meta, for which PyTorch"),
    "nested": (jagged, {}, "nested tensors"),
    "a tensor of a kind": (lambda: tuple(t.as_subclass(Kind) for t in inputs(2, 4)), {}, "Kind is a tensor"),
    "all dropped": (lambda: inputs(2, 4), {"dropout_p": 1.0}, "dropout_p that"),
    "no finite scale": (lambda: inputs(2, 4), {"scale": torch.inf}, "a scale that is not finite"),
    "heads of values alone": (
        lambda: (draw(2, 4, 5, 8), draw(2, 4, 7, 8), draw(2, 2, 7, 8)),
        {"enable_gqa": True},
        "shapes that do not fit",
    ),
    # What PyTorch refuses, it refuses in its own words.
    "heads that do not fit": (lambda: (draw(2, 4, 5, 8), draw(2, 2, 7, 8), draw(2, 2, 7, 8)), {}, "shapes"),
    "two dtypes": (lambda: (draw(2, 5, 8), draw(2, 5, 8).half(), draw(2, 5, 8)), {}, "dtypes that"),
    "whole numbers": (lambda: [draw(2, 5, 8).int()] * 3, {}, "dtypes that PyTorch refuses"),
    "a double mask": (lambda: inputs(2, 4), {"attn_mask": draw(5, 7).double()}, "a dtype of attn_mask"),
    "a wide mask": (lambda: inputs(1, 4), {"attn_mask": allowed(3, 1, 5, 7)}, "shapes that do not fit"),
    "a mask of one dimension": (lambda: inputs(1, 4), {"attn_mask": allowed(7)}, "shapes that do not fit"),
    "sizes that do not fit": (lambda: (draw(2, 5, 8), draw(2, 5, 7), draw(2, 5, 7)), {}, "shapes that"),
}


@ways
@pytest.mark.parametrize("name", STAYS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_stays_with_pytorch(way, name) -> None:
    make, options, said = STAYS[name]
    given = make()

    def run() -> Any:
        try:
            return F.scaled_dot_product_attention(*given, **options)
        except (RuntimeError, IndexError) as error:
            return str(error)

    want = run()
    with way() as calls:
        got = run()
    assert calls.taken == 0
    assert sum(calls.left.values()) == 1
    assert said in next(iter(calls.left))
    assert type(got) is type(want)
    if isinstance(want, str):
        assert got == want
    elif not (want.is_meta or want.is_nested):
        torch.testing.assert_close(got, want, equal_nan=True)


@ways
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracers_and_counters_see_pytorchs_operators(way) -> None:
    given = inputs(2, 4)
    with way() as calls:
        with FlopCounterMode(display=False) as counter:
            F.scaled_dot_product_attention(*given)
        graph = make_fx(causal)(*given)
        traced: Any = torch.jit.trace(causal, given, check_trace=False)
    assert counter.get_total_flops() > 0
    assert "softmax" in graph.code
    assert "scaled_dot_product_attention" in str(traced.graph)
    reasons = list(calls.left)
    assert calls.taken == 0
    assert ["dispatch mode" in reasons[0], "torch.jit.trace" in reasons[1]] == [True, True]


# ------------------------------------------------------------------ with the rest of PyTorch


@ways
def test_transforms_of_torch_func(way) -> None:
    q, k, v = inputs(2, 4, dtype=torch.float64)

    def loss(q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=0.5).square().sum()

    def each(**options: Any) -> Tensor:
        drop = torch.func.vmap(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options), randomness="different"
        )
        return drop(q, k, v)

    want, separate = torch.func.grad(loss)(q), each()
    with way() as calls:
        torch.testing.assert_close(torch.func.grad(loss)(q), want)
        torch.testing.assert_close(each(), separate)
        assert (calls.taken, calls.left) == (2, {})
        each(dropout_p=0.5)
    assert "torch.func" in next(iter(calls.left))


@ways
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_are_computed_again_with_the_same_dropout(way, reentrant) -> None:
    q, k, v = (t.requires_grad_() for t in inputs(2, 4))

    def drop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)

    with way() as calls:
        torch.manual_seed(1)
        grads = torch.autograd.grad(drop(q, k, v).sum(), v)[0]
        torch.manual_seed(1)
        again = checkpoint(drop, q, k, v, use_reentrant=reentrant)
        again.sum().backward()
    assert calls.taken == 3
    assert v.grad is not None
    torch.testing.assert_close(v.grad, grads)


def test_what_it_says_of_itself() -> None:
    module, x = mha(), draw(2, 5, 16)
    with regard.torch_functions() as calls:
        assert str(calls) == "0 calls of PyTorch's attention went to regard, none stayed"
        module(x, x, x, need_weights=False)
        module(x, x, x)
        module(x, x, x)
        by_name(x.to("meta"), x.to("meta"), x.to("meta"))
    assert repr(calls).splitlines() == [
        "1 call of PyTorch's attention went to regard, 3 stayed",
        f"     2  {WEIGHTS}",
        "     1  tensors on meta, for which PyTorch has kernels of its own",
    ]
    calls.left.clear()  # a copy
    assert calls.left


def test_in_a_graph() -> None:
    # In a process of its own: Dynamo would step into the wrappers that check signatures in tests.
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests / "unit", tests, tests.parent / "src")))
    code = "import test_torch_functions as t; t.graphs()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        timeout=300,
        check=False,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def counted(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """The compiled function's result, where its graph has regard's operator and none of PyTorch's."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    out = torch.compile(function, fullgraph=True, backend=counter)(*given)
    nodes = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    assert sum("regard.attention" in node for node in nodes) == 1, nodes
    assert not any("scaled_dot_product" in node for node in nodes), nodes
    return out


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True) + 1


def block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch_functions():
        return causal(q, k, v)


def graphs() -> None:
    given, module, x = inputs(2, 4), mha(), draw(2, 5, 16)

    def layer(x: Tensor) -> Tensor:
        return module(x, x, x, need_weights=False)[0]

    want, wanted = causal(*given), layer(x)
    torch.testing.assert_close(counted(block, *given), want)
    for way in (torch_functions, installed):
        torch._dynamo.reset()
        with way():
            torch.testing.assert_close(counted(layer, x), wanted, rtol=1e-4, atol=1e-5)
