// Elementary functions on vectors, and half precision.
#pragma once

#include "../kernel.h"

namespace regard::REGARD_ISA {
namespace {

// 2ᶠ − 1 for |f| ≤ ½, relative error 3·10⁻⁹ (a minimax fit of degree 6, by Remez' exchange).
INLINE V exp2_fraction(V f) {
    V p = fma(splat(0x1.444p-13f), f, splat(0x1.5f48cp-10f));
    p = fma(p, f, splat(0x1.3b2a1cp-7f));
    p = fma(p, f, splat(0x1.c6aeccp-5f));
    p = fma(p, f, splat(0x1.ebfbe0p-3f));
    p = fma(p, f, splat(0x1.62e430p-1f));
    return p * f;
}

// 2ˣ for x ≤ 127; what lies below −127 is 0. NaN stays NaN. Several vectors go step by step together: one alone
// is a chain of twelve operations, each of which waits for the one before it.
template <int N>
INLINE void exp2(V (&x)[N]) {
    constexpr float c[] = {0x1.444p-13f, 0x1.5f48cp-10f, 0x1.3b2a1cp-7f, 0x1.c6aeccp-5f, 0x1.ebfbe0p-3f, 0x1.62e430p-1f,
                           1.0f};
    V n[N], p[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) x[i] = max(splat(MIN_EXPONENT), x[i]);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) n[i] = round(x[i]);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) x[i] = x[i] - n[i];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) p[i] = fma(splat(c[0]), x[i], splat(c[1]));
#pragma GCC unroll 8
    for (int k = 2; k < 7; ++k) {
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) p[i] = fma(p[i], x[i], splat(c[k]));
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) x[i] = times_power(p[i], n[i]);
}
INLINE V exp2(V x) {
    V one[1] = {x};
    exp2(one);
    return one[0];
}

// 1 / (1 + 2⁻ˣ): 0 for −∞, 1 for ∞.
INLINE V logistic2(V x) {
    const V opposite = min(splat(MAX_EXPONENT), splat(0.0f) - x);
    return splat(1.0f) / (splat(1.0f) + exp2(opposite));
}

// Accurate near 0 too, where 1 − 2 / (1 + e²ˣ) would cancel: eʸ − 1 is built without adding 1 to what is small.
INLINE V tanh(V x) {
    const V size = min(splat(20.0f), select(x < 0.0f, splat(0.0f) - x, x));
    const V y = size * splat(2.0f * LOG2E);
    const V n = round(y), power = times_power(splat(1.0f), n);
    const V e = fma(power, exp2_fraction(y - n), power - splat(1.0f));
    const V t = e / (e + splat(2.0f));
    return select(x < 0.0f, splat(0.0f) - t, t) + (x - x);  // x − x: NaN lasts, and ∞ shows
}

INLINE H narrow_bfloat16(V x) {  // to nearest, ties to even
    const U u = bits(x);
    const U rounded = (u + BFLOAT16_ROUNDING + ((u >> 16) & 1)) >> 16;
    return narrow_bits((u & MAGNITUDE_BITS) > EXPONENT_BITS ? splat(BFLOAT16_NAN) : rounded);
}

INLINE V widen(Type type, H x) {
    return type == Type::bfloat16 ? widen_bfloat16(x) : widen_float16(x);
}
INLINE H narrow(Type type, V x) {
    return type == Type::bfloat16 ? narrow_bfloat16(x) : narrow_float16(x);
}

// One number of any type. Half precision goes through a vector: there is one definition of the rounding.
INLINE float get(Type type, const void* data, std::int64_t at) {
    if (type == Type::float32) return static_cast<const float*>(data)[at];
    return widen(type, H{} + static_cast<const std::uint16_t*>(data)[at])[0];
}
INLINE void set(Type type, void* data, std::int64_t at, float x) {
    if (type == Type::float32) {
        static_cast<float*>(data)[at] = x;
    } else {
        static_cast<std::uint16_t*>(data)[at] = narrow(type, splat(x))[0];
    }
}

// A bijection of 32-bit words; the constants are Wellons' "lowbias32" (2018), as in regard/dropout.py.
template <class Word>
INLINE Word mix(Word x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

template <class T>
INLINE constexpr T least(T a, T b) { return a < b ? a : b; }
template <class T>
INLINE constexpr T greatest(T a, T b) { return a > b ? a : b; }
INLINE std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

}  // namespace
}  // namespace regard::REGARD_ISA
