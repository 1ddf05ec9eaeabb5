// What all passes share: memory, threads, and how a pass is interrupted.
#pragma once

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "parallel.h"
#include "run.h"

namespace regard {

using Clock = std::chrono::steady_clock;

// Tasks below which a call is split over keys too: enough for many threads. It must not depend on how many
// there are: how sums are cut decides their last bits.
constexpr std::int64_t MIN_TASKS = 16;
// Fewer multiplications than this are done before a second thread has woken up.
constexpr double SINGLE_THREAD_WORK = 1e6;


inline std::int64_t parts_of(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

struct Free {
    void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

inline Memory allocate(std::size_t bytes) {
    return Memory(std::aligned_alloc(64, (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64));
}
inline float* floats(const Memory& memory) { return static_cast<float*>(memory.get()); }

// A thread's scratch memory, kept from call to call: fresh pages cost more than a small call. A task owns it
// while it runs, because a signal handler in Python may start another pass on the same thread.
class Scratch {
  public:
    explicit Scratch(std::size_t bytes) : memory_(std::move(cached().memory)), size_(cached().size) {
        cached().size = 0;
        if (size_ >= bytes) return;
        memory_.reset();
        memory_ = allocate(bytes);
        size_ = memory_ ? bytes : 0;
    }
    ~Scratch() {
        if (size_ > cached().size) cached() = {std::move(memory_), size_};
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* get() const { return memory_.get(); }

  private:
    struct Cached {
        Memory memory;
        std::size_t size = 0;
    };
    static Cached& cached() {
        thread_local Cached cache;
        return cache;
    }
    Memory memory_;
    std::size_t size_;
};

// Tasks 0 … count − 1, in order, by whichever thread is free.
class Pass {
  public:
    explicit Pass(const Run& run) : run_(run) { std::fegetenv(&caller_); }

    // task(i, scratch, stop) on so many threads.
    template <class Task>
    void each(std::int64_t count, double work, std::size_t scratch, const Task& task) {
        if (status_ != Status::done || count == 0) return;
        int threads = static_cast<int>(std::clamp<std::int64_t>(run_.threads, 1, count));
        if (work < SINGLE_THREAD_WORK) threads = 1;
        struct Shared {
            Pass* pass;
            const Task* task;
            std::int64_t count;
            std::size_t scratch;
            std::atomic<std::int64_t> next{0}, done{0};
        } shared{this, &task, count, scratch};
        parallel(threads, [](void* context, int thread) {
            Shared& s = *static_cast<Shared*>(context);
            const Stop stop{thread == 0 ? poll_caller : poll_other, s.pass};
            {
                const Scratch memory(s.scratch);
                if (s.scratch && !memory.get()) return s.pass->fail(Status::no_memory);
                for (std::int64_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.count;) {
                    if (stop.now()) return;
                    (*s.task)(i, memory.get(), stop);
                    s.done.fetch_add(1, std::memory_order_relaxed);
                }
            }
            // Only the caller can be interrupted: out of tasks, it goes on polling for the others.
            const Clock::time_point idle = Clock::now();
            while (thread == 0 && s.pass->run_.interrupted && s.done.load(std::memory_order_relaxed) < s.count) {
                if (stop.now()) return;
                if (Clock::now() - idle < std::chrono::microseconds(500)) {
                    std::this_thread::yield();
                } else {
                    std::this_thread::sleep_for(std::chrono::milliseconds(1));
                }
            }
        }, &shared);
    }

    void fail(Status status) {
        status_ = status;
        stopped_.store(true, std::memory_order_relaxed);
    }
    Status status() const { return status_; }

  private:
    static bool poll_other(void* context) {
        return static_cast<Pass*>(context)->stopped_.load(std::memory_order_relaxed);
    }
    static bool poll_caller(void* context) {
        Pass& pass = *static_cast<Pass*>(context);
        if (poll_other(context)) return true;
        const Clock::time_point now = Clock::now();
        if (!pass.run_.interrupted || now - pass.last_poll_ < std::chrono::milliseconds(50)) return false;
        pass.last_poll_ = now;
        // The callback may run Python: it gets the caller's floating-point state, not that of a kernel.
        std::fenv_t kernel_environment;
        std::fegetenv(&kernel_environment);
        std::fesetenv(&pass.caller_);
        if (pass.run_.interrupted(pass.run_.context)) pass.fail(Status::stopped);
        std::fesetenv(&kernel_environment);
        return poll_other(context);
    }

    const Run& run_;
    std::fenv_t caller_;
    std::atomic<bool> stopped_{false};
    std::atomic<Status> status_{Status::done};
    Clock::time_point last_poll_ = Clock::now();
};

inline double work_of(const Call& call) {
    return static_cast<double>(call.b * call.h) * static_cast<double>(call.q * call.k) *
           static_cast<double>(call.d + call.dv);
}

}  // namespace regard
