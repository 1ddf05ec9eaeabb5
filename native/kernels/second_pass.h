// The second pass recomputes weights block by block from what a forward pass left of each row: for results that need
// final weights (attention received by keys, pooled maps), and for the weights themselves.
//
// A task has some keys of a head and all queries, so that no two tasks add to the same number.
#pragma once

#include "forward.h"

namespace regard::REGARD_ISA {
namespace {

struct SecondPassScratch {
    float *rows, *queries, *scores, *keys, *bias, *received;
    std::size_t bytes;

    SecondPassScratch(const Call& call, void* memory) {
        ScratchAllocator allocate_scratch(memory);
        rows = allocate_scratch(BLOCK * call.d);
        queries = allocate_scratch(BLOCK * (call.d + 1));
        scores = allocate_scratch(KEYS * PANEL);
        keys = allocate_scratch(KEYS * (call.d + 1));
        bias = allocate_scratch(call.bias.data ? KEYS * PANEL : 0);
        received = allocate_scratch(KEYS * LANES);
        bytes = allocate_scratch.bytes();
    }
};

// The greater of both; NaN of either lasts.
INLINE V max_or_nan(V a, V b) { return select(a != a, a, max(a, b)); }

// The results of one head for the keys of one task.
class SecondPassReductions {
  public:
    SecondPassReductions(const SecondPass& call, const SecondPassTask& task, const SecondPassScratch& scratch)
        : call_(call), task_(task), received_(scratch.received), head_(task.head) {
        empty_received();
    }

    // Notes the group of a block's queries, or that there are several.
    void begin(std::int64_t first, std::int64_t last) {
        if (!call_.received || !call_.group_of_query) return;
        const std::int32_t group = call_.group_of_query[first];
        mixed_groups_ = false;
        for (std::int64_t i = first; i < last; ++i) mixed_groups_ = mixed_groups_ || call_.group_of_query[i] != group;
        if (mixed_groups_ || group == group_) return;
        flush();
        group_ = group;
    }

    // Where the attention that keys receive is summed while weights are computed; null: nowhere, or in `update`.
    float* received() const { return call_.received && !mixed_groups_ ? received_ : nullptr; }

    // Adds the weights of a segment; they are 0 for queries outside of the rectangle.
    void update(const Segment& s, std::int64_t query, const float* weights) {
        for (int v = s.begin; v < s.end; ++v) {
            const std::int64_t first = query + v * LANES;
            const Span rows{greatest<std::int64_t>(call_.first_query - first, 0),
                            least<std::int64_t>(call_.last_query - first, LANES)};
            if (rows.first >= rows.last) continue;
            const float* column = weights + v * LANES;
            if (mixed_groups_) receive(s, first, rows, column);
            for (std::int64_t i = 0; i < call_.pooling_count; ++i) pool(call_.poolings[i], s, first, rows, column);
            if (call_.weights) copy(s, first, rows, column);
        }
    }

    // Adds the sums of the current group to the output.
    void flush() {
        if (!call_.received) return;
        for (std::int64_t r = 0; r < task_.key_last - task_.key && group_ >= 0; ++r) {
            float sum = 0.0f;
            for (int j = 0; j < LANES; ++j) sum += received_[r * LANES + j];
            *received_at(group_, r) += sum;
        }
        empty_received();
    }

  private:
    float* received_at(std::int64_t group, std::int64_t r) const {
        return call_.received + (head_ * call_.group_count + group) * (call_.last_key - call_.first_key) + task_.key -
               call_.first_key + r;
    }
    void empty_received() {
        for (std::int64_t i = 0; i < KEYS * LANES; ++i) received_[i] = 0.0f;
    }

    void receive(const Segment& s, std::int64_t first, Span rows, const float* column) {
        for (std::int64_t i = rows.first; i < rows.last; ++i) {
            if (call_.group_of_query[first + i] < 0) continue;
            float* to = received_at(call_.group_of_query[first + i], 0);
            for (int r = s.first; r < s.last; ++r) to[r] += column[r * PANEL + i];
        }
    }

    // Columns whose keys all belong to this task are written directly; parts of the others are joined in the end.
    void pool(const Pooling& pooling, const Segment& s, std::int64_t first, Span rows, const float* weights) const {
        const std::int64_t keys = call_.last_key - call_.first_key, cols = pooling.cols;
        const std::int64_t key = task_.key - call_.first_key, last_key = task_.key_last - call_.first_key;
        const Span complete{key ? (key - 1) * cols / keys + 1 : 0, last_key * cols / keys};
        // The keys of a column, j · cols / keys == column, end before ⌈(column + 1) · keys / cols⌉: found step by step.
        std::int64_t column = (key + s.first) * cols / keys;
        const std::int64_t ends = (column + 1) * keys + cols - 1;
        std::int64_t end = ends / cols - key, rest = ends % cols;
        V group[LANES];
        int group_size = 0;
        for (int r = s.first; r < s.last; ++column) {
            const int last = static_cast<int>(least<std::int64_t>(end, s.last));
            V all = load(weights + r * PANEL);
            if (pooling.maximum) {
                for (++r; r < last; ++r) all = max_or_nan(all, load(weights + r * PANEL));
            } else {
                for (++r; r < last; ++r) all += load(weights + r * PANEL);
            }
            end += keys / cols + (rest + keys % cols >= cols);
            rest = (rest + keys % cols) % cols;
            if (column >= complete.first && column < complete.last) {
                group[group_size++] = all;
                if (group_size < LANES && r < s.last) continue;
            } else {
                const std::int64_t edge = (head_ * task_.count + task_.index) * 2 + (column >= complete.last);
                add_column(pooling, first, rows, all, pooling.edges + edge * pooling.rows, 1);
            }
            const std::int64_t behind = column + (column >= complete.first && column < complete.last);
            add_columns(pooling, first, rows, group, group_size, behind - group_size);
            group_size = 0;
        }
    }

    std::int64_t row_of(const Pooling& pooling, std::int64_t query) const {
        return (query - call_.first_query) * pooling.rows / (call_.last_query - call_.first_query);
    }

    // Whole columns side by side, of a vector of queries each.
    void add_columns(const Pooling& pooling, std::int64_t first, Span rows, V (&group)[LANES], int count,
                     std::int64_t column) const {
        float* to = pooling.out + head_ * pooling.rows * pooling.cols + column;
        if (count < LANES) {
            for (int i = 0; i < count; ++i) add_column(pooling, first, rows, group[i], to + i, pooling.cols);
            return;
        }
        transpose(group);
        std::int64_t row = row_of(pooling, first + rows.first);
        const bool together = row_of(pooling, first + rows.last - 1) == row;
        for (std::int64_t j = rows.first; j < rows.last;) {
            V all = group[j];
            std::int64_t next = row;
            while (++j < rows.last && (together || (next = row_of(pooling, first + j)) == row)) {
                all = pooling.maximum ? max_or_nan(all, group[j]) : all + group[j];
            }
            float* at = to + row * pooling.cols;
            store(at, pooling.maximum ? max_or_nan(load(at), all) : load(at) + all);
            row = next;
        }
    }

    void add_column(const Pooling& pooling, std::int64_t first, Span rows, V all, float* to,
                    std::int64_t stride) const {
        std::int64_t row = row_of(pooling, first + rows.first);
        if (row == row_of(pooling, first + rows.last - 1)) {  // weights of other rows are 0
            for (int i = LANES / 2; i > 0; i /= 2) {
                for (int j = 0; j < i; ++j) {
                    const bool former = all[j] > all[j + i] || all[j] != all[j];
                    all[j] = !pooling.maximum ? all[j] + all[j + i] : former ? all[j] : all[j + i];
                }
            }
            add(pooling, to + row * stride, all[0]);
            return;
        }
        for (std::int64_t j = rows.first; j < rows.last; ++j) {
            add(pooling, to + row_of(pooling, first + j) * stride, all[j]);
        }
    }

    static void add(const Pooling& pooling, float* to, float x) {
        *to = !pooling.maximum ? *to + x : x > *to || x != x ? x : *to;  // NaN lasts
    }

    void copy(const Segment& s, std::int64_t first, Span rows, const float* weights) const {
        const std::int64_t keys = call_.last_key - call_.first_key, queries = call_.last_query - call_.first_query;
        float* to = call_.weights + (head_ * queries + first - call_.first_query) * keys + task_.key - call_.first_key;
        for (std::int64_t i = rows.first; i < rows.last; ++i) {
            for (int r = s.first; r < s.last; ++r) to[i * keys + r] = weights[r * PANEL + i];
        }
    }

    const SecondPass& call_;
    const SecondPassTask& task_;
    float* received_;  // (KEYS, LANES) of the current group
    std::int64_t head_;
    std::int32_t group_ = 0;
    bool mixed_groups_ = false;
};

// Scores of a segment become weights, 2^((score − top) · log2_factor) · share. The sums of each key's, a vector each,
// are added to `received` unless it is null.
template <int N>
INLINE void recompute_weights(const Segment& s, float* scores, float log2_factor, const V* top, const V* share,
                              float* received) {
    const V factor = splat(log2_factor);
    top += s.begin;
    share += s.begin;
    float* row = scores + s.first * PANEL + s.begin * LANES;
    const auto process = [&](auto together) {
        constexpr int ALL = decltype(together)::value * N;
        V p[ALL];
#pragma GCC unroll 8
        for (int i = 0; i < ALL; ++i) {
            p[i] = exponent_of(load(row + i / N * PANEL + i % N * LANES), top[i % N], factor);
        }
        exp2(p);
#pragma GCC unroll 8
        for (int i = 0; i < ALL; ++i) p[i] *= share[i % N];
#pragma GCC unroll 8
        for (int i = 0; i < ALL; ++i) store(row + i / N * PANEL + i % N * LANES, p[i]);
        if (received) {
#pragma GCC unroll 4
            for (int i = 0; i < ALL; i += N) {
                V sum = load(received + i / N * LANES);
#pragma GCC unroll 4
                for (int v = 0; v < N; ++v) sum += p[i + v];
                store(received + i / N * LANES, sum);
            }
            received += ALL / N * LANES;
        }
        row += ALL / N * PANEL;
    };
    if (received) received += s.first * LANES;
    constexpr int TOGETHER = 4 / N;
    int r = s.first;
    for (; r + TOGETHER <= s.last; r += TOGETHER) process(Count<TOGETHER>{});
    for (; r < s.last; ++r) process(Count<1>{});
}
INLINE void recompute_weights(const Segment& s, float* scores, float log2_factor, const V* top, const V* share,
                              float* received) {
    switch (s.end - s.begin) {
        case 1: return recompute_weights<1>(s, scores, log2_factor, top, share, received);
        case 2: return recompute_weights<2>(s, scores, log2_factor, top, share, received);
        case 3: return recompute_weights<least(3, NV)>(s, scores, log2_factor, top, share, received);
        default: return recompute_weights<NV>(s, scores, log2_factor, top, share, received);
    }
}

template <Kind KIND>
void second_pass_of(const SecondPass& call, const SecondPassTask& task, void* memory, Stop stop) {
    const FlushToZero flush;
    const SecondPassScratch scratch(call, memory);
    const Scoring scoring(call);
    const std::int64_t g = task.h / (call.h / call.g), d = call.d, depth = (d + UNIT<KIND> - 1) / UNIT<KIND>;
    const std::int64_t row = (task.b * call.h + task.h) * call.q;
    const int n = static_cast<int>(task.key_last - task.key);
    const Matrix query_head = head_of(call.query, call.type, task.b, task.h);
    const Matrix key_head = head_of(call.key, call.key_type, task.b, g);
    Rows keys;
    if constexpr (KIND == Kind::pairs) {
        keys = pairs_of(key_head, task.key, n, d, scratch.keys);
    } else {
        keys = rows_of(key_head, task.key, n, d, scratch.keys);
    }
    SecondPassReductions reductions(call, task, scratch);
    for (std::int64_t query = call.first_query / BLOCK * BLOCK; query < call.last_query; query += BLOCK) {
        if (stop.now()) return;
        const BlockMask mask(call, task.b, task.h, query);
        const VisibleKeys visible = mask.visible(task.key, task.key_last);
        if (visible.empty) continue;
        const std::int64_t first = greatest(query, call.first_query),
                           last = least(query + mask.rows(), call.last_query);
        reductions.begin(first, last);
        pack_queries<KIND>(query_head.from(query), mask.rows(), d, scoring.sign, scratch.queries, scratch.rows);
        for (int p = 0; p < PANELS; ++p) {
            const std::int64_t panel_query = query + p * PANEL;
            if (panel_query + PANEL <= first || panel_query >= last) continue;
            const Panel panel{call, scoring, mask, task.b, task.h, panel_query, p, scratch.bias};
            const Segments segments = mask.segments(visible, p, n, UNIT<KIND>);
            V top[NV], share[NV];
            for (int v = 0; v < NV; ++v) {
                for (int j = 0; j < LANES; ++j) {
                    const std::int64_t i = panel_query + v * LANES + j;
                    const bool requested = i >= first && i < last;
                    top[v][j] = requested ? call.top[row + i] : INF;
                    share[v][j] = requested ? call.share[row + i] : 0.0f;
                }
            }
            for (int i = 0; i < segments.count; ++i) {
                Segment s = segments.at[i];
                while (s.begin < s.end && panel_query + (s.begin + 1) * LANES <= first) ++s.begin;
                while (s.begin < s.end && panel_query + (s.end - 1) * LANES >= last) --s.end;
                if (s.begin == s.end) continue;
                product_narrow<KIND, Start::zero>(
                    s.end - s.begin, scratch.scores + s.first * PANEL + s.begin * LANES, PANEL,
                    {keys.data + s.first * keys.stride, keys.stride, 1},
                    {scratch.queries + p * depth * PANEL + s.begin * LANES, PANEL}, s.last - s.first, Whole{depth});
                if (scoring.needs_transform) transform_scores(panel, s, task.key, scratch.scores, nullptr);
                if (s.test) mask_scores(panel, s, task.key, scratch.scores);
                recompute_weights(s, scratch.scores, scoring.log2_factor, top, share, reductions.received());
                reductions.update(s, panel_query, scratch.scores);
            }
        }
    }
    reductions.flush();
}

void second_pass(const SecondPass& call, const SecondPassTask& task, void* memory, Stop stop) {
    if constexpr (PAIRS) {
        if (call.key_type == Type::bfloat16) return second_pass_of<Kind::pairs>(call, task, memory, stop);
    }
    second_pass_of<Kind::numbers>(call, task, memory, stop);
}

std::size_t second_pass_scratch(const Call& call) { return SecondPassScratch(call, nullptr).bytes; }

}  // namespace
}  // namespace regard::REGARD_ISA
