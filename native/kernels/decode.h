// Decoding: few queries against many keys. Memory is the limit, so each key is read once for all rows, the
// query heads of its group among them. Here keys lie in the lanes: weights[row][key]. Of numbers that are
// not finite, `finite_check` detects them, and the call is then run again; `non_finite` marks rows in that second call.
#pragma once

#include "decode_products.h"
#include "decode_weights.h"
#include "merge.h"

namespace regard::REGARD_ISA {
namespace {

// The task's rows: their queries as float32, times the scale's sign. All keys that any of them sees lie in the answer.
INLINE Span start_rows(const Forward& call, const ForwardTask& task, const Scoring& scoring,
                       const DecodeScratch& scratch, std::int64_t count, DecodeRow* rows) {
    Span hull{call.k, 0};
    for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t h = task.h + r / call.q, i = r % call.q;
        rows[r] = DecodeRow(call, task.b, h, i);
        float* query = scratch.queries + r * scratch.width;
        copy_rows(head_of(call.query, call.type, task.b, h).from(i), 1, call.d, query, scratch.width);
        for (std::int64_t c = 0; c < call.d; ++c) query[c] *= scoring.sign;
        const Span own = hull_of(call, task.b, h, i);
        hull = {least(hull.first, own.first), greatest(hull.last, own.last)};
    }
    std::memset(scratch.sums, 0, static_cast<std::size_t>(count * scratch.value_width) * sizeof(float));
    return hull;
}

// The rows as one part of the call, for `merge`: outputs, maxima, sums. A sum of NaN makes a row NaN.
INLINE void finish_rows(const Forward& call, const ForwardTask& task, const DecodeScratch& scratch, std::int64_t count,
                        const DecodeRow* rows, V& finite_check) {
    float* norms = task.part + task.part_rows * call.dv;
    for (std::int64_t r = 0; r < count; ++r) {
        const DecodeRow& row = rows[r];
        const float* from = scratch.sums + r * scratch.value_width;
        const bool non_finite = row.non_finite || (call.non_finite_query && row.sum > 0.0f &&
                                           call.non_finite_query[(task.b * call.h + row.h) * call.q + row.query]);
        float factor = call.sigmoid ? 1.0f : row.sum == 0.0f ? 0.0f : 1.0f / row.sum;
        if (call.threshold) factor *= call.dropout_scale;
        for (std::int64_t c = 0; c < call.dv; ++c) {
            finite_check = fma(splat(from[c]), splat(0.0f), finite_check);
            task.part[r * call.dv + c] = from[c] * factor;
        }
        norms[r] = row.top;
        norms[task.part_rows + r] = non_finite ? INF - INF : row.sum;
    }
}

bool decode(const Forward& call, const ForwardTask& task, bool check, void* memory, Stop stop) {
    const FlushToZero flush;
    const DecodeScratch scratch(call, memory);
    const Scoring scoring(call);
    const std::int64_t count = task.heads * call.q, g = task.h / (call.h / call.g), d = call.d, dv = call.dv;
    const Matrix key_head = head_of(call.key, call.key_type, task.b, g);
    const Matrix value_head = head_of(call.value, call.key_type, task.b, g);
    DecodeRow rows[MAX_GROUPED_ROWS];
    const Span hull = start_rows(call, task, scoring, scratch, count, rows);
    V finite_check{};  // products and sums times 0, added up: 0 as long as all are finite, else NaN

    const std::int64_t begin = greatest(task.key, hull.first / BLOCK * BLOCK), end = least(task.key_last, hull.last);
    for (std::int64_t key = begin; key < end; key += DECODE_KEYS) {
        if (stop.now()) return true;
        const int n = static_cast<int>(least(DECODE_KEYS, end - key));
        bool any_row = false;
        for (std::int64_t r = 0; r < count && !any_row; ++r) any_row = any_visible(call, rows[r], key, key + n);
        if (!any_row) continue;
        const DecodeBlock block{task.b, g, key, n, static_cast<int>(round_up(n, LANES))};
        const Matrix keys = vectors_of(key_head.from(key), n, d, scratch.width, scratch.keys);
        const Matrix values = vectors_of(value_head.from(key), n, dv, scratch.value_width, scratch.values);
        with_type(keys.type, [&](auto type) {
            all_dots<type.value>(scratch, count, keys, n, {values.data, values.row, values.type == keys.type ? dv : 0});
        });
        Span seen{n, 0};
        for (std::int64_t r = 0; r < count; ++r) {
            float* scores = scratch.weights + r * KEYS;
            // Products are looked at before a mask or a softmax makes 0 of them.
            for (int i = 0; i < block.whole; i += LANES) {
                finite_check = fma(load(scores + i), splat(0.0f), finite_check);
            }
            const Span own = score_row(call, scoring, block, rows[r], scores);
            if (own.first < own.last) seen = {least(seen.first, own.first), greatest(seen.last, own.last)};
            row_weights(call, scoring, block, rows[r], scores, scratch.sums + r * scratch.value_width,
                      scratch.value_width);
        }
        if (seen.first >= seen.last) continue;
        const Matrix after = key_head.from(least(key + DECODE_KEYS, end - 1));
        const Prefetch next{after.data, after.row, after.type == values.type && key + DECODE_KEYS < end ? d : 0};
        with_type(values.type, [&](auto type) {
            add_values<type.value>(scratch, count, values, static_cast<int>(seen.first),
                                   static_cast<int>(seen.last - seen.first), next);
        });
    }
    finish_rows(call, task, scratch, count, rows, finite_check);
    return !check || !any(finite_check != 0.0f);
}

}  // namespace
}  // namespace regard::REGARD_ISA
