// From the products of a row to its weights: scale, soft-cap, bias, mask, an online softmax, dropout. What `scores.h`
// and `forward.h` do for blocks of queries is done here for one row at a time, whose keys lie in the lanes.
#pragma once

#include "scores.h"

namespace regard::REGARD_ISA {
namespace {

// One query of one head: where it stands, what it may see, and its softmax so far.
struct DecodeRow {
    std::int64_t h, query;
    const std::int32_t *spans, *tiles;  // its own, of the call's mask; null: there are none
    float top = -INF, sum = 0.0f;
    bool non_finite = false;  // sees a key that the call marks: it becomes NaN

    DecodeRow() = default;
    DecodeRow(const Call& call, std::int64_t b, std::int64_t head, std::int64_t i) : h(head), query(i) {
        const std::int64_t across = (call.k + BLOCK - 1) / BLOCK;
        spans = call.spans ? call.spans + b * call.spans_b + h * call.spans_h + query * call.span_count * 2 : nullptr;
        tiles = call.tiles ? call.tiles + b * call.tiles_b + h * call.tiles_h + query / BLOCK * across : nullptr;
    }
};

// A block of keys of one batch row and key head.
struct DecodeBlock {
    std::int64_t b, g, key;
    int n, whole;  // keys, and as many in whole vectors
};

// Which of LANES keys, from `key` on, a row may see.
INLINE I visible_keys(const Call& call, const DecodeRow& row, std::int64_t key) {
    const I k = splat(static_cast<std::int32_t>(key)) + iota();
    I ok = k < splat(static_cast<std::int32_t>(call.k));
    if (row.spans) {
        I inside{};
        for (std::int64_t s = 0; s < call.span_count; ++s) {
            inside |= (k >= splat(row.spans[2 * s])) & (k < splat(row.spans[2 * s + 1]));
        }
        ok &= inside;
    }
    if (row.tiles) {
        const std::int32_t kind = row.tiles[key / BLOCK];
        if (kind == 0) return I{};
        if (kind > 1) {
            const std::uint64_t* words = call.bitmaps + (kind - 2) * BLOCK + key % BLOCK;
            for (int i = 0; i < LANES; ++i) ok[i] &= (words[i] >> (row.query % BLOCK)) & 1 ? -1 : 0;
        }
    }
    return ok;
}

// Whether a row may see any of the keys from `key` to `last`; true where that is not quickly said.
INLINE bool any_visible(const Call& call, const DecodeRow& row, std::int64_t key, std::int64_t last) {
    if (row.tiles) {
        bool any_tile = false;
        for (std::int64_t t = key / BLOCK; t * BLOCK < last; ++t) any_tile = any_tile || row.tiles[t] != 0;
        if (!any_tile) return false;
    }
    if (!row.spans) return true;
    for (std::int64_t s = 0; s < call.span_count; ++s) {
        const std::int32_t* span = row.spans + 2 * s;
        if (span[0] < span[1] && span[0] < last && span[1] > key) return true;
    }
    return false;
}

// Products of one row become scores; which keys of the block it sees lie within the answer.
__attribute__((noinline)) Span score_row(const Call& call, const Scoring& scoring, const DecodeBlock& block,
                                         DecodeRow& row, float* scores) {
    const std::int64_t h = row.h, query = row.query;
    const Matrix bias = call.bias.data ? head_of(call.bias, call.bias_type, block.b, h) : Matrix{};
    const float* table = call.table ? call.table + h * call.table_h : nullptr;
    for (int i = 0; i < block.whole; i += LANES) {
        V x = load(scores + i);
        if (scoring.needs_transform) {
            x *= splat(scoring.unit);
            if (scoring.cap > 0) x = splat(scoring.cap) * tanh(x * splat(1.0f / scoring.cap));
            V by_distance{}, by_pair{};
            for (int lane = 0; lane < least(LANES, block.n - i); ++lane) {
                const std::int64_t k = block.key + i + lane;
                if (table) by_distance[lane] = table[query - k + call.k - 1];
                if (bias.data) by_pair[lane] = get(bias.type, bias.data, query * bias.row + k * bias.column);
            }
            x = add_bias(by_pair, add_bias(by_distance, x));
        }
        const I valid = iota() < splat(static_cast<std::int32_t>(block.n - i));
        store(scores + i, select(valid & visible_keys(call, row, block.key + i), x, splat(-INF)));
    }
    if (call.non_finite_key) {
        const std::uint8_t* non_finite = call.non_finite_key + (block.b * call.g + block.g) * call.k + block.key;
        for (int i = 0; i < block.n; ++i) row.non_finite = row.non_finite || (non_finite[i] && scores[i] > -INF);
    }
    Span seen{0, block.n};
    while (seen.first < seen.last && scores[seen.first] == -INF) ++seen.first;
    while (seen.first < seen.last && scores[seen.last - 1] == -INF) --seen.last;
    return seen;
}

// Scores of one row become weights; sums that are there already shrink to a greater maximum.
__attribute__((noinline)) void row_weights(const Call& call, const Scoring& scoring, const DecodeBlock& block,
                                         DecodeRow& row, float* scores, float* sums, std::int64_t width) {
    const V log2_factor = splat(scoring.log2_factor);
    if (call.sigmoid) {
        for (int i = 0; i < block.whole; i += LANES) {
            store(scores + i, logistic2(fma(load(scores + i), log2_factor, splat(call.shift * LOG2E))));
        }
    } else {
        V maxima = splat(-INF);
        for (int i = 0; i < block.whole; i += LANES) maxima = max(maxima, load(scores + i));
        float top = row.top;
        for (int i = 0; i < LANES; ++i) {
            if (!(maxima[i] <= top)) top = maxima[i];  // NaN too
        }
        if (top != row.top) {
            const float shrink = exp2(exponent_of(splat(row.top), splat(top), log2_factor))[0];
            row.sum *= shrink;
            for (std::int64_t c = 0; c < width; c += LANES) store(sums + c, load(sums + c) * splat(shrink));
            row.top = top;
        }
        const V base = splat(top == -INF ? 0.0f : top);
        V total{};
        for (int i = 0; i < block.whole; i += LANES) {
            const V p = exp2(exponent_of(load(scores + i), base, log2_factor));
            total += p;
            store(scores + i, p);
        }
        for (int i = 0; i < LANES; ++i) row.sum += total[i];
    }
    if (call.threshold) {
        const std::uint32_t word = dropout_rows(call, block.b, row.h, row.query)[0];
        for (int i = 0; i < block.whole; i += LANES) {
            const U key = reinterpret_cast<U>(splat(static_cast<std::int32_t>(block.key + i)) + iota());
            const I keeps = mix(splat(word) ^ mix(key)) >= splat(call.threshold);
            store(scores + i, select(keeps, load(scores + i), V{}));
        }
    }
}

}  // namespace
}  // namespace regard::REGARD_ISA
