"""regard: self-attention you can see into. Exact, at any length, at full speed.

>>> import torch
>>> import regard
>>> q, k, v = torch.randn(3, 1, 8, 300, 64).unbind()
>>> seen = regard.observe(q, k, v, regard.Entropy(), mask=regard.Causal())
>>> bool((seen[regard.Entropy()][..., 0] == 0).all())  # the first token sees itself alone
True
"""

from regard import convert
from regard.analysis.attribution import Attribution, attribute, leave_one_out
from regard.attend import Plan, Seen, attention, explain, observe
from regard.cache import KVCache
from regard.capture.watch import watch
from regard.errors import RegardError
from regard.integrations.torch_functions import torch_functions
from regard.recording import Recording, record
from regard.spec.biases import FIRE, T5, ALiBi, Bias, Dense, Kerple, Relative
from regard.spec.masks import (
    Blocks,
    Causal,
    Dilated,
    Documents,
    Everything,
    Given,
    Mask,
    Padding,
    Prefix,
    Tile,
    Where,
    Window,
)
from regard.spec.normalizers import Entmax15, Normalizer, Sigmoid, Softmax, Sparsemax
from regard.spec.observers import (
    DistanceMass,
    Entropy,
    LogSumExp,
    MaxScore,
    MeanDistance,
    Observer,
    Pooled,
    Received,
    Rows,
    SpanMass,
    TopK,
)
from regard.spec.scores import Additive, Cosine, Dot, Euclidean, Score, Shaw
from regard.weights import Weights

__version__ = "0.1.0"

__all__ = [
    "FIRE",
    "T5",
    "ALiBi",
    "Additive",
    "Attribution",
    "Bias",
    "Blocks",
    "Causal",
    "Cosine",
    "Dense",
    "Dilated",
    "DistanceMass",
    "Documents",
    "Dot",
    "Entmax15",
    "Entropy",
    "Euclidean",
    "Everything",
    "Given",
    "KVCache",
    "Kerple",
    "LogSumExp",
    "Mask",
    "MaxScore",
    "MeanDistance",
    "Normalizer",
    "Observer",
    "Padding",
    "Plan",
    "Pooled",
    "Prefix",
    "Received",
    "Recording",
    "RegardError",
    "Relative",
    "Rows",
    "Score",
    "Seen",
    "Shaw",
    "Sigmoid",
    "Softmax",
    "SpanMass",
    "Sparsemax",
    "Tile",
    "TopK",
    "Weights",
    "Where",
    "Window",
    "attention",
    "attribute",
    "convert",
    "explain",
    "leave_one_out",
    "observe",
    "record",
    "torch_functions",
    "watch",
]
