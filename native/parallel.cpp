#include "parallel.h"

#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(_OPENMP) && defined(__unix__)
#include <pthread.h>
#define REGARD_KNOWS_FORK 1
#endif

namespace regard {
namespace {

#ifdef REGARD_KNOWS_FORK
// OpenMP's threads do not live on in a forked child, but its records say that they do: its first parallel
// region waits for them forever. So a child starts threads of its own.
bool forked = false;
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

void on_own_threads(int threads, void (*work)(void*, int), void* context) {
    std::vector<std::thread> others;
    others.reserve(static_cast<std::size_t>(threads));
    int first = threads;
    try {
        for (int i = 1; i < threads; ++i) {
            others.emplace_back(work, context, i);
        }
    } catch (...) {  // the system has no more threads: the caller does what is left
        first = static_cast<int>(others.size()) + 1;
    }
    work(context, 0);
    for (int i = first; i < threads; ++i) work(context, i);
    for (std::thread& other : others) other.join();
}

}  // namespace

void parallel(int threads, void (*work)(void*, int), void* context) {
    if (threads <= 1) return work(context, 0);
#ifdef _OPENMP
#ifdef REGARD_KNOWS_FORK
    if (forked || registered != 0) return on_own_threads(threads, work, context);
#endif
#pragma omp parallel num_threads(threads)
    {
        // A team may come out smaller than requested (nested regions, limits): then its members do more.
        for (int i = omp_get_thread_num(); i < threads; i += omp_get_num_threads()) work(context, i);
    }
#else
    on_own_threads(threads, work, context);
#endif
}

}  // namespace regard
