// AVX2 with FMA and F16C: eight lanes, sixteen registers.
#pragma once

#include <immintrin.h>

#define REGARD_LANES 8
#include "x86.h"

namespace regard::REGARD_ISA {
namespace {

constexpr int NV = 2;  // vectors across a panel
constexpr int rows_for(int vectors) { return vectors == 1 ? 8 : 6; }  // accumulators: 8 or 12

INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
// Of a pair with a NaN the second is the answer: so a NaN in `b` lasts.
INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
INLINE V min(V a, V b) { return _mm256_min_ps(a, b); }
INLINE V round(V x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x · 2ⁿ for whole n from −127 (which gives 0) to 128 (∞).
INLINE V times_power(V x, V n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return x * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
INLINE bool any(I mask) { return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0; }
// A bit for each lane, the first the lowest.
INLINE std::uint32_t mask_bits(I mask) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
}
// A lane for each of the lowest bits.
INLINE I mask_lanes(std::uint32_t word) {
    const I each = {1, 2, 4, 8, 16, 32, 64, 128};
    return (splat(static_cast<std::int32_t>(word)) & each) != 0;
}

constexpr bool PAIRS = false;  // no product of pairs of bfloat16
INLINE V dot_pairs(V, V, V c) { return c; }
INLINE V narrow_pair(V low, V) { return low; }

INLINE V widen_bfloat16(H x) {
    const __m256i wide = _mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
INLINE H narrow_bits(U x) {  // the low half of each lane
    const __m256i packed = _mm256_packus_epi32(reinterpret_cast<__m256i>(x), _mm256_setzero_si256());
    return reinterpret_cast<H>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}
INLINE V widen_float16(H x) { return _mm256_cvtph_ps(reinterpret_cast<__m128i>(x)); }
INLINE H narrow_float16(V x) {
    return reinterpret_cast<H>(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE void transpose(V (&r)[LANES]) {
    V t[8];
    for (int i = 0; i < 4; ++i) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        const V *s = t + 4 * i;
        r[4 * i] = _mm256_shuffle_ps(s[0], s[2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(s[0], s[2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(s[1], s[3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(s[1], s[3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        const V low = r[i], high = r[i + 4];
        r[i] = _mm256_permute2f128_ps(low, high, 0x20);
        r[i + 4] = _mm256_permute2f128_ps(low, high, 0x31);
    }
}

// Lane i of the answer is the sum of the lanes of x[i].
INLINE V sums_of_lanes(const V* x) {
    V t[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]) + _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    const V low = _mm256_shuffle_ps(t[0], t[1], 0x44) + _mm256_shuffle_ps(t[0], t[1], 0xee);
    const V high = _mm256_shuffle_ps(t[2], t[3], 0x44) + _mm256_shuffle_ps(t[2], t[3], 0xee);
    return _mm256_permute2f128_ps(low, high, 0x20) + _mm256_permute2f128_ps(low, high, 0x31);
}

}  // namespace
}  // namespace regard::REGARD_ISA
