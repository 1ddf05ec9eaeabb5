// One whole pass: which tasks it falls into, on how many threads, with what memory.
#pragma once

#include "kernels.h"

namespace regard {

enum class Status : int { done, non_finite, stopped, no_memory };

struct Run {
    int threads = 1;
    // Polled on the calling thread, about every 50 ms: whether to stop. Null: never.
    bool (*interrupted)(void*) = nullptr;
    void* context = nullptr;
};

// `check`: answer not_finite where q, k or v may hold a number that is not finite; the output is then worthless.
Status forward(const Kernels&, Forward, bool check, const Run&);
Status backward(const Kernels&, Backward, const Run&);
Status second_pass(const Kernels&, SecondPass, const Run&);

double fma_peak(const Kernels&, Type, double seconds, int threads);
double read_bandwidth(const Kernels&, std::int64_t bytes, double seconds, int threads);

}  // namespace regard
