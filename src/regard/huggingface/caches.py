"""A cache for `generate` that does not copy what it holds for each token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from regard.cache.buffers import KeyValueBuffer


class GrowingLayer(DynamicLayer):
    """Keys and values of a layer in a buffer that grows: a step writes its own, and copies no others.

    After a crop or another order of the batch, which make other tensors of them, the next step copies once.
    """

    _buffer: KeyValueBuffer | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values, these behind those before."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        buffer = self._buffer
        if buffer is None or buffer.keys is not self.keys or buffer.values is not self.values:
            buffer = None
            if self.keys is not None and self.values is not None and self.keys.numel():
                buffer = KeyValueBuffer.copied(self.keys, self.values, 0)
        spare = max((0 if buffer is None else buffer.keys.shape[2]) // 2, 64)
        if buffer is None:
            buffer = KeyValueBuffer.copied(key_states, value_states, spare)
        else:
            buffer = buffer.extended(key_states, value_states, spare)
        self._buffer, self.keys, self.values = buffer, buffer.keys, buffer.values
        return buffer.keys, buffer.values

    def reset(self) -> None:
        self._buffer = None
        super().reset()


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """A cache for `generate` that does not copy all keys and values for each token, as `DynamicCache` does.

    ``model.generate(…, past_key_values=growing_cache(model.config))``. Layers that see a window only are
    `DynamicCache`'s own.
    """
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(one) is DynamicLayer else one for one in cache.layers]
    return cache
