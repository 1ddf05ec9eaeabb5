"""One query against a long cache, with fewer key heads than query heads: regard, and three ways of SDPA."""

from __future__ import annotations

from torch.nn import functional

from regard_benchmarks.cases import Case
from regard_benchmarks.implementations import CHUNKED, NATIVE, Arm, Call, too_much
from regard_benchmarks.inputs import Inputs


def flagged(inputs: Inputs) -> Call:
    """SDPA, told that heads are grouped."""
    i = inputs
    return lambda: (functional.scaled_dot_product_attention(i.q, i.k, i.v, enable_gqa=True),)


def as_rows(inputs: Inputs) -> Call:
    """SDPA, with the query heads of a group as queries of one head: right where there is no mask."""
    b, h, n, d = inputs.q.shape
    g = inputs.k.shape[1]
    rows = inputs.q.reshape(b, g, h // g * n, d)

    def call():
        out = functional.scaled_dot_product_attention(rows, inputs.k, inputs.v)
        return (out.reshape(b, h, n, -1),)

    return call


def repeated(inputs: Inputs) -> Call:
    """SDPA on keys and values that were repeated beforehand, as a cache that is four times as large."""
    times = inputs.q.shape[1] // inputs.k.shape[1]
    k, v = (t.repeat_interleave(times, 1) for t in (inputs.k, inputs.v))
    return lambda: (functional.scaled_dot_product_attention(inputs.q, k, v),)


def _repeated_not(case: Case) -> str | None:
    return too_much(case.read_bytes * case.shape[1] // case.key_shape[1])


FLAGGED = Arm("SDPA enable_gqa", flagged, lambda case: None)
AS_ROWS = Arm("SDPA as rows", as_rows, lambda case: None)
REPEATED = Arm("SDPA repeated", repeated, _repeated_not)

DECODE_ARMS = (FLAGGED, AS_ROWS, REPEATED, NATIVE, CHUNKED)
