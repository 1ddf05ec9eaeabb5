// What every instruction set shares: the vector types, and what the compiler can write for all of them.
//
// The width belongs to the instruction set (LANES), because a vector wider than the registers is split into
// loads and stores and runs ten times slower. An instruction set's header defines LANES, NV and the
// primitives that vector extensions cannot say; `avx2.h` shows which.
#pragma once

#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

namespace regard::REGARD_ISA {
namespace {

typedef float V __attribute__((vector_size(4 * REGARD_LANES)));
typedef std::int32_t I __attribute__((vector_size(4 * REGARD_LANES)));
typedef std::uint32_t U __attribute__((vector_size(4 * REGARD_LANES)));
typedef std::uint16_t H __attribute__((vector_size(2 * REGARD_LANES)));

constexpr int LANES = REGARD_LANES;

// The same as above with no promise of alignment.
typedef float Vu __attribute__((vector_size(4 * REGARD_LANES), aligned(4), may_alias));
typedef std::int32_t Iu __attribute__((vector_size(4 * REGARD_LANES), aligned(4), may_alias));
typedef std::uint16_t Hu __attribute__((vector_size(2 * REGARD_LANES), aligned(2), may_alias));

INLINE V load(const float* p) { return *reinterpret_cast<const Vu*>(p); }
INLINE void store(float* p, V x) { *reinterpret_cast<Vu*>(p) = x; }
INLINE I load(const std::int32_t* p) { return *reinterpret_cast<const Iu*>(p); }
INLINE void store(std::int32_t* p, I x) { *reinterpret_cast<Iu*>(p) = x; }
INLINE H load(const std::uint16_t* p) { return *reinterpret_cast<const Hu*>(p); }
INLINE void store(std::uint16_t* p, H x) { *reinterpret_cast<Hu*>(p) = x; }

// Subtracting nothing keeps the splat a bare broadcast; adding nothing is not the same for −0, and costs.
INLINE V splat(float x) { return x - V{}; }
INLINE I splat(std::int32_t x) { return x - I{}; }
INLINE U splat(std::uint32_t x) { return x - U{}; }

INLINE V select(I mask, V yes, V no) { return mask ? yes : no; }
INLINE U bits(V x) { return reinterpret_cast<U>(x); }
INLINE V from_bits(U x) { return reinterpret_cast<V>(x); }

constexpr float INF = __builtin_inff();
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

// 2ˣ is 0 below the one and ∞ from the other on.
constexpr float MIN_EXPONENT = -127.0f, MAX_EXPONENT = 128.0f;

// Parts of the bits of float32: its sign, all but its sign, and the exponent that ∞ and NaN have.
constexpr std::uint32_t SIGN_BIT = 0x80000000u, MAGNITUDE_BITS = 0x7fffffffu, EXPONENT_BITS = 0x7f800000u;
// Of bfloat16 as the upper half of float32: that half, just below half of its last place, and a quiet NaN.
constexpr std::uint32_t UPPER_HALF = 0xffff0000u, BFLOAT16_ROUNDING = 0x7fffu, BFLOAT16_NAN = 0x7fc0u;

// For all that the compiler knows, x is another one now.
INLINE void renew(V& x) {
#if defined(REGARD_EMULATED)
    __asm__ volatile("" : "+m"(x));
#elif defined(__x86_64__)
    __asm__ volatile("" : "+x"(x));
#elif defined(__aarch64__)
    __asm__ volatile("" : "+w"(x));
#else
    __asm__ volatile("" : "+m"(x));
#endif
}

// 0, 1, 2 … in the lanes.
INLINE I iota() {
    I out;
    for (int i = 0; i < LANES; ++i) out[i] = i;
    return out;
}

}  // namespace
}  // namespace regard::REGARD_ISA
