"""Other people's weights: their modules and our layer give the same, and every bit comes back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from regard import Causal, Dot, Window, convert
from regard.errors import DtypeError, OptionError, RegardError, ShapeError
from regard.nn import MultiHeadAttention
from regard.positions import Rotary
from regard.spec.biases import T5

transformers = pytest.importorskip("transformers")

WIDTH, HEADS = 32, 4
N = 9  # tokens


@dataclass(frozen=True)
class Family:
    """One attention layer of somebody's, and what our layer needs to mean the same."""

    layout: str
    module: Callable[[], Any]
    run: Callable[[Any, Tensor], Tensor]
    options: Callable[[Any], dict[str, Any]] = lambda module: {}
    key_value_heads: int | None = None

    def sizes(self) -> dict[str, Any]:
        return {"heads": HEADS, "key_value_heads": self.key_value_heads}

    def layer(self, module: nn.Module) -> MultiHeadAttention:
        state = convert.read(module.state_dict(), self.layout, **self.sizes())
        layer = MultiHeadAttention(**convert.sizes(state, **self.sizes()), **self.options(module)).eval()
        layer.load_state_dict(state)
        return layer


def config(name: str, **options: Any) -> Any:
    given = {
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
        "vocab_size": 20,
        "attn_implementation": "eager",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **options,
    }
    return getattr(transformers, f"{name}Config")(**given)


def model(name: str, **options: Any) -> Any:
    model = getattr(transformers, f"{name}Model")(config(name, **options))
    for parameter in model.parameters():  # biases and norms too are something
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def causal() -> Tensor:
    return torch.full((N, N), -torch.inf).triu(1)[None, None]


def turned(name: str, **options: Any) -> Callable[[], Any]:
    """The first attention module of a decoder that knows positions by rotation."""

    def make() -> Any:
        whole = model(name, **options)
        layer = whole.layers[0]
        module = layer.attention if name == "GPTNeoX" else layer.self_attn
        module.rotary = (whole.rotary_emb,)  # kept out of the state dict by the tuple
        return module

    return make


def run_turned(module: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    angles = module.rotary[0](x, torch.arange(N)[None])
    mask = causal() if mask is None else mask
    return module(x, position_embeddings=angles, attention_mask=mask)[0]


def run_window(module: Any, x: Tensor) -> Tensor:
    return run_turned(module, x, causal() + torch.full((N, N), -torch.inf).tril(-4))


def t5() -> Any:
    options = {"num_heads": HEADS, "d_model": WIDTH, "d_kv": 6, "num_layers": 1, "d_ff": 16}
    return model("T5", **options).encoder.block[0].layer[0].SelfAttention


def t5_options(module: Any) -> dict[str, Any]:
    return {"score": Dot(scale=1.0), "bias": T5(torch.zeros(32, HEADS), causal=False)}


def whisper() -> Any:
    options = {
        "d_model": WIDTH,
        "encoder_layers": 1,
        "encoder_attention_heads": HEADS,
        "decoder_layers": 1,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "pad_token_id": 0,
    }
    return model("Whisper", **options).encoder.layers[0].self_attn


class Timm(nn.Module):
    """The layout of timm's Attention, and its meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q_norm, self.k_norm = nn.LayerNorm(WIDTH // HEADS), nn.LayerNorm(WIDTH // HEADS)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weights = (self.q_norm(q) @ self.k_norm(k).mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def bert_output(module: Any, x: Tensor) -> Tensor:
    return module.output.dense(module.self(x)[0])  # the rest of `output` is no attention


def rotary(base: float = 10_000.0, size: int | None = None, **options: Any) -> Callable[..., Any]:
    return lambda module: {"mask": Causal(), "position": Rotary(base, size), **options}


FAMILIES = {
    "torch": Family(
        "torch", lambda: spoilt(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)), lambda m, x: m(x, x, x)[0]
    ),
    "torch, no bias": Family(
        "torch",
        lambda: nn.MultiheadAttention(WIDTH, HEADS, bias=False),
        lambda m, x: m(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1),
    ),
    "timm": Family("timm", Timm, lambda m, x: m(x), lambda m: {"qk_norm": nn.LayerNorm}),
    "bert": Family("bert", lambda: model("Bert").encoder.layer[0].attention, bert_output),
    "vit": Family("llama", lambda: model("ViT", image_size=8, patch_size=4).layers[0].attention, lambda m, x: m(x)[0]),
    "gpt2": Family(
        "gpt2",
        lambda: model("GPT2").h[0].attn,
        lambda m, x: m(x, attention_mask=causal())[0],
        lambda m: {"mask": Causal()},
    ),
    "llama": Family("llama", turned("Llama", num_key_value_heads=2), run_turned, rotary(), 2),
    "mistral": Family(
        "llama",
        turned("Mistral", num_key_value_heads=2, sliding_window=4),
        run_window,
        rotary(mask=Causal() & Window(3)),
        2,
    ),
    "qwen 2": Family("llama", turned("Qwen2", num_key_value_heads=2), run_turned, rotary(), 2),
    "qwen 3": Family(
        "llama",
        turned("Qwen3", num_key_value_heads=2, head_dim=12),
        run_turned,
        rotary(qk_norm=lambda d: nn.RMSNorm(d, eps=1e-6)),
        2,
    ),
    "whisper": Family("bart", whisper, lambda m, x: m(x)[0]),
    "t5": Family("t5", t5, lambda m, x: m(x, mask=torch.zeros(1, 1, N, N))[0], t5_options),
    "neox": Family("neox", turned("GPTNeoX", rotary_pct=0.5), run_turned, rotary(size=4)),
    "phi 3": Family("phi3", turned("Phi3", num_key_value_heads=2), run_turned, rotary(), 2),
}
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def spoilt(module: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """With biases that are not zero, as they are after training."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@families
@torch.no_grad()
def test_our_layer_gives_what_theirs_does(family: Family) -> None:
    with seeded():
        module = family.module().eval()
        x = torch.randn(2, N, WIDTH)
    want = family.run(module, x)
    got = family.layer(module)(x)
    assert want.std() > 0.01  # something is there to be compared
    torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)


@families
def test_every_bit_comes_back(family: Family) -> None:
    with seeded():
        their_state = family.module().state_dict()
    ours = convert.read(their_state, family.layout, **family.sizes())
    again = convert.write(ours, family.layout, **family.sizes())
    beside = {key for key in their_state if "LayerNorm" in key}
    assert again.keys() == their_state.keys() - beside
    for name, tensor in again.items():
        assert torch.equal(tensor, their_state[name]), name
        assert tensor.is_contiguous(), name


@families
@torch.no_grad()
def test_their_layer_takes_what_ours_learned(family: Family) -> None:
    with seeded(1):
        module = family.module().eval()
        layer = family.layer(module)
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
        if layer.bias is not None:
            nn.init.normal_(layer.bias.get_buffer("table"))
        x = torch.randn(2, N, WIDTH)
    their_state = convert.write(layer.state_dict(), family.layout, **family.sizes())
    missing, unknown = module.load_state_dict(their_state, strict=False)
    assert not unknown
    assert all("LayerNorm" in name for name in missing)
    torch.testing.assert_close(layer(x), family.run(module, x), rtol=1e-4, atol=2e-5)


def test_the_names_that_vit_has_in_files(tmp_path: Path) -> None:
    module = model("ViT", image_size=8, patch_size=4)
    module.save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (prefix,) = (where for where, layout in convert.find(state).items() if layout == "vit")
    ours = convert.read(state, "vit", heads=HEADS, prefix=prefix)
    loaded = convert.read(module.state_dict(), "llama", heads=HEADS, prefix="layers.0.attention")
    assert ours.keys() == loaded.keys()
    assert all(torch.equal(ours[name], loaded[name]) for name in ours)
    again = convert.write(ours, "vit", heads=HEADS, prefix=prefix)
    assert again.keys() == {key for key in state if key.startswith(prefix)}


def test_from_one_family_to_another() -> None:
    their_state = Timm().state_dict()
    plain = {name: t for name, t in their_state.items() if "norm" not in name}
    torchs = convert.write(convert.read(plain, "timm", heads=HEADS), "torch", heads=HEADS)
    nn.MultiheadAttention(WIDTH, HEADS).load_state_dict(torchs)
    assert torch.equal(torchs["in_proj_weight"], their_state["qkv.weight"])


def test_finding_the_layers_of_a_model() -> None:
    with seeded():
        layouts = {
            name: convert.find(model(name, **options).state_dict())
            for name, options in (("Bert", {}), ("GPT2", {"num_hidden_layers": 2}), ("GPTNeoX", {}), ("Llama", {}))
        }
    assert layouts == {
        "Bert": {"encoder.layer.0.attention.": "bert"},
        "GPT2": {"h.0.attn.": "gpt2", "h.1.attn.": "gpt2"},
        "GPTNeoX": {"layers.0.attention.": "neox"},
        "Llama": {"layers.0.self_attn.": "llama"},
    }
    cross = nn.MultiheadAttention(WIDTH, HEADS, kdim=8, vdim=8)
    assert convert.find(cross.state_dict()) == {"": "torch-cross"}
    assert convert.find({"xin_proj_weight": torch.zeros(1)}) == {}


def test_what_is_read_are_views() -> None:
    their_state = nn.MultiheadAttention(WIDTH, HEADS).state_dict()
    ours = convert.read(their_state, "torch", heads=HEADS)
    assert ours["query.weight"].data_ptr() == their_state["in_proj_weight"].data_ptr()


def test_a_layout_of_your_own() -> None:
    own_layout = convert.Layout(
        "mine",
        tuple(convert.Part(f"{name}.kernel", (f"{name}.weight",)) for name in ("query", "key", "value", "output")),
    )
    state = MultiHeadAttention(WIDTH, HEADS).state_dict()
    their_state = convert.write(state, own_layout, heads=HEADS, prefix="att")
    assert "att.query.kernel" in their_state
    again = convert.read(their_state, own_layout, heads=HEADS, prefix="att")
    assert all(torch.equal(again[name], state[name]) for name in state)


# ------------------------------------------------------------------ what is refused


def llama(**changes: Any) -> dict[str, Tensor]:
    shapes = {"q_proj": (24, 16), "k_proj": (12, 16), "v_proj": (12, 16), "o_proj": (16, 24)}
    state = {f"a.{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    state |= {f"a.{name.replace('__', '.')}": tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "sizes", "error", "said"),
    [
        (
            llama(k_proj__weight=None),
            {},
            OptionError,
            "no 'a.k_proj.weight', but 'a.q_proj.weight', 'a.v_proj.weight', 'a.o_proj.weight'; allowed: the "
            "names of layout 'llama' under 'a.': q_proj.weight, [q_proj.bias], k_proj",
        ),
        (llama(k_proj__weights=torch.zeros(1)), {}, OptionError, "got 'a.k_proj.weights'; allowed: the names of"),
        (llama(), {"prefix": "b"}, OptionError, "'b.o_proj.weight', but nothing; allowed"),
        (
            llama(k_proj__weight=torch.zeros(11, 16)),
            {},
            ShapeError,
            "a.k_proj.weight: got shape (11, 16); allowed: (12, any). Check heads and key_value_heads",
        ),
        (
            llama(v_proj__weight=torch.zeros(12, 15)),
            {},
            ShapeError,
            "a.v_proj.weight: got shape (12, 15); allowed: (12, 16)",
        ),
        (
            llama(o_proj__weight=torch.zeros(16, 12)),
            {},
            ShapeError,
            "a.o_proj.weight: got shape (16, 12); allowed: (any, 24)",
        ),
        (llama(q_proj__bias=torch.zeros(12)), {}, ShapeError, "a.q_proj.bias: got shape (12,); allowed: (24)"),
        (llama(q_norm__weight=torch.zeros(24)), {}, ShapeError, "a.q_norm.weight: got shape (24,); allowed: (6)"),
        (
            llama(),
            {"heads": 5, "key_value_heads": 5},
            ShapeError,
            "a.q_proj.weight: got shape (24, 16); allowed: (a multiple of 5, any)",
        ),
        (llama(), {"key_value_heads": None}, ShapeError, "a.k_proj.weight: got shape (12, 16); allowed: (24, any)"),
        (llama(), {"key_value_heads": 3}, OptionError, "key_value_heads: got 3; allowed: a divisor of heads, 4"),
        (llama(), {"heads": 0}, OptionError, "heads: got 0; allowed: a whole number ≥ 1"),
        (llama(), {"layout": "lama"}, OptionError, "layout: got 'lama'; allowed: 'torch', 'torch-cross', 'timm'"),
    ],
)
def test_what_cannot_be_read(state, sizes, error, said) -> None:
    given = {"layout": "llama", "heads": 4, "key_value_heads": 2, "prefix": "a"} | sizes
    with pytest.raises(error, match=re.escape(said)):
        convert.read(state, given.pop("layout"), **given)


@pytest.mark.parametrize(
    ("layout", "state", "said"),
    [
        (
            "gpt2",
            {"c_attn.weight": (96, 32), "c_proj.weight": (32, 32)},
            "c_attn.weight: got shape (96, 32); allowed: (96, a multiple of 12, the heads of query.weight",
        ),
        (
            "torch",
            {"in_proj_weight": (96, 32), "in_proj_bias": (84,), "out_proj.weight": (32, 32)},
            "in_proj_bias: got shape (84,); allowed: (96)",
        ),
        (
            "t5",
            dict.fromkeys(("q.weight", "k.weight", "v.weight", "o.weight"), (32, 32))
            | {"relative_attention_bias.weight": (32, 2)},
            "relative_attention_bias.weight: got shape (32, 2); allowed: (any, 4)",
        ),
        ("torch", {"in_proj_weight": (), "out_proj.weight": (32, 32)}, "in_proj_weight: got shape ()"),
    ],
)
def test_shapes_are_told_as_they_lie_in_the_file(layout, state, said) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in state.items()}
    with pytest.raises(ShapeError, match=re.escape(said)):
        convert.read(tensors, layout, heads=4)


def ours(**options: Any) -> dict[str, Tensor]:
    return MultiHeadAttention(WIDTH, HEADS, **options).state_dict()


@pytest.mark.parametrize(
    ("state", "layout", "sizes", "said"),
    [
        (
            ours(qk_norm=nn.RMSNorm),
            "torch",
            {},
            "state: got 'query_norm.weight', 'key_norm.weight'; allowed: what layout 'torch' has a place for",
        ),
        (ours(projection_bias=("query", "value")), "torch", {}, "state: got no 'key.bias', but"),
        ({"query.weight": torch.zeros(4, 4)}, "torch", {}, "got no 'key.weight', 'value.weight', 'output.weight'"),
        (
            ours(key_value_heads=2),
            "neox",
            {"key_value_heads": 2},
            "key_value_heads: got 2; allowed: 4, the heads of the queries. Layout 'neox' has no fewer",
        ),
        (
            ours() | {"key.weight": torch.zeros(32, 32).half()},
            "torch",
            {},
            "in_proj_weight: got torch.float32 and torch.float16; allowed: one dtype",
        ),
        (
            ours() | {"key.weight": torch.zeros(16, 32)},
            "torch",
            {},
            "key.weight: got shape (16, 32); allowed: (32, any)",
        ),
    ],
)
def test_what_cannot_be_written(state, layout, sizes, said) -> None:
    with pytest.raises(RegardError, match=re.escape(said)):
        convert.write(state, layout, heads=HEADS, **sizes)


def test_dtypes_do_not_matter_where_nothing_is_joined() -> None:
    state = ours() | {"key.weight": torch.zeros(32, 32).half()}
    assert convert.write(state, "llama", heads=HEADS)["k_proj.weight"].dtype == torch.float16
    with pytest.raises(DtypeError):
        convert.write(state, "torch", heads=HEADS)


def test_sizes_are_the_layers_arguments() -> None:
    options = {
        "width": 12,
        "heads": 4,
        "key_value_heads": 2,
        "head_size": 5,
        "value_size": 6,
        "context_width": 10,
        "out_width": 8,
        "projection_bias": ("query", "output"),
    }
    state = MultiHeadAttention(**options).state_dict()
    assert convert.sizes(state, heads=4, key_value_heads=2) == options
    with pytest.raises(OptionError, match="a state dict of MultiHeadAttention"):
        convert.sizes({"q_proj.weight": torch.zeros(4, 4)}, heads=4)
    with pytest.raises(ShapeError, match="query"):
        convert.sizes(state, heads=3, key_value_heads=3)
