// The forward pass: a block of 64 queries goes over its keys block by block, with an online softmax
// (Milakov and Gimelshein, 2018). Queries lie in the lanes, so that maxima, sums and rescaling are vertical.
#pragma once

#include "../kernels.h"
#include "observe.h"
#include "weights.h"

namespace regard::REGARD_ISA {
namespace {

// The head of a tensor as float32 rows: where it lies if that can be read well, else a copy.
struct Rows {
    const float* data;
    std::int64_t stride;
};

INLINE bool reads_well(const Matrix& m, std::int64_t columns) {
    return reads_well(m.type, m.row, m.column, columns);
}

INLINE Rows rows_of(const Matrix& head, std::int64_t first, std::int64_t count, std::int64_t columns,
                    float* scratch) {
    const Matrix m = head.from(first);
    if (reads_well(m, columns)) return {m.numbers(), m.row};
    copy_rows(m, count, columns, scratch, columns);
    return {scratch, columns};
}

// The same as pairs along the row.
INLINE Rows pairs_of(const Matrix& head, std::int64_t first, std::int64_t count, std::int64_t columns,
                     float* scratch) {
    const Matrix m = head.from(first);
    const bool aligned = reinterpret_cast<std::uintptr_t>(m.data) % 4 == 0 && m.row % 2 == 0;
    if (m.column == 1 && columns % 2 == 0 && aligned && (m.row == columns || m.row % 512 != 0)) {
        return {static_cast<const float*>(m.data), m.row / 2};
    }
    copy_pairs(m, count, columns, scratch, (columns + 1) / 2);
    return {scratch, (columns + 1) / 2};
}

struct ForwardScratch {
    float *rows, *queries, *scores, *sums, *keys, *values, *bias;

    ForwardScratch(const Call& call, ScratchAllocator& allocate_scratch) {
        rows = allocate_scratch(BLOCK * call.d);
        queries = allocate_scratch(BLOCK * (call.d + 1));
        scores = allocate_scratch(KEYS * PANEL);
        sums = allocate_scratch(BLOCK * call.dv);
        keys = allocate_scratch(KEYS * (call.d + 1));
        values = allocate_scratch(KEYS * call.dv);
        bias = allocate_scratch(call.bias.data ? KEYS * PANEL : 0);
    }
};

// Rows of one vector of queries: the greatest score so far and the sum of weights relative to it.
struct Softmax {
    V maximum, sum;
};

// What a row's weights are relative to: its greatest score; 0 where nothing has been seen.
INLINE V reference_score(V maximum) { return select(maximum == -INF, V{}, maximum); }

INLINE void update_row_maxima(const Segment& s, const float* scores, V* maximum) {
    for (int v = s.begin; v < s.end; ++v) {
        V m = maximum[v];
        for (int r = s.first; r < s.last; ++r) m = max(m, load(scores + r * PANEL + v * LANES));
        maximum[v] = m;
    }
}

// Which rows see a key that holds a number that is not finite.
__attribute__((noinline)) void mark_non_finite(const Panel& panel, const Segment& s, std::int64_t key, std::int64_t g,
                                           const float* scores, I* non_finite) {
    const std::uint8_t* bad = panel.call.non_finite_key + (panel.b * panel.call.g + g) * panel.call.k + key;
    for (int r = s.first; r < s.last; ++r) {
        if (!bad[r]) continue;
        for (int v = s.begin; v < s.end; ++v) {
            non_finite[v] |= load(scores + r * PANEL + v * LANES) > -INF;
        }
    }
}

// The rows of a panel: sums over the weights, to the call's output, with lse and what the backward needs.
__attribute__((noinline)) void finish(const Forward& call, const ForwardTask& task, const Scoring& scoring,
                                      const Panel& panel, const Softmax* softmax, const I* non_finite, float* sums,
                                      const Observer* observer, V& finite_check) {
    const std::int64_t dv = call.dv, all = call.b * call.h * call.q;
    const std::int64_t first_row = (task.b * call.h + task.h) * call.q + panel.query;
    for (int v = 0; v < NV; ++v) {
        const std::int64_t rows = least<std::int64_t>(LANES, call.q - panel.query - v * LANES);
        if (rows <= 0) break;
        V top = reference_score(softmax[v].maximum), sum = softmax[v].sum;
        const V log2_factor = splat(scoring.log2_factor);
        finite_check = fma(sum, splat(0.0f), finite_check);
        const I nothing = sum <= 0.0f;
        V factor = call.sigmoid ? splat(1.0f) : splat(1.0f) / select(nothing, splat(1.0f), sum);
        if (call.sink && !task.part) {  // one more key, which every row sees that sees anything
            const V sink = splat(call.sink[task.h] * LOG2E / scoring.log2_factor), above = max(top, sink);
            const V key_share = exp2(exponent_of(top, above, log2_factor));
            sum = fma(sum, key_share, exp2(exponent_of(sink, above, log2_factor)));
            top = above;
            factor = key_share / sum;
        }
        if (!call.sigmoid) factor = select(nothing, V{}, factor);
        if (call.threshold) factor *= splat(call.dropout_scale);
        I bad = non_finite[v];
        if (call.non_finite_query) {
            for (int i = 0; i < rows; ++i) {
                if (call.non_finite_query[first_row + v * LANES + i] && !nothing[i]) bad[i] = -1;
            }
        }
        factor = select(bad, splat(INF) - splat(INF), factor);
        if (observer) {
            const V share = select(bad, splat(INF) - splat(INF), select(nothing, V{}, splat(1.0f) / sum));
            observer->write(scoring, first_row + v * LANES, panel.index * PANEL + v * LANES, rows, softmax[v].maximum,
                           softmax[v].sum, {top, sum, share, nothing, bad});
        }

        if (task.part) {
            float* norms = task.part + task.part_rows * dv;
            const std::int64_t lane = panel.index * PANEL + v * LANES;
            store(norms + lane, select(nothing, splat(-INF), top));
            store(norms + task.part_rows + lane, select(bad, splat(INF) - splat(INF), sum));
        } else if (call.lse) {
            for (int i = 0; i < rows; ++i) {
                const std::int64_t row = first_row + v * LANES + i;
                const bool sees_nothing = nothing[i] && !call.sigmoid;
                float lse = sees_nothing ? -INF : (top[i] * scoring.log2_factor + __builtin_log2f(sum[i])) * LN2;
                if (bad[i]) lse = INF - INF;
                call.lse[row] = lse;
                call.lse[all + row] = top[i];
                call.lse[2 * all + row] = bad[i] ? INF - INF : sees_nothing ? 0.0f : 1.0f / sum[i];
            }
        }
        const Matrix out = head_of(call.out, call.type, task.b, task.h);
        const std::int64_t lane = panel.index * PANEL + v * LANES;
        U finite_check_bits{};
        for (std::int64_t c = 0; c < dv; c += LANES) {
            V t[LANES];
            const std::int64_t n = least<std::int64_t>(LANES, dv - c);
            if (n == LANES) {
#pragma GCC unroll 16
                for (int i = 0; i < LANES; ++i) t[i] = load(sums + (c + i) * PANEL + v * LANES);
            } else {
                for (int i = 0; i < LANES; ++i) t[i] = i < n ? load(sums + (c + i) * PANEL + v * LANES) : V{};
            }
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) {
                finite_check_bits |= bits(t[i] - t[i]);  // 0, but for what is not finite
                t[i] *= factor;
            }
            transpose(t);
            alignas(64) float block[LANES * LANES];
            for (int i = 0; i < LANES; ++i) store(block + i * LANES, t[i]);
            for (int i = 0; i < rows; ++i) {
                if (task.part) {
                    write_row(Type::float32, task.part + (lane + i) * dv + c, 1, block + i * LANES, n);
                } else {
                    const std::int64_t place = (panel.query + v * LANES + i) * out.row + c * out.column;
                    write_row(call.type, at(call.type, const_cast<void*>(out.data), place), out.column,
                              block + i * LANES, n);
                }
            }
        }
        finite_check += from_bits(finite_check_bits);
    }
}

template <Kind KIND, bool OBSERVED>
bool forward_of(const Forward& call, const ForwardTask& task, bool check, void* memory, Stop stop) {
    const FlushToZero flush;
    ScratchAllocator allocate_scratch(memory);
    const ForwardScratch scratch(call, allocate_scratch);
    Observer observer(call, call.statistics, allocate_scratch);
    if constexpr (OBSERVED) observer.begin();
    const Scoring scoring(call);
    const BlockMask mask(call, task.b, task.h, task.query);
    const std::int64_t g = task.h / (call.h / call.g), d = call.d, dv = call.dv;
    const Matrix key_head = head_of(call.key, call.key_type, task.b, g);
    const Matrix value_head = head_of(call.value, call.key_type, task.b, g);
    const std::int64_t depth = (d + UNIT<KIND> - 1) / UNIT<KIND>;
    pack_queries<KIND>(head_of(call.query, call.type, task.b, task.h).from(task.query), mask.rows(), d, scoring.sign,
                       scratch.queries, scratch.rows);
    std::memset(scratch.sums, 0, static_cast<std::size_t>(BLOCK * dv) * sizeof(float));

    Softmax softmax[VECTORS];
    I non_finite[VECTORS] = {};
    U dropout[VECTORS];
    V finite_check{};
    I bad_products{};
    for (int v = 0; v < VECTORS; ++v) {
        softmax[v] = {splat(-INF), V{}};
        if (call.threshold) dropout[v] = dropout_rows(call, task.b, task.h, task.query + v * LANES);
    }

    const std::int64_t first = greatest(task.key, mask.hull().first / BLOCK * BLOCK);
    const std::int64_t last = least(task.key_last, mask.hull().last);
    for (std::int64_t key = first; key < last; key += KEYS) {
        if (stop.now()) return true;
        const int n = static_cast<int>(least(KEYS, last - key));
        const VisibleKeys visible = mask.visible(key, key + n);
        if (visible.empty) continue;
        Rows keys, values;
        if constexpr (KIND == Kind::pairs) {
            keys = pairs_of(key_head, key, n, d, scratch.keys);
            if (call.value_pairs) {
                values = {call.value_pairs + ((task.b * call.g + g) * ((call.k + 1) / 2) + key / 2) * dv, dv};
            } else {
                pair_rows(value_head.from(key), n, dv, scratch.values, dv);
                values = {scratch.values, dv};
            }
        } else {
            keys = rows_of(key_head, key, n, d, scratch.keys);
            values = rows_of(value_head, key, n, dv, scratch.values);
        }
        for (int p = 0; p < PANELS; ++p) {
            const Segments segments = mask.segments(visible, p, n, UNIT<KIND>);
            if (!segments.count) continue;
            const Panel panel{call, scoring, mask, task.b, task.h, task.query + p * PANEL, p, scratch.bias};
            const float* queries = scratch.queries + p * depth * PANEL;
            float* sums = scratch.sums + p * dv * PANEL;
            float* scores = scratch.scores;
            Softmax* rows = softmax + p * NV;
            V maximum[NV], high[NV] = {}, low[NV], top[NV], sum[NV], exponents[NV] = {};
            for (int v = 0; v < NV; ++v) maximum[v] = rows[v].maximum, low[v] = sum[v] = V{};

            for (int i = 0; i < segments.count; ++i) {
                const Segment& s = segments.at[i];
                // Products are looked at before anything is done to them: one of −∞ would vanish in a softmax, where ∞
                // and NaN show, and in a sigmoid ∞ would too.
                const bool changes = scoring.needs_transform || s.test || call.non_finite_key;
                product_narrow<KIND, Start::zero>(
                    s.end - s.begin, scores + s.first * PANEL + s.begin * LANES, PANEL,
                    {keys.data + s.first * keys.stride, keys.stride, 1}, {queries + s.begin * LANES, PANEL},
                    s.last - s.first, Whole{depth},
                    Ranges{low + s.begin, (changes || call.sigmoid ? high : maximum) + s.begin});
                if (!changes) continue;
                if (scoring.needs_transform) transform_scores(panel, s, key, scores, nullptr);
                if (s.test) mask_scores(panel, s, key, scores);
                if (call.non_finite_key) mark_non_finite(panel, s, key, g, scores, non_finite + p * NV);
                update_row_maxima(s, scores, maximum);
            }
            for (int v = 0; v < NV; ++v) bad_products |= (low[v] == -INF) | (call.sigmoid ? high[v] == INF : I{});

            if (!call.sigmoid) {
                for (int v = 0; v < NV; ++v) {
                    top[v] = reference_score(maximum[v]);
                    if (!any(maximum[v] != rows[v].maximum)) continue;
                    const V fall = exponent_of(rows[v].maximum, top[v], splat(scoring.log2_factor)),
                            shrink = exp2(fall);
                    if constexpr (OBSERVED) observer.shrink(p, v, fall, shrink, rows[v].sum);
                    rows[v].maximum = maximum[v];
                    rows[v].sum *= shrink;
                    for (std::int64_t c = 0; c < dv; ++c) {
                        float* x = sums + c * PANEL + v * LANES;
                        store(x, load(x) * shrink);
                    }
                }
            }
            for (int i = 0; i < segments.count; ++i) {
                const Segment& s = segments.at[i];
                if (OBSERVED || call.sigmoid || call.threshold) {
                    if constexpr (OBSERVED) {
                        observer.update_top_keys(panel, s, key, scores);
                        softmax_weights<Kind::numbers, true>(s, scores, scoring.log2_factor, top, sum, exponents);
                        observer.update_sums(panel, s, key, scores, top);
                    } else if (call.sigmoid) {
                        sigmoid_weights(s, scores, scoring.log2_factor, call.shift * LOG2E);
                    } else {
                        softmax_weights<Kind::numbers>(s, scores, scoring.log2_factor, top, sum);
                    }
                    if (call.threshold) apply_dropout(call, s, key, dropout + p * NV, scores);
                    if constexpr (KIND == Kind::pairs) pack_weight_pairs(s, scores);
                } else {
                    softmax_weights<KIND>(s, scores, scoring.log2_factor, top, sum);
                }
                const std::int64_t first_pair = s.first / UNIT<KIND>;
                product_narrow<KIND, Start::accumulate>(s.end - s.begin, sums + s.begin * LANES, PANEL,
                                                   {values.data + first_pair * values.stride, 1, values.stride},
                                                   {scores + first_pair * PANEL + s.begin * LANES, PANEL}, dv,
                                                   Whole{(s.last + UNIT<KIND> - 1) / UNIT<KIND> - first_pair});
            }
            for (int v = 0; v < NV; ++v) rows[v].sum += sum[v];
            if constexpr (OBSERVED) observer.update_entropies(p, exponents);
        }
    }
    for (int p = 0; p < PANELS; ++p) {
        const Panel panel{call, scoring, mask, task.b, task.h, task.query + p * PANEL, p, scratch.bias};
        finish(call, task, scoring, panel, softmax + p * NV, non_finite + p * NV, scratch.sums + p * dv * PANEL,
               OBSERVED ? &observer : nullptr, finite_check);
    }
    return !check || !(any(bad_products) || any(finite_check != 0.0f));
}

bool forward(const Forward& call, const ForwardTask& task, bool check, void* memory, Stop stop) {
    if constexpr (PAIRS) {
        if (call.key_type == Type::bfloat16) {
            return call.statistics ? forward_of<Kind::pairs, true>(call, task, check, memory, stop)
                                   : forward_of<Kind::pairs, false>(call, task, check, memory, stop);
        }
    }
    return call.statistics ? forward_of<Kind::numbers, true>(call, task, check, memory, stop)
                           : forward_of<Kind::numbers, false>(call, task, check, memory, stop);
}

std::size_t forward_scratch(const Forward& call) {
    ScratchAllocator allocate_scratch(nullptr);
    const ForwardScratch scratch(call, allocate_scratch);
    const Observer observer(call, call.statistics, allocate_scratch);
    return allocate_scratch.bytes();
}

void pair(const View& view, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows, std::int64_t columns,
          float* to) {
    pair_rows(head_of(view, Type::bfloat16, b, h).from(first), rows, columns, to, columns);
}

}  // namespace
}  // namespace regard::REGARD_ISA
