"""Models of transformers on these kernels: ``attn_implementation="regard"``.

Importing this module registers an attention and a mask function under that name:

    import regard.huggingface
    model = AutoModel.from_pretrained(…, attn_implementation="regard")    # or, of one that is loaded,
    model.set_attn_implementation("regard")

Masks stay what they are, causal, a window, packed documents, padded keys: no tensor of n × n is built. (But
in a compiled graph, where nothing tells a window from another function, it is one of bools, as for SDPA.)
A query that may see nothing (padding on the left) gets zeros; eager attention spreads its weight evenly.
"""

from transformers import AttentionInterface, AttentionMaskInterface

from regard.huggingface.caches import GrowingLayer, growing_cache
from regard.huggingface.calls import NAME, attending, attention_for
from regard.huggingface.masks import LazyMask, mask_for

__all__ = ["NAME", "GrowingLayer", "LazyMask", "attending", "attention_for", "growing_cache", "mask_for"]

AttentionInterface.register(NAME, attention_for)
AttentionMaskInterface.register(NAME, mask_for)
