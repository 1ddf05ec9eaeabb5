// Where a call is split over keys, its parts become one output: each has the share of the softmax that its maximum and
// its sum give it, and they are added in order.
#pragma once

#include "pack.h"

namespace regard::REGARD_ISA {
namespace {

// The share that one part of the keys has in a row, of which `top` and `sum` are the whole's.
INLINE float share_of(const float* norms, std::int64_t rows, float top, float log2_factor, float sum) {
    return sum == 0.0f ? 0.0f : exp2(splat((norms[0] - top) * log2_factor))[0] * norms[rows] / sum;
}

// The rows of one task: a block of queries, or all that are decoded together.
void merge(const Forward& call, const ForwardTask& task, const float* parts, std::int64_t count, std::int64_t stride) {
    const FlushToZero flush;
    const float log2_factor = score_unit(call);
    const std::int64_t dv = call.dv, all = call.b * call.h * call.q;
    const std::int64_t rows = task.heads ? task.heads * call.q : least<std::int64_t>(BLOCK, call.q - task.query);
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t h = task.heads ? task.h + r / call.q : task.h;
        const std::int64_t query = task.heads ? r % call.q : task.query + r;
        const float* norms = parts + task.part_rows * dv + r;
        float top = -INF, sum = 0.0f;
        for (std::int64_t p = 0; p < count; ++p) top = greatest(top, norms[p * stride]);
        const bool sees_nothing = top == -INF;  // of a sigmoid's rows all, as far as this goes
        if (!sees_nothing) {
            const float sink = call.sink ? call.sink[h] * LOG2E / log2_factor : -INF;
            top = greatest(top, sink);
            sum = exp2(splat((sink - top) * log2_factor))[0];
            for (std::int64_t p = 0; p < count; ++p) {
                sum += share_of(norms + p * stride, task.part_rows, top, log2_factor, 1.0f);
            }
        }
        alignas(64) float row[256 + 16] = {};  // the widest head, and padding for a whole vector
        for (std::int64_t p = 0; p < count; ++p) {
            const float* from = parts + p * stride + r * dv;
            const float share =
                call.sigmoid ? 1.0f : share_of(norms + p * stride, task.part_rows, top, log2_factor, sum);
            for (std::int64_t c = 0; c < dv; ++c) row[c] += share * from[c];
        }
        const Matrix out = head_of(call.out, call.type, task.b, h);
        write_row(call.type, at(call.type, const_cast<void*>(out.data), query * out.row), out.column, row, dv);
        if (!call.lse) continue;
        const std::int64_t place = (task.b * call.h + h) * call.q + query;
        call.lse[place] = sees_nothing ? -INF : (top * log2_factor + __builtin_log2f(sum)) * LN2;
        call.lse[all + place] = sees_nothing ? 0.0f : top;
        call.lse[2 * all + place] = sees_nothing ? 0.0f : 1.0f / sum;
    }
}

}  // namespace
}  // namespace regard::REGARD_ISA
