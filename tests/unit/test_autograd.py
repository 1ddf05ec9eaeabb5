"""Everything that PyTorch can do with a function, through the chunked backend."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import regard
from cases import BIASES, FP32, FP64, MASKS, NORMALIZERS, SCORES, SHAPES, Case, Draw, Shape, observers
from regard import Causal, Entropy, LogSumExp, MeanDistance, Received, Softmax, SpanMass, TopK
from regard.spec.biases import as_bias
from regard.spec.masks import Mask, as_mask, dense
from regard.spec.normalizers import as_normalizer
from regard.spec.observers import Observer
from regard.spec.scores import Custom, as_score
from regard.spec.values import Value

pytestmark = [
    pytest.mark.usefixtures("small_chunks"),
    # torch.autograd.forward_ad loads its rules through it.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]
DIFFERENTIABLE = [o for o in observers(SHAPES["square"]) if o.differentiable]


@dataclass(frozen=True)
class Tiny(Case):
    """A case of sizes that differences by each number can afford."""

    @property
    def sizes(self) -> Shape:
        return Shape(1, 2, 1, 5, 6, 2, 2)


def tiny(**parts: Any) -> tuple[Callable[..., Any], list[Tensor]]:
    """A small float64 call of chosen parts as a function of all its tensors."""
    call = Tiny(dtype=FP64, **parts).build()

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        there = call.with_leaves(*leaves)
        seen = there.observe(Entropy(), Received(), LogSumExp(), MeanDistance(), SpanMass((1, 4)), backend="chunked")
        return (seen.out, *(torch.where(seen[o].isinf(), 0, seen[o]) for o in seen))

    return run, [t.detach().requires_grad_() for t in call.leaves().values()]


PARTS = [
    {},
    {"mask": "causal", "bias": "t5"},
    {"mask": "window", "bias": "sum", "normalizer": "sink", "dropout": 0.3},
    {"mask": "tensor", "bias": "kerple", "score": "soft-capped", "normalizer": "sigmoid"},
    {"score": "cosine per head", "bias": "dense", "normalizer": "entmax15"},
    {"score": "euclidean", "mask": "sinks", "bias": "relative"},
    {"score": "additive", "mask": "causal", "bias": "alibi"},
    {"score": "custom", "normalizer": "sparsemax"},
]


@pytest.mark.parametrize("parts", PARTS, ids=lambda p: ", ".join(map(str, p.values())) or "plain")
def test_first_and_second_derivatives(parts: dict[str, Any]) -> None:
    run, leaves = tiny(**parts)
    # Entropy of a weight of exactly 0 has no derivative: the sparse ones are asked for the rest.
    sparse = parts.get("normalizer") in ("sparsemax", "entmax15")

    def asked(*leaves: Tensor) -> tuple[Tensor, ...]:
        made = run(*leaves)
        return (made[0], *made[2:]) if sparse else made

    # jvp against vjp of random directions: quicker than the whole Jacobian, and as sharp.
    assert gradcheck(asked, leaves, fast_mode=True)
    assert gradcheck(lambda *x: asked(*x)[0], leaves, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(asked, leaves, fast_mode=True)


def test_the_whole_jacobian_once() -> None:
    run, leaves = tiny(mask="causal", bias="relative", normalizer="sink")
    assert gradcheck(run, leaves, check_forward_ad=True, check_backward_ad=True)


@pytest.mark.parametrize("observer", DIFFERENTIABLE, ids=repr)
@pytest.mark.parametrize("mask", ["no mask", "causal", "right padding"])
def test_forward_mode_is_backward_mode(mask: str, observer: Observer[Any]) -> None:
    call = Case(mask=mask, bias="alibi", dtype=FP64).build()
    draw = Draw("tangents")
    tangents = [draw.normal(*t.shape) for t in (call.q, call.k, call.v)]

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        there = call.with_leaves(q, k, v, *call.bias.tensors())
        seen = there.observe(observer, backend="chunked")
        return seen.out, torch.where(seen[observer].isinf(), 0, seen[observer])

    by_func = torch.func.jvp(run, (call.q, call.k, call.v), tuple(tangents))[1]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip((call.q, call.k, call.v), tangents, strict=True)]
        by_dual = [forward_ad.unpack_dual(t).tangent for t in run(*duals)]
    leaves = [t.detach().requires_grad_() for t in (call.q, call.k, call.v)]
    for one, other, made in zip(by_func, by_dual, run(*leaves), strict=True):
        assert other is not None
        cotangent = draw.normal(*made.shape)
        grads = torch.autograd.grad(made, leaves, cotangent, retain_graph=True, allow_unused=True)
        want = sum(((g * t).sum() for g, t in zip(grads, tangents, strict=True) if g is not None))
        assert not one.isnan().any()
        torch.testing.assert_close((one * cotangent).sum(), torch.as_tensor(want))
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("mask", ["no mask", "causal", "shared padding", "tensor of heads"])
def test_vmap_is_a_loop(mask: str) -> None:
    case = Case(mask=mask, bias="relative", normalizer="sink", dtype=FP64, shape="grouped")
    call, asked = case.build(), observers(case.sizes)
    many = [torch.stack([t, t.flip(-1), t * 0.5]) for t in call.leaves().values()]

    def run(*leaves: Tensor) -> tuple[Any, ...]:
        seen = call.with_leaves(*leaves).observe(*asked, backend="chunked")
        return (seen.out, *(seen[o] for o in asked))

    got = torch.vmap(run)(*many)
    for i in range(3):
        want = run(*(t[i] for t in many))
        for a, b in zip(got, want, strict=True):
            for x, y in zip(*((o if isinstance(o, tuple) else (o,)) for o in (a, b)), strict=True):
                torch.testing.assert_close(x[i], y)


def test_vmap_over_queries_only_and_over_a_bias() -> None:
    call = Case(mask="causal", dtype=FP64).build()
    many = torch.stack([call.q, call.q * 2])
    biases = Draw("biases").normal(2, 33, 33)

    def run(q: Tensor, bias: Tensor) -> Tensor:
        return regard.attention(q, call.k, call.v, mask=Causal(), bias=bias, backend="chunked")

    for got, dims in (
        (torch.vmap(lambda q: run(q, biases[0]))(many), (0, None)),
        (torch.vmap(lambda b: run(call.q, b))(biases), (None, 0)),
        (torch.vmap(run)(many, biases), (0, 0)),
    ):
        for i in range(2):
            q = many[i] if dims[0] == 0 else call.q
            bias = biases[i] if dims[1] == 0 else biases[0]
            torch.testing.assert_close(got[i], run(q, bias))


def test_vmap_of_grad_jacrev_and_hessian() -> None:
    call = Case(mask="causal", normalizer="sink", dtype=FP64).build()
    many = torch.stack([call.q, call.q * 2])

    def loss(q: Tensor) -> Tensor:
        seen = call.with_leaves(q, *list(call.leaves().values())[1:]).observe(Entropy(), backend="chunked")
        return seen.out.square().sum() + seen[Entropy()].sum()

    got = torch.vmap(torch.func.grad(loss))(many)
    for i in range(2):
        q = many[i].clone().requires_grad_()
        torch.testing.assert_close(got[i], torch.autograd.grad(loss(q), q)[0])

    run, leaves = tiny(mask="causal")
    q, k, v = (t.detach() for t in leaves)
    reverse = torch.func.jacrev(lambda q: run(q, k, v)[0])(q)
    forward = torch.func.jacfwd(lambda q: run(q, k, v)[0])(q)
    torch.testing.assert_close(reverse, forward)
    hessian = torch.func.hessian(lambda q: run(q, k, v)[0].square().sum())(q)
    want = torch.autograd.functional.hessian(lambda q: run(q, k, v)[0].square().sum(), q)
    torch.testing.assert_close(hessian, want)
    assert hessian.abs().max() > 1e-3


def test_under_torch_compile() -> None:
    # In a process of its own: Dynamo would step into the wrappers that check signatures in tests.
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests / "unit", tests, tests.parent / "src")))
    code = "import test_autograd as t; [t.compiled_is_eager(c) for c in ('eager', 'aot_eager')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env={**os.environ, "PYTHONPATH": path})


def compiled_is_eager(compiler: str) -> None:
    case = Case(mask="sinks", bias="relative", normalizer="sink", shape="grouped")
    call = case.build()
    asked = (Entropy(), TopK(2))

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        there = call.with_leaves(*leaves)
        seen = regard.observe(there.q * 1.0, there.k, there.v, *asked, **there.parts)
        return seen.out + 1, seen[Entropy()] * 2, seen[TopK(2)].keys

    torch._dynamo.reset()
    compiled = torch.compile(run, backend=compiler)
    leaves = [t.detach().requires_grad_() for t in call.leaves().values()]
    results = []
    for function in (run, compiled, compiled):
        made = function(*leaves)
        grads = torch.autograd.grad(made[0].square().sum() + made[1].sum(), leaves)
        results.append([*made, *grads])
    torch._dynamo.reset()
    for got in results[1:]:
        for a, b in zip(got, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_keeps_dropout(reentrant: bool) -> None:
    case = Case(mask="causal", bias="relative", dtype=FP64)
    call = case.build().requiring_gradients()
    leaves = list(call.leaves().values())

    def run(*leaves: Tensor) -> Tensor:
        there = call.with_leaves(*leaves)
        return regard.attention(there.q, there.k, there.v, mask=there.mask, bias=there.bias, dropout=0.3)

    torch.manual_seed(4)
    want = torch.autograd.grad(run(*leaves).square().sum(), leaves)
    torch.manual_seed(4)
    checkpoint(run, *leaves, use_reentrant=reentrant).square().sum().backward()
    for leaf, grad in zip(leaves, want, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, grad)


def test_autocast_changes_nothing_of_exact_attention() -> None:
    case = Case(mask="causal", bias="relative", normalizer="sink")
    call = case.build().requiring_gradients()
    leaves = list(call.leaves().values())
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            seen = call.observe(MeanDistance(), Entropy(), backend="chunked")
            loss = seen.out.square().sum() + seen[MeanDistance()].sum() + seen[Entropy()].sum()
            results.append([seen.out, seen[MeanDistance()], *torch.autograd.grad(loss, leaves)])
    for got, want in zip(*results[::-1], strict=True):
        assert got.dtype == FP32
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_autocast_takes_what_a_projection_makes_of_it() -> None:
    call = Case(bias="relative", normalizer="sink").build()
    projection = torch.nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q, k, v = (projection(t) for t in (call.q, call.k, call.v))
        out = regard.attention(q, k, v, mask=Causal(), bias=call.bias, normalizer=call.normalizer)
        assert out.dtype == torch.bfloat16
        out.sum().backward()
    assert projection.weight.grad is not None
    assert torch.isfinite(projection.weight.grad).all()


def test_without_gradients() -> None:
    call = Case(mask="sinks", bias="relative", shape="grouped").build()
    want = call.attention("chunked")
    learned = call.requiring_gradients()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            out = learned.attention("chunked")
        assert torch.equal(out, want)
        assert not out.requires_grad
    with torch.inference_mode():
        inside = Case(mask="sinks", bias="relative", shape="grouped").build().attention("chunked")
    assert torch.equal(inside, want)


def test_inputs_are_never_written_to() -> None:
    for mask in ("causal", "sinks", "tensor"):
        call = Case(mask=mask, bias="dense", normalizer="sink").build()
        copies = [t.clone() for t in call.leaves().values()]
        call.observe(*observers(Case().sizes), backend="chunked")
        assert all(torch.equal(a, b) for a, b in zip(call.leaves().values(), copies, strict=True))


@pytest.mark.parametrize("needed", ["q", "k", "v", "bias 0", "normalizer 0"])
def test_one_gradient_alone(needed: str) -> None:
    call = Case(mask="causal", bias="relative", normalizer="sink", dtype=FP64).build()
    every = call.requiring_gradients()
    names = list(call.leaves())
    want = torch.autograd.grad(every.attention("chunked").square().sum(), every.leaves()[needed])[0]
    mixed = [t.detach().requires_grad_(n == needed) for n, t in call.leaves().items()]
    one = call.with_leaves(*mixed)
    one.attention("chunked").square().sum().backward()
    assert [t.grad is not None for t in mixed] == [n == needed for n in names]
    torch.testing.assert_close(one.leaves()[needed].grad, want)


def test_gradients_of_a_statistic_alone() -> None:
    call = Case(mask="causal", dtype=FP64).build().requiring_gradients()
    seen = call.observe(Entropy(), TopK(2), backend="chunked")
    assert not seen[TopK(2)].weights.requires_grad
    assert not seen[TopK(2)].keys.requires_grad
    got = torch.autograd.grad(seen[Entropy()].sum(), [call.q, call.k, call.v], allow_unused=True)
    other = call.observe(Entropy(), backend="reference")
    want = torch.autograd.grad(other[Entropy()].sum(), [call.q, call.k])
    torch.testing.assert_close(got[0], want[0])
    torch.testing.assert_close(got[1], want[1])
    assert got[2] is None or not got[2].any()


# ------------------------------------------------------------------ values are values


def values() -> list[Any]:
    s, found = SHAPES["square"], []
    for table, read in ((MASKS, as_mask), (BIASES, as_bias), (SCORES, as_score), (NORMALIZERS, as_normalizer)):
        for name, part in table.items():
            value = read(part(s, Draw(name)))
            found.append(pytest.param(value, id=name))
    return found + [pytest.param(o, id=repr(o)) for o in observers(s)]


@pytest.mark.parametrize("value", values())
def test_a_value_can_be_copied_and_pickled(value: Value) -> None:
    copies = [copy.deepcopy(value)]
    if "where" not in repr(value).lower() and not isinstance(value, Custom):  # lambdas cannot be pickled
        copies.append(pickle.loads(pickle.dumps(value)))
    bound = value.bind(SHAPES["square"].sizes())
    for other in copies:
        assert type(other) is type(value)
        for a, b in zip(other.tensors(), value.tensors(), strict=True):
            assert torch.equal(a, b)
            assert a is not b
        again = other.bind(SHAPES["square"].sizes())
        assert type(again) is type(bound)
        if isinstance(value, Observer):
            assert other == value
            assert hash(other) == hash(value)
        elif isinstance(value, Mask) and isinstance(other, Mask):
            assert torch.equal(dense(other, SHAPES["square"].sizes()), dense(value, SHAPES["square"].sizes()))


@pytest.mark.parametrize("value", values())
def test_tensors_can_be_taken_out_and_put_back(value: Value) -> None:
    tensors = value.tensors()
    assert all(a is b for a, b in zip(value.with_tensors(tensors).tensors(), tensors, strict=True))
    fresh = [t.clone() for t in tensors]
    assert all(a is b for a, b in zip(value.with_tensors(fresh).tensors(), fresh, strict=True))
    bound = value.bind(SHAPES["square"].sizes())
    assert len(bound.tensors()) == len(tensors)
    with pytest.raises(AttributeError):
        setattr(value, "anything", 1)  # noqa: B010


def test_learned_parameters_train_and_reach_an_optimizer() -> None:
    call = Case(mask="causal").build()
    bias, normalizer = regard.Relative.learned(2, 4), Softmax.with_learned_sink(2)
    parameters = [*bias.tensors(), *normalizer.tensors()]
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    losses: list[float] = []
    for _ in range(3):
        out = regard.attention(call.q, call.k, call.v, mask=Causal(), bias=bias, normalizer=normalizer)
        loss = out.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]
