// What the machine allows: operations and bytes in a second.
#include <vector>

#include "pass.h"

namespace regard {

double fma_peak(const Kernels& kernels, Type type, double seconds, int threads) {
    struct Shared {
        const Kernels& kernels;
        Type type;
        double seconds;
        std::vector<double> rates;
    } shared{kernels, type, seconds, std::vector<double>(static_cast<std::size_t>(threads))};
    parallel(threads, [](void* context, int thread) {
        Shared& s = *static_cast<Shared*>(context);
        double best = 0;
        for (const auto start = Clock::now();
             std::chrono::duration<double>(Clock::now() - start).count() < s.seconds;) {
            const auto before = Clock::now();
            const double done = s.kernels.work(s.type, 20000);
            best = std::max(best, done / std::chrono::duration<double>(Clock::now() - before).count());
        }
        s.rates[static_cast<std::size_t>(thread)] = best;
    }, &shared);
    double total = 0;
    for (const double rate : shared.rates) total += rate;
    return total;
}

double read_bandwidth(const Kernels& kernels, std::int64_t bytes, double seconds, int threads) {
    const std::int64_t n = bytes / 4 / threads;
    const Memory memory = allocate(static_cast<std::size_t>(n * threads) * sizeof(float));
    if (!memory) return 0;
    std::fill(floats(memory), floats(memory) + n * threads, 1.0f);
    struct Shared {
        const Kernels& kernels;
        const float* data;
        std::int64_t n;
        std::atomic<bool> exact;
    } shared{kernels, floats(memory), n, true};
    double best = 0;
    for (const auto start = Clock::now(); std::chrono::duration<double>(Clock::now() - start).count() < seconds;) {
        const auto before = Clock::now();
        parallel(threads, [](void* context, int thread) {
            Shared& s = *static_cast<Shared*>(context);
            if (s.kernels.sum(s.data + thread * s.n, s.n) < 0) s.exact = false;
        }, &shared);
        if (!shared.exact) return 0;
        const double took = std::chrono::duration<double>(Clock::now() - before).count();
        best = std::max(best, static_cast<double>(n * threads * 4) / took);
    }
    return best;
}

}  // namespace regard
