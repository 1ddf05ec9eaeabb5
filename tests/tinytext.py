"""Tokenizers of a few words, as transformers saves them, beside models of a few random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

tk: Any = tokenizers
tf: Any = transformers

TEXT = """The old bridge was built in 1844. It carried carts and, later, a tram. In 1930 the council
decided that it was too narrow! A new bridge was opened in 1932. Who paid for it? The bank, naïve as
it was, lent the city the money. Document 1 Document 2 Document 3 Question: Answer: user assistant"""

CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def byte_level(chat: str | None = None) -> Any:
    """Pairs of bytes, as decoders have them, with a token that begins a text."""
    made = tk.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<s>", "</s>"],
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    known = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    found = tf.PreTrainedTokenizerFast(tokenizer_object=made, **known)
    if chat is not None:
        found.chat_template = chat
    return found


def word_pieces() -> Any:
    """Pieces of words, as encoders have them, between [CLS] and [SEP]."""
    made = tk.BertWordPieceTokenizer(lowercase=True)
    made.train_from_iterator([TEXT], vocab_size=200, show_progress=False)
    path = {"unk_token": "[UNK]", "sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]"}
    inner = made._tokenizer
    ends = [(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tf.PreTrainedTokenizerFast(tokenizer_object=inner, **path)


SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


def decoder(**more: Any) -> Any:
    """A Llama with two layers of four heads, two of which share their keys."""
    torch.manual_seed(3)
    sizes = SIZES | {"num_key_value_heads": 2, "vocab_size": 400, "initializer_range": 0.3}
    config = tf.LlamaConfig(**sizes | more, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return tf.LlamaForCausalLM(config).eval()


def encoder() -> Any:
    """A BERT with two layers of four heads."""
    torch.manual_seed(3)
    config = tf.BertConfig(**SIZES | {"vocab_size": 200, "initializer_range": 0.3})
    return tf.BertModel(config).eval()


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Both, as a person finds them on a disk."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
