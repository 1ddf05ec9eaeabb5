"""The keys that each query may see, as a few spans: most masks have this form, and kernels are fastest with it.

Spans are half-open, sorted, and neither overlap nor touch; queries that have fewer than others are padded with
(0, 0). Intersection, union and complement of spans are those of the masks.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Int32

Spans = Int32[np.ndarray, "#b #h #q _ 2"]
Ends = Int[np.ndarray, "#b #h #q"]

MAX_SPANS = 4
"""Spans of a query that kernels support; a mask with more is lowered to tiles."""

_ROWS_AT_A_TIME = 1 << 22  # entries of a table, to bound the memory of temporary arrays


def single(first: Ends, last: Ends, keys: int) -> Spans:
    """One span for each query, of which only keys 0 … `keys` − 1 count."""
    first, last = np.broadcast_arrays(np.clip(first, 0, keys), np.clip(last, 0, keys))
    return _packed(first[..., None], last[..., None])


def of_table(table: Bool[np.ndarray, "b h q _"], keys: int) -> Spans | None:
    """The runs of True in each row; None where a row has more than `MAX_SPANS`."""
    *lead, width = table.shape
    if width == 1:
        return single(np.zeros(lead, np.int32), np.where(table[..., 0], keys, 0), keys)
    rows = table.reshape(-1, width)
    if _runs(rows[:: len(rows) // 16 + 1]) is None:  # some rows mostly suffice to find out
        return None
    step = max(_ROWS_AT_A_TIME // width, 1)
    result = np.zeros((len(rows), MAX_SPANS, 2), np.int32)
    for start in range(0, len(rows), step):
        runs = _runs(rows[start : start + step])
        if runs is None:
            return None
        result[start : start + step] = runs
    return _packed(*np.moveaxis(result.reshape(*lead, MAX_SPANS, 2), -1, 0))


def intersection(a: Spans, b: Spans) -> Spans:
    """The keys of both."""
    first = np.maximum(a[..., :, None, 0], b[..., None, :, 0])
    last = np.minimum(a[..., :, None, 1], b[..., None, :, 1])
    return _packed(first.reshape(*first.shape[:-2], -1), last.reshape(*last.shape[:-2], -1))


def complement(a: Spans, keys: int) -> Spans:
    """The other keys: the gaps before, between and after the spans."""
    nonempty = a[..., 0] < a[..., 1]
    first, last = (np.where(nonempty, a[..., end], keys) for end in (0, 1))
    edge = np.zeros((*first.shape[:-1], 1), first.dtype)
    return _packed(np.concatenate((edge, last), axis=-1), np.concatenate((first, edge + keys), axis=-1))


def union(a: Spans, b: Spans, keys: int) -> Spans:
    """The keys of either."""
    return complement(intersection(complement(a, keys), complement(b, keys)), keys)


def _packed(first: np.ndarray, last: np.ndarray) -> Spans:
    """Sorted, empty spans as (0, 0) at the end, and with as few columns as the rows allow."""
    nonempty = first < last
    if first.shape[-1] > 1:
        order = np.argsort(np.where(nonempty, first, np.iinfo(first.dtype).max), axis=-1)
        count = max(int(nonempty.sum(-1).max(initial=1)), 1)
        order = order[..., :count]
        first, last, nonempty = (np.take_along_axis(x, order, axis=-1) for x in (first, last, nonempty))
    result = np.empty((*first.shape, 2), np.int32)
    np.multiply(first, nonempty, out=result[..., 0], casting="unsafe")
    np.multiply(last, nonempty, out=result[..., 1], casting="unsafe")
    return result


def _runs(rows: np.ndarray) -> np.ndarray | None:
    """The runs of True of each row, (rows, MAX_SPANS, 2); None where there are more."""
    edge = np.zeros((len(rows), 1), np.int8)
    steps = np.diff(rows.view(np.int8), axis=-1, prepend=edge, append=edge)
    row, first = np.nonzero(steps == 1)
    last = np.nonzero(steps == -1)[1]
    counts = np.bincount(row, minlength=len(rows))
    if counts.max(initial=0) > MAX_SPANS:
        return None
    result = np.zeros((len(rows), MAX_SPANS, 2), np.int32)
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    result[row, column, 0], result[row, column, 1] = first, last
    return result
