"""One query against a long cache, with fewer key heads than query heads: regard, and three ways of SDPA."""

from __future__ import annotations

from torch.nn import functional

from regard_benchmarks.cases import Case
from regard_benchmarks.inputs import Inputs
from regard_benchmarks.methods import CHUNKED, NATIVE, Call, Method, exceeds_memory


def with_enable_gqa(inputs: Inputs) -> Call:
    """SDPA with `enable_gqa`."""
    i = inputs
    return lambda: (functional.scaled_dot_product_attention(i.q, i.k, i.v, enable_gqa=True),)


def heads_as_rows(inputs: Inputs) -> Call:
    """SDPA with the query heads of a group as queries of one head: correct without a mask."""
    b, h, n, d = inputs.q.shape
    g = inputs.k.shape[1]
    rows = inputs.q.reshape(b, g, h // g * n, d)

    def call():
        out = functional.scaled_dot_product_attention(rows, inputs.k, inputs.v)
        return (out.reshape(b, h, n, -1),)

    return call


def with_repeated_heads(inputs: Inputs) -> Call:
    """SDPA on keys and values that were repeated beforehand, as a cache that is four times as large."""
    times = inputs.q.shape[1] // inputs.k.shape[1]
    k, v = (t.repeat_interleave(times, 1) for t in (inputs.k, inputs.v))
    return lambda: (functional.scaled_dot_product_attention(inputs.q, k, v),)


def _why_not_repeated(case: Case) -> str | None:
    return exceeds_memory(case.read_bytes * case.shape[1] // case.key_shape[1])


ENABLE_GQA = Method("SDPA enable_gqa", with_enable_gqa, lambda case: None)
HEADS_AS_ROWS = Method("SDPA as rows", heads_as_rows, lambda case: None)
REPEATED_HEADS = Method("SDPA repeated", with_repeated_heads, _why_not_repeated)

DECODE_METHODS = (ENABLE_GQA, HEADS_AS_ROWS, REPEATED_HEADS, NATIVE, CHUNKED)
