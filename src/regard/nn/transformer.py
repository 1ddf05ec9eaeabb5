"""A small transformer, the architecture of the embedded models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from regard.cache import KVCache
from regard.errors import OptionError
from regard.nn.attention import LayerSeen, MultiHeadAttention
from regard.positions import Positions
from regard.spec.masks import Mask
from regard.spec.observers import Observer


class FeedForward(nn.Module):
    """Two linear maps with a squared ReLU between them (Primer, So et al., 2021)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        nn.init.normal_(self.up.weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.down.weight, std=1 / math.sqrt(hidden))

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        """Each position for itself."""
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """Attention, then a feed-forward layer; each reads a normed residual stream and adds to it.

    Both add nothing at first (their last projections start at zero), so a deep stack starts as the
    identity and trains from the first step (Fixup, Zhang et al., 2019; modded-nanogpt).
    """

    def __init__(self, attention: MultiHeadAttention, hidden: int) -> None:
        super().__init__()
        width = attention.width
        self.attention_norm, self.attention = nn.RMSNorm(width), attention
        self.feed_forward_norm, self.feed_forward = nn.RMSNorm(width), FeedForward(width, hidden)
        nn.init.zeros_(self.attention.output.weight)
        nn.init.zeros_(self.feed_forward.down.weight)

    def forward(
        self, x: Float[Tensor, "b n width"], *, mask: Mask | Tensor | None = None, positions: Positions | None = None
    ) -> Float[Tensor, "b n width"]:
        """The stream after this block."""
        x = x + self.attention(self.attention_norm(x), mask=mask, positions=positions)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def observe(
        self,
        x: Float[Tensor, "b n width"],
        *observers: Observer[Any],
        mask: Mask | Tensor | None = None,
        positions: Positions | None = None,
    ) -> tuple[Float[Tensor, "b n width"], LayerSeen]:
        """The stream after this block, and the statistics of its attention."""
        normed = self.attention_norm(x)
        seen = self.attention.observe(normed, *observers, mask=mask, positions=positions)
        x = x + seen.out
        return x + self.feed_forward(self.feed_forward_norm(x)), seen

    def extend_observed(
        self,
        x: Float[Tensor, "b n width"],
        cache: KVCache,
        *observers: Observer[Any],
        real: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b n width"], LayerSeen, KVCache]:
        """The stream of the next tokens after this block, the statistics, and the cache with these tokens."""
        normed = self.attention_norm(x)
        seen, cache = self.attention.extend_observed(normed, cache, *observers, real=real)
        x = x + seen.out
        return x + self.feed_forward(self.feed_forward_norm(x)), seen, cache


class TransformerSeen(NamedTuple):
    """The result of an observed forward pass."""

    hidden: Float[Tensor, "b n width"]
    """The last layer's normed output; `transformer.logits` computes logits of it, or of a part."""
    layers: list[LayerSeen]


class Transformer(nn.Module):
    """A pre-norm transformer on tokens, with the embedding as its head (Press and Wolf, 2017).

    Its layers are given, so each may have its own mask, positions and heads; `mask=Causal()` in every
    layer makes it a language model.

    >>> from regard.spec.masks import Causal, Window
    >>> masks = Causal() & Window(8), Causal()
    >>> layers = [MultiHeadAttention(32, 2, mask=mask) for mask in masks]
    >>> model = Transformer(vocabulary=100, layers=layers)
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 100])
    """

    def __init__(self, vocabulary: int, layers: Sequence[MultiHeadAttention], *, hidden: int | None = None) -> None:
        super().__init__()
        widths = {layer.width for layer in layers} | {layer.output.out_features for layer in layers}
        if len(widths) != 1:
            raise OptionError(
                "layers",
                f"widths {sorted(widths)}",
                "one width, of one layer or more",
                "Every layer reads and adds to the same stream.",
            )
        (width,) = widths
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.embedding_norm = nn.RMSNorm(width)
        self.blocks = nn.ModuleList(Block(layer, hidden or 4 * width) for layer in layers)
        self.norm = nn.RMSNorm(width)

    @property
    def attentions(self) -> list[MultiHeadAttention]:
        """The attention of each layer."""
        return [block.attention for block in self.blocks if isinstance(block, Block)]

    def forward(
        self, tokens: Int[Tensor, "b n"], *, mask: Mask | Tensor | None = None, positions: Positions | None = None
    ) -> Float[Tensor, "b n vocabulary"]:
        """Logits of the token after each token."""
        return self.logits(self.hidden(tokens, mask=mask, positions=positions))

    def hidden(
        self, tokens: Int[Tensor, "b n"], *, mask: Mask | Tensor | None = None, positions: Positions | None = None
    ) -> Float[Tensor, "b n width"]:
        """The normed output of the last layer: without logits, the largest tensor for long inputs."""
        x = self.embedding_norm(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, mask=mask, positions=positions)
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "*b width"]) -> Float[Tensor, "*b vocabulary"]:
        """Logits from hidden vectors, of all positions or of some."""
        return F.linear(hidden, self.embedding.weight)

    def observe(
        self,
        tokens: Int[Tensor, "b n"],
        *observers: Observer[Any],
        mask: Mask | Tensor | None = None,
        positions: Positions | None = None,
    ) -> TransformerSeen:
        """Run without logits, with statistics of every layer's weights.

        >>> from regard.spec.observers import Entropy
        >>> model = Transformer(100, [MultiHeadAttention(32, 2)])
        >>> model.observe(torch.zeros(1, 5, dtype=torch.long), Entropy()).layers[0][Entropy()].shape
        torch.Size([1, 2, 5])
        """
        x = self.embedding_norm(self.embedding(tokens))
        layers = list[LayerSeen]()
        for block in self.blocks:
            assert isinstance(block, Block)
            x, seen = block.observe(x, *observers, mask=mask, positions=positions)
            layers.append(seen)
        return TransformerSeen(self.norm(x), layers)

    def new_caches(self, size: int | None = None) -> list[KVCache]:
        """An empty cache for each layer; windows slide, unless all are to be of a fixed `size`."""
        return [layer.new_cache(size) for layer in self.attentions]

    def extend(
        self, tokens: Int[Tensor, "b n"], caches: Sequence[KVCache], *, real: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b n width"], list[KVCache]]:
        """`hidden` for the tokens that come next, and the caches with these tokens.

        The tokens may be a prompt, a chunk of it, one token or several drafted ones: with causal layers the
        outputs are those of one run over the whole. `real` is False where a token is padding.

        >>> from regard.spec.masks import Causal
        >>> model = Transformer(100, [MultiHeadAttention(32, 2, mask=Causal())])
        >>> tokens = torch.randint(100, (1, 9))
        >>> hidden, caches = model.extend(tokens[:, :8], model.new_caches())
        >>> hidden, caches = model.extend(tokens[:, 8:], caches)
        >>> torch.allclose(model.logits(hidden[:, -1]), model(tokens)[:, -1], atol=1e-5)
        True
        """
        seen, caches = self.extend_observed(tokens, caches, real=real)
        return seen.hidden, caches

    def extend_observed(
        self,
        tokens: Int[Tensor, "b n"],
        caches: Sequence[KVCache],
        *observers: Observer[Any],
        real: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[TransformerSeen, list[KVCache]]:
        """The same as `extend`, with statistics of every layer's weights, see `MultiHeadAttention`."""
        if len(caches) != len(self.blocks):
            raise OptionError(
                "caches", f"{len(caches)}", f"{len(self.blocks)}, one for each layer", "Begin with model.new_caches()."
            )
        x = self.embedding_norm(self.embedding(tokens))
        layers, extended = list[LayerSeen](), list[KVCache]()
        for block, cache in zip(self.blocks, caches, strict=True):
            assert isinstance(block, Block)
            x, seen, cache = block.extend_observed(x, cache, *observers, real=real)
            layers.append(seen)
            extended.append(cache)
        return TransformerSeen(self.norm(x), layers), extended

    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "b n"],
        count: int,
        *,
        temperature: float = 0.0,
        real: Bool[Tensor, "b n"] | None = None,
    ) -> Int[Tensor, "b count"]:
        """`count` tokens that continue each prompt: the most likely, or sampled at a temperature above 0.

        Prompts of unequal lengths are padded on the left, and `real` is False there. Call
        ``model.eval()`` first; `torch.manual_seed` makes samples reproducible.

        >>> from regard import models
        >>> embedded = models.load()
        >>> prompt = torch.tensor([embedded.encode("import torch\\n\\nfor i in range(").ids])
        >>> embedded.tokenizer.decode(embedded.model.generate(prompt, 4)[0].tolist())
        '1, 2):'
        """
        if not temperature >= 0:
            raise OptionError("temperature", temperature, "0 or more", "0 takes the most likely token.")
        if real is not None and not bool(real[:, -1].all()):
            raise OptionError(
                "real",
                "padding at the end of a prompt",
                "padding on the left",
                "The last token of a prompt says what comes next.",
            )
        caches, generated = self.new_caches(), list[Tensor]()
        for _ in range(count):
            hidden, caches = self.extend(tokens, caches, real=real)
            logits, real = self.logits(hidden[:, -1]), None
            if temperature:
                tokens = torch.multinomial((logits / temperature).softmax(-1), 1)
            else:
                tokens = logits.argmax(-1, keepdim=True)
            generated.append(tokens)
        return torch.cat(generated, 1) if generated else tokens[:, :0]
