// Decoding: few queries against many keys. Memory is the limit, so each key is read once for all rows, the
// query heads of its group among them. Here keys lie in the lanes: weights[row][key].
#pragma once

#include "forward.h"

namespace regard::REGARD_ISA {
namespace {

// Keys in a block: it, its values and the next block's keys share the second cache.
constexpr std::int64_t DECODE_KEYS = 128;

struct DecodeScratch {
    float *queries, *weights, *sums, *keys, *values;
    std::int64_t width, value_width;
    std::size_t bytes;

    DecodeScratch(const Call& call, void* memory) {
        Room take(memory);
        width = round_up(call.d, LANES);
        value_width = round_up(call.dv, LANES);
        queries = take(MOST_GROUPED * width);
        weights = take(MOST_GROUPED * KEYS);
        sums = take(MOST_GROUPED * value_width);
        keys = take(KEYS * width);
        values = take(KEYS * value_width);
        bytes = take.bytes();
    }
};

// Rows that will be read soon, one for each that is read now; no columns: nothing to ask for. While products of
// keys are taken, their values come from memory, and while those are added up, the next keys.
struct Soon {
    const void* data;
    std::int64_t row, columns;
};

// Products of one key with ROWS rows, whose sums over the lanes are still to be taken. A key is read from its first
// number to its last and then the next: several at a time would be streams too short for the processor to follow. What
// will be read soon is asked for line by line: all at once would fill its queues and stop it.
template <Type TYPE, int ROWS>
INLINE void dots(const float* queries, std::int64_t width, const Matrix& keys, std::int64_t key, const Soon& values,
                 V* sum) {
    constexpr int CHAINS = 8 / ROWS;  // sums that do not wait for each other
    constexpr int LINE = 64 / (TYPE == Type::float32 ? 4 : 2);
    V part[ROWS][CHAINS];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; ++i) part[r][i] = V{};
    }
    const auto step = [&](std::int64_t c, int chain) {
        const V k = load_row({keys.data, keys.row, 1, TYPE}, key, c);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) part[r][chain] = fma(load(queries + r * width + c), k, part[r][chain]);
    };
    for (std::int64_t c = 0; c < values.columns; c += LINE) {
        __builtin_prefetch(at(TYPE, values.data, key * values.row + c), 0, 2);
    }
    std::int64_t c = 0;
    for (; c + CHAINS * LANES <= width; c += CHAINS * LANES) {
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; ++i) step(c + i * LANES, i);
    }
    for (; c < width; c += LANES) step(c, 0);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
        V total = part[r][0];
#pragma GCC unroll 8
        for (int i = 1; i < CHAINS; ++i) total += part[r][i];
        sum[r * LANES] = total;
    }
}

// Products of all keys of a block with ROWS rows, LANES keys at a time.
template <Type TYPE, int ROWS>
__attribute__((noinline)) void dots_of_block(const DecodeScratch& scratch, std::int64_t row, const Matrix& keys, int n,
                                             const Soon& values) {
    for (int key = 0; key < n; key += LANES) {
        V sum[ROWS * LANES];
        for (int i = 0; i < LANES; ++i) {
            dots<TYPE, ROWS>(scratch.queries + row * scratch.width, scratch.width, keys, least(key + i, n - 1), values,
                             sum + i);
        }
        for (int r = 0; r < ROWS; ++r) {
            store(scratch.weights + (row + r) * KEYS + key, sums_of_lanes(sum + r * LANES));
        }
    }
}

template <Type TYPE>
INLINE void all_dots(const DecodeScratch& scratch, std::int64_t rows, const Matrix& keys, int n, Soon values) {
    std::int64_t r = 0;
    const Soon none{values.data, 0, 0};  // after the first rows they are there
    for (; r + 4 <= rows; r += 4) dots_of_block<TYPE, 4>(scratch, r, keys, n, r ? none : values);
    for (; r + 2 <= rows; r += 2) dots_of_block<TYPE, 2>(scratch, r, keys, n, r ? none : values);
    for (; r < rows; ++r) dots_of_block<TYPE, 1>(scratch, r, keys, n, r ? none : values);
}

// Sums of values with the weights of ROWS rows, in COLUMNS vectors of columns at a time.
template <Type TYPE, int ROWS, int COLUMNS>
INLINE void add_columns(const float* weights, const Matrix& values, int n, std::int64_t column, float* sums,
                        std::int64_t width, const Soon& keys) {
    V sum[ROWS][COLUMNS];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) sum[r][c] = load(sums + r * width + column + c * LANES);
    }
    const bool soon = column < keys.columns;
    for (int key = 0; key < n; ++key) {
        if (soon) __builtin_prefetch(at(TYPE, keys.data, key * keys.row + column), 0, 2);
        V x[COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) x[c] = load_row({values.data, values.row, 1, TYPE}, key, column + c * LANES);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            const V weight = splat(weights[r * KEYS + key]);
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; ++c) sum[r][c] = fma(weight, x[c], sum[r][c]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) store(sums + r * width + column + c * LANES, sum[r][c]);
    }
}

template <Type TYPE, int ROWS>
__attribute__((noinline)) void add_block(const float* weights, const Matrix& values, int n, float* sums,
                                         std::int64_t width, const Soon& keys) {
    constexpr int COLUMNS = ROWS == 4 ? 2 : 4;
    std::int64_t column = 0;
    for (; column + COLUMNS * LANES <= width; column += COLUMNS * LANES) {
        add_columns<TYPE, ROWS, COLUMNS>(weights, values, n, column, sums, width, keys);
    }
    for (; column < width; column += LANES) add_columns<TYPE, ROWS, 1>(weights, values, n, column, sums, width, keys);
}

// Values of the keys from `first` on, of which there are n, with the weights of all rows.
template <Type TYPE>
INLINE void add_values(const DecodeScratch& scratch, std::int64_t rows, const Matrix& values, int first, int n,
                       const Soon& keys) {
    const Matrix here = values.from(first);
    std::int64_t r = 0;
    const auto add = [&](auto count) {
        constexpr int ROWS = decltype(count)::value;
        for (; r + ROWS <= rows; r += ROWS) {
            add_block<TYPE, ROWS>(scratch.weights + r * KEYS + first, here, n, scratch.sums + r * scratch.value_width,
                                  scratch.value_width, r ? Soon{keys.data, 0, 0} : keys);
        }
    };
    add(Count<4>{});
    add(Count<2>{});
    add(Count<1>{});
}

template <Type TYPE>
struct Constant {
    static constexpr Type value = TYPE;
};

// Calls step with the type as a constant.
template <class Step>
INLINE void with_type(Type type, const Step& step) {
    if (type == Type::float32) {
        step(Constant<Type::float32>{});
    } else if (type == Type::bfloat16) {
        step(Constant<Type::bfloat16>{});
    } else {
        step(Constant<Type::float16>{});
    }
}

// Which of LANES keys a query may see.
INLINE I sees(const Call& call, std::int64_t b, std::int64_t h, std::int64_t query, std::int64_t key) {
    const I k = splat(static_cast<std::int32_t>(key)) + iota();
    I ok = k < splat(static_cast<std::int32_t>(call.k));
    if (call.spans) {
        const std::int32_t* span = call.spans + b * call.spans_b + h * call.spans_h + query * call.span_count * 2;
        I inside{};
        for (std::int64_t s = 0; s < call.span_count; ++s, span += 2) {
            inside |= (k >= splat(span[0])) & (k < splat(span[1]));
        }
        ok &= inside;
    }
    if (call.tiles) {
        const std::int64_t across = (call.k + BLOCK - 1) / BLOCK;
        const std::int32_t kind =
            call.tiles[b * call.tiles_b + h * call.tiles_h + query / BLOCK * across + key / BLOCK];
        if (kind == 0) return I{};
        if (kind > 1) {
            const std::uint64_t* words = call.bitmaps + (kind - 2) * BLOCK + key % BLOCK;
            for (int i = 0; i < LANES; ++i) ok[i] &= (words[i] >> (query % BLOCK)) & 1 ? -1 : 0;
        }
    }
    return ok;
}

// Whether a query may see any of the keys from `key` to `last`; true where that is not quickly said.
INLINE bool sees_any(const Call& call, std::int64_t b, std::int64_t h, std::int64_t query, std::int64_t key,
                     std::int64_t last) {
    if (call.tiles) {
        const std::int64_t across = (call.k + BLOCK - 1) / BLOCK;
        const std::int32_t* kinds = call.tiles + b * call.tiles_b + h * call.tiles_h + query / BLOCK * across;
        bool any_tile = false;
        for (std::int64_t t = key / BLOCK; t * BLOCK < last; ++t) any_tile = any_tile || kinds[t] != 0;
        if (!any_tile) return false;
    }
    if (!call.spans) return true;
    const std::int32_t* span = call.spans + b * call.spans_b + h * call.spans_h + query * call.span_count * 2;
    for (std::int64_t s = 0; s < call.span_count; ++s, span += 2) {
        if (span[0] < span[1] && span[0] < last && span[1] > key) return true;
    }
    return false;
}

// Rows of whole vectors, side by side in each: as they lie, or a copy.
INLINE Matrix vectors_of(const Matrix& m, int rows, std::int64_t columns, std::int64_t width, float* scratch) {
    if (m.column == 1 && columns == width) return m;
    copy_rows(m, rows, columns, scratch, width);
    return {scratch, width, 1, Type::float32};
}

// One query of one head: where it stands, and its softmax so far.
struct DecodeRow {
    std::int64_t h, query;
    float top = -INF, sum = 0.0f;
    bool spoilt = false;  // sees a number that is not finite
};

// A block of keys of one batch row and key head.
struct DecodeBlock {
    std::int64_t b, g, key;
    int n, whole;  // keys, and as many in whole vectors
};

// Products of one row become scores; which keys of the block it sees lie within the answer.
__attribute__((noinline)) Span score_row(const Call& call, const Scoring& scoring, const DecodeBlock& block,
                                         DecodeRow& row, float* scores) {
    const std::int64_t h = row.h, query = row.query;
    const Matrix bias = call.bias.data ? head_of(call.bias, call.bias_type, block.b, h) : Matrix{};
    const float* table = call.table ? call.table + h * call.table_h : nullptr;
    for (int i = 0; i < block.whole; i += LANES) {
        V x = load(scores + i);
        if (scoring.cooked) {
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
        const I there = iota() < splat(static_cast<std::int32_t>(block.n - i));
        store(scores + i, select(there & sees(call, block.b, h, query, block.key + i), x, splat(-INF)));
    }
    if (call.spoilt_key) {
        const std::uint8_t* bad = call.spoilt_key + (block.b * call.g + block.g) * call.k + block.key;
        for (int i = 0; i < block.n; ++i) row.spoilt = row.spoilt || (bad[i] && scores[i] > -INF);
    }
    Span seen{0, block.n};
    while (seen.first < seen.last && scores[seen.first] == -INF) ++seen.first;
    while (seen.first < seen.last && scores[seen.last - 1] == -INF) --seen.last;
    return seen;
}

// Scores of one row become weights; sums that are there already shrink to a greater maximum.
__attribute__((noinline)) void weigh_row(const Call& call, const Scoring& scoring, const DecodeBlock& block,
                                         DecodeRow& row, float* scores, float* sums, std::int64_t width) {
    const V left = splat(scoring.left);
    if (call.sigmoid) {
        for (int i = 0; i < block.whole; i += LANES) {
            store(scores + i, logistic2(fma(load(scores + i), left, splat(call.shift * LOG2E))));
        }
    } else {
        V most = splat(-INF);
        for (int i = 0; i < block.whole; i += LANES) most = max(most, load(scores + i));
        float top = row.top;
        for (int i = 0; i < LANES; ++i) {
            const float x = most[i] * scoring.left;
            if (!(x <= top)) top = x;  // NaN too
        }
        if (top != row.top) {
            const float shrink = exp2(splat(row.top - top))[0];
            row.sum *= shrink;
            for (std::int64_t c = 0; c < width; c += LANES) store(sums + c, load(sums + c) * splat(shrink));
            row.top = top;
        }
        const V below = splat(top == -INF ? 0.0f : -top);
        V total{};
        for (int i = 0; i < block.whole; i += LANES) {
            const V p = exp2(fma(load(scores + i), left, below));
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

bool decode(const Forward& call, const ForwardTask& task, bool check, void* memory, Stop stop) {
    const FlushToZero flush;
    const DecodeScratch scratch(call, memory);
    const Scoring scoring(call);
    const std::int64_t count = task.heads * call.q, g = task.h / (call.h / call.g), d = call.d, dv = call.dv;
    const Matrix key_head = head_of(call.key, call.key_type, task.b, g);
    const Matrix value_head = head_of(call.value, call.key_type, task.b, g);
    DecodeRow rows[MOST_GROUPED];
    Span hull{call.k, 0};
    for (std::int64_t r = 0; r < count; ++r) {
        rows[r].h = task.h + r / call.q;
        rows[r].query = r % call.q;
        float* query = scratch.queries + r * scratch.width;
        copy_rows(head_of(call.query, call.type, task.b, rows[r].h).from(rows[r].query), 1, d, query, scratch.width);
        for (std::int64_t c = 0; c < d; ++c) query[c] *= scoring.sign;
        const Span own = hull_of(call, task.b, rows[r].h, rows[r].query);
        hull = {least(hull.first, own.first), greatest(hull.last, own.last)};
    }
    std::memset(scratch.sums, 0, static_cast<std::size_t>(count * scratch.value_width) * sizeof(float));
    V found{};

    const std::int64_t begin = greatest(task.key, hull.first / BLOCK * BLOCK), end = least(task.key_last, hull.last);
    for (std::int64_t key = begin; key < end; key += DECODE_KEYS) {
        if (stop.now()) return true;
        const int n = static_cast<int>(least(DECODE_KEYS, end - key));
        bool wanted = false;
        for (std::int64_t r = 0; r < count && !wanted; ++r) {
            wanted = sees_any(call, task.b, rows[r].h, rows[r].query, key, key + n);
        }
        if (!wanted) continue;
        const DecodeBlock block{task.b, g, key, n, static_cast<int>(round_up(n, LANES))};
        const Matrix keys = vectors_of(key_head.from(key), n, d, scratch.width, scratch.keys);
        const Matrix values = vectors_of(value_head.from(key), n, dv, scratch.value_width, scratch.values);
        with_type(keys.type, [&](auto type) {
            all_dots<type.value>(scratch, count, keys, n, {values.data, values.row, values.type == keys.type ? dv : 0});
        });
        Span seen{n, 0};
        for (std::int64_t r = 0; r < count; ++r) {
            float* scores = scratch.weights + r * KEYS;
            for (int i = 0; i < block.whole; i += LANES) found = fma(load(scores + i), splat(0.0f), found);
            const Span own = score_row(call, scoring, block, rows[r], scores);
            if (own.first < own.last) seen = {least(seen.first, own.first), greatest(seen.last, own.last)};
            weigh_row(call, scoring, block, rows[r], scores, scratch.sums + r * scratch.value_width, scratch.value_width);
        }
        if (seen.first >= seen.last) continue;
        const Matrix after = key_head.from(least(key + DECODE_KEYS, end - 1));
        const Soon next{after.data, after.row, after.type == values.type && key + DECODE_KEYS < end ? d : 0};
        with_type(values.type, [&](auto type) {
            add_values<type.value>(scratch, count, values, static_cast<int>(seen.first),
                                   static_cast<int>(seen.last - seen.first), next);
        });
    }

    float* norms = task.part + task.part_rows * dv;
    for (std::int64_t r = 0; r < count; ++r) {
        const DecodeRow& row = rows[r];
        const float* from = scratch.sums + r * scratch.value_width;
        const bool bad = row.spoilt || (call.spoilt_query && row.sum > 0.0f &&
                                        call.spoilt_query[(task.b * call.h + row.h) * call.q + row.query]);
        float factor = call.sigmoid ? 1.0f : row.sum == 0.0f ? 0.0f : 1.0f / row.sum;
        if (call.threshold) factor *= call.kept;
        for (std::int64_t c = 0; c < dv; ++c) {
            found = fma(splat(from[c]), splat(0.0f), found);
            task.part[r * dv + c] = from[c] * factor;
        }
        norms[r] = row.top;
        norms[task.part_rows + r] = bad ? INF - INF : row.sum;
    }
    return !check || !any(found != 0.0f);
}

// The share that one part of the keys has in a row, of which `top` and `sum` are the whole's.
INLINE float share_of(const float* norms, std::int64_t rows, float top, float sum) {
    return sum == 0.0f ? 0.0f : exp2(splat(norms[0] - top))[0] * norms[rows] / sum;
}

void merge(const Forward& call, const ForwardTask& task, const float* parts, std::int64_t count, std::int64_t stride) {
    const FlushToZero flush;
    const std::int64_t dv = call.dv, all = call.b * call.h * call.q;
    const std::int64_t rows = task.heads ? task.heads * call.q : least<std::int64_t>(BLOCK, call.q - task.query);
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t h = task.heads ? task.h + r / call.q : task.h;
        const std::int64_t query = task.heads ? r % call.q : task.query + r;
        const float* norms = parts + task.part_rows * dv + r;
        float top = -INF, sum = 0.0f;
        for (std::int64_t p = 0; p < count; ++p) top = greatest(top, norms[p * stride]);
        const bool dead = top == -INF;  // of a sigmoid's rows all, as far as this goes
        if (!dead) {
            const float sink = call.sink ? call.sink[h] * LOG2E : -INF;
            top = greatest(top, sink);
            sum = exp2(splat(sink - top))[0];
            for (std::int64_t p = 0; p < count; ++p) sum += share_of(norms + p * stride, task.part_rows, top, 1.0f);
        }
        alignas(64) float row[256 + 16] = {};
        for (std::int64_t p = 0; p < count; ++p) {
            const float* from = parts + p * stride + r * dv;
            const float share = call.sigmoid ? 1.0f : share_of(norms + p * stride, task.part_rows, top, sum);
            for (std::int64_t c = 0; c < dv; ++c) row[c] += share * from[c];
        }
        const Matrix out = head_of(call.out, call.type, task.b, h);
        write_row(call.type, at(call.type, const_cast<void*>(out.data), query * out.row), out.column, row, dv);
        if (!call.lse) continue;
        const std::int64_t place = (task.b * call.h + h) * call.q + query;
        call.lse[place] = dead ? -INF : (top + __builtin_log2f(sum)) * LN2;
        call.lse[all + place] = dead ? 0.0f : top;
        call.lse[2 * all + place] = dead ? 0.0f : 1.0f / sum;
    }
}

}  // namespace
}  // namespace regard::REGARD_ISA
