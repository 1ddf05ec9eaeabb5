"""The layer and the small transformer: what they compute, hold and refuse."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from regard import convert
from regard.errors import DtypeError, OptionError, RegardError, ShapeError
from regard.nn import MultiHeadAttention, Transformer
from regard.positions import Learned, Rotary, Sinusoidal
from regard.spec.biases import ALiBi, Kerple, Relative
from regard.spec.masks import Causal, Padding, Window
from regard.spec.normalizers import Softmax
from regard.spec.observers import DistanceMass, Entropy
from regard.spec.parameters import ModuleParameters
from regard.spec.scores import Additive, Dot


def by_hand(layer: MultiHeadAttention, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """The layer's meaning, head by head."""
    repeats = layer.heads // layer.key_value_heads
    outs = []
    for head in range(layer.heads):
        group = head // repeats
        q = layer.query(x)[..., head * layer.head_size :][..., : layer.head_size]
        k = layer.key(context)[..., group * layer.head_size :][..., : layer.head_size]
        v = layer.value(context)[..., group * layer.value_size :][..., : layer.value_size]
        weights = torch.softmax(q @ k.mT / math.sqrt(layer.head_size), -1)
        outs.append(weights @ v)
    return layer.output(torch.cat(outs, -1))


def test_self_attention_is_what_it_says() -> None:
    layer = MultiHeadAttention(12, heads=3, projection_bias=True).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_hand(layer, x, x))


def test_cross_attention_with_groups_and_sizes_of_its_own() -> None:
    layer = MultiHeadAttention(
        12, 4, key_value_heads=2, head_size=5, value_size=6, context_width=10, out_width=8
    ).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    context = torch.randn(2, 9, 10, dtype=torch.float64)
    out = layer(x, context)
    assert out.shape == (2, 7, 8)
    torch.testing.assert_close(out, by_hand(layer, x, context))


def test_norms_come_before_positions() -> None:
    layer = MultiHeadAttention(16, 2, qk_norm=nn.RMSNorm, position=Rotary())
    q, k, _ = layer.projected(torch.randn(1, 5, 16))
    for turned in (q, k):
        torch.testing.assert_close(turned.square().mean(-1), torch.ones(1, 2, 5), rtol=1e-3, atol=1e-3)


def test_shifting_positions_changes_nothing_with_rotary() -> None:
    layer = MultiHeadAttention(16, 2, position=Rotary(), mask=Causal())
    x = torch.randn(1, 6, 16)
    torch.testing.assert_close(layer(x), layer(x, positions=torch.arange(6) + 1000))


@pytest.mark.parametrize("position", [Sinusoidal(), Learned.fresh(8, 16)], ids=lambda p: type(p).__name__)
def test_added_positions_reach_the_input(position) -> None:
    layer = MultiHeadAttention(16, 2, position=position)
    bare = copy.deepcopy(layer)
    bare.position = None
    x = torch.randn(1, 6, 16)
    torch.testing.assert_close(layer(x), bare(position.add(x, torch.arange(6))))


def test_a_mask_for_one_call_narrows_the_layers_own() -> None:
    layer = MultiHeadAttention(16, 2, mask=Causal())
    x = torch.randn(2, 6, 16)
    padding = Padding(torch.tensor([6, 3]))
    out = layer(x, mask=padding)
    both = copy.deepcopy(layer)
    both.mask = ModuleParameters(Causal() & padding)
    torch.testing.assert_close(out, both(x))
    x[1, 3:] = torch.nan
    torch.testing.assert_close(layer(x, mask=padding)[:, :3], out[:, :3])


def test_observing_is_the_same_computation() -> None:
    layer = MultiHeadAttention(16, 2, mask=Causal() & Window(3), bias=ALiBi(heads=2))
    x = torch.randn(2, 9, 16)
    seen = layer.observe(x, Entropy(), DistanceMass(0, 3))
    torch.testing.assert_close(seen.out, layer(x))
    torch.testing.assert_close(seen[DistanceMass(0, 3)], torch.ones(2, 2, 9))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("bias", Kerple.learned(2)),
        ("bias", ALiBi(heads=2) + Relative.learned(2, max_distance=3)),
        ("score", Additive(nn.Parameter(torch.randn(2, 8)))),
        ("normalizer", Softmax.with_learned_sink(2)),
        ("position", Learned.fresh(9, 16)),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_values_learn_belongs_to_the_layer(keyword, value) -> None:
    layer = MultiHeadAttention(16, 2, **{keyword: value})
    names = [name for name, _ in layer.named_parameters() if name.startswith(keyword)]
    assert len(names) == sum(isinstance(t, nn.Parameter) for t in value.tensors()) >= 1
    x = torch.randn(1, 9, 16)
    layer(x).square().sum().backward()
    for name in names:
        gradient = layer.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0
    # Saved, moved and called with other parameters, as any module.
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(twin(x), layer(x))
    torch.testing.assert_close(functional_call(layer, dict(twin.named_parameters()), (x,)), twin(x))
    twin.load_state_dict(layer.state_dict())
    torch.testing.assert_close(twin(x), layer(x))
    layer.double()(x.double())


def test_held_names_the_fields_of_inner_values() -> None:
    parameters = ModuleParameters(ALiBi(heads=2) + Kerple.learned(2))
    assert sorted(parameters.state_dict()) == ["left_slopes", "right_a", "right_c"]
    assert sorted(name for name, _ in parameters.named_parameters()) == ["right_a", "right_c"]


def test_dropout_is_for_training() -> None:
    layer = MultiHeadAttention(16, 4, dropout=0.5, head_dropout=0.5)
    x = torch.randn(2, 8, 16)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    torch.manual_seed(3)
    first = layer.train()(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)


def test_head_dropout_drops_whole_heads_and_scales_the_rest() -> None:
    layer = MultiHeadAttention(16, 4, head_dropout=0.5, out_width=16)
    nn.init.eye_(layer.output.weight)
    x = torch.randn(1, 8, 16)
    whole = layer.eval()(x).unflatten(-1, (4, 4))
    torch.manual_seed(0)
    dropped = layer.train()(x).unflatten(-1, (4, 4))
    kept = dropped.abs().sum((0, 1, 3)) > 0
    assert 0 < int(kept.sum()) < 4
    torch.testing.assert_close(dropped[:, :, kept], 2 * whole[:, :, kept])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"heads": 3}, OptionError, "head_size"),
        ({"heads": 0}, OptionError, "divisor of the width"),
        ({"heads": 4, "key_value_heads": 3}, OptionError, "divisor of heads"),
        ({"heads": 4, "dropout": 1.0}, OptionError, "0 up to 1"),
        ({"heads": 4, "head_dropout": -0.1}, OptionError, "0 up to 1"),
    ],
)
def test_a_layer_that_cannot_be_made(options, error, said) -> None:
    with pytest.raises(error) as caught:
        MultiHeadAttention(16, **options)
    assert said in str(caught.value)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="context_width"):
        MultiHeadAttention(16, 2, context_width=8)(torch.zeros(1, 3, 16))
    with pytest.raises(ShapeError, match="x: got shape"):
        MultiHeadAttention(16, 2)(torch.zeros(1, 3, 8))
    with pytest.raises(RegardError):
        MultiHeadAttention(16, 2, bias=ALiBi(heads=3))(torch.zeros(1, 3, 16))
    with pytest.raises(OptionError, match="one width"):
        Transformer(10, [MultiHeadAttention(16, 2), MultiHeadAttention(8, 2)])
    with pytest.raises(OptionError, match="one layer or more"):
        Transformer(10, [])


def test_a_fresh_transformer_passes_its_embedding_on() -> None:
    model = small()
    tokens = torch.randint(20, (1, 5))
    torch.testing.assert_close(model.hidden(tokens), model.norm(model.embedding_norm(model.embedding(tokens))))


def small(vocabulary: int = 20) -> Transformer:
    masks = Causal() & Window(4), Causal()
    layers = [MultiHeadAttention(16, 2, position=Rotary(), mask=mask, score=Dot()) for mask in masks]
    return Transformer(vocabulary, layers)


def awake(model: Transformer) -> Transformer:
    """With projections that start at zero set to something."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.3)
    return model


def test_a_transformer_sees_no_future() -> None:
    model = awake(small())
    tokens = torch.randint(20, (1, 12))
    other = tokens.clone()
    other[0, 7:] = (other[0, 7:] + 1) % 20
    before, after = model(tokens), model(other)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_observing_a_transformer_is_the_same_computation() -> None:
    model = awake(small())
    tokens = torch.randint(20, (2, 12))
    hidden, layers = model.observe(tokens, Entropy())
    torch.testing.assert_close(model.logits(hidden), model(tokens))
    assert [seen[Entropy()].shape for seen in layers] == [(2, 2, 12)] * 2
    assert layers[0][Entropy()].max() <= math.log(5) + 1e-5


def test_a_transformer_learns() -> None:
    torch.manual_seed(0)
    model = small()
    tokens = torch.arange(40)[None] % 20
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(20), abs=0.5)
    assert losses[-1] < 0.5


# ------------------------------------------------------------------ out of PyTorch's module


def their_module(**options: Any) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(16, 2, **{"batch_first": True} | options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"batch_first": False}, {"kdim": 12, "vdim": 12}, {"add_zero_attn": True}], ids=str
)
def test_a_module_of_pytorch_as_our_layer(options) -> None:
    module = their_module(**options)
    layer = MultiHeadAttention.from_torch(module)
    x = torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    context = torch.randn(2, 9, module.kdim, dtype=torch.float64, requires_grad=True)
    hidden = torch.rand(2, 9) < 0.3
    hidden[:, 0] = False
    got = layer(x, context, mask=~hidden[:, None, None])
    turn = (lambda t: t) if module.batch_first else (lambda t: t.transpose(0, 1))
    source = turn(context)
    want = turn(module(turn(x), source, source, key_padding_mask=hidden)[0])
    torch.testing.assert_close(got, want)
    # Gradients: of the inputs, and of the weights, which `write` puts back in the module's layout.
    cotangent = torch.randn_like(want)
    reference = torch.autograd.grad(want, [x, context, *module.parameters()], cotangent)
    ours = torch.autograd.grad(got, [x, context, *layer.parameters()], cotangent)
    grads = dict(zip((name for name, _ in layer.named_parameters()), ours[2:], strict=True))
    layout = "torch" if module.in_proj_weight is not None else "torch-cross"
    again = convert.write(grads, layout, heads=2)
    names = [name for name, _ in module.named_parameters()]
    assert again.keys() == set(names)
    for want, got in zip(reference, [*ours[:2], *(again[name] for name in names)], strict=True):
        torch.testing.assert_close(got, want)


def test_a_row_that_sees_nothing_is_finite_where_pytorch_gives_nan() -> None:
    module = their_module()
    layer = MultiHeadAttention.from_torch(module)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    hidden = torch.tensor([[False] * 7, [True] * 7])
    reference = module(x, x, x, key_padding_mask=hidden)[0]
    assert reference[1].isnan().all()
    ours = layer(x, mask=~hidden[:, None, None])
    torch.testing.assert_close(ours[0], reference[0])
    torch.testing.assert_close(ours[1], module.out_proj.bias.expand(7, -1))


def test_what_else_comes_over_from_pytorch() -> None:
    module = their_module(dropout=0.25).eval()
    module.in_proj_weight.requires_grad_(False)
    state = torch.get_rng_state()
    layer = MultiHeadAttention.from_torch(module)
    assert torch.equal(torch.get_rng_state(), state)  # no numbers were drawn
    assert (layer.dropout, layer.training) == (0.25, False)
    assert MultiHeadAttention.from_torch(module.train()).training
    assert layer.query.weight.dtype == torch.float64
    frozen = {name for name, parameter in layer.named_parameters() if not parameter.requires_grad}
    assert frozen == {"query.weight", "key.weight", "value.weight"}
    layer.query.weight.data.zero_()
    assert module.in_proj_weight.abs().min() > 0  # copies, not views


@pytest.mark.parametrize(
    ("module", "error", "said"),
    [
        (lambda: nn.Linear(2, 2), DtypeError, "module: got a Linear; allowed: an nn.MultiheadAttention"),
        (lambda: their_module(add_bias_kv=True), OptionError, "module: got one with add_bias_kv=True"),
        (lambda: their_module(kdim=8), OptionError, "module: got kdim=8 and vdim=16; allowed: the same"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_a_module_that_is_no_layer_of_ours(module, error, said) -> None:
    with pytest.raises(error) as caught:
        MultiHeadAttention.from_torch(module())
    assert said in str(caught.value)


def test_some_projections_have_a_bias() -> None:
    layer = MultiHeadAttention(16, 2, projection_bias=("query", "value"))
    assert {name for name in layer.state_dict() if "bias" in name} == {"query.bias", "value.bias"}
    for wrong in ("query", ("q",)):
        with pytest.raises(OptionError, match="projection_bias: got"):
            MultiHeadAttention(16, 2, projection_bias=wrong)
