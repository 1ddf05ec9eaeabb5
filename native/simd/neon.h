// NEON, which every 64-bit Arm has: four lanes, thirty-two registers.
// Compiled by GCC 12 and run under qemu-aarch64 (tests/native/test_emulated.py), never yet on Arm hardware: what is
// right is tested, what is fast is a guess.
#pragma once

#include <arm_neon.h>

#define REGARD_LANES 4
#include "common.h"

namespace regard::REGARD_ISA {
namespace {

constexpr int NV = 4;  // vectors across a panel
constexpr int rows_for(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : 12; }

INLINE V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
// Of a pair with a NaN: `max` answers NaN, `min` the second, so that a NaN in `b` lasts. The instruction for the
// least would let one in `a` last too, and with it hide an −∞ (range_of).
INLINE V max(V a, V b) { return vmaxq_f32(a, b); }
INLINE V min(V a, V b) { return a < b ? a : b; }
INLINE V round(V x) { return vrndnq_f32(x); }
// x · 2ⁿ for whole n from −127 (which gives 0) to 128 (∞).
INLINE V times_power(V x, V n) {
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    return x * vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}
INLINE bool any(I mask) { return vmaxvq_u32(reinterpret_cast<uint32x4_t>(mask)) != 0; }
// A bit for each lane, the first the lowest.
INLINE std::uint32_t mask_bits(I mask) {
    const I each = {1, 2, 4, 8};
    return vaddvq_u32(reinterpret_cast<uint32x4_t>(mask & each));
}
// A lane for each of the lowest bits.
INLINE I mask_lanes(std::uint32_t word) {
    const I each = {1, 2, 4, 8};
    return (splat(static_cast<std::int32_t>(word)) & each) != 0;
}

constexpr bool PAIRS = false;  // no product of pairs of bfloat16
INLINE V dot_pairs(V, V, V c) { return c; }
INLINE V narrow_pair(V low, V) { return low; }

INLINE V widen_bfloat16(H x) { return vreinterpretq_f32_u32(vshll_n_u16(reinterpret_cast<uint16x4_t>(x), 16)); }
INLINE H narrow_bits(U x) { return reinterpret_cast<H>(vmovn_u32(reinterpret_cast<uint32x4_t>(x))); }  // the low halves
INLINE V widen_float16(H x) { return vcvt_f32_f16(reinterpret_cast<float16x4_t>(x)); }
INLINE H narrow_float16(V x) { return reinterpret_cast<H>(vcvt_f16_f32(x)); }

INLINE void transpose(V (&r)[LANES]) {
    const float32x4x2_t low = vzipq_f32(r[0], r[2]), high = vzipq_f32(r[1], r[3]);
    const float32x4x2_t first = vzipq_f32(low.val[0], high.val[0]), second = vzipq_f32(low.val[1], high.val[1]);
    r[0] = first.val[0];
    r[1] = first.val[1];
    r[2] = second.val[0];
    r[3] = second.val[1];
}

// Lane i of the answer is the sum of the lanes of x[i].
INLINE V sums_of_lanes(const V* x) { return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3])); }

// The bit of FPCR that makes 0 of numbers below the normal range.
constexpr std::uint64_t FLUSH_TO_ZERO = std::uint64_t{1} << 24;

// Numbers below the normal range count as 0 while this lives: they would cost a hundredfold.
struct FlushToZero {
    std::uint64_t before;
    FlushToZero() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        const std::uint64_t flush = before | FLUSH_TO_ZERO;
        __asm__ volatile("msr fpcr, %0" : : "r"(flush));
    }
    ~FlushToZero() { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
    FlushToZero(const FlushToZero&) = delete;
    FlushToZero& operator=(const FlushToZero&) = delete;
};

}  // namespace
}  // namespace regard::REGARD_ISA
