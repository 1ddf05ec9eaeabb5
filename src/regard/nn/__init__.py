"""Layers for your own models: attention with learned projections, and a small transformer of them.

>>> import torch
>>> from regard import Causal
>>> from regard.nn import MultiHeadAttention
>>> MultiHeadAttention(64, heads=4, mask=Causal())(torch.randn(1, 10, 64)).shape
torch.Size([1, 10, 64])
"""

from regard.nn.attention import LayerSeen, MultiHeadAttention
from regard.nn.transformer import Block, FeedForward, Transformer, TransformerSeen

__all__ = ["Block", "FeedForward", "LayerSeen", "MultiHeadAttention", "Transformer", "TransformerSeen"]
