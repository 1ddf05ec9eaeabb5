// Decoding: few queries against many keys. Memory is the limit, so each key is read once for all rows, the
// query heads of its group among them. Here keys lie in the lanes: weights[row][key].
#pragma once

#include "forward.h"

namespace regard::REGARD_ISA {
namespace {

struct DecodeScratch {
    float *queries, *weights, *sums, *keys, *values;
    std::int64_t width, value_width;
    std::size_t bytes;

    DecodeScratch(const Call& call, void* memory) {
        float* next = static_cast<float*>(memory);
        auto take = [&](std::int64_t n) {
            float* mine = next;
            next += round_up(n, 16);
            return mine;
        };
        width = round_up(call.d, LANES);
        value_width = round_up(call.dv, LANES);
        queries = take(MOST_GROUPED * width);
        weights = take(MOST_GROUPED * KEYS);
        sums = take(MOST_GROUPED * value_width);
        keys = take(KEYS * width);
        values = take(KEYS * value_width);
        bytes = static_cast<std::size_t>(next - static_cast<float*>(memory)) * sizeof(float);
    }
};

// Lane i of the answer is the sum of the lanes of x[i].
INLINE V sums_of(V (&x)[LANES]) {
    transpose(x);
#pragma GCC unroll 4
    for (int half = LANES / 2; half; half /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) x[i] += x[i + half];
    }
    return x[0];
}

// Products of LANES keys with ROWS rows; `some` keys are there.
template <Type TYPE, int ROWS>
INLINE void dots(const float* queries, std::int64_t width, const Matrix& keys, std::int64_t key, int some, float* to) {
    constexpr int TOGETHER = 4;
    V sum[ROWS][LANES];
#pragma GCC unroll 4
    for (int first = 0; first < LANES; first += TOGETHER) {
        V part[ROWS][TOGETHER] = {};
        std::int64_t at_key[TOGETHER];
        for (int i = 0; i < TOGETHER; ++i) at_key[i] = key + least(first + i, some - 1);
        for (std::int64_t c = 0; c < width; c += LANES) {
            V k[TOGETHER];
#pragma GCC unroll 4
            for (int i = 0; i < TOGETHER; ++i) k[i] = load_row({keys.data, keys.row, 1, TYPE}, at_key[i], c);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) {
                const V q = load(queries + r * width + c);
#pragma GCC unroll 4
                for (int i = 0; i < TOGETHER; ++i) part[r][i] = fma(q, k[i], part[r][i]);
            }
        }
        for (int r = 0; r < ROWS; ++r) {
            for (int i = 0; i < TOGETHER; ++i) sum[r][first + i] = part[r][i];
        }
    }
    for (int r = 0; r < ROWS; ++r) store(to + r * KEYS, sums_of(sum[r]));
}

template <Type TYPE>
__attribute__((noinline)) void all_dots(const DecodeScratch& scratch, std::int64_t rows, const Matrix& keys, int n) {
    for (int key = 0; key < n; key += LANES) {
        std::int64_t r = 0;
        for (; r + 2 <= rows; r += 2) {
            dots<TYPE, 2>(scratch.queries + r * scratch.width, scratch.width, keys, key, least(LANES, n - key),
                          scratch.weights + r * KEYS + key);
        }
        if (r < rows) {
            dots<TYPE, 1>(scratch.queries + r * scratch.width, scratch.width, keys, key, least(LANES, n - key),
                          scratch.weights + r * KEYS + key);
        }
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

// Products of one row become scores.
__attribute__((noinline)) void score_row(const Call& call, const Scoring& scoring, std::int64_t b, std::int64_t h,
                                         std::int64_t query, std::int64_t key, int n, float* row) {
    const Matrix bias = call.bias.data ? head_of(call.bias, call.bias_type, b, h) : Matrix{};
    const float* table = call.table ? call.table + h * call.table_h + query + call.k - 1 : nullptr;
    const float* head = call.table ? call.table + h * call.table_h : nullptr;
    for (int i = 0; i < n; i += LANES) {
        V x = load(row + i);
        if (scoring.cooked) {
            x *= splat(scoring.unit);
            if (scoring.cap > 0) x = splat(scoring.cap) * tanh(x * splat(1.0f / scoring.cap));
            for (int lane = 0; lane < least(LANES, n - i); ++lane) {
                const std::int64_t k = key + i + lane;
                if (head) x[lane] += table[-k] * LOG2E;
                if (bias.data) x[lane] += get(bias.type, bias.data, query * bias.row + k * bias.column) * LOG2E;
            }
        }
        store(row + i, select(sees(call, b, h, query, key + i), x, splat(-INF)));
    }
}

bool decode(const Forward& call, const ForwardTask& task, bool check, void* memory, Stop stop) {
    const FlushToZero flush;
    const DecodeScratch scratch(call, memory);
    const Scoring scoring(call);
    const std::int64_t rows = task.heads * call.q, g = task.h / (call.h / call.g), d = call.d, dv = call.dv;
    const Matrix key_head = head_of(call.key, call.key_type, task.b, g), value_head = head_of(call.value, call.key_type, task.b, g);
    float top[MOST_GROUPED], sum[MOST_GROUPED];
    bool spoilt[MOST_GROUPED] = {};
    for (std::int64_t r = 0; r < rows; ++r) {
        const Matrix query = head_of(call.query, call.type, task.b, task.h + r / call.q);
        float* row = scratch.queries + r * scratch.width;
        copy_rows(query.from(r % call.q), 1, d, row, scratch.width);
        for (std::int64_t c = 0; c < d; ++c) row[c] *= scoring.sign;
        top[r] = -INF;
        sum[r] = 0.0f;
    }
    std::memset(scratch.sums, 0, static_cast<std::size_t>(rows * scratch.value_width) * sizeof(float));
    V found{};

    for (std::int64_t key = task.key; key < task.key_last; key += KEYS) {
        if (stop.now()) return true;
        const int n = static_cast<int>(least(KEYS, task.key_last - key));
        Matrix keys = key_head.from(key);
        if (keys.column != 1 || d % LANES) {
            copy_rows(keys, n, d, scratch.keys, scratch.width);
            keys = {scratch.keys, scratch.width, 1, Type::float32};
        }
        if (keys.type == Type::float32) {
            all_dots<Type::float32>(scratch, rows, keys, n);
        } else if (keys.type == Type::bfloat16) {
            all_dots<Type::bfloat16>(scratch, rows, keys, n);
        } else {
            all_dots<Type::float16>(scratch, rows, keys, n);
        }
        int first = n, last = 0;  // keys that some row sees
        for (std::int64_t r = 0; r < rows; ++r) {
            float* row = scratch.weights + r * KEYS;
            const std::int64_t h = task.h + r / call.q, query = r % call.q;
            const int whole = static_cast<int>(round_up(n, LANES));
            if (check) {
                for (int i = 0; i < whole; i += LANES) found = fma(load(row + i), splat(0.0f), found);
            }
            score_row(call, scoring, task.b, h, query, key, n, row);
            if (n % LANES) {  // lanes past the part's end
                for (int i = n; i < whole; ++i) row[i] = -INF;
            }
            if (call.spoilt_key) {
                const std::uint8_t* bad = call.spoilt_key + (task.b * call.g + g) * call.k + key;
                for (int i = 0; i < n; ++i) spoilt[r] = spoilt[r] || (bad[i] && row[i] > -INF);
            }
            for (int i = 0; i < n; ++i) {
                if (row[i] == -INF) continue;
                first = least(first, i);
                break;
            }
            for (int i = n - 1; i >= last; --i) {
                if (row[i] == -INF) continue;
                last = i + 1;
                break;
            }
            if (call.sigmoid) {
                for (int i = 0; i < whole; i += LANES) {
                    store(row + i, logistic2(fma(load(row + i), splat(scoring.left), splat(call.shift * LOG2E))));
                }
            } else {
                V seen = splat(-INF);
                for (int i = 0; i < whole; i += LANES) seen = max(seen, load(row + i));
                float now = top[r];
                for (int i = 0; i < LANES; ++i) {
                    const float x = seen[i] * scoring.left;
                    if (x > now || x != x) now = x;
                }
                if (now == -INF) {
                    for (int i = 0; i < whole; i += LANES) store(row + i, V{});
                    continue;
                }
                if (now != top[r]) {
                    const float shrink = exp2(splat(top[r] - now))[0];
                    sum[r] *= shrink;
                    float* out = scratch.sums + r * scratch.value_width;
                    for (std::int64_t c = 0; c < scratch.value_width; c += LANES) store(out + c, load(out + c) * splat(shrink));
                    top[r] = now;
                }
                V total{};
                for (int i = 0; i < whole; i += LANES) {
                    const V p = exp2(fma(load(row + i), splat(scoring.left), splat(0.0f) - splat(now)));
                    total += p;
                    store(row + i, p);
                }
                for (int i = 0; i < LANES; ++i) sum[r] += total[i];
            }
            if (call.threshold) {
                const std::uint32_t word = dropout_rows(call, task.b, h, query)[0];
                for (int i = 0; i < whole; i += LANES) {
                    const U at = reinterpret_cast<U>(splat(static_cast<std::int32_t>(key + i)) + iota());
                    const I keeps = mix(splat(word) ^ mix(at)) >= splat(call.threshold);
                    store(row + i, select(keeps, load(row + i), V{}));
                }
            }
        }
        if (first >= last) continue;
        const Rows values = whole_rows(value_head, key + first, last - first, dv, scratch.value_width, scratch.values);
        product<Kind::numbers, Start::there>(static_cast<int>(scratch.value_width / LANES), scratch.sums, scratch.value_width,
                              {scratch.weights + first, KEYS, 1}, {values.data, values.stride}, rows,
                              Whole{last - first});
    }

    float* norms = task.part + BLOCK * dv;
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* from = scratch.sums + r * scratch.value_width;
        const bool bad = spoilt[r] || (call.spoilt_query && sum[r] > 0.0f &&
                                       call.spoilt_query[(task.b * call.h + task.h) * call.q + r]);
        float factor = call.sigmoid ? 1.0f : sum[r] > 0.0f || sum[r] != sum[r] ? 1.0f / sum[r] : 0.0f;
        if (call.threshold) factor *= call.kept;
        for (std::int64_t c = 0; c < dv; ++c) {
            found = fma(splat(from[c]), splat(0.0f), found);
            task.part[r * dv + c] = from[c] * factor;
        }
        norms[r] = top[r];
        norms[BLOCK + r] = bad ? INF - INF : sum[r];
    }
    return !check || !any(found != 0.0f);
}

void merge(const Forward& call, const ForwardTask& task, const float* parts, std::int64_t count, std::int64_t stride) {
    const FlushToZero flush;
    const std::int64_t dv = call.dv, all = call.b * call.h * call.q;
    const std::int64_t rows = task.heads ? task.heads * call.q : least<std::int64_t>(BLOCK, call.q - task.query);
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t h = task.h + (task.heads ? r / call.q : 0), query = task.query + (task.heads ? r % call.q : r);
        const float* norms = parts + BLOCK * dv + r;
        float top = -INF, sum = 0.0f;
        for (std::int64_t p = 0; p < count; ++p) top = greatest(top, norms[p * stride]);
        const bool dead = top == -INF && !call.sigmoid;
        if (call.sink && !dead) {
            top = greatest(top, call.sink[h] * LOG2E);
            sum = exp2(splat(call.sink[h] * LOG2E - top))[0];
        }
        for (std::int64_t p = 0; p < count; ++p) {
            if (top > -INF || top != top) sum += exp2(splat(norms[p * stride] - top))[0] * norms[p * stride + BLOCK];
        }
        alignas(64) float row[256 + 16] = {};
        for (std::int64_t p = 0; p < count; ++p) {
            const float* from = parts + p * stride + r * dv;
            float share = 1.0f;
            if (!call.sigmoid) share = dead ? 0.0f : exp2(splat(norms[p * stride] - top))[0] * norms[p * stride + BLOCK] / sum;
            for (std::int64_t c = 0; c < dv; ++c) row[c] += share * from[c];
        }
        const Matrix out = head_of(call.out, call.type, task.b, h);
        write_row(call.type, at(call.type, const_cast<void*>(out.data), query * out.row), out.column, row, dv);
        const std::int64_t place = (task.b * call.h + h) * call.q + query;
        call.lse[place] = dead ? -INF : (top + __builtin_log2f(sum)) * LN2;
        call.lse[all + place] = dead ? 0.0f : top;
        call.lse[2 * all + place] = dead ? 0.0f : 1.0f / sum;
    }
}

}  // namespace
}  // namespace regard::REGARD_ISA
