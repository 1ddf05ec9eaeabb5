// The backward pass: a block of keys goes over all blocks of queries, and weights are recomputed.
//
// With Pᵀ the weights (a row for each key) and dPᵀ = V·dOᵀ, dSᵀ = Pᵀ ∘ (dPᵀ − δ):
//     dV += Pᵀ·dO     dK += dSᵀ·Q     dQ += dS·K
// Gradients of keys and values are complete when the block has gone over all queries; those of queries grow from
// block to block in an order that sizes alone decide, so that a result is the same from run to run.
#pragma once

#include "forward.h"
#include "statistic_gradients.h"

namespace regard::REGARD_ISA {
namespace {

constexpr std::int64_t BACK_KEYS = 128;  // keys in a block: five products share the cache
// Weights of a block lie in rows of 64 queries. One line more, where a panel is narrower, keeps the rows of a
// panel from falling into the same few sets of the cache.
constexpr std::int64_t PITCH = BLOCK + (PANELS > 1 ? 16 : 0);

struct BackwardScratch {
    float *queries, *grads, *query_rows, *grad_rows, *keys, *values, *key_rows, *value_rows, *key_sums, *value_sums;
    float *scores, *score_grads, *weights, *products, *transposed, *slopes, *bias;
    float* statistic_grads;  // gradients of statistics, apart from dropout; null without one of both
    Span* hulls;  // of each block of queries of the heads of a group
    std::int64_t width, value_width;
    std::size_t bytes;

    BackwardScratch(const Backward& call, void* memory) {
        ScratchAllocator allocate_scratch(memory);
        width = round_up(call.d, LANES);
        value_width = round_up(call.dv, LANES);
        queries = allocate_scratch(BLOCK * (call.d + 1));
        grads = allocate_scratch(BLOCK * (call.dv + 1));
        query_rows = allocate_scratch(BLOCK * width);
        grad_rows = allocate_scratch(BLOCK * value_width);
        keys = allocate_scratch(BACK_KEYS * width);
        values = allocate_scratch(BACK_KEYS * value_width);
        key_sums = allocate_scratch(BACK_KEYS * width);
        value_sums = allocate_scratch(BACK_KEYS * value_width);
        scores = allocate_scratch(BACK_KEYS * PANEL);
        score_grads = allocate_scratch(BACK_KEYS * PANEL);
        weights = allocate_scratch(BACK_KEYS * PITCH);
        products = allocate_scratch(BACK_KEYS * PITCH);
        transposed = allocate_scratch(PAIRS ? BACK_KEYS / 2 * PITCH : 0);
        key_rows = allocate_scratch(PAIRS ? BACK_KEYS * width : 0);
        value_rows = allocate_scratch(PAIRS ? BACK_KEYS * value_width : 0);
        slopes = allocate_scratch(call.softcap > 0 ? BACK_KEYS * PANEL : 0);
        bias = allocate_scratch(call.bias.data ? BACK_KEYS * PANEL : 0);
        statistic_grads = call.statistics && call.threshold ? allocate_scratch(BACK_KEYS * PANEL) : nullptr;
        hulls = reinterpret_cast<Span*>(allocate_scratch(call.h / call.g * ((call.q + BLOCK - 1) / BLOCK) *
                                             static_cast<std::int64_t>(sizeof(Span) / sizeof(float))));
        bytes = allocate_scratch.bytes();
    }
};

// Whole vectors of each row: where the rows lie if they can be read so, else a copy with zeros at the end.
INLINE Rows whole_rows(const Matrix& head, std::int64_t first, std::int64_t count, std::int64_t columns,
                       std::int64_t width, float* scratch) {
    const Matrix m = head.from(first);
    if (columns == width && reads_well(m, columns)) return {m.numbers(), m.row};
    copy_rows(m, count, columns, scratch, width);
    return {scratch, width};
}

INLINE void add_dense(const Backward& call, const Panel& panel, int v, std::int64_t key, V grad) {
    const View& view = call.bias_grad;
    float* base = static_cast<float*>(view.data) + panel.b * view.stride[0] + panel.h * view.stride[1] +
                  (panel.query + v * LANES) * view.stride[2] + key * view.stride[3];
    const std::int64_t rows = least<std::int64_t>(LANES, call.q - panel.query - v * LANES);
    for (std::int64_t i = 0; i < rows; ++i) base[i * view.stride[2]] += grad[i];
}

// LANES keys of a vector of queries at a time, turned, so that each query's row is written as it lies.
INLINE void add_dense_rows(const Backward& call, const Panel& panel, int v, std::int64_t key, V (&grad)[LANES]) {
    const View& view = call.bias_grad;
    float* base = static_cast<float*>(view.data) + panel.b * view.stride[0] + panel.h * view.stride[1] +
                  (panel.query + v * LANES) * view.stride[2] + key;
    const std::int64_t rows = least<std::int64_t>(LANES, call.q - panel.query - v * LANES);
    transpose(grad);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
        if (i < rows) store(base + i * view.stride[2], load(base + i * view.stride[2]) + grad[i]);
    }
}

// From scores and gradients of weights of a segment to weights and gradients of products, in the block's rows.
template <Kind KIND, bool SIGMOID, bool DROPOUT, bool CAP, bool TABLE, bool DENSE>
__attribute__((noinline)) void differentiate(const Backward& call, const Panel& panel, const Segment& s,
                                             std::int64_t key, const BackwardScratch& scratch,
                                             const RowState& state, const U* dropout, float* table) {
    const V log2_factor = splat(panel.scoring.log2_factor), scale = splat(call.scale);
    const V dropout_scale = splat(call.dropout_scale), shift = splat(call.shift * LOG2E);
    const bool by_rows = DENSE && call.bias_grad.stride[3] == 1;
    if constexpr (TABLE) table += panel.query + call.k - 1 - key;
    for (int v = s.begin; v < s.end; ++v) {
        const int lane = panel.index * PANEL + v * LANES;
        const V top = load(state.top + lane);
        const V share = load(state.share + lane), delta = load(state.delta + lane);
        V group[LANES], before{};
        for (int r = s.first; r < s.last; ++r) {
            const int at = r * PANEL + v * LANES;
            const V score = load(scratch.scores + at);
            V dp = load(scratch.score_grads + at), p, ds;
            if constexpr (SIGMOID) {
                p = logistic2(fma(score, log2_factor, shift));
            } else {
                p = exp2(exponent_of(score, top, log2_factor)) * share;
            }
            V weight = p;
            if constexpr (DROPOUT) {
                const I keeps = dropout_keeps(dropout[v], mix(static_cast<std::uint32_t>(key + r)), call.threshold);
                weight = select(keeps, p * dropout_scale, V{});
                dp = select(keeps, dp * dropout_scale, V{});
                if (scratch.statistic_grads) dp += load(scratch.statistic_grads + at);
            }
            if constexpr (SIGMOID) {
                ds = p * (splat(1.0f) - p) * dp;
            } else {
                ds = p * (dp - delta);
            }
            if constexpr (TABLE) store(table + v * LANES - r, load(table + v * LANES - r) + ds);
            if constexpr (DENSE) {
                const int i = (r - s.first) % LANES;
                group[i] = ds;
                if (!by_rows) {
                    add_dense(call, panel, v, key + r, ds);
                } else if (i == LANES - 1) {
                    add_dense_rows(call, panel, v, key + r - i, group);
                } else if (r == s.last - 1) {
                    for (int j = 0; j <= i; ++j) add_dense(call, panel, v, key + r - i + j, group[j]);
                }
            }
            if constexpr (CAP) ds *= load(scratch.slopes + at);
            ds *= scale;
            if constexpr (KIND == Kind::pairs) {
                // Along a key's row for the gradients of keys and values; of two keys for those of queries.
                const std::int64_t pair_at = r * PITCH + lane / 2;
                store(reinterpret_cast<std::uint16_t*>(scratch.weights + pair_at), narrow_bfloat16(weight));
                store(reinterpret_cast<std::uint16_t*>(scratch.products + pair_at), narrow_bfloat16(ds));
                if (r % 2) {
                    store(scratch.transposed + r / 2 * PITCH + lane, narrow_pair(before, ds));
                } else if (r + 1 == s.last) {
                    store(scratch.transposed + r / 2 * PITCH + lane, narrow_pair(ds, V{}));
                }
                before = ds;
            } else {
                store(scratch.weights + r * PITCH + lane, weight);
                store(scratch.products + r * PITCH + lane, ds);
            }
        }
    }
}

using Differentiate = void (*)(const Backward&, const Panel&, const Segment&, std::int64_t, const BackwardScratch&,
                               const RowState&, const U*, float*);

// The step for the parts that a call has. Sixteen cases of softmax, as many of sigmoid.
template <Kind KIND, bool SIGMOID, bool DROPOUT, bool CAP>
INLINE Differentiate differentiate_with(bool table, bool dense) {
    if (table && dense) return differentiate<KIND, SIGMOID, DROPOUT, CAP, true, true>;
    if (table) return differentiate<KIND, SIGMOID, DROPOUT, CAP, true, false>;
    if (dense) return differentiate<KIND, SIGMOID, DROPOUT, CAP, false, true>;
    return differentiate<KIND, SIGMOID, DROPOUT, CAP, false, false>;
}
template <Kind KIND, bool SIGMOID>
INLINE Differentiate differentiate_with(const Backward& call, bool table, bool dense) {
    const bool dropout = call.threshold != 0, cap = call.softcap > 0;
    if (dropout && cap) return differentiate_with<KIND, SIGMOID, true, true>(table, dense);
    if (dropout) return differentiate_with<KIND, SIGMOID, true, false>(table, dense);
    if (cap) return differentiate_with<KIND, SIGMOID, false, true>(table, dense);
    return differentiate_with<KIND, SIGMOID, false, false>(table, dense);
}

// Which queries the keys from `row` to `row + rows` are seen by, and the other way round; as elements of KIND.
template <Kind KIND>
INLINE Span elements(Span span) {
    if (span.first >= span.last) return {0, 0};
    return {span.first / UNIT<KIND>, (span.last + UNIT<KIND> - 1) / UNIT<KIND>};
}
template <Kind KIND>
struct QueriesOfKeys {
    const VisibleKeys& visible;
    std::int64_t queries;
    Span operator()(std::int64_t row, std::int64_t rows) const {
        if (visible.whole) return elements<KIND>({0, queries});
        Span span{BLOCK, 0};
        for (int v = 0; v < VECTORS; ++v) {
            if (visible.first[v] < row + rows && visible.last[v] > row) {
                span.first = least<std::int64_t>(span.first, v * LANES);
                span.last = least<std::int64_t>(v * LANES + LANES, queries);
            }
        }
        return elements<KIND>(span);
    }
};
template <Kind KIND>
struct KeysOfQueries {
    const VisibleKeys& visible;
    std::int64_t keys;
    Span operator()(std::int64_t row, std::int64_t rows) const {
        if (visible.whole) return elements<KIND>({0, keys});
        Span span{keys, 0};
        for (std::int64_t v = row / LANES; v * LANES < row + rows; ++v) {
            if (visible.first[v] == visible.last[v]) continue;
            span.first = least<std::int64_t>(span.first, visible.first[v]);
            span.last = greatest<std::int64_t>(span.last, visible.last[v]);
        }
        return elements<KIND>(span);
    }
};

// What a block of keys brings to its products: as rows, and as what is multiplied with rows of gradients.
struct KeyBlock {
    std::int64_t first;
    int count;
    Rows keys, values, key_operand;
};

// One block of queries of one head and one block of keys.
template <Kind KIND>
INLINE void accumulate_block(const Backward& call, const BackwardTask& task, const Scoring& scoring,
                             const BlockMask& mask, const VisibleKeys& visible, const BackwardScratch& scratch,
                             std::int64_t b, std::int64_t h, std::int64_t query, const KeyBlock& block,
                             Differentiate step) {
    const std::int64_t rows = mask.rows(), d = call.d, dv = call.dv, key = block.first;
    const std::int64_t depth = (d + UNIT<KIND> - 1) / UNIT<KIND>, value_depth = (dv + UNIT<KIND> - 1) / UNIT<KIND>;
    const Matrix query_head = head_of(call.query, call.type, b, h);
    const Matrix grad_head = head_of(call.out_grad, call.type, b, h);
    pack_queries<KIND>(query_head.from(query), rows, d, scoring.sign, scratch.queries, scratch.query_rows);
    pack_queries<KIND>(grad_head.from(query), rows, dv, 1.0f, scratch.grads, scratch.grad_rows);
    Rows query_rows{scratch.query_rows, scratch.width}, grad_rows{scratch.grad_rows, scratch.value_width};
    if constexpr (KIND == Kind::pairs) {
        pair_rows(query_head.from(query), rows, d, scratch.query_rows, scratch.width);
        pair_rows(grad_head.from(query), rows, dv, scratch.grad_rows, scratch.value_width);
    } else {
        query_rows = whole_rows(query_head, query, rows, d, scratch.width, scratch.query_rows);
        grad_rows = whole_rows(grad_head, query, rows, dv, scratch.value_width, scratch.grad_rows);
    }
    const RowState state(call, b, h, query, rows);
    if (!visible.whole) {
        const std::size_t bytes = static_cast<std::size_t>(block.count * PITCH) * sizeof(float);
        std::memset(scratch.weights, 0, bytes);
        std::memset(scratch.products, 0, bytes);
        if constexpr (KIND == Kind::pairs) {
            std::memset(scratch.transposed, 0, static_cast<std::size_t>((block.count + 1) / 2 * PITCH) * sizeof(float));
        }
    }
    float* table = task.table_grad ? task.table_grad + ((b - task.b) * call.h + h) * task.table_pitch : nullptr;

    for (int p = 0; p < PANELS; ++p) {
        const Segments segments = mask.segments(visible, p, block.count, UNIT<KIND>);
        const Panel panel{call, scoring, mask, b, h, query + p * PANEL, p, scratch.bias};
        for (int i = 0; i < segments.count; ++i) {
            const Segment& s = segments.at[i];
            const std::int64_t at = s.first * PANEL + s.begin * LANES;
            product_narrow<KIND, Start::zero>(
                s.end - s.begin, scratch.scores + at, PANEL,
                {block.keys.data + s.first * block.keys.stride, block.keys.stride, 1},
                {scratch.queries + p * depth * PANEL + s.begin * LANES, PANEL}, s.last - s.first, Whole{depth});
            product_narrow<KIND, Start::zero>(
                s.end - s.begin, scratch.score_grads + at, PANEL,
                {block.values.data + s.first * block.values.stride, block.values.stride, 1},
                {scratch.grads + p * value_depth * PANEL + s.begin * LANES, PANEL}, s.last - s.first,
                Whole{value_depth});
            if (scoring.needs_transform) {
                transform_scores(panel, s, key, scratch.scores, call.softcap > 0 ? scratch.slopes : nullptr);
            }
            if (s.test) mask_scores(panel, s, key, scratch.scores);
            U dropout[NV];
            if (call.threshold) {
                for (int v = 0; v < NV; ++v) dropout[v] = dropout_rows(call, b, h, panel.query + v * LANES);
            }
            if (call.statistics) {
                float* to = scratch.statistic_grads ? scratch.statistic_grads : scratch.score_grads;
                if (scratch.statistic_grads) clear(s, to);
                add_statistic_gradients(call, panel, s, key, state, scratch.scores, to);
            }
            step(call, panel, s, key, scratch, state, dropout, table);
        }
    }
    const int width_vectors = static_cast<int>(scratch.width / LANES),
              value_vectors = static_cast<int>(scratch.value_width / LANES);
    product<KIND, Start::accumulate>(value_vectors, scratch.value_sums, scratch.value_width,
                                     {scratch.weights, PITCH, 1}, {grad_rows.data, grad_rows.stride}, block.count,
                                     QueriesOfKeys<KIND>{visible, rows});
    product<KIND, Start::accumulate>(width_vectors, scratch.key_sums, scratch.width, {scratch.products, PITCH, 1},
                                {query_rows.data, query_rows.stride}, block.count, QueriesOfKeys<KIND>{visible, rows});
    float* query_grad;
    std::int64_t pitch;
    if (task.query_grad) {
        pitch = round_up(d, 16);
        query_grad = task.query_grad + ((b * call.h + h) * call.q + query) * pitch;
    } else {
        const View& view = call.query_grad;
        pitch = view.stride[2];
        query_grad = static_cast<float*>(view.data) + b * view.stride[0] + h * view.stride[1] + query * pitch;
    }
    product<KIND, Start::accumulate>(
        width_vectors, query_grad, pitch, {KIND == Kind::pairs ? scratch.transposed : scratch.products, 1, PITCH},
        {block.key_operand.data, block.key_operand.stride}, rows, KeysOfQueries<KIND>{visible, block.count});
}

template <Kind KIND>
void backward_of(const Backward& call, const BackwardTask& task, void* memory, Stop stop) {
    const FlushToZero flush;
    const BackwardScratch scratch(call, memory);
    const Scoring scoring(call);
    const std::int64_t repeats = call.h / call.g, d = call.d, dv = call.dv;
    const bool table = task.table_grad != nullptr, dense = call.bias_grad.data != nullptr;
    const Differentiate step = call.sigmoid ? differentiate_with<KIND, true>(call, table, dense)
                                            : differentiate_with<KIND, false>(call, table, dense);
    for (std::int64_t b = task.b; b < task.b_last; ++b) {
        for (std::int64_t g = task.g; g < task.g_last; ++g) {
            const Matrix key_head = head_of(call.key, call.key_type, b, g);
            const Matrix value_head = head_of(call.value, call.key_type, b, g);
            const std::int64_t first_head = g * repeats, blocks = (call.q + BLOCK - 1) / BLOCK;
            for (std::int64_t i = 0; i < repeats * blocks; ++i) {
                scratch.hulls[i] = hull_of(call, b, first_head + i / blocks, i % blocks * BLOCK);
            }
            for (std::int64_t key = task.key; key < task.key_last; key += BACK_KEYS) {
                const int n = static_cast<int>(least(BACK_KEYS, task.key_last - key));
                KeyBlock block{key, n, {}, {}, {}};
                if constexpr (KIND == Kind::pairs) {
                    block.keys = pairs_of(key_head, key, n, d, scratch.key_rows);
                    block.values = pairs_of(value_head, key, n, dv, scratch.value_rows);
                    pair_rows(key_head.from(key), n, d, scratch.keys, scratch.width);
                    block.key_operand = {scratch.keys, scratch.width};
                } else {
                    block.keys = whole_rows(key_head, key, n, d, scratch.width, scratch.keys);
                    block.values = whole_rows(value_head, key, n, dv, scratch.value_width, scratch.values);
                    block.key_operand = block.keys;
                }
                std::memset(scratch.key_sums, 0, static_cast<std::size_t>(n * scratch.width) * sizeof(float));
                std::memset(scratch.value_sums, 0, static_cast<std::size_t>(n * scratch.value_width) * sizeof(float));
                for (std::int64_t i = 0; i < repeats * blocks; ++i) {
                    if (scratch.hulls[i].first >= key + n || scratch.hulls[i].last <= key) continue;
                    if (stop.now()) return;
                    const std::int64_t h = first_head + i / blocks, query = i % blocks * BLOCK;
                    const BlockMask mask(call, b, h, query);
                    const VisibleKeys visible = mask.visible(key, key + n);
                    if (visible.empty) continue;
                    accumulate_block<KIND>(call, task, scoring, mask, visible, scratch, b, h, query, block, step);
                }
                const Matrix key_out = head_of(call.key_grad, call.type, b, g);
                const Matrix value_out = head_of(call.value_grad, call.type, b, g);
                for (std::int64_t r = 0; r < n; ++r) {
                    write_row(call.type, at(call.type, const_cast<void*>(key_out.data), (key + r) * key_out.row),
                              key_out.column, scratch.key_sums + r * scratch.width, d);
                    write_row(call.type, at(call.type, const_cast<void*>(value_out.data), (key + r) * value_out.row),
                              value_out.column, scratch.value_sums + r * scratch.value_width, dv);
                }
            }
        }
    }
}

void backward(const Backward& call, const BackwardTask& task, void* memory, Stop stop) {
    if constexpr (PAIRS) {
        if (call.key_type == Type::bfloat16) return backward_of<Kind::pairs>(call, task, memory, stop);
    }
    backward_of<Kind::numbers>(call, task, memory, stop);
}

void delta(const Backward& call, std::int64_t b, std::int64_t h, std::int64_t query) {
    const FlushToZero flush;
    const Matrix out = head_of(call.out, call.type, b, h), grad = head_of(call.out_grad, call.type, b, h);
    const std::int64_t row = (b * call.h + h) * call.q;
    for (std::int64_t i = query; i < least(query + BLOCK, call.q); ++i) {
        V sum{};
        std::int64_t c = 0;
        if (out.column == 1 && grad.column == 1) {
            for (; c + LANES <= call.dv; c += LANES) sum = fma(load_row(out, i, c), load_row(grad, i, c), sum);
        }
        float total = 0.0f;
        for (int j = 0; j < LANES; ++j) total += sum[j];
        for (; c < call.dv; ++c) {
            total += get(call.type, out.data, i * out.row + c * out.column) *
                     get(call.type, grad.data, i * grad.row + c * grad.column);
        }
        call.delta[row + i] = total - (call.lse_grad ? call.lse_grad[row + i] : 0.0f);
    }
}

void add_up(const View& view, Type type, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows,
            std::int64_t columns, const float* from, std::int64_t width, std::int64_t count, std::int64_t stride) {
    const Matrix to = head_of(view, type, b, h);
    alignas(64) float row[256 + 16];
    for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t c = 0; c < width; c += LANES) {
            V sum = load(from + i * width + c);
            for (std::int64_t part = 1; part < count; ++part) sum += load(from + part * stride + i * width + c);
            store(row + c, sum);
        }
        write_row(type, at(type, const_cast<void*>(to.data), (first + i) * to.row), to.column, row, columns);
    }
}

void widen_rows(const View& view, Type type, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows,
                std::int64_t columns, float* to) {
    copy_rows(head_of(view, type, b, h).from(first), rows, columns, to, columns);
}

}  // namespace
}  // namespace regard::REGARD_ISA
