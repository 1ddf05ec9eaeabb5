"""One operator in a graph: `torch.compile(fullgraph=True)`, `torch.export`, and PyTorch's own checks."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import regard
from cases import BF16, BIASES, FP32, FP64, MASKS, NORMALIZERS, SCORES, Call, Case, Draw
from regard import Causal, Given, Relative, Softmax, Where, Window, attention
from regard.errors import RegardError
from regard.nn import MultiHeadAttention
from regard.positions import Axial, DynamicNTK, LongRoPE, Position, Rotary, XPos
from regard.spec.attention_spec import AttentionSpec
from regard.spec.biases import as_bias
from regard.spec.masks import as_mask
from regard.spec.normalizers import as_normalizer
from regard.spec.scores import as_score
from regard.spec.values import Value, deserialize

# ------------------------------------------------------------------ serialized values


def values() -> list[Any]:
    shape, draw = Case().sizes, Draw("words")
    return [
        pytest.param(read_(part(shape, draw)), id=name)
        for table, read_ in ((MASKS, as_mask), (BIASES, as_bias), (SCORES, as_score), (NORMALIZERS, as_normalizer))
        for name, part in table.items()
    ]


@pytest.mark.parametrize("value", values())
def test_a_serialized_value_can_be_deserialized(value: Value) -> None:
    text = value.serialize()
    assert (text is None) == ("function" in repr(value))
    if text is not None:
        again = deserialize(text, iter(value.tensors()))
        assert type(again) is type(value)
        assert repr(again) == repr(value)
        assert again.serialize() == text
        assert all(a is b for a, b in zip(again.tensors(), value.tensors(), strict=True))


def test_serialized_text_of_a_class_that_is_not_there() -> None:
    with pytest.raises(RegardError, match=r"no\.such\.module:Mask.*import no\.such\.module"):
        deserialize("('no.such.module:Mask', {})", iter(()))


# ------------------------------------------------------------------ the operator


def operands(case: Case) -> tuple[Any, ...]:
    call = case.build().requiring_gradients()
    spec = AttentionSpec.of(as_mask(call.mask), call.bias, call.score, call.normalizer)
    seed = torch.tensor(7) if case.dropout else None
    return call.q, call.k, call.v, list(spec.tensors()), spec.serialize(), case.dropout, seed, "auto"


OPERANDS = [
    Case(),
    Case("causal", "relative", normalizer="sink", shape="grouped", layout="projected"),
    Case("tensor", "sum", "cosine per head", dropout=0.2),
    Case("documents of each", score="euclidean", dtype=BF16),
    Case("window", "dense", normalizer="sparsemax", dtype=FP64),
    Case(shape="no queries"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("case", OPERANDS, ids=str)
def test_what_pytorch_checks_of_an_operator(case: Case) -> None:
    torch.library.opcheck(torch.ops.regard.attention.default, operands(case))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("case", OPERANDS, ids=str)
def test_the_operator_is_the_call(case: Case) -> None:
    given = operands(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regard.problem.draw", lambda: 7)
        call = case.build().requiring_gradients()
        want = call.attention()
    got = torch.ops.regard.attention(*given)[0]
    assert torch.equal(got, want)
    leaves = [t for t in (*given[:3], *given[3]) if t.is_floating_point()]
    grads = torch.autograd.grad(got.square().sum(), leaves, allow_unused=True)
    wanted = list(call.leaves().values())
    exact = torch.autograd.grad(want.square().sum(), wanted, allow_unused=True)
    for a, b in zip(grads, exact, strict=True):
        assert (a is None or not a.any()) if b is None else torch.equal(a, b)


# ------------------------------------------------------------------ graphs


GRAPHS = ["graphs", "lengths", "dropout", "layers", "positions", "exports", "breaks"]


@pytest.mark.parametrize("what", GRAPHS)
def test_in_a_graph(what: str) -> None:
    # In a process of its own: Dynamo would step into the wrappers that check signatures in tests.
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests / "unit", tests, tests.parent / "src")))
    code = f"import test_compiled as t; t.{what}()"
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=300, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def same(function: Callable[..., Tensor], *inputs: Tensor, compiler: str = "aot_eager") -> None:
    """The function as one graph gives what it gives without, gradients too."""
    results: list[list[Tensor]] = []
    torch._dynamo.reset()
    for run in (function, torch.compile(function, fullgraph=True, backend=compiler)):
        out = run(*inputs)
        learned = [t for t in inputs if t.requires_grad]
        results.append([out, *torch.autograd.grad(out.square().sum(), learned)])
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def calls() -> list[Call]:
    of = Case
    return [
        case.build().requiring_gradients()
        for case in (
            of("sinks", "relative", normalizer="sink", shape="grouped"),
            of("tensor", "dense", "soft-capped", layout="projected"),
            of("causal left padding", "t5", "cosine per head", dtype=BF16),
            of("documents", "sum", "euclidean", normalizer="sigmoid"),
            of("blocks", score="additive", normalizer="entmax15", dtype=FP64),
            of("causal", "fire", "shaw"),
        )
    ]


def graphs() -> None:
    for i, call in enumerate(calls()):

        def run(*leaves: Tensor, call: Call = call) -> Tensor:
            there = call.with_leaves(*leaves)
            return attention(there.q * 1.0, there.k, there.v, **there.parts)

        for compiler in ("aot_eager", "inductor")[: 2 if i == 0 else 1]:
            same(run, *call.leaves().values(), compiler=compiler)
    q = torch.randn(1, 2, 9, 4, requires_grad=True)
    allowed = torch.ones(9, 9, dtype=torch.bool)
    same(lambda q: attention(q, q, q, mask=Causal() & Given(allowed), bias=regard.ALiBi(2)), q)


def lengths() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, mask=Causal() & Window(5), bias=Relative(table))

    table = torch.randn(4, 9)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (16, 33, 70):
        inputs = [torch.randn(2, h, n, 16, requires_grad=True) for h in (4, 2, 2)]
        got, want = compiled(*inputs), function(*inputs)
        assert torch.equal(got, want)
        pairs = (torch.autograd.grad(out.sum(), inputs) for out in (got, want))
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b)


def dropout() -> None:
    q = torch.randn(1, 2, 40, 8, requires_grad=True)
    compiled = torch.compile(lambda q: attention(q, q, q, dropout=0.4), fullgraph=True, backend="aot_eager")
    results: list[list[Tensor]] = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        out = compiled(q)
        results.append([out, *torch.autograd.grad(out.sum(), q)])
    assert all(torch.equal(a, b) for a, b in zip(*results[:2], strict=True))
    assert not torch.equal(results[0][0], results[2][0])


def layer() -> MultiHeadAttention:
    torch.manual_seed(0)
    bias = Relative.learned(4, 8) + regard.ALiBi(4)
    return MultiHeadAttention(
        32, 4, key_value_heads=2, mask=Causal(), bias=bias, normalizer=Softmax.with_learned_sink(4)
    )


def layers() -> None:
    here, x = layer(), torch.randn(2, 20, 32, requires_grad=True)
    same(here, x)
    lengths = torch.tensor([3, 20])
    same(lambda x: here(x, mask=regard.Padding(lengths)), x)
    same(lambda x: here(x, mask=torch.ones(20, 20, dtype=torch.bool)), x)
    same(lambda x: checkpoint(here, x, use_reentrant=False), x)
    with torch.autocast("cpu", dtype=BF16):
        compiled = torch.compile(here, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), here(x))
    with torch.inference_mode():
        assert torch.equal(torch.compile(here, fullgraph=True, backend="aot_eager")(x), here(x))
    compiled = torch.compile(here, fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    got = [p.grad for p in here.parameters()]
    here.zero_grad()
    here(x).square().sum().backward()
    for a, p in zip(got, here.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


def positions() -> None:
    draw = Draw("positions")
    q, k = (draw.normal(2, h, 20, 8).float().requires_grad_() for h in (4, 2))
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    long = LongRoPE((1.0, 1.5), (2.0, 3.0), trained=8)
    for position, places in (
        (Rotary(), torch.arange(20)),
        (Rotary(size=4, pairs="interleaved", scaling=long), torch.arange(20).expand(2, 20)),
        (Rotary(scaling=DynamicNTK(4.0, 8)), torch.arange(20)),
        (Rotary(axes=Axial(2)), grid),
        (XPos(centre=None), torch.arange(20)),
    ):

        def run(q: Tensor, k: Tensor, here: Position = position, at: Tensor = places) -> Tensor:
            q, k = here.turn(q, k, at)
            return attention(q, k, k, mask=Causal())

        same(run, q, k)


def exports() -> None:
    here, x = layer(), torch.randn(2, 31, 32)
    for strict in (True, False):
        n = torch.export.Dim("n", min=2, max=512)
        example = torch.randn(2, 20, 32)
        program = torch.export.export(here, (example,), dynamic_shapes=({1: n},), strict=strict)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        for one in (program, torch.export.load(file)):
            assert torch.equal(one.module()(x), here(x))
        assert any("regard.attention" in str(node.target) for node in program.graph.nodes)


def breaks() -> None:
    """A Python function has no words: the call is left out of the graph, and is right all the same."""
    function = torch.compile(
        lambda q: attention(q * 1.0, q, q, mask=Where(lambda b, h, q, k: q >= k)) + 1, backend="aot_eager"
    )
    q = torch.randn(1, 2, 9, 4, requires_grad=True)
    want = attention(q, q, q, mask=Causal()) + 1
    got = function(q)
    torch.testing.assert_close(got, want)
    a, b = (torch.autograd.grad(out.square().sum(), q)[0] for out in (got, want))
    torch.testing.assert_close(a, b)


# ------------------------------------------------------------------ modules


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_layers_can_be_copied(copied: Callable[[MultiHeadAttention], MultiHeadAttention]) -> None:
    here, x = layer(), torch.randn(2, 20, 32)
    want = here(x)
    other = copied(here)
    assert torch.equal(other(x), want)
    assert {n: t.dtype for n, t in other.state_dict().items()} == dict.fromkeys(here.state_dict(), FP32)
