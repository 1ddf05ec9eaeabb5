// From scores to weights: powers of 2 relative to each row's maximum score, or sigmoids; and dropout.
#pragma once

#include "scores.h"

namespace regard::REGARD_ISA {
namespace {

template <int N>
struct Count {
    static constexpr int value = N;
};

// So many terms are added one after the other, then their sums: of long sums each term would be rounded as coarsely as
// the whole.
constexpr int TERMS = 32;

// Σ over rows; `add(row, sum)` is the sum with one term more. Four sums side by side: one would wait for each addition.
template <class Add>
INLINE V sum_of(int first, int last, const Add& add) {
    V sum[4] = {};
    int r = first;
    for (; r + 4 <= last; r += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) sum[i] = add(r + i, sum[i]);
    }
    for (; r < last; ++r) sum[0] = add(r, sum[0]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Scores of a segment become weights 2^((score − top) · log2_factor), and are added to `sum`. As pairs of keys they
// take half the rows, from the segment's first on; a missing last one is 0. Where they are observed, Σ weight · log₂
// weight is added to `exponents`.
template <Kind KIND, bool OBSERVED, int COUNT>
INLINE void softmax_weights(float* scores, int rows, float* weights, float log2_factor, const V* top, V* sum,
                            V* exponents) {
    static_assert(!OBSERVED || KIND == Kind::numbers);
    const V factor = splat(log2_factor);
    V total[COUNT], exponent[COUNT];
    auto process = [&](auto together) {
        constexpr int N = decltype(together)::value;
        V p[N * COUNT];
#pragma GCC unroll 8
        for (int i = 0; i < N * COUNT; ++i) {
            const int v = i % COUNT;
            p[i] = exponent_of(load(scores + i / COUNT * PANEL + v * LANES), top[v], factor);
        }
        exp2(p);
#pragma GCC unroll 8
        for (int i = 0; i < N * COUNT; ++i) total[i % COUNT] += p[i];
        if constexpr (OBSERVED) {
#pragma GCC unroll 8
            for (int i = 0; i < N * COUNT; ++i) {  // recomputed: there are too few registers to keep it
                const int v = i % COUNT;
                const V x = exponent_of(load(scores + i / COUNT * PANEL + v * LANES), top[v], factor);
                exponent[v] = fma(p[i], max(splat(MIN_EXPONENT), x), exponent[v]);
            }
        }
        if constexpr (KIND == Kind::pairs) {
#pragma GCC unroll 4
            for (int i = 0; i < (N + 1) / 2 * COUNT; ++i) {
                const int row = i / COUNT * 2, v = i % COUNT;
                const V next = row + 1 < N ? p[least(row + 1, N - 1) * COUNT + v] : V{};
                store(weights + i / COUNT * PANEL + v * LANES, narrow_pair(p[row * COUNT + v], next));
            }
            weights += (N + 1) / 2 * PANEL;
        } else {
#pragma GCC unroll 8
            for (int i = 0; i < N * COUNT; ++i) {
                store(weights + i / COUNT * PANEL + i % COUNT * LANES, p[i]);
            }
            weights += N * PANEL;
        }
        scores += N * PANEL;
    };
    constexpr int TOGETHER = KIND == Kind::pairs ? greatest(4 / COUNT, 2) : 4 / COUNT;  // rows
    for (int r = 0; r < rows;) {
        const int end = least(r + TERMS, rows);
        for (int v = 0; v < COUNT; ++v) total[v] = exponent[v] = V{};
        for (; r + TOGETHER <= end; r += TOGETHER) process(Count<TOGETHER>{});
        if constexpr (TOGETHER > 2) {
            for (; r + 2 <= end; r += 2) process(Count<2>{});
        }
        for (; r < end; ++r) process(Count<1>{});
        for (int v = 0; v < COUNT; ++v) {
            sum[v] += total[v];
            if constexpr (OBSERVED) exponents[v] += exponent[v];
        }
    }
}

template <Kind KIND, bool OBSERVED = false>
INLINE void softmax_weights(const Segment& s, float* scores, float log2_factor, const V* top, V* sum,
                            V* exponents = nullptr) {
    float* first_score = scores + s.first * PANEL + s.begin * LANES;
    float* weights = scores + s.first / UNIT<KIND> * PANEL + s.begin * LANES;
    const int rows = s.last - s.first;
    top += s.begin;
    sum += s.begin;
    if constexpr (OBSERVED) exponents += s.begin;
    switch (s.end - s.begin) {
        case 1: return softmax_weights<KIND, OBSERVED, 1>(first_score, rows, weights, log2_factor, top, sum, exponents);
        case 2: return softmax_weights<KIND, OBSERVED, 2>(first_score, rows, weights, log2_factor, top, sum, exponents);
        case 3:
            return softmax_weights<KIND, OBSERVED, least(3, NV)>(first_score, rows, weights, log2_factor, top, sum,
                                                                 exponents);
        default:
            return softmax_weights<KIND, OBSERVED, NV>(first_score, rows, weights, log2_factor, top, sum, exponents);
    }
}

// Weights of a segment as pairs of keys, where they were computed as single numbers.
[[maybe_unused]] __attribute__((noinline)) void pack_weight_pairs(const Segment& s, float* weights) {
    for (int r = s.first; r < s.last; r += 2) {
        for (int v = s.begin; v < s.end; ++v) {
            const float* x = weights + r * PANEL + v * LANES;
            const V next = r + 1 < s.last ? load(x + PANEL) : V{};
            store(weights + r / 2 * PANEL + v * LANES, narrow_pair(load(x), next));
        }
    }
}

__attribute__((noinline)) void sigmoid_weights(const Segment& s, float* scores, float log2_factor, float shift) {
    for (int r = s.first; r < s.last; ++r) {
        for (int v = s.begin; v < s.end; ++v) {
            float* x = scores + r * PANEL + v * LANES;
            store(x, logistic2(fma(load(x), splat(log2_factor), splat(shift))));
        }
    }
}

__attribute__((noinline)) void apply_dropout(const Call& call, const Segment& s, std::int64_t key, const U* rows,
                                    float* weights) {
    for (int r = s.first; r < s.last; ++r) {
        const std::uint32_t word = mix(static_cast<std::uint32_t>(key + r));
        for (int v = s.begin; v < s.end; ++v) {
            float* x = weights + r * PANEL + v * LANES;
            store(x, select(dropout_keeps(rows[v], word, call.threshold), load(x), V{}));
        }
    }
}

}  // namespace
}  // namespace regard::REGARD_ISA
