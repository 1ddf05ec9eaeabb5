// The table of one instruction set. A file in `isa/` names the namespace, picks the vectors, and includes this.
#pragma once

#include "backward.h"
#include "decode.h"

namespace regard::REGARD_ISA {
namespace {

std::size_t forward_scratch(const Call& call) { return ForwardScratch(call, nullptr).bytes; }
std::size_t backward_scratch(const Call& call) { return BackwardScratch(call, nullptr).bytes; }
std::size_t decode_scratch(const Call& call) { return DecodeScratch(call, nullptr).bytes; }

// The microkernel's accumulators and nothing else: what the processor reaches at best.
double work(Type, std::int64_t rounds) {
    constexpr int ROWS = rows_for(NV);
    V sum[ROWS][NV] = {}, x[NV];
    for (int v = 0; v < NV; ++v) x[v] = splat(1e-9f) + __builtin_convertvector(iota(), V);
    float again = 1e-9f;
    for (std::int64_t i = 0; i < rounds; ++i) {
        __asm__ volatile("" : "+m"(again));  // or the compiler would sum up all rounds in one
        const V y = splat(again);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) sum[r][v] = fma(y, x[v], sum[r][v]);
        }
    }
    float total = 0.0f;
    for (int r = 0; r < ROWS; ++r) {
        for (int v = 0; v < NV; ++v) total += sum[r][v][0];
    }
    return total >= 0.0f ? 2.0 * LANES * ROWS * NV * static_cast<double>(rounds) : 0.0;
}

float sum(const float* data, std::int64_t n) {
    V total[8] = {};
    std::int64_t i = 0;
    for (; i + 8 * LANES <= n; i += 8 * LANES) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) total[j] += load(data + i + j * LANES);
    }
    float out = 0.0f;
    for (; i < n; ++i) out += data[i];
    for (const V& part : total) {
        for (int lane = 0; lane < LANES; ++lane) out += part[lane];
    }
    return out;
}

}  // namespace

// The only name that an instruction set's object file exports: tests/native/test_symbols.py.
extern const Kernels kernels;
const Kernels kernels = {
    .name = REGARD_NAME,
    .forward_scratch = forward_scratch,
    .backward_scratch = backward_scratch,
    .decode_scratch = decode_scratch,
    .forward = forward,
    .backward = backward,
    .decode = decode,
    .merge = merge,
    .delta = delta,
    .widen = widen_rows,
    .add_up = add_up,
    .work = work,
    .sum = sum,
};

}  // namespace regard::REGARD_ISA
