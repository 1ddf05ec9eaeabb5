// Any processor, by the compiler's vector extensions alone.
#pragma once

#ifndef REGARD_LANES
#define REGARD_LANES 4
#endif
#include "common.h"

namespace regard::REGARD_ISA {
namespace {

constexpr int NV = REGARD_LANES == 16 ? 4 : 2;  // vectors across a panel
constexpr int rows_for(int vectors) { return vectors == 1 ? 8 : 6; }

#ifdef REGARD_EMULATED
// Rounded once, as the processor that is emulated does it.
INLINE V fma(V a, V b, V c) {
    typedef double Wide __attribute__((vector_size(8 * REGARD_LANES)));
    const Wide x = __builtin_convertvector(a, Wide) * __builtin_convertvector(b, Wide);
    return __builtin_convertvector(x + __builtin_convertvector(c, Wide), V);
}
#else
INLINE V fma(V a, V b, V c) { return a * b + c; }
#endif
// Of a pair with a NaN the second is the answer: so a NaN in `b` lasts.
INLINE V max(V a, V b) { return a > b ? a : b; }
INLINE V min(V a, V b) { return a < b ? a : b; }
INLINE V round(V x) {  // to the nearest whole number, for |x| < 2²²
    const V shift = splat(12582912.0f);
    volatile V sum = x + shift;  // volatile: no compiler may see that it comes out as x
    return sum - shift;
}
// x · 2ⁿ for whole n from −127 (which gives 0) to 128 (∞).
INLINE V times_power(V x, V n) {
    const I exponent = __builtin_convertvector(n, I) + 127;
    return x * reinterpret_cast<V>(exponent << 23);
}
INLINE bool any(I mask) {
    std::int32_t all = 0;
    for (int i = 0; i < LANES; ++i) all |= mask[i];
    return all != 0;
}
// A bit for each lane, the first the lowest.
INLINE std::uint32_t mask_bits(I mask) {
    std::uint32_t word = 0;
    for (int i = 0; i < LANES; ++i) word |= mask[i] ? std::uint32_t{1} << i : 0;
    return word;
}
// A lane for each of the lowest bits.
INLINE I mask_lanes(std::uint32_t word) {
    return ((splat(static_cast<std::int32_t>(word)) >> iota()) & 1) != 0;
}

// Pairs of bfloat16 are for processors that multiply them. With REGARD_PAIRS they are worked out step by step, so
// that the code around them can be tested anywhere.
#ifdef REGARD_PAIRS
constexpr bool PAIRS = true;
// c + a₀·b₀ + a₁·b₁, where each lane of a and b is a pair of bfloat16.
INLINE V dot_pairs(V a, V b, V c) {
    const U high = splat(UPPER_HALF);
    c = c + from_bits(bits(a) & high) * from_bits(bits(b) & high);
    return c + from_bits(bits(a) << 16) * from_bits(bits(b) << 16);
}
// Two numbers of each lane as a pair of bfloat16.
INLINE V narrow_pair(V low, V high) {
    const auto rounded = [](V x) { return bits(x) + BFLOAT16_ROUNDING + ((bits(x) >> 16) & 1); };
    return from_bits((rounded(low) >> 16) | (rounded(high) & splat(UPPER_HALF)));
}
#else
constexpr bool PAIRS = false;
INLINE V dot_pairs(V, V, V c) { return c; }
INLINE V narrow_pair(V low, V) { return low; }
#endif

INLINE V widen_bfloat16(H x) { return from_bits(__builtin_convertvector(x, U) << 16); }
INLINE H narrow_bits(U x) { return __builtin_convertvector(x, H); }  // the low half of each lane

// Of float16: its sign, all but its sign, ∞, and a quiet NaN.
constexpr std::uint32_t HALF_SIGN = 0x8000u, HALF_MAGNITUDE = 0x7fffu, HALF_INF = 0x7c00u, HALF_NAN = 0x7e00u;

// Half precision bit by bit. Widening: shift the exponent into place and let a multiplication correct it.
INLINE V widen_float16(H x) {
    const U wide = __builtin_convertvector(x, U);
    const U sign = (wide & HALF_SIGN) << 16, rest = wide & HALF_MAGNITUDE;
    const V scaled = from_bits(rest << 13) * splat(0x1p112f);
    const V special = from_bits((rest << 13) | EXPONENT_BITS);
    const V size = rest >= HALF_INF ? special : scaled;
    return from_bits(bits(size) | sign);
}
INLINE H narrow_float16(V x) {
    const U sign = bits(x) & SIGN_BIT;
    const V full = from_bits(bits(x) ^ sign);
    const V size = min(full, splat(131072.0f));
    // Rounding to nearest even happens in the addition of a number whose last place is half precision's.
    const V least = from_bits(((bits(size) & EXPONENT_BITS) + (13u << 23)));
    const V unit = max(least, splat(0x1p-1f));
    const V rounded = (size + unit) - unit;
    const V moved = rounded * splat(0x1p-112f);
    const U normal = bits(moved) >> 13;
    const U large = rounded >= splat(65536.0f) ? splat(HALF_INF) : normal;
    const U result = bits(full) > EXPONENT_BITS ? splat(HALF_NAN) : large;
    return narrow_bits(result | (sign >> 16));
}

INLINE void transpose(V (&r)[LANES]) {
    float from[LANES * LANES], to[LANES * LANES];
    for (int i = 0; i < LANES; ++i) store(from + i * LANES, r[i]);
    for (int i = 0; i < LANES * LANES; ++i) to[i] = from[i % LANES * LANES + i / LANES];
    for (int i = 0; i < LANES; ++i) r[i] = load(to + i * LANES);
}

// Lane i of the answer is the sum of the lanes of x[i].
INLINE V sums_of_lanes(V* x) {
    V t[LANES];
    for (int i = 0; i < LANES; ++i) t[i] = x[i];
    transpose(t);
    V sum = t[0];
    for (int i = 1; i < LANES; ++i) sum += t[i];
    return sum;
}

// Where the processor can flush tiny numbers to 0 depends on the processor: here it may not.
struct FlushToZero {
    FlushToZero() {}
    ~FlushToZero() {}
    FlushToZero(const FlushToZero&) = delete;
    FlushToZero& operator=(const FlushToZero&) = delete;
};

}  // namespace
}  // namespace regard::REGARD_ISA
