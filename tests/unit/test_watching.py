"""Watching a model: the statistics of its weights as eager attention has them, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import regard
from regard import Causal, Entropy, MeanDistance, Padding, Pooled, Received, SpanMass, TopK, Window, watch
from regard.attend import attention_handler
from regard.errors import DtypeError, OptionError
from regard.nn import MultiHeadAttention, Transformer
from tiny import FAMILIES, WINDOW, inputs, prompt, result

SPANS = SpanMass((0, 4), (4, 9), (9, 21))
ASKED = Entropy(), Received(), TopK(3), SPANS


def eager_weights(name: str, **how: Any) -> list[Tensor]:
    """What the family's eager attention gives, layer by layer, without the rows that may see nothing."""
    family = FAMILIES[name]
    with torch.no_grad():
        out = family.model()(**inputs(family.reads), output_attentions=True, **how)
    found = out.get("attentions") or (*out.encoder_attentions, *out.decoder_attentions, *out.cross_attentions)
    return list(found)


def entropy(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-1)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("t5", "whisper")])
def test_every_family_is_watched(name: str) -> None:
    family = FAMILIES[name]
    model, given = family.model(), inputs(family.reads)
    with torch.no_grad():
        want = result(model, given)
        with watch(model, *ASKED) as seen:
            out = result(model, given)
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-4)
    assert model.config._attn_implementation == "eager", "and it is as it was"
    assert seen.names[0] == family.layer
    real = given["attention_mask"].bool() if "attention_mask" in given else torch.ones(2, 17) > 0
    for layer, weights in zip(seen, eager_weights(name), strict=True):
        counted = real[:, None, :, None] * weights
        rows = real[:, None].expand(counted.shape[:3])
        torch.testing.assert_close(layer[Received()], counted.sum(-2), atol=1e-4, rtol=1e-4)
        mine, theirs = layer[Entropy()], entropy(weights)
        torch.testing.assert_close(mine[rows], theirs[rows], atol=1e-4, rtol=1e-4)
        top = layer[TopK(3)]
        at_keys = counted.gather(-1, top.keys.clamp(min=0)) * (top.keys >= 0)
        torch.testing.assert_close(at_keys[rows], top.weights[rows], atol=1e-5, rtol=1e-4)
        masses = torch.stack([counted[..., a:b].sum(-1) for a, b in SPANS.spans], -1)
        torch.testing.assert_close(layer[SPANS][rows], masses[rows], atol=1e-5, rtol=1e-4)


def test_encoders_with_decoders_have_three_kinds_of_layers() -> None:
    family = FAMILIES["t5"]
    model = family.model()
    with torch.no_grad(), watch(model, Entropy()) as seen:
        model(**inputs(family.reads))
    assert seen.names == (
        "encoder.block.0.layer.0.SelfAttention",
        "encoder.block.1.layer.0.SelfAttention",
        "decoder.block.0.layer.0.SelfAttention",
        "decoder.block.0.layer.1.EncDecAttention",
        "decoder.block.1.layer.0.SelfAttention",
        "decoder.block.1.layer.1.EncDecAttention",
    )
    weights = eager_weights("t5")
    real = inputs("pairs")["attention_mask"].bool()
    for place, n in enumerate((0, 1)):
        mine, theirs = seen.layer(n)[Entropy()], entropy(weights[place])
        rows = real[:, None].expand(mine.shape)
        torch.testing.assert_close(mine[rows], theirs[rows], atol=1e-4, rtol=1e-4)
    for place, n in enumerate((2, 4, 3, 5), 2):
        mine, theirs = seen.layer(n)[Entropy()], entropy(weights[place])
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("static", [False, True], ids=["growing", "static"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_generation_is_watched_as_one_text(name: str, static: bool) -> None:
    family, steps = FAMILIES[name], 12
    model = family.model()
    how = {"cache_implementation": "static"} if static else {}
    asked = {"max_new_tokens": steps, "min_new_tokens": steps, "do_sample": False, "pad_token_id": 0}
    given = prompt(family.reads)
    with torch.no_grad(), watch(model, *ASKED, MeanDistance()) as seen:
        text = model.generate(**given, **asked, **how)
    assert [len(layer.passes) for layer in seen] == [steps, steps]
    mask = torch.cat((given["attention_mask"], torch.ones(2, steps - 1, dtype=torch.long)), 1)
    whole = {"input_ids": text[:, :-1], "attention_mask": mask}
    with torch.no_grad(), watch(model, *ASKED, MeanDistance()) as once:
        model(**whole)
    for mine, theirs in zip(seen, once, strict=True):
        for observer in (Entropy(), Received(), SPANS, MeanDistance()):
            torch.testing.assert_close(mine[observer], theirs[observer], atol=1e-4, rtol=1e-4)
        found, wanted = mine[TopK(3)], theirs[TopK(3)]
        torch.testing.assert_close(found.weights, wanted.weights, atol=1e-5, rtol=1e-4)
        assert float((found.keys == wanted.keys).float().mean()) > 0.98, "but for ties"
        last = mine.passes[-1]
        assert (last.place.query, last.queries) == (31, 1)
    if name == "mistral" and not static:
        assert seen.layer(0).passes[-1].place.key == 32 - WINDOW


def test_steps_can_be_taken_one_by_one() -> None:
    model = FAMILIES["llama"].model()
    with torch.no_grad(), watch(model, Entropy()) as seen:
        model.generate(**prompt("text"), max_new_tokens=3, do_sample=False, pad_token_id=0)
    steps = [one[Entropy()] for one in seen.layer(1).passes]
    assert [s.shape[2] for s in steps] == [21, 1, 1]
    assert torch.equal(torch.cat(steps, 2), seen.layer(1)[Entropy()])


def test_passes_that_do_not_continue_each_other_are_not_joined() -> None:
    model = FAMILIES["bert"].model()
    with torch.no_grad(), watch(model, Entropy()) as seen:
        model(**inputs("padded"))
        model(**inputs("padded"))
    with pytest.raises(OptionError, match="2 passes that do not continue each other"):
        seen.layer(0)[Entropy()]
    first, second = seen.layer(0).passes
    assert torch.equal(first[Entropy()], second[Entropy()])


# ------------------------------------------------------------------ our own modules


def ours(**more: Any) -> Transformer:
    torch.manual_seed(0)
    masks = (Causal(), Causal() & Window(5))
    return Transformer(50, [MultiHeadAttention(32, 4, mask=mask, **more) for mask in masks])


TEXT = torch.arange(24).reshape(2, 12) % 50


def test_our_own_modules_are_watched() -> None:
    model = ours(key_value_heads=2)
    want = model.observe(TEXT, *ASKED[:3])
    with watch(model, *ASKED[:3]) as seen:
        out = model(TEXT)
    assert torch.equal(out, model.logits(want.hidden))
    assert seen.names == ("blocks.0.attention", "blocks.1.attention")
    for mine, theirs in zip(seen, want.layers, strict=True):
        for observer in ASKED[:2]:
            assert torch.equal(mine[observer], theirs[observer])
        assert torch.equal(mine[TopK(3)].keys, theirs[TopK(3)].keys)


def test_a_function_that_calls_attention_in_any_module() -> None:
    class Mine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return regard.attention(x, x, x)

    x = torch.randn(1, 2, 5, 8)
    with watch(nn.Sequential(nn.Identity(), Mine()), Entropy()) as seen:
        regard.attention(x, x, x)  # of no module: not watched
        nn.Sequential(nn.Identity(), Mine())[1](x)  # nor is another model
        assert len(seen) == 0
    model = nn.Sequential(nn.Identity(), Mine())
    with watch(model, Entropy()) as seen:
        model(x)
    assert seen.names == ("1",)


def test_pytorchs_own_layers_are_watched() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = (nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(1, 6, 16))
    want = model(x)
    with watch(model, Entropy()) as seen:
        out = model(x)
    torch.testing.assert_close(out, want)
    assert seen.names == ("layers.0.self_attn", "layers.1.self_attn")
    hidden = x
    for one, block in zip(seen, model.layers, strict=True):
        attend = block.self_attn
        assert isinstance(attend, nn.MultiheadAttention)
        _, weights = attend(hidden, hidden, hidden, average_attn_weights=False)
        torch.testing.assert_close(one[Entropy()], entropy(weights))
        hidden = block(hidden)


def test_what_pytorch_keeps_is_said() -> None:
    layer, x = nn.MultiheadAttention(16, 2), torch.randn(6, 1, 16)
    with watch(layer, Entropy()) as seen:
        layer(x, x, x)
    with pytest.raises(OptionError, match="PyTorch kept its calls: need_weights=True asks for all n × n"):
        seen.layer(0)


def test_padded_queries_do_not_count() -> None:
    model, lengths = ours(), torch.tensor([12, 7])
    with watch(model, Received(), Pooled(3, 3, "sum"), Entropy()) as seen:
        model(TEXT, mask=Padding(lengths))
    layer = seen.layer(0)
    torch.testing.assert_close(layer[Received()].sum(-1)[:, 0], lengths.float())
    torch.testing.assert_close(layer[Pooled(3, 3, "sum")].sum((-1, -2))[:, 0], lengths.float())
    short = ours()
    with watch(short, Received(), Entropy()) as alone:
        short(TEXT[1:, :7])
    torch.testing.assert_close(layer[Received()][1:, :, :7], alone.layer(0)[Received()])
    torch.testing.assert_close(layer[Entropy()][1:, :, :7], alone.layer(0)[Entropy()])


def test_a_loss_may_ask_for_what_is_seen() -> None:
    model, wanted = ours(), ours()
    with watch(model, Entropy()) as seen:
        out = model(TEXT)
    (out.square().mean() + sum(layer[Entropy()].mean() for layer in seen)).backward()
    hidden, layers = wanted.observe(TEXT, Entropy())
    loss = wanted.logits(hidden).square().mean() + sum(one[Entropy()].mean() for one in layers)
    loss.backward()
    for mine, theirs in zip(model.parameters(), wanted.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)


def test_what_checkpointing_computes_twice_is_seen_once() -> None:
    layer = MultiHeadAttention(32, 4)
    x = torch.randn(1, 6, 32, requires_grad=True)
    with watch(layer, Entropy()) as seen:
        out = checkpoint(layer, x, use_reentrant=False)
        assert isinstance(out, Tensor)
        out.sum().backward()
    assert len(seen.layer(0).passes) == 1
    assert x.grad is not None


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (1, ["blocks.1.attention"]),
        ("blocks.0.*", ["blocks.0.attention"]),
        ([0, "blocks.1.attention"], ["blocks.0.attention", "blocks.1.attention"]),
    ],
)
def test_some_layers_only(layers: Any, names: list[str]) -> None:
    model = ours()
    with watch(model, Entropy(), layers=layers) as seen:
        out = model(TEXT)
    assert list(seen.names) == names
    assert torch.equal(out, model(TEXT))


def test_nothing_is_left_behind_when_the_model_fails() -> None:
    model = ours()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(OptionError, match="positions"), watch(model, Entropy()):
        raise OptionError("positions", 1, "2", "3")
    with pytest.raises(IndexError, match="out of range"), watch(model, Entropy()) as seen:
        model(TEXT + 10**6)
    assert attention_handler.get() is None
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    with watch(model, Entropy()) as seen:
        model(TEXT)
    assert seen.names[0] == "blocks.0.attention", "and the next is named rightly"


@pytest.mark.usefixtures("as_users_run_it")
def test_the_silly_mistakes() -> None:
    model = ours()
    with pytest.raises(DtypeError, match=r"watch\(model\): got a Entropy; allowed: a module"):
        watch(Entropy(), model).__enter__()  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match=r"watch\(…\): got no observers; .* Say what to see\."):
        watch(model).__enter__()
    with pytest.raises(OptionError, match=r"got <class .*Entropy'>; allowed: observers"):
        watch(model, Entropy).__enter__()  # pyright: ignore[reportArgumentType]
    with watch(model, Entropy()) as seen:
        with pytest.raises(OptionError, match=r"none of whose layers called.*Run the model inside"):
            seen.layer(0)
        model(TEXT)
    with pytest.raises(OptionError, match=r"seen\.layer: got 2; allowed: 0 to 1, or one of blocks\.0"):
        seen.layer(2)
    with pytest.raises(OptionError, match=r"got Received\(.*\); allowed: the observers asked for: Entropy\(\)"):
        seen.layer(0)[Received()]
    assert repr(seen) == "Watched(2 layers, 1 passes)"


def test_a_model_that_cannot_be_switched_is_not_silently_blind() -> None:
    config = transformers.BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=50)
    model = transformers.BloomModel(config).eval()
    with torch.no_grad(), watch(model, Entropy()) as seen:
        model(TEXT)
    with pytest.raises(OptionError, match="it computes attention by itself"):
        seen.layer(0)
