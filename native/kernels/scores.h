// From products of queries and keys to scores: scale, soft-cap, bias, mask. In units of log 2, so that weights
// are powers of 2. Scores lie with a row for each key and the queries of a panel in the lanes.
#pragma once

#include "block_mask.h"

namespace regard::REGARD_ISA {
namespace {

// How a call's products become scores.
struct Scoring {
    float unit;   // products · unit = scores, without soft-cap and biases
    float sign;   // what queries are multiplied with: the scale's sign, so that `unit` is positive
    float cap;    // 0: none
    bool needs_transform;  // a pass over the products turns them into scores; `log2_factor` is applied later
    float log2_factor;

    explicit Scoring(const Call& call) {
        unit = product_unit(call);
        sign = call.scale > 0 ? 1.0f : call.scale < 0 ? -1.0f : 0.0f;
        cap = call.softcap * LOG2E;
        needs_transform = has_cap_or_bias(call);
        log2_factor = score_unit(call);
    }
};

// Of a weight 2ˣ relative to a row's `top`, itself a score. The difference comes first: it is exact where scores are
// close, so that the greatest weight is 1 and no score is too large, and rounded in proportion to itself elsewhere.
INLINE V exponent_of(V score, V top, V log2_factor) { return (score - top) * log2_factor; }

// The signs of a pair of bfloat16.
constexpr std::uint32_t BOTH_SIGNS = 0x80008000u;

// The queries of a block, transposed, times the scale's sign. Pairs lie along the row.
template <Kind KIND>
INLINE void pack_queries(const Matrix& query, std::int64_t rows, std::int64_t d, float sign, float* to,
                         float* scratch) {
    if constexpr (KIND == Kind::pairs) {
        const std::int64_t width = (d + 1) / 2;
        copy_pairs(query, rows, d, scratch, width);
        const Matrix pairs{scratch, width, 1, Type::float32};
        const U flip = splat(sign < 0 ? BOTH_SIGNS : 0u), keep = splat(sign == 0.0f ? 0u : ~0u);
        transpose_rows(pairs, rows, width, to, PANEL, width * PANEL,
                       [=](V x) { return from_bits((bits(x) ^ flip) & keep); });
    } else if (sign == 1.0f) {
        transpose_rows(query, rows, d, to, PANEL, d * PANEL, [](V x) { return x; });
    } else {
        const V factor = splat(sign);
        transpose_rows(query, rows, d, to, PANEL, d * PANEL, [=](V x) { return x * factor; });
    }
}

// Below this, a bias · log₂ e would be −∞.
constexpr float MIN_FINITE_BIAS = -2.3e38f;

// A bias in units of log 2. Finite ones stay finite: the least float32 is a usual way to write "hardly".
INLINE V add_bias(V bias, V x) {
    const V finite = max(splat(MIN_FINITE_BIAS), bias);
    return fma(select(bias == -INF, bias, finite), splat(LOG2E), x);
}

// A dense bias of a panel: to[key][lane].
__attribute__((noinline)) void bias_panel(const Matrix& m, std::int64_t rows, std::int64_t keys, float* to) {
    if (m.row == 0) {
        for (std::int64_t k = 0; k < keys; ++k, to += PANEL) {
            const V x = splat(get(m.type, m.data, k * m.column));
            for (int v = 0; v < NV; ++v) store(to + v * LANES, x);
        }
    } else if (m.column == 0) {
        alignas(64) float once[PANEL] = {};
        for (std::int64_t i = 0; i < rows; ++i) once[i] = get(m.type, m.data, i * m.row);
        for (std::int64_t k = 0; k < keys; ++k, to += PANEL) std::memcpy(to, once, sizeof once);
    } else {
        transpose_rows(m, rows, keys, to, PANEL, 0, [](V x) { return x; });
    }
}

// What a panel's scores depend on.
struct Panel {
    const Call& call;
    const Scoring& scoring;
    const BlockMask& mask;
    std::int64_t b, h, query;  // of the panel's first query
    int index;                 // in the block
    float* bias;               // scratch (KEYS, PANEL)
};

// The dense bias of some keys, into `panel.bias`.
INLINE void read_bias(const Panel& panel, std::int64_t key, int keys, float* to) {
    const View& view = panel.call.bias;
    const Matrix whole = head_of(view, panel.call.bias_type, panel.b, panel.h);
    const Matrix block = {at(whole.type, whole.data, panel.query * whole.row + key * whole.column), whole.row,
                         whole.column, whole.type};
    bias_panel(block, least<std::int64_t>(PANEL, panel.call.q - panel.query), keys, to);
}

// Soft-cap and biases: products of a segment become scores. `slopes`, unless null, get 1 − tanh², by which the
// soft-cap scales gradients.
template <bool CAP, bool TABLE, bool DENSE>
__attribute__((noinline)) void transform_scores(const Panel& panel, const Segment& s, std::int64_t key, float* scores,
                                    float* slopes) {
    const V unit = splat(panel.scoring.unit), cap = splat(panel.scoring.cap);
    const V inverse = splat(CAP ? panel.scoring.unit / panel.scoring.cap : 0.0f);
    const float* table = nullptr;
    if constexpr (TABLE) {
        table = panel.call.table + panel.h * panel.call.table_h + panel.query + panel.call.k - 1;
    }
    if constexpr (DENSE) read_bias(panel, key + s.first, s.last - s.first, panel.bias + s.first * PANEL);
    for (int r = s.first; r < s.last; ++r) {
        for (int v = s.begin; v < s.end; ++v) {
            const int at = r * PANEL + v * LANES;
            V x = load(scores + at);
            if constexpr (CAP) {
                const V t = tanh(x * inverse);
                if (slopes) store(slopes + at, splat(1.0f) - t * t);
                x = cap * t;
            } else {
                x = x * unit;
            }
            if constexpr (TABLE) x = add_bias(load(table + v * LANES - (key + r)), x);
            if constexpr (DENSE) x = add_bias(load(panel.bias + at), x);
            store(scores + at, x);
        }
    }
}

INLINE void transform_scores(const Panel& panel, const Segment& s, std::int64_t key, float* scores, float* slopes) {
    const bool table = panel.call.table != nullptr, dense = panel.call.bias.data != nullptr;
    if (panel.scoring.cap > 0) {
        if (table && dense) return transform_scores<true, true, true>(panel, s, key, scores, slopes);
        if (table) return transform_scores<true, true, false>(panel, s, key, scores, slopes);
        if (dense) return transform_scores<true, false, true>(panel, s, key, scores, slopes);
        return transform_scores<true, false, false>(panel, s, key, scores, slopes);
    }
    if (table && dense) return transform_scores<false, true, true>(panel, s, key, scores, slopes);
    if (table) return transform_scores<false, true, false>(panel, s, key, scores, slopes);
    return transform_scores<false, false, true>(panel, s, key, scores, slopes);
}

// −∞ where a query may not see a key.
__attribute__((noinline)) void mask_scores(const Panel& panel, const Segment& s, std::int64_t key, float* scores) {
    for (int r = s.first; r < s.last; ++r) {
        for (int v = s.begin; v < s.end; ++v) {
            float* x = scores + r * PANEL + v * LANES;
            const I ok = panel.mask.allows(key + r, panel.index * NV + v);
            store(x, select(ok, load(x), splat(-INF)));
        }
    }
}

// The hash of each query of a vector, for dropout: `keeps` in regard/spec/dropout.py.
INLINE U dropout_rows(const Call& call, std::int64_t b, std::int64_t h, std::int64_t query) {
    const std::uint32_t head = mix(mix(call.seed + static_cast<std::uint32_t>(b)) + static_cast<std::uint32_t>(h));
    return mix(splat(head) + splat(static_cast<std::uint32_t>(query)) + reinterpret_cast<U>(iota()));
}
INLINE I dropout_keeps(U rows, std::uint32_t key_word, std::uint32_t threshold) {
    return mix(rows ^ splat(key_word)) >= splat(threshold);
}

}  // namespace
}  // namespace regard::REGARD_ISA
