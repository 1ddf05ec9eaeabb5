// What the vectors of x86 share.
#pragma once

#include "common.h"

namespace regard::REGARD_ISA {
namespace {

// Numbers below the normal range count as 0 while this lives: they would cost a hundredfold.
struct FlushToZero {
    unsigned before = _mm_getcsr();
    FlushToZero() { _mm_setcsr(before | 0x8040); }
    ~FlushToZero() { _mm_setcsr(before); }
    FlushToZero(const FlushToZero&) = delete;
    FlushToZero& operator=(const FlushToZero&) = delete;
};

}  // namespace
}  // namespace regard::REGARD_ISA
