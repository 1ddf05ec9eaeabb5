// AVX-512 (F, BW, DQ, VL): sixteen lanes, thirty-two registers; with REGARD_PAIRS its BF16 as well.
#pragma once

#include <immintrin.h>

#define REGARD_LANES 16
#include "x86.h"

namespace regard::REGARD_ISA {
namespace {

constexpr int NV = 4;  // vectors across a panel
constexpr int rows_for(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : 12; }

INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
// Of a pair with a NaN the second is the answer: so a NaN in `b` lasts.
INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
INLINE V round(V x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x · 2ⁿ for whole n.
INLINE V times_power(V x, V n) { return _mm512_scalef_ps(x, n); }
INLINE bool any(I mask) { return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) != 0; }
// A bit for each lane, the first the lowest.
INLINE std::uint32_t mask_bits(I mask) { return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)); }
// A lane for each of the lowest bits.
INLINE I mask_lanes(std::uint32_t word) {
    return reinterpret_cast<I>(_mm512_movm_epi32(static_cast<__mmask16>(word)));
}

#ifdef REGARD_PAIRS
constexpr bool PAIRS = true;
// c + a₀·b₀ + a₁·b₁, where each lane of a and b is a pair of bfloat16.
INLINE V dot_pairs(V a, V b, V c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
// Two numbers of each lane as a pair of bfloat16.
INLINE V narrow_pair(V low, V high) {
    const auto wide = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, wide));
}
#else
constexpr bool PAIRS = false;  // no product of pairs of bfloat16
INLINE V dot_pairs(V, V, V c) { return c; }
INLINE V narrow_pair(V low, V) { return low; }
#endif

INLINE V widen_bfloat16(H x) {
    const __m512i wide = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE H narrow_bits(U x) {  // the low half of each lane
    return reinterpret_cast<H>(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(x)));
}
INLINE V widen_float16(H x) { return _mm512_cvtph_ps(reinterpret_cast<__m256i>(x)); }
INLINE H narrow_float16(V x) {
    return reinterpret_cast<H>(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE void transpose(V (&r)[LANES]) {
    V t[16];
    for (int i = 0; i < 8; ++i) {  // pairs of rows
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {  // columns 0 4 8 12, 1 5 9 13 … of four rows
        const V* s = t + 4 * i;
        r[4 * i] = _mm512_shuffle_ps(s[0], s[2], 0x44);
        r[4 * i + 1] = _mm512_shuffle_ps(s[0], s[2], 0xee);
        r[4 * i + 2] = _mm512_shuffle_ps(s[1], s[3], 0x44);
        r[4 * i + 3] = _mm512_shuffle_ps(s[1], s[3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {  // quarters of eight rows
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

// Lane i of the answer is the sum of the lanes of x[i].
INLINE V sums_of_lanes(const V* x) {
    V t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        t[i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]) + _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    V s[4];  // of vectors 4i … 4i + 3, in each quarter
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        s[i] = _mm512_shuffle_ps(t[2 * i], t[2 * i + 1], 0x44) + _mm512_shuffle_ps(t[2 * i], t[2 * i + 1], 0xee);
    }
    const V low = _mm512_shuffle_f32x4(s[0], s[1], 0x88) + _mm512_shuffle_f32x4(s[0], s[1], 0xdd);
    const V high = _mm512_shuffle_f32x4(s[2], s[3], 0x88) + _mm512_shuffle_f32x4(s[2], s[3], 0xdd);
    return _mm512_shuffle_f32x4(low, high, 0x88) + _mm512_shuffle_f32x4(low, high, 0xdd);
}

}  // namespace
}  // namespace regard::REGARD_ISA
