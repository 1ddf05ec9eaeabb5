// For tests alone: AVX-512 on machines that lack it, by SIMDe (Debian: libsimde-dev). The compiler finds this file
// before its own header, which it adds to: what kernels call is then a macro that names a function on AVX2.
#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

// What SIMDe 0.7.4 lacks, by halves of eight lanes or lane by lane.
namespace emulated {

inline __m512 both(__m256 low, __m256 high) {
    return _mm512_castpd_ps(_mm512_insertf64x4(_mm512_castps_pd(_mm512_castps256_ps512(low)), _mm256_castps_pd(high), 1));
}
inline __m512i both(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
inline __m256 low(__m512 x) { return _mm512_castps512_ps256(x); }
inline __m256 high(__m512 x) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)); }

inline __m512i widen(__m256i x) {
    return both(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)));
}
inline __m256i narrow(__m512i x) {
    int from[16];
    short to[16];
    __builtin_memcpy(from, &x, sizeof x);
    for (int i = 0; i < 16; ++i) to[i] = static_cast<short>(from[i]);
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to));
}
inline __m512 widen_half(__m256i x) {
    return both(_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1)));
}
template <int ROUNDING>
inline __m256i narrow_half(__m512 x) {
    const __m256i first = _mm256_castsi128_si256(_mm256_cvtps_ph(low(x), ROUNDING & 3));
    return _mm256_inserti128_si256(first, _mm256_cvtps_ph(high(x), ROUNDING & 3), 1);
}
template <int ORDER>
inline __m512 shuffle_quarters(__m512 a, __m512 b) {
    float x[16], y[16], out[16];
    __builtin_memcpy(x, &a, sizeof a);
    __builtin_memcpy(y, &b, sizeof b);
    for (int i = 0; i < 16; ++i) out[i] = (i < 8 ? x : y)[(ORDER >> (i / 4 * 2) & 3) * 4 + i % 4];
    return _mm512_loadu_ps(out);
}
// Sixteen numbers of `low`, then of `high`, rounded to bfloat16 (to nearest, ties to even).
inline __m512i narrow_two(__m512 high, __m512 low) {
    unsigned from[32];
    unsigned short to[32];
    __builtin_memcpy(from, &low, sizeof low);
    __builtin_memcpy(from + 16, &high, sizeof high);
    for (int i = 0; i < 32; ++i) {
        const bool nan = (from[i] & 0x7fffffff) > 0x7f800000;
        to[i] = static_cast<unsigned short>(nan ? from[i] >> 16 | 64 : (from[i] + 0x7fff + (from[i] >> 16 & 1)) >> 16);
    }
    return _mm512_loadu_si512(to);
}

}  // namespace emulated

#define _mm512_cvtepu16_epi32 emulated::widen
#define _mm512_cvtepi32_epi16 emulated::narrow
#define _mm512_cvtph_ps emulated::widen_half
#define _mm512_cvtps_ph(x, rounding) emulated::narrow_half<rounding>(x)
#define _mm512_shuffle_f32x4(a, b, order) emulated::shuffle_quarters<order>(a, b)
#define _mm512_cvtne2ps_pbh emulated::narrow_two
