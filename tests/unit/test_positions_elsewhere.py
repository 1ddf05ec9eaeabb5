"""Positions have the numbers that transformers computes, which models were trained with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig, LlamaConfig, Qwen2VLTextConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.cohere import modeling_cohere as cohere
from transformers.models.cohere.configuration_cohere import CohereConfig
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama
from transformers.models.llama4 import modeling_llama4 as llama4
from transformers.models.llama4.configuration_llama4 import Llama4VisionConfig
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.pixtral import modeling_pixtral as pixtral
from transformers.models.pixtral.configuration_pixtral import PixtralVisionConfig
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.t5.modeling_t5 import T5Attention

from cases import Draw
from regard.positions import Alternating, Axial, Rotary, Scaling, Sinusoidal, YaRN
from regard.spec.biases import T5, ALiBi


def close(ours: Tensor, reference: Tensor) -> None:
    """They compute angles in float32."""
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=2e-5)


ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 8.0, "original_max_position_embeddings": 32},
    "yarn settings": {
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
        "mscale": 0.7,
        "mscale_all_dim": 1.4,
    },
    "yarn attention": {"factor": 8.0, "original_max_position_embeddings": 512, "attention_factor": 1.3},
    "yarn step": {"factor": 8.0, "original_max_position_embeddings": 2},
    "llama3": {"factor": 8.0, "original_max_position_embeddings": 512, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {
        "short_factor": [1 + i / 10 for i in range(16)],
        "long_factor": [2.0 + i for i in range(16)],
        "original_max_position_embeddings": 32,
    },
    "longrope attention": {
        "short_factor": [1.0] * 16,
        "long_factor": [2.0] * 16,
        "attention_factor": 1.2,
        "original_max_position_embeddings": 32,
    },
    "proportional": {"factor": 2.0, "partial_rotary_factor": 0.5},
}


def rope_of(name: str) -> dict[str, Any]:
    return {"rope_type": name.split()[0], "rope_theta": 5000.0, **ROPES[name]}


def llama_config(name: str) -> LlamaConfig:
    return LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=64, rope_parameters=rope_of(name))


def read(name: str, **keywords: Any) -> Rotary:
    return Rotary.from_config(rope_of(name), head_size=32, trained=64, **keywords)


@pytest.mark.parametrize("name", [name for name in ROPES if name != "default"])
def test_frequencies_of_a_config(name: str) -> None:
    scaling = read(name).scaling
    assert isinstance(scaling, Scaling)
    for length in (10, 64, 65, 300):
        make = ROPE_INIT_FUNCTIONS[name.split()[0]]
        expected, magnitude = make(llama_config(name), torch.device("cpu"), seq_len=length)
        frequencies = torch.tensor(scaling.frequencies(5000.0, 32), dtype=torch.float64)
        if scaling.by_length:
            frequencies = scaling.stretched(frequencies, 5000.0, 32, torch.tensor(length))
        torch.testing.assert_close(frequencies.float(), expected, rtol=2e-6, atol=0)
        assert scaling.magnitude == pytest.approx(magnitude, rel=1e-12)


def vectors(heads: int, n: int, d: int) -> tuple[Tensor, Tensor]:
    draw = Draw("elsewhere")
    return draw.normal(2, heads, n, d).float(), draw.normal(2, 1, n, d).float()


def compare(ours: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> None:
    for own, other in zip(ours, reference, strict=True):
        close(own, other)


@pytest.mark.parametrize("end", [40, 65, 200])
@pytest.mark.parametrize("name", [name for name in ROPES if name != "proportional"])
def test_llama_with_each_scaling(name: str, end: int) -> None:
    q, k = vectors(2, 20, 32)
    places = torch.arange(end - 20, end)
    waves = llama.LlamaRotaryEmbedding(llama_config(name))(q, places[None])
    compare(read(name).turn(q, k, places), llama.apply_rotary_pos_emb(q, k, *waves))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_llama_in_half_precision(dtype: torch.dtype) -> None:
    q, k = (x.to(dtype) for x in vectors(2, 20, 32))
    places = torch.arange(20)
    waves = llama.LlamaRotaryEmbedding(llama_config("default"))(q, places[None])
    reference = llama.apply_rotary_pos_emb(q, k, *waves)
    exact = read("default").turn(q.double(), k.double(), places)
    ours = read("default").turn(q, k, places)
    for own, other, expected in zip(ours, reference, exact, strict=True):
        assert (own - expected).square().mean() < (other - expected).square().mean()


def test_interleaved_as_in_gptj() -> None:
    q, k = vectors(4, 9, 16)
    places = torch.tensor([3, 4, 5, 6, 7, 20, 21, 100, 101])
    sin, cos = gptj.create_sinusoidal_positions(128, 8)[places][None].chunk(2, dim=-1)
    turned: list[Tensor] = []
    for x in (q, k):
        part = gptj.apply_rotary_pos_emb(x[..., :8].transpose(1, 2), sin, cos).transpose(1, 2)
        turned.append(torch.cat((part, x[..., 8:]), dim=-1))
    compare(Rotary(size=8, pairs="interleaved").turn(q, k, places), (turned[0], turned[1]))


def test_interleaved_as_in_cohere() -> None:
    q, k = vectors(2, 20, 32)
    config = CohereConfig(hidden_size=64, num_attention_heads=2, rope_parameters=rope_of("linear"))
    places = torch.stack((torch.arange(20), torch.arange(70, 90)))
    waves = cohere.CohereRotaryEmbedding(config)(q, places)
    ours = read("linear", pairs="interleaved").turn(q, k, places)
    compare(ours, cohere.apply_rotary_pos_emb(q, k, *waves))


def test_partial_as_in_gpt_neox() -> None:
    q, k = vectors(2, 20, 32)
    rope = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.25}
    config = GPTNeoXConfig(hidden_size=64, num_attention_heads=2, rope_parameters=rope)
    places = torch.arange(20)
    waves = gpt_neox.GPTNeoXRotaryEmbedding(config)(q, places[None])
    ours = Rotary.from_config(rope, head_size=32)
    assert ours.size == 8
    compare(ours.turn(q, k, places), gpt_neox.apply_rotary_pos_emb(q, k, *waves))


GRID = torch.cartesian_prod(torch.arange(4), torch.arange(5))
"""Row and column of each patch of a picture."""


def test_two_axes_as_in_pixtral() -> None:
    q, k = vectors(2, 20, 32)
    rope: Any = {"rope_type": "axial", "rope_theta": 5000.0}
    config = PixtralVisionConfig(hidden_size=64, num_attention_heads=2, rope_parameters=rope)
    cos, sin = pixtral.PixtralVisionRotaryEmbedding(config)(q, GRID.T[None])
    ours = Rotary(5000.0, axes=Alternating(2)).turn(q, k, GRID)
    compare(ours, pixtral.apply_rotary_pos_emb(q, k, cos, sin))


def test_two_axes_as_in_qwen2_vl() -> None:
    q, k = vectors(2, 20, 32)
    rope: Any = {"rope_type": "axial", "rope_theta": 5000.0}
    config = Qwen2VLVisionConfig(embed_dim=64, num_heads=2, rope_parameters=rope)
    cos, sin = qwen2_vl.Qwen2VLVisionRotaryEmbedding(config)(q, GRID.T[None])
    reference = (
        qwen2_vl.apply_rotary_pos_emb_vision(x.transpose(1, 2), x.transpose(1, 2), cos, sin)[0] for x in (q, k)
    )
    ours = Rotary(5000.0, axes=Axial(2)).turn(q, k, GRID)
    compare(ours, tuple(x.transpose(1, 2) for x in reference))  # pyright: ignore[reportArgumentType]


def test_two_axes_as_in_llama4() -> None:
    rope: Any = {"rope_type": "default", "rope_theta": 5000.0}
    config = Llama4VisionConfig(
        hidden_size=64, num_attention_heads=2, image_size=16, patch_size=4, rope_parameters=rope
    )
    turns = llama4.Llama4VisionRotaryEmbedding(config).freqs_ci
    q, k = vectors(2, 16, 32)
    # Theirs are (b, n, h, d); the last of their turns is that of a class token, which stands still.
    reference = llama4.vision_apply_rotary_emb(q.transpose(1, 2), k.transpose(1, 2), turns[:16])
    row, column = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    places = torch.stack((column, row), dim=-1) + 1
    ours = Rotary(5000.0, pairs="interleaved", axes=Axial(2)).turn(q, k, places)
    compare(ours, (reference[0].transpose(1, 2), reference[1].transpose(1, 2)))


@pytest.mark.parametrize("woven", [False, True], ids=["qwen2_vl", "qwen3_vl"])
def test_three_axes_of_text(woven: bool) -> None:
    q, k = vectors(2, 20, 32)
    rope = {"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [6, 6, 4]}
    rope |= {"mrope_interleaved": True} if woven else {}
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "head_dim": 32}
    places = Draw("mrope").integers(0, 90, 3, 2, 20)
    rotary: Any = qwen3_vl.Qwen3VLTextRotaryEmbedding if woven else qwen2_vl.Qwen2VLRotaryEmbedding
    config: Any = Qwen3VLTextConfig if woven else Qwen2VLTextConfig
    rotary = rotary(config(rope_parameters=rope, **sizes))
    cos, sin = rotary(q, places)
    ours = Rotary.from_config(rope, head_size=32).turn(q, k, places.permute(1, 2, 0))
    compare(ours, llama.apply_rotary_pos_emb(q, k, cos, sin))


def test_sinusoids_of_distilbert() -> None:
    table = torch.empty(50, 12)
    create_sinusoidal_embeddings(50, 12, table)
    ours = Sinusoidal().add(torch.zeros(1, 50, 12), torch.arange(50))[0]
    close(ours, table)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (16, 40)])
def test_t5s_buckets(buckets: int, most: int, causal: bool) -> None:
    distance = torch.arange(-500, 500)
    expected = T5Attention._relative_position_bucket(-distance, not causal, buckets, most)
    got = T5(torch.zeros(buckets, 1), most, causal).bucket(distance)
    # At the edge of a bucket the logarithm is a whole number, and float32 may fall on either side of it.
    assert (got != expected).sum() <= 2
    assert (got - expected).abs().max() <= 1


@pytest.mark.parametrize("heads", [4, 8, 12])
def test_alibis_of_bloom_and_mpt(heads: int) -> None:
    # Both leave out what is the same for a whole row: the query's own position.
    bloom = build_alibi_tensor(torch.ones(1, 6), heads, torch.float32)[:, 0]
    ours = ALiBi(heads).of_distance(torch.arange(5, -1, -1))
    torch.testing.assert_close(ours - ours[:, :1], bloom)
    if heads != 12:  # MPT orders the slopes of other counts in its own way
        mpt = build_mpt_alibi_tensor(heads, 6)[:, 0]
        torch.testing.assert_close(ours, mpt)


def test_yarn_of_a_config_without_a_factor() -> None:
    rope = {"rope_type": "yarn", "original_max_position_embeddings": 16}
    assert Rotary.from_config(rope, head_size=32, trained=64).scaling == YaRN(4.0, 16)
