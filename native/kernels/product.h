// The one microkernel: C[row][vectors] += A[row, k] · B[k][vectors], with A broadcast and C in registers.
//
// What is multiplied are numbers, or pairs of bfloat16 in 32 bits, neighbours along k, of which the processor adds
// both products at once. To everything but the multiplication a pair is one number.
#pragma once

#include "math.h"

namespace regard::REGARD_ISA {
namespace {

// A matrix that is read one number at a time, by any strides.
struct Left {
    const float* data;
    std::int64_t row, k;
};

// Rows of whole vectors.
struct Right {
    const float* data;
    std::int64_t stride;
};

enum class Start { zero, accumulate };
enum class Kind { numbers, pairs };

template <Kind KIND>
INLINE V multiply_add(V a, V b, V c) {
    if constexpr (KIND == Kind::pairs) {
        return dot_pairs(a, b, c);
    } else {
        return fma(a, b, c);
    }
}

// How many numbers along k one element holds.
template <Kind KIND>
constexpr int UNIT = KIND == Kind::pairs ? 2 : 1;

// What else is done with a tile of C while it lies in registers: nothing, or its columns' ranges.
struct NoTracker {
    template <int ROWS, int VECTORS>
    __attribute__((always_inline)) void update(const V (&)[ROWS][VECTORS]) const {}
};
struct Ranges {
    V *low, *high;
    template <int ROWS, int VECTORS>
    __attribute__((always_inline)) void update(const V (&sum)[ROWS][VECTORS]) const {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            V small = low[v], large = high[v];
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) {
                small = min(sum[r][v], small);  // in this order a NaN (it may lie behind a mask) hides no −∞
                large = max(large, sum[r][v]);
            }
            low[v] = small;
            high[v] = large;
        }
    }
};

template <Kind KIND, int ROWS, int VECTORS, Start START, class Tracker>
INLINE void product_tile(float* c, std::int64_t stride, Left a, Right b, std::int64_t depth, const Tracker& tracker) {
    V sum[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            sum[r][v] = START == Start::zero ? V{} : load(c + r * stride + v * LANES);
        }
    }
    const float* left = a.data;
    const float* right = b.data;
#pragma GCC unroll 2
    for (std::int64_t k = 0; k < depth; ++k, left += a.k, right += b.stride) {
        V x[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) x[v] = load(right + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            const V y = splat(left[r * a.row]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sum[r][v] = multiply_add<KIND>(y, x[v], sum[r][v]);
        }
    }
    tracker.update(sum);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) store(c + r * stride + v * LANES, sum[r][v]);
    }
}

struct Span {
    std::int64_t first, last;
};

// Rows of C, tile by tile. `depth(row, rows)` says which k these rows need, as a Span: zeros of A are skipped.
template <Kind KIND, int VECTORS, Start START, class Depth, class Tracker, int ROWS = rows_for(VECTORS)>
INLINE void product_rows(float* c, std::int64_t stride, Left a, Right b, std::int64_t rows, Depth depth,
                         const Tracker& tracker, std::int64_t row = 0) {
    for (; row + ROWS <= rows; row += ROWS) {
        const Span k = depth(row, ROWS);
        product_tile<KIND, ROWS, VECTORS, START>(
            c + row * stride, stride, {a.data + row * a.row + k.first * a.k, a.row, a.k},
            {b.data + k.first * b.stride, b.stride}, k.last - k.first, tracker);
    }
    if constexpr (ROWS > 1) {
        if (row < rows) {
            constexpr int FEWER = ROWS > 8 ? 8 : ROWS > 4 ? 4 : ROWS - 1;
            product_rows<KIND, VECTORS, START, Depth, Tracker, FEWER>(c, stride, a, b, rows, depth, tracker, row);
        }
    }
}

template <Kind KIND, int VECTORS, Start START, class Depth, class Tracker>
__attribute__((noinline)) void product_of(float* c, std::int64_t stride, Left a, Right b, std::int64_t rows,
                                          Depth depth, Tracker tracker) {
    product_rows<KIND, VECTORS, START>(c, stride, a, b, rows, depth, tracker);
}

// The product for any number of vectors up to NV.
template <Kind KIND, Start START, class Depth, class Tracker = NoTracker>
INLINE void product_narrow(int vectors, float* c, std::int64_t stride, Left a, Right b, std::int64_t rows,
                           Depth depth, Tracker tracker = {}) {
    static_assert(NV <= 4);
    switch (vectors) {
        case 1: return product_of<KIND, 1, START>(c, stride, a, b, rows, depth, tracker);
        case 2: return product_of<KIND, 2, START>(c, stride, a, b, rows, depth, tracker);
        case 3:
            if constexpr (NV >= 3) return product_of<KIND, 3, START>(c, stride, a, b, rows, depth, tracker);
            break;
        case 4:
            if constexpr (NV >= 4) return product_of<KIND, 4, START>(c, stride, a, b, rows, depth, tracker);
            break;
        default: break;
    }
}

// Of any width: columns go in parts of NV vectors, the last two shared evenly (5 is 3 + 2, not 4 + 1).
template <Kind KIND, Start START, class Depth>
INLINE void product(int vectors, float* c, std::int64_t stride, Left a, Right b, std::int64_t rows,
                    Depth depth) {
    while (vectors > 0) {
        const int part = vectors >= 2 * NV || vectors <= NV ? least(vectors, NV) : (vectors + 1) / 2;
        product_narrow<KIND, START>(part, c, stride, a, b, rows, depth);
        vectors -= part;
        c += part * LANES;
        b.data += part * LANES;
    }
}

struct Whole {
    std::int64_t depth;
    Span operator()(std::int64_t, std::int64_t) const { return {0, depth}; }
};

}  // namespace
}  // namespace regard::REGARD_ISA
