// The two products of decoding: queries · keys, and weights · values. Keys and values are read in the order and the
// type in which they lie in memory, for up to four rows at a time; what is read next is prefetched meanwhile.
#pragma once

#include "scores.h"

namespace regard::REGARD_ISA {
namespace {

// Keys in a block: it, its values and the next block's keys share the second cache.
constexpr std::int64_t DECODE_KEYS = 128;

struct DecodeScratch {
    float *queries, *weights, *sums, *keys, *values;
    std::int64_t width, value_width;
    std::size_t bytes;

    DecodeScratch(const Call& call, void* memory) {
        ScratchAllocator allocate_scratch(memory);
        width = round_up(call.d, LANES);
        value_width = round_up(call.dv, LANES);
        queries = allocate_scratch(MAX_GROUPED_ROWS * width);
        weights = allocate_scratch(MAX_GROUPED_ROWS * KEYS);
        sums = allocate_scratch(MAX_GROUPED_ROWS * value_width);
        keys = allocate_scratch(KEYS * width);
        values = allocate_scratch(KEYS * value_width);
        bytes = allocate_scratch.bytes();
    }
};

// Rows of whole vectors, side by side in each: as they lie, or a copy.
INLINE Matrix vectors_of(const Matrix& m, int rows, std::int64_t columns, std::int64_t width, float* scratch) {
    if (m.column == 1 && columns == width) return m;
    copy_rows(m, rows, columns, scratch, width);
    return {scratch, width, 1, Type::float32};
}

// A constant that a generic lambda can take.
template <auto VALUE>
struct Constant {
    static constexpr auto value = VALUE;
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

// Rows that will be read soon, one for each that is read now; no columns: no prefetch. While products of
// keys are taken, their values come from memory, and while those are added up, the next keys.
struct Prefetch {
    const void* data;
    std::int64_t row, columns;
};

// Products of one key with ROWS rows, whose sums over the lanes are still to be taken. A key is read from its first
// number to its last and then the next: several at a time would be streams too short for the processor to follow. What
// will be read soon is prefetched line by line: all at once would fill its queues and stop it.
template <Type TYPE, int ROWS>
INLINE void dots(const float* queries, std::int64_t width, const Matrix& keys, std::int64_t key, const Prefetch& values,
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
                                             const Prefetch& values) {
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
INLINE void all_dots(const DecodeScratch& scratch, std::int64_t rows, const Matrix& keys, int n, Prefetch values) {
    std::int64_t r = 0;
    const Prefetch no_prefetch{values.data, 0, 0};  // after the first rows they are there
    for (; r + 4 <= rows; r += 4) dots_of_block<TYPE, 4>(scratch, r, keys, n, r ? no_prefetch : values);
    for (; r + 2 <= rows; r += 2) dots_of_block<TYPE, 2>(scratch, r, keys, n, r ? no_prefetch : values);
    for (; r < rows; ++r) dots_of_block<TYPE, 1>(scratch, r, keys, n, r ? no_prefetch : values);
}

// Sums of values with the weights of ROWS rows, in COLUMNS vectors of columns at a time.
template <Type TYPE, int ROWS, int COLUMNS>
INLINE void add_columns(const float* weights, const Matrix& values, int n, std::int64_t column, float* sums,
                        std::int64_t width, const Prefetch& keys) {
    V sum[ROWS][COLUMNS];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) sum[r][c] = load(sums + r * width + column + c * LANES);
    }
    const bool prefetches = column < keys.columns;
    for (int key = 0; key < n; ++key) {
        if (prefetches) __builtin_prefetch(at(TYPE, keys.data, key * keys.row + column), 0, 2);
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
                                         std::int64_t width, const Prefetch& keys) {
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
                       const Prefetch& keys) {
    const Matrix rows_from_first = values.from(first);
    std::int64_t r = 0;
    const auto add = [&](auto count) {
        constexpr int ROWS = decltype(count)::value;
        for (; r + ROWS <= rows; r += ROWS) {
            add_block<TYPE, ROWS>(scratch.weights + r * KEYS + first, rows_from_first, n,
                                  scratch.sums + r * scratch.value_width, scratch.value_width,
                                  r ? Prefetch{keys.data, 0, 0} : keys);
        }
    };
    add(Constant<4>{});
    add(Constant<2>{});
    add(Constant<1>{});
}

}  // namespace
}  // namespace regard::REGARD_ISA
