"""Attention with learned projections.

The layer takes the masks, biases, scores and normalizers of `regard.attention` as values, and registers the tensors
of learned ones as its parameters. `layer(x)` returns a tensor; `layer.observe(x, …)` is the same computation and
also returns statistics of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attend import Seen, attention, observe
from regard.cache import KVCache
from regard.errors import OptionError, ShapeError
from regard.nn.torch_module import converted_arguments
from regard.positions import Position, Positions
from regard.spec.biases import Bias, as_bias
from regard.spec.masks import Mask, Window, as_mask
from regard.spec.normalizers import Normalizer
from regard.spec.observers import Observer, Received
from regard.spec.parameters import ModuleParameters
from regard.spec.scores import Score, as_score
from regard.weights import Weights


@dataclass(frozen=True, eq=False, repr=False)
class LayerSeen(Seen):
    """Statistics of a layer's weights; `out` is the layer's output, after the output projection."""

    out: Float[Tensor, "b n out"]


class MultiHeadAttention(nn.Module):
    """Learned projections to queries, keys and values, attention, and a projection back.

    The layer attends to its input, or to a `context` of width `context_width` (cross-attention). Fewer
    `key_value_heads` than `heads` are grouped: query head i reads key head i // (h / g) (Ainslie et al.,
    2023). `qk_norm` makes a norm for queries and keys from the head size, such as `nn.RMSNorm`
    (Dehghani et al., 2023). `position`, `mask`, `bias`, `score` and `normalizer` are values of this library;
    their parameters become this layer's. In training, `dropout` drops weights and `head_dropout`
    whole heads (Zhou et al., 2020); the rest is scaled up. `projection_bias` may name the projections that
    have a bias: "query", "key", "value", "output".

    The paper is Vaswani et al. (2017). Query, key and value projections start normal with deviation
    1/√(inputs), which keeps a unit variance; the output projection likewise.

    >>> from regard.spec.masks import Causal
    >>> from regard.positions import Rotary
    >>> layer = MultiHeadAttention(64, heads=4, key_value_heads=2, position=Rotary(), mask=Causal())
    >>> layer(torch.randn(1, 10, 64)).shape
    torch.Size([1, 10, 64])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_value_heads: int | None = None,
        head_size: int | None = None,
        value_size: int | None = None,
        context_width: int | None = None,
        out_width: int | None = None,
        qk_norm: Callable[[int], nn.Module] | None = None,
        position: Position | None = None,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
        score: Score | Callable[[Tensor, Tensor], Tensor] | None = None,
        normalizer: Normalizer | None = None,
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        projection_bias: bool | Collection[str] = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        shared = heads if key_value_heads is None else key_value_heads
        if head_size is None:
            if width < 1 or heads < 1 or width % heads:
                raise OptionError(
                    "heads",
                    f"{heads} for width {width}",
                    "a divisor of the width",
                    "Give head_size to choose both freely.",
                )
            head_size = width // heads
        if shared < 1 or heads % shared:
            raise OptionError(
                "key_value_heads",
                shared,
                f"a divisor of heads, {heads}",
                "None gives every query head a key head of its own.",
            )
        for name, rate in (("dropout", dropout), ("head_dropout", head_dropout)):
            if not 0 <= rate < 1:
                raise OptionError(name, rate, "a number from 0 up to 1", "0 turns it off.")
        value_size = head_size if value_size is None else value_size
        self.width, self.context_width = width, width if context_width is None else context_width
        self.heads, self.key_value_heads = heads, shared
        self.head_size, self.value_size = head_size, value_size
        self.dropout, self.head_dropout, self.backend = dropout, head_dropout, backend

        names = "query", "key", "value", "output"
        biased = names if projection_bias is True else projection_bias or ()
        if isinstance(biased, str) or not set(biased) <= set(names):
            raise OptionError(
                "projection_bias",
                repr(projection_bias),
                f"True, False or some of {names}",
                "Name the projections that have a bias.",
            )

        def linear(name: str, inputs: int, outputs: int) -> nn.Linear:
            layer = nn.Linear(inputs, outputs, bias=name in biased)
            nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs))
            if name in biased:
                nn.init.zeros_(layer.bias)
            return layer

        self.query = linear("query", width, heads * head_size)
        self.key = linear("key", self.context_width, shared * head_size)
        self.value = linear("value", self.context_width, shared * value_size)
        self.output = linear("output", heads * value_size, width if out_width is None else out_width)
        self.query_norm = nn.Identity() if qk_norm is None else qk_norm(head_size)
        self.key_norm = nn.Identity() if qk_norm is None else qk_norm(head_size)
        self.position = None if position is None else ModuleParameters(position)
        self.mask = None if mask is None else ModuleParameters(as_mask(mask))
        self.bias = None if bias is None else ModuleParameters(as_bias(bias))
        self.score = None if score is None else ModuleParameters(as_score(score))
        self.normalizer = None if normalizer is None else ModuleParameters(normalizer)

    @classmethod
    def from_torch(cls, module: nn.MultiheadAttention) -> Self:
        """A layer with copies of the module's weights, its dropout and its mode: the same outputs, never NaN.

        Inputs are (batch, sequence, width) whatever the module's `batch_first`: transpose them where it is
        False. Keys and values come from one `context`. Masks are True where a query *may* see a key: for a
        `key_padding_mask` write ``mask=~key_padding_mask[:, None, None]``. A row that may see nothing gives
        the output's bias, where the module gives NaN. Weights are not returned beside the output: see `weights`
        and `observe`.

        >>> torch_layer = nn.MultiheadAttention(64, 4, batch_first=True)
        >>> x = torch.randn(2, 10, 64)
        >>> torch.allclose(MultiHeadAttention.from_torch(torch_layer)(x), torch_layer(x, x, x)[0], atol=1e-6)
        True
        """
        options, state = converted_arguments(module)
        weight = module.out_proj.weight
        with torch.device("meta"):  # initial weights would only be overwritten
            layer = cls(**options)
        layer.to(weight.dtype).to_empty(device=weight.device).load_state_dict(state)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(state[name].requires_grad)
        return layer.train(module.training)

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        context: Float[Tensor, "b m context"] | None = None,
        *,
        mask: Mask | Tensor | None = None,
        positions: Positions | None = None,
        context_positions: Positions | None = None,
    ) -> Float[Tensor, "b n out"]:
        """Attend from `x` to itself, or to `context`.

        `mask` is combined with this layer's mask for one call (padding, packed documents). `positions` are the
        positions of the inputs, (n,) or (b, n); by default 0 … n − 1, and likewise for the context.
        """
        q, k, v = self.projected(x, context, positions, context_positions)
        return self._merged(attention(q, k, v, backend=self.backend, **self._values(mask)))

    def observe(
        self,
        x: Float[Tensor, "b n width"],
        *observers: Observer[Any],
        context: Float[Tensor, "b m context"] | None = None,
        mask: Mask | Tensor | None = None,
        positions: Positions | None = None,
        context_positions: Positions | None = None,
    ) -> LayerSeen:
        """The same as calling the layer, with statistics of its weights; `seen.out` is the layer's output.

        >>> from regard.spec.observers import Entropy
        >>> layer = MultiHeadAttention(64, heads=4)
        >>> layer.observe(torch.randn(1, 10, 64), Entropy())[Entropy()].shape
        torch.Size([1, 4, 10])
        """
        q, k, v = self.projected(x, context, positions, context_positions)
        seen = observe(q, k, v, *observers, backend=self.backend, **self._values(mask))
        results = {observer: seen[observer] for observer in seen}
        return LayerSeen(self._merged(seen.out), results)

    def new_cache(self, size: int | None = None) -> KVCache:
        """An empty cache for this layer: of a fixed `size`, or growing; sliding where its mask is a window.

        >>> MultiHeadAttention(64, heads=4, mask=Window(127)).new_cache()
        KVCache(0 keys, a window of 128, next position 0)
        """
        if size is not None:
            return KVCache.static(size)
        parts = () if self.mask is None else self.mask().conjuncts()
        backs = [m.back for m in parts if isinstance(m, Window) and not m.ahead and not m.offset]
        return KVCache.sliding(min(backs) + 1) if backs else KVCache()

    def extend(
        self,
        x: Float[Tensor, "b n width"],
        cache: KVCache,
        *,
        mask: Mask | Tensor | None = None,
        real: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b n out"], KVCache]:
        """The layer's output for the tokens that come next, and the cache with their keys and values.

        Tokens may come in chunks of any sizes; with a causal mask the outputs are those of one run over all
        of them. `real` is False where a token is padding (`KVCache.extend`), whose output means nothing. A
        `mask` for this call is evaluated at positions, a bool tensor at the slots of the cache after this step.

        >>> from regard.spec.masks import Causal
        >>> layer, x = MultiHeadAttention(64, heads=4, mask=Causal()), torch.randn(1, 10, 64)
        >>> first, cache = layer.extend(x[:, :7], layer.new_cache())
        >>> then, cache = layer.extend(x[:, 7:], cache)
        >>> torch.allclose(torch.cat((first, then), 1), layer(x), atol=1e-5)
        True
        """
        q, cache, values = self._extended(x, cache, mask, real)
        out = attention(q, cache.keys, cache.values, backend=self.backend, **values)
        return self._merged(out), cache

    def extend_observed(
        self,
        x: Float[Tensor, "b n width"],
        cache: KVCache,
        *observers: Observer[Any],
        mask: Mask | Tensor | None = None,
        real: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[LayerSeen, KVCache]:
        """The same as `extend`, with statistics of the new tokens' weights; indices of keys are slots.

        With ``Received()`` among the observers the cache adds it to `cache.received`.

        >>> from regard.spec.observers import Received
        >>> from regard.spec.masks import Causal
        >>> layer, x = MultiHeadAttention(64, heads=4, mask=Causal()), torch.randn(1, 10, 64)
        >>> seen, cache = layer.extend_observed(x, layer.new_cache(), Received())
        >>> cache.keep(6, by=cache.received)
        KVCache(6 keys, next position 10)
        """
        q, cache, values = self._extended(x, cache, mask, real)
        for observer in observers:
            cache.observed(observer)
        kv = cache.keys, cache.values
        seen = observe(q, *kv, *observers, backend=self.backend, **values)
        results = {observer: seen[observer] for observer in seen}
        if Received() in results:
            cache = cache.receive(results[Received()])
        return LayerSeen(self._merged(seen.out), results), cache

    def _extended(
        self, x: Tensor, cache: KVCache, mask: Mask | Tensor | None, real: Tensor | None
    ) -> tuple[Tensor, KVCache, dict[str, Any]]:
        """The queries of the new tokens, the cache with their keys, and the arguments of the call on its slots."""
        q, k, v = self.projected(x, positions=cache.upcoming(x.shape[1], real, x.device))
        cache = cache.extend(k, v, real=real)
        values = self._values(mask)
        values["mask"] = cache.mask(values["mask"])
        if values["bias"] is not None:
            values["bias"] = cache.bias(values["bias"])
        if values["score"] is not None:
            values["score"] = cache.score(values["score"])
        return q, cache, values

    def weights(
        self,
        x: Float[Tensor, "b n width"],
        context: Float[Tensor, "b m context"] | None = None,
        *,
        mask: Mask | Tensor | None = None,
        positions: Positions | None = None,
        context_positions: Positions | None = None,
    ) -> Weights:
        """The layer's weights as a value that can be indexed.

        >>> layer = MultiHeadAttention(64, heads=4)
        >>> layer.weights(torch.randn(1, 1000, 64))[0, 3, 999, 990:].shape
        torch.Size([10])
        """
        q, k, _ = self.projected(x, context, positions, context_positions)
        values = self._values(mask)
        del values["dropout"]  # weights are those before dropout
        return Weights.of(q, k, **values)

    def projected(
        self,
        x: Float[Tensor, "b n width"],
        context: Float[Tensor, "b m context"] | None = None,
        positions: Positions | None = None,
        context_positions: Positions | None = None,
    ) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b g m d"], Float[Tensor, "b g m dv"]]:
        """Queries, keys and values as they enter attention: projected, normed and rotated."""
        _check_input("x", x, self.width)
        if context is None:
            if self.context_width != self.width:
                raise ShapeError(
                    "context",
                    "None",
                    f"a tensor (b, m, {self.context_width})",
                    "The layer has a context_width: it is for cross-attention.",
                )
        else:
            _check_input("context", context, self.context_width)
        position = None if self.position is None else self.position()
        if position is not None:
            if positions is None:
                positions = torch.arange(x.shape[1], device=x.device)
            x = position.add(x, positions)
            if context is None:
                context_positions = positions
            else:
                if context_positions is None:
                    context_positions = torch.arange(context.shape[1], device=x.device)
                context = position.add(context, context_positions)
        source = x if context is None else context
        q = self.query_norm(_split(self.query(x), self.heads))
        k = self.key_norm(_split(self.key(source), self.key_value_heads))
        v = _split(self.value(source), self.key_value_heads)
        if position is not None:
            assert positions is not None
            assert context_positions is not None
            q, k = position.turn(q, k, positions, context_positions)
        return q, k, v

    def _values(self, mask: Mask | Tensor | None) -> dict[str, Any]:
        values = {
            name: None if module is None else module()
            for name, module in (("bias", self.bias), ("score", self.score), ("normalizer", self.normalizer))
        }
        layer_mask = None if self.mask is None else self.mask()
        call_mask = None if mask is None else as_mask(mask)
        if layer_mask is not None and call_mask is not None:
            call_mask = layer_mask & call_mask
        combined = layer_mask if call_mask is None else call_mask
        return values | {"mask": combined, "dropout": self.dropout if self.training else 0.0}

    def _merged(self, out: Float[Tensor, "b h n dv"]) -> Float[Tensor, "b n out"]:
        if self.training and self.head_dropout:
            kept = torch.rand(*out.shape[:2], 1, 1, device=out.device) >= self.head_dropout
            out = out * kept / (1 - self.head_dropout)
        return self.output(out.transpose(1, 2).flatten(-2))

    def extra_repr(self) -> str:
        return (
            f"heads={self.heads}, key_value_heads={self.key_value_heads}, head_size={self.head_size},"
            f" value_size={self.value_size}"
        )


def _check_input(name: str, x: Tensor, width: int) -> None:
    if x.ndim != 3 or x.shape[-1] != width:
        raise ShapeError(
            name,
            f"shape {tuple(x.shape)}",
            f"(batch, sequence, {width})",
            "Its last dimension is the width that the layer was made for.",
        )


def _split(x: Tensor, heads: int) -> Tensor:
    """(b, n, heads · size) → (b, heads, n, size)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
