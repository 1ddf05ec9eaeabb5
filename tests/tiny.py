"""Models of transformers with a few random weights: every family that must run on regard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

tf: Any = transformers  # its classes make too much of their types

TOKENS, WINDOW = 99, 7

DECODER = "model.layers.0.self_attn"

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": TOKENS,
    "max_position_embeddings": 128,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


@dataclass(frozen=True)
class Family:
    """A model, what it reads, and how its attention is called in it."""

    build: Callable[[], Any]
    reads: str
    """"text" left-padded, "padded" right-padded, "pairs" for encoders with decoders, "sound" or "image"."""
    layer: str
    """The first attention layer that is called."""

    def model(self, implementation: str = "eager") -> Any:
        """The same random weights each time."""
        torch.manual_seed(1)
        model = self.build().eval()
        model.set_attn_implementation(implementation)
        if "gpt_oss" in model.config.model_type:
            model.set_experts_implementation("eager")  # the others know no float64
        return model

    @property
    def writes(self) -> bool:
        """Whether it generates."""
        return self.reads not in ("padded", "image")


def inputs(reads: str, n: int = 21) -> dict[str, Tensor]:
    """Two rows, the second with padding where the model knows of it."""
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(3, TOKENS, (2, n), generator=draw)
    left = torch.ones_like(ids)
    left[1, :6] = 0
    match reads:
        case "image":
            return {"pixel_values": torch.randn(2, 3, 32, 32, generator=draw)}
        case "sound":
            features = torch.randn(2, 8, 60, generator=draw)
            return {"input_features": features, "decoder_input_ids": ids}
        case "pairs":
            return {"input_ids": ids, "attention_mask": left.flip(1), "decoder_input_ids": ids[:, :9]}
        case "padded":
            return {"input_ids": ids, "attention_mask": left.flip(1)}
        case _:
            return {"input_ids": ids, "attention_mask": left}


def prompt(reads: str) -> dict[str, Tensor]:
    """What `generate` begins with."""
    return {name: t for name, t in inputs(reads).items() if name != "decoder_input_ids"}


def _gpt_oss() -> Any:
    return tf.GptOssConfig(
        **GROUPED,
        head_dim=16,
        sliding_window=WINDOW,
        num_local_experts=2,
        num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )


def _whisper() -> Any:
    return tf.WhisperConfig(
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        vocab_size=TOKENS,
        num_mel_bins=8,
        max_source_positions=30,
        max_target_positions=40,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **IDS,
    )


FAMILIES: dict[str, Family] = {
    "bert": Family(lambda: tf.BertModel(tf.BertConfig(**SIZES)), "padded", "encoder.layer.0.attention.self"),
    "gpt2": Family(
        lambda: tf.GPT2LMHeadModel(
            tf.GPT2Config(
                n_embd=64, n_layer=2, n_head=4, vocab_size=TOKENS, n_positions=128, bos_token_id=1, eos_token_id=2
            )
        ),
        "text",
        "transformer.h.0.attn",
    ),
    "llama": Family(lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED)), "text", DECODER),
    "mistral": Family(
        lambda: tf.MistralForCausalLM(tf.MistralConfig(**GROUPED, sliding_window=WINDOW)), "text", DECODER
    ),
    "gemma2": Family(
        lambda: tf.Gemma2ForCausalLM(
            tf.Gemma2Config(**GROUPED, head_dim=16, sliding_window=WINDOW, attn_logit_softcapping=2.0)
        ),
        "text",
        DECODER,
    ),
    "gpt_oss": Family(lambda: tf.GptOssForCausalLM(_gpt_oss()), "text", DECODER),
    "t5": Family(
        lambda: tf.T5ForConditionalGeneration(
            tf.T5Config(
                d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, vocab_size=TOKENS, decoder_start_token_id=0
            )
        ),
        "pairs",
        "encoder.block.0.layer.0.SelfAttention",
    ),
    "qwen2": Family(lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED)), "text", DECODER),
    "qwen3": Family(lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GROUPED, head_dim=16)), "text", DECODER),
    "whisper": Family(
        lambda: tf.WhisperForConditionalGeneration(_whisper()), "sound", "model.encoder.layers.0.self_attn"
    ),
    "vit": Family(
        lambda: tf.ViTModel(
            tf.ViTConfig(
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
            )
        ),
        "image",
        "layers.0.attention",
    ),
    "gpt_neox": Family(lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**SIZES)), "text", "gpt_neox.layers.0.attention"),
}


def result(model: Any, given: dict[str, Tensor], **more: Any) -> Tensor:
    """What a model answers at its real tokens, in rows."""
    out = model(**given, **more)
    found = out.logits if "logits" in out else out.last_hidden_state
    real = given.get("attention_mask")
    if real is None or real.shape != found.shape[:2]:
        return found.flatten(0, 1)
    return found[real.bool()]
