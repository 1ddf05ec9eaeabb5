// What the vectors of x86 share.
#pragma once

#include "common.h"

namespace regard::REGARD_ISA {
namespace {

// Bits of MXCSR: results below the normal range become 0, and so do operands.
constexpr unsigned FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x0040;

// Numbers below the normal range count as 0 while this lives: they would cost a hundredfold.
struct FlushToZero {
    unsigned before = _mm_getcsr();
    FlushToZero() { _mm_setcsr(before | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO); }
    ~FlushToZero() { _mm_setcsr(before); }
    FlushToZero(const FlushToZero&) = delete;
    FlushToZero& operator=(const FlushToZero&) = delete;
};

}  // namespace
}  // namespace regard::REGARD_ISA
