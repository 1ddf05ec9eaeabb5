// Gradients of statistics: what they add to the gradient of each weight. A statistic is a sum over the weights of a
// row, so that its gradient is a factor of the row times that of a weight: −(1 + ln w) for entropy, the distance for
// a distance, 1 for the keys of a set.
#pragma once

#include "observe.h"

namespace regard::REGARD_ISA {
namespace {

// What the rows of a block of queries bring to the backward pass.
struct RowState {
    alignas(64) float top[BLOCK], share[BLOCK], delta[BLOCK];  // weight = 2^((score − top) · log2_factor) · share
    alignas(64) float by_exponent[BLOCK], by_weight[BLOCK];    // what entropy's gradient is, of a weight's exponent

    RowState(const Backward& call, std::int64_t b, std::int64_t h, std::int64_t query, std::int64_t rows) {
        const std::int64_t all = call.b * call.h * call.q, at = (b * call.h + h) * call.q + query;
        for (std::int64_t i = 0; i < BLOCK; ++i) {
            const bool valid = i < rows;
            top[i] = valid ? call.lse[all + at + i] : INF;  // no weight, whatever the score
            share[i] = valid ? call.lse[2 * all + at + i] : 0.0f;
            delta[i] = valid ? call.delta[at + i] : 0.0f;
            by_exponent[i] = by_weight[i] = 0.0f;
            if (call.statistics && call.statistics->entropy && share[i] > 0.0f) {  // −(1 + ln w)
                const float grad = call.statistics->entropy[at + i];
                by_exponent[i] = 0.0f - grad * LN2;
                by_weight[i] = 0.0f - grad * (1.0f + LN2 * __builtin_log2f(share[i]));
            }
        }
    }
};

INLINE void clear(const Segment& s, float* to) {
    for (int r = s.first; r < s.last; ++r) {
        for (int v = s.begin; v < s.end; ++v) store(to + r * PANEL + v * LANES, V{});
    }
}

// One column of gradients (b, h, q, count) for a vector of queries.
INLINE V grads_of(const float* grads, std::int64_t row, std::int64_t count, std::int64_t column, std::int64_t rows) {
    V out{};
    for (std::int64_t i = 0; i < rows; ++i) out[i] = grads[(row + i) * count + column];
    return out;
}

INLINE void add_set_gradients(const Statistics& grads, std::int64_t row, std::int64_t rows, const Segment& s,
                              std::int64_t key, float* to) {
    for (std::int64_t i = range_at(grads, key + s.first); i < grads.range_count; ++i) {
        const std::int64_t from = grads.ranges[2 * i] - key, end = grads.ranges[2 * i + 1] - key;
        if (from >= s.last) break;
        V sum{};
        for (std::int32_t j = grads.set_starts[i]; j < grads.set_starts[i + 1]; ++j) {
            sum += grads_of(grads.set_masses, row, grads.set_count, grads.set_members[j], rows);
        }
        for (int r = clip(from, s.first, s.last); r < clip(end, s.first, s.last); ++r) {
            store(to + r * PANEL, load(to + r * PANEL) + sum);
        }
    }
}

INLINE void add_group_gradients(const Statistics& grads, const Call& call, const Panel& panel, std::int64_t query,
                      std::int64_t rows, const Segment& s, std::int64_t key, float* to) {
    const float* received_grad = grads.received_grad + (panel.b * call.h + panel.h) * grads.group_count * call.k + key;
    const std::int32_t* group_of_row = grads.group_of_query + query;
    for (std::int64_t i = 0; i < rows; ++i) {  // once, where all rows are of one group
        if (group_of_row[i] < 0 || (i > 0 && group_of_row[i] == group_of_row[i - 1])) continue;
        V members{};
        for (std::int64_t j = i; j < rows && group_of_row[j] == group_of_row[i]; ++j) members[j] = 1.0f;
        for (int r = s.first; r < s.last; ++r) {
            store(to + r * PANEL,
                  fma(members, splat(received_grad[group_of_row[i] * call.k + r]), load(to + r * PANEL)));
        }
    }
}

// Adds the statistics' part of a segment to gradients of weights.
__attribute__((noinline)) void add_statistic_gradients(const Backward& call, const Panel& panel, const Segment& s,
                                                       std::int64_t key, const RowState& state, const float* scores,
                                                       float* to) {
    const Statistics& grads = *call.statistics;
    const V log2_factor = splat(panel.scoring.log2_factor);
    for (int v = s.begin; v < s.end; ++v) {
        const std::int64_t query = panel.query + v * LANES, lane = panel.index * PANEL + v * LANES;
        const std::int64_t row = (panel.b * call.h + panel.h) * call.q + query;
        const std::int64_t rows = least<std::int64_t>(LANES, call.q - query);
        float* column = to + v * LANES;
        if (grads.entropy) {
            const V top = load(state.top + lane);
            const V slope = load(state.by_exponent + lane), level = load(state.by_weight + lane);
            for (int r = s.first; r < s.last; ++r) {
                const V x =
                    max(splat(MIN_EXPONENT), exponent_of(load(scores + r * PANEL + v * LANES), top, log2_factor));
                store(column + r * PANEL, fma(slope, x, load(column + r * PANEL) + level));
            }
        }
        for (std::int64_t i = 0; i < grads.offset_count; ++i) {
            const V grad = grads_of(grads.distances, row, grads.offset_count, i, rows);
            const V place = places(query + grads.offsets[i] - key);
            for (int r = s.first; r < s.last; ++r) {
                store(column + r * PANEL,
                      fma(grad, size_of(place - splat(static_cast<float>(r))), load(column + r * PANEL)));
            }
        }
        for (std::int64_t i = 0; i < grads.band_count; ++i) {
            const V grad = grads_of(grads.band_masses, row, grads.band_count, i, rows);
            const Band band(grads, i, query - key, s);
            for (int r = band.first; r < band.last; ++r) {
                store(column + r * PANEL, load(column + r * PANEL) + select(band.has(r), grad, V{}));
            }
        }
        if (grads.set_count) add_set_gradients(grads, row, rows, s, key, column);
        if (grads.received_grad) add_group_gradients(grads, call, panel, query, rows, s, key, column);
    }
}

}  // namespace
}  // namespace regard::REGARD_ISA
