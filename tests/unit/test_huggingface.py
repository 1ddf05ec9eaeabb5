"""Every family of transformers on regard: as eager attention, whatever the mask, the cache and the graph."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from regard.errors import OptionError, ShapeError
from regard.huggingface import NAME, GrowingLayer, LazyMask, growing_cache, mask_for
from regard.shapes import Sizes
from regard.spec.masks import Causal, Documents, Everything, Given, Mask, Where, Window, dense
from tiny import FAMILIES, TOKENS, Family, inputs, prompt, result

tf: Any = transformers
masking_utils: Any = transformers.masking_utils
CPU = torch.device("cpu")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = tf.utils.logging.get_verbosity()
    tf.utils.logging.set_verbosity_error()
    yield
    tf.utils.logging.set_verbosity(before)


def rms(t: Tensor) -> float:
    return float(t.double().square().mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_outputs_and_gradients_are_those_of_eager_attention(family: Family, dtype: torch.dtype) -> None:
    given = inputs(family.reads)

    def run(implementation: str, dtype: torch.dtype) -> dict[str, Tensor]:
        model = family.model(implementation).to(dtype)
        mine = {n: t.to(dtype) if t.is_floating_point() else t for n, t in given.items()}
        out = result(model, mine)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
        (out.double() * weights).mean().backward()
        named = model.named_parameters()
        return {"out": out.detach()} | {n: p.grad for n, p in named if p.grad is not None}

    # The yardstick is our float64: eager attention takes its softmax in float32, whatever the model's dtype.
    exact, eager, ours = run(NAME, torch.float64), run("eager", dtype), run(NAME, dtype)
    assert ours.keys() == exact.keys() == eager.keys()
    assert len(ours) > 10
    # Gradients share one scale: where the exact one is 0, a bias of keys, all that is there is rounding.
    out = {"out"}
    for names in (out, exact.keys() - out):
        largest = max(rms(exact[n]) for n in names)
        for name in names:
            want = exact[name]
            error, usual = rms(ours[name].double() - want), rms(eager[name].double() - want)
            scale = max(rms(want), largest / 1000)
            assert usual <= 100 * torch.finfo(dtype).eps * scale, f"{name}: another function"
            assert error <= 2 * usual + torch.finfo(dtype).eps * scale, name


@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=["greedy", "beams", "static"]
)
def test_what_is_generated_is_what_eager_attention_generates(family: Family, how: dict[str, Any]) -> None:
    if not family.writes:
        pytest.skip("an encoder")
    asked = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    found = [family.model(name).generate(**prompt(family.reads), **asked, **how) for name in ("eager", NAME)]
    assert found[0].shape[1] >= 12
    assert torch.equal(*found)


@pytest.mark.parametrize("what", ["graphs", "steps"])
def test_in_a_graph(what: str) -> None:
    # In a process of its own: Dynamo would step into the wrappers that check signatures in tests.
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests / "unit", tests, tests.parent / "src")))
    code = f"import test_huggingface as t; t.{what}()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def graphs() -> None:
    """The whole model is one graph, forward and backward."""
    for name in ("llama", "mistral", "t5"):
        family = FAMILIES[name]
        model, given = family.model(NAME), inputs(family.reads)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        out = result(compiled, given, use_cache=False)
        torch.testing.assert_close(out, result(model, given, use_cache=False))
        out.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert all(bool(p.grad.any()) for p in model.parameters()), name


def steps() -> None:
    """A step on a static cache is compiled once, and not anew for each place in it."""
    for name in ("llama", "mistral"):
        family = FAMILIES[name]
        config = tf.CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
        config._compile_all_devices = True
        asked = {"do_sample": False, "max_new_tokens": 14, "min_new_tokens": 14, "pad_token_id": 0}
        asked |= prompt(family.reads)
        want = family.model("eager").generate(**asked)
        stats = torch._dynamo.utils.counters["stats"]
        before = stats["unique_graphs"]
        asked |= {"cache_implementation": "static", "compile_config": config}
        assert torch.equal(family.model(NAME).generate(**asked), want)
        # A sliding layer counts its first keys by a number: one more graph, for any attention.
        assert 1 <= stats["unique_graphs"] - before <= 2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_growing_cache_is_a_dynamic_cache_that_copies_less(name: str) -> None:
    model, asked = FAMILIES[name].model(NAME), prompt("text")
    cache, usual = growing_cache(model.config), tf.DynamicCache(config=model.config)
    greedy = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, "pad_token_id": 0}
    texts = [model.generate(**asked, **greedy, past_key_values=one) for one in (cache, usual)]
    assert torch.equal(*texts)
    beams = [
        model.generate(**asked, **greedy, num_beams=3, past_key_values=one)
        for one in (growing_cache(model.config), None)
    ]
    assert torch.equal(*beams)
    layer = cache.layers[-1]
    assert isinstance(layer, GrowingLayer)
    assert layer.keys is not None
    start, token = layer.keys.data_ptr(), texts[0][:, -1:]
    found = list[Tensor]()
    with torch.no_grad():
        for _ in range(2):
            steps = [model(token, past_key_values=one).logits for one in (cache, usual)]
            torch.testing.assert_close(*steps)
            found.append(steps[0])
            assert layer.keys.data_ptr() == start or len(found) == 2, "the first step copies nothing"
            for one in (cache, usual):
                one.crop(-1)
    torch.testing.assert_close(*found)
    cache.reset()
    assert torch.equal(model.generate(**asked, **greedy, past_key_values=cache), texts[0])


def test_a_growing_cache_carries_gradients() -> None:
    model, ids = FAMILIES["llama"].model(NAME), prompt("text")["input_ids"][:1]
    grads = list[Tensor]()
    for cache in (growing_cache(model.config), tf.DynamicCache(config=model.config)):
        model.zero_grad()
        model(ids[:, :12], past_key_values=cache)
        model(ids[:, 12:], past_key_values=cache).logits.square().mean().backward()
        grads.append(model.model.layers[0].self_attn.k_proj.weight.grad.clone())
    assert torch.equal(*grads)


def test_gradient_checkpointing_changes_nothing() -> None:
    model, given = FAMILIES["gemma2"].model(NAME), inputs("text")
    grads = list[list[Tensor]]()
    model.train()
    # Named anew in transformers 5.20.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    for turn in (lambda: None, enable):
        turn()
        model.zero_grad()
        result(model, given, use_cache=False).square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_packed_documents_do_not_meet(name: str) -> None:
    lengths = (12, 18)
    ids = torch.randint(3, TOKENS, (1, sum(lengths)))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    model = FAMILIES[name].model(NAME)
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = [model(input_ids=part).logits for part in ids.split(lengths, 1)]
    torch.testing.assert_close(packed, torch.cat(alone, 1))


def test_packed_documents_by_cumulative_lengths_do_not_meet() -> None:
    ids, ends = torch.randint(3, TOKENS, (1, 30)), torch.tensor([0, 12, 30], dtype=torch.int32)
    positions = torch.cat([torch.arange(12), torch.arange(18)])[None]
    model = FAMILIES["llama"].model(NAME)
    told = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 18, "max_length_k": 18}
    with torch.no_grad():
        want = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        # With a mask that is all ones transformers does not look for documents in the positions.
        got = model(
            input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False, **told
        ).logits
        with pytest.raises(OptionError, match="the same for both"):
            model(input_ids=ids, use_cache=False, **(told | {"cu_seq_lens_k": ends + 1}))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", ["added", "allowed"])
def test_a_mask_of_ones_own(kind: str) -> None:
    ids = inputs("text")["input_ids"]
    allowed = (torch.rand(2, 1, 21, 21) < 0.5) | torch.eye(21, dtype=torch.bool)
    mask = (
        allowed
        if kind == "allowed"
        else torch.zeros(2, 1, 21, 21).masked_fill(~allowed, torch.finfo(torch.float32).min)
    )
    found = [FAMILIES["llama"].model(name)(input_ids=ids, attention_mask=mask).logits for name in ("sdpa", NAME)]
    torch.testing.assert_close(*found)


def test_attentions_are_given_when_they_are_asked_for(family: Family) -> None:
    found: list[tuple[Tensor, ...]] = []
    for name in ("eager", NAME):
        with torch.no_grad():
            out = family.model(name)(**inputs(family.reads), output_attentions=True)
        found.append(out.get("attentions") or out.decoder_attentions + out.cross_attentions)
    assert len(found[0]) == len(found[1]) > 0
    for want, got in zip(*found, strict=True):
        sees = got.sum(-1, keepdim=True) > 0  # eager spreads the rows evenly that may see nothing
        torch.testing.assert_close(got, want * sees, atol=1e-5, rtol=1e-4)


def test_attentions_of_each_step() -> None:
    asked: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    out = (
        FAMILIES["gpt2"]
        .model(NAME)
        .generate(**prompt("text"), **asked, output_attentions=True, return_dict_in_generate=True)
    )
    shapes = [tuple(step[0].shape[-2:]) for step in out.attentions]
    assert shapes == [(21, 21), (1, 22), (1, 23), (1, 24)]


def test_what_may_change_the_meaning_is_refused() -> None:
    model = FAMILIES["llama"].model(NAME)
    with pytest.raises(OptionError, match=r"LlamaAttention\(tilt=…\): got a float; allowed: arguments whose"):
        model(**inputs("text"), tilt=0.5)
    model(**inputs("text"), tilt=None)


def test_a_mask_for_too_few_keys_is_refused() -> None:
    model = FAMILIES["llama"].model(NAME)
    with pytest.raises(ShapeError, match="attention_mask: got 20 keys; allowed: at least the 21"):
        model(input_ids=inputs("text")["input_ids"], attention_mask=torch.ones(2, 1, 21, 20) > 0)


# ------------------------------------------------------------------ masks

SIZES = {"batch_size": 2, "q_length": 11, "kv_length": 17}
PADDING = torch.arange(20) >= torch.tensor([[0], [5]])
CHUNKS = masking_utils.chunked_causal_mask_function(4, torch.tensor([0, 5]))
IDS = torch.arange(20).floor_divide(6).expand(2, -1)
BLOCKS = masking_utils.or_masks(
    masking_utils.causal_mask_function, masking_utils.blockwise_overlay(IDS.where(IDS != 1, -1))
)
FUNCTIONS: dict[str, tuple[Any, type[Mask]]] = {
    "causal": (masking_utils.causal_mask_function, Causal),
    "window": (masking_utils.sliding_window_causal_mask_function(4), Window),
    "everything": (masking_utils.bidirectional_mask_function, Everything),
    "window both ways": (masking_utils.sliding_window_bidirectional_mask_function(3), Window),
    "chunks": (CHUNKS, Documents),
    "blocks": (BLOCKS, Where),
    "one's own": (lambda b, h, q, k: (q + k) % 3 < b + 1, Where),
}


@pytest.mark.parametrize("padding", [None, PADDING], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_lazy_mask_is_the_mask_of_sdpa(name: str, padding: Tensor | None) -> None:
    function, kind = FUNCTIONS[name]
    told = {**SIZES, "q_offset": 8, "kv_offset": 2, "mask_function": function, "attention_mask": padding}
    lazy = mask_for(**told)
    assert isinstance(lazy, LazyMask)
    assert lazy.shape == (2, 1, 11, 17)
    kinds = {type(part) for part in lazy.mask.conjuncts()} - {Given} or {Everything}
    assert kind in kinds, f"not told by a value: {kinds}"
    want = masking_utils.sdpa_mask(**told, allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    assert torch.equal(lazy.dense(), want.expand(2, 1, 11, 17))
    assert torch.equal(lazy[:, 0, -2:], want.expand(2, 1, 11, 17)[:, 0, -2:])


def test_an_unknown_argument_of_a_mask_is_refused() -> None:
    sizes: dict[str, Any] = SIZES
    known: dict[str, Any] = {"dtype": torch.float32, "config": None, "local_size": 4}
    assert isinstance(mask_for(**sizes, **known), LazyMask)
    with pytest.raises(OptionError, match=r"mask_for\(block_size=…\): got a int; allowed: arguments whose meaning"):
        mask_for(**sizes, block_size=4)


def test_functions_that_see_one_pair_at_a_time() -> None:
    def function(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.where(b.sum() + q > k, q % 2 == 0, k % 2 == 0)  # no broadcasting: b.sum() is b

    told = {**SIZES, "mask_function": function, "use_vmap": True}
    lazy = mask_for(**told)
    assert isinstance(lazy, LazyMask)
    want = masking_utils.sdpa_mask(**told, allow_is_causal_skip=False)
    assert torch.equal(lazy.dense(), want)


def test_a_step_without_padding_has_nothing_to_mask() -> None:
    lazy = mask_for(batch_size=1, q_length=1, kv_length=30, q_offset=29)
    assert isinstance(lazy, LazyMask)
    assert lazy.mask == Everything()
    assert mask_for(batch_size=1, q_length=1, kv_length=30, q_offset=29, attention_mask=lazy) is lazy


def test_a_mask_costs_no_square() -> None:
    n = 1 << 20
    padding = torch.ones(1, n, dtype=torch.bool)
    padding[0, :9] = False
    lazy = mask_for(batch_size=1, q_length=n, kv_length=n, attention_mask=padding)
    assert isinstance(lazy, LazyMask)
    held = sum(t.numel() for t in lazy.mask.tensors())
    assert held == n
    spans = lazy.mask.bind(Sizes(1, 1, 1, n, n, 1, 1, CPU)).spans(Sizes(1, 1, 1, n, n, 1, 1, CPU))
    assert spans is not None
    assert spans[0, 0, [8, 9, n - 1]].tolist() == [[[0, 0]], [[9, 10]], [[9, n]]]


def test_left_padding_is_one_given_key_mask() -> None:
    lazy = mask_for(batch_size=2, q_length=4, kv_length=20, q_offset=16, attention_mask=PADDING)
    assert isinstance(lazy, LazyMask)
    (given,) = (part for part in lazy.mask.conjuncts() if isinstance(part, Given))
    assert given.table.shape == (2, 1, 1, 20)
    assert torch.equal(dense(lazy.mask, Sizes(2, 1, 1, 4, 20, 1, 1, CPU))[1, 0, -1], PADDING[1])
