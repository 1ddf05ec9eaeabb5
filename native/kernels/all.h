// The table of one instruction set. A file in `isa/` names the namespace, picks the vectors, and includes this.
#pragma once

#include "backward.h"
#include "decode.h"
#include "second_pass.h"

namespace regard::REGARD_ISA {
namespace {

std::size_t backward_scratch(const Backward& call) { return BackwardScratch(call, nullptr).bytes; }
std::size_t decode_scratch(const Call& call) { return DecodeScratch(call, nullptr).bytes; }

// The microkernel's accumulators and nothing else: what the processor reaches at best.
template <Kind KIND>
double work(std::int64_t rounds) {
    constexpr int ROWS = rows_for(NV);
    V sum[ROWS][NV], x[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
        x[v] = splat(static_cast<float>(v));
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) sum[r][v] = splat(static_cast<float>(r));
    }
    V y = splat(1e-9f);
    for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            renew(y);  // or the compiler would do rows and rounds in one
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) sum[r][v] = multiply_add<KIND>(y, x[v], sum[r][v]);
        }
    }
    V total{};
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) total += sum[r][v];
    }
    return total[0] >= 0.0f ? 2.0 * LANES * UNIT<KIND> * ROWS * NV * static_cast<double>(rounds) : 0.0;
}

double work(Type type, std::int64_t rounds) {
    return PAIRS && type == Type::bfloat16 ? work<Kind::pairs>(rounds) : work<Kind::numbers>(rounds);
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
    .pairs = PAIRS,
    .forward_scratch = forward_scratch,
    .backward_scratch = backward_scratch,
    .decode_scratch = decode_scratch,
    .second_pass_scratch = second_pass_scratch,
    .forward = forward,
    .backward = backward,
    .decode = decode,
    .second_pass = second_pass,
    .merge = merge,
    .delta = delta,
    .widen = widen_rows,
    .pair = pair,
    .add_up = add_up,
    .work = work,
    .sum = sum,
};

}  // namespace regard::REGARD_ISA
