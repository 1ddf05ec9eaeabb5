#include "run.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "parallel.h"

namespace regard {
namespace {

using Clock = std::chrono::steady_clock;

// So many queries are decoded: with more, lanes of queries pay.
constexpr std::int64_t FEW_QUERIES = 4;

// Tasks below which a call is split over keys too: enough for many threads. It must not depend on how many
// there are: how sums are cut decides their last bits.
constexpr std::int64_t ENOUGH_TASKS = 16;
// Each part of a backward pass has sums of its own for the gradients of all queries: so many floats in all, unless
// that would leave fewer parts than these.
constexpr std::int64_t MOST_SUMS = std::int64_t{64} << 20, LEAST_PARTS = 4;
// Fewer multiplications than this are done before a second thread has woken up.
constexpr double LITTLE_WORK = 1e6;

std::int64_t parts_of(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

struct Free {
    void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(std::size_t bytes) {
    return Memory(std::aligned_alloc(64, (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64));
}
float* floats(const Memory& memory) { return static_cast<float*>(memory.get()); }

// A thread's scratch memory, kept from call to call: fresh pages cost more than a small call. While a task has it, it
// is the task's own, because what a signal's handler in Python calls may come here again, on the same thread.
class Scratch {
  public:
    explicit Scratch(std::size_t bytes) : memory_(std::move(kept().memory)), size_(kept().size) {
        kept().size = 0;
        if (size_ >= bytes) return;
        memory_.reset();
        memory_ = allocate(bytes);
        size_ = memory_ ? bytes : 0;
    }
    ~Scratch() {
        if (size_ > kept().size) kept() = {std::move(memory_), size_};
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* get() const { return memory_.get(); }

  private:
    struct Kept {
        Memory memory;
        std::size_t size = 0;
    };
    static Kept& kept() {
        thread_local Kept mine;
        return mine;
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
        if (work < LITTLE_WORK) threads = 1;
        struct Shared {
            Pass* pass;
            const Task* task;
            std::int64_t count;
            std::size_t scratch;
            std::atomic<std::int64_t> next{0}, done{0};
        } shared{this, &task, count, scratch};
        parallel(threads, [](void* context, int thread) {
            Shared& s = *static_cast<Shared*>(context);
            const Stop stop{thread == 0 ? ask_caller : ask_other, s.pass};
            {
                const Scratch memory(s.scratch);
                if (s.scratch && !memory.get()) return s.pass->fail(Status::no_memory);
                for (std::int64_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.count;) {
                    if (stop.now()) return;
                    (*s.task)(i, memory.get(), stop);
                    s.done.fetch_add(1, std::memory_order_relaxed);
                }
            }
            // Only the caller can be interrupted: out of tasks, it goes on asking for the others.
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
    static bool ask_other(void* context) {
        return static_cast<Pass*>(context)->stopped_.load(std::memory_order_relaxed);
    }
    static bool ask_caller(void* context) {
        Pass& pass = *static_cast<Pass*>(context);
        if (ask_other(context)) return true;
        const Clock::time_point now = Clock::now();
        if (!pass.run_.interrupted || now - pass.asked_ < std::chrono::milliseconds(50)) return false;
        pass.asked_ = now;
        // What is asked may be Python: it gets the caller's floating-point state, not that of a kernel.
        std::fenv_t ours;
        std::fegetenv(&ours);
        std::fesetenv(&pass.caller_);
        if (pass.run_.interrupted(pass.run_.context)) pass.fail(Status::stopped);
        std::fesetenv(&ours);
        return ask_other(context);
    }

    const Run& run_;
    std::fenv_t caller_;
    std::atomic<bool> stopped_{false};
    std::atomic<Status> status_{Status::done};
    Clock::time_point asked_ = Clock::now();
};

// A tensor (b, g, k, columns) as float32 rows side by side.
Memory widened(const Kernels& kernels, const Call& call, View& view, std::int64_t columns, Pass& pass) {
    Memory memory = allocate(static_cast<std::size_t>(call.b * call.g * call.k * columns) * sizeof(float));
    if (!memory) {
        pass.fail(Status::no_memory);
        return memory;
    }
    const std::int64_t chunks = parts_of(call.k, KEYS);
    const double work = static_cast<double>(call.b * call.g * call.k * columns);
    pass.each(call.b * call.g * chunks, work, 0, [&](std::int64_t i, void*, Stop) {
        const std::int64_t head = i / chunks, first = i % chunks * KEYS;
        kernels.widen(view, call.type, head / call.g, head % call.g, first, std::min(KEYS, call.k - first), columns,
                      floats(memory) + (head * call.k + first) * columns);
    });
    view = {memory.get(), {call.g * call.k * columns, call.k * columns, columns, 1}};
    return memory;
}

// Keys and values that many blocks of queries will read, in the form that is read fastest.
struct Prepared {
    Memory keys, values;

    Prepared(const Kernels& kernels, Call& call, bool pair_values, Pass& pass) {
        call.key_type = call.type;
        if (parts_of(call.q, BLOCK) * (call.h / call.g) < 2) return;
        if (kernels.pairs && call.type == Type::bfloat16) {
            if (pair_values) values = paired(kernels, call, pass);
            return;
        }
        const bool half = call.type != Type::float32;
        const auto well = [&](const View& v, std::int64_t columns) {
            return reads_well(call.type, v.stride[2], v.stride[3], columns);
        };
        const bool key = well(call.key, call.d), value = well(call.value, call.dv);
        if (key && value) return;
        if (!key || half) keys = widened(kernels, call, call.key, call.d, pass);
        if (!value || half) values = widened(kernels, call, call.value, call.dv, pass);
        call.key_type = Type::float32;
    }

  private:
    static Memory paired(const Kernels& kernels, Call& call, Pass& pass) {
        const std::int64_t pairs = (call.k + 1) / 2, chunks = parts_of(call.k, KEYS);
        Memory memory = allocate(static_cast<std::size_t>(call.b * call.g * pairs * call.dv) * sizeof(float));
        if (!memory) {
            pass.fail(Status::no_memory);
            return memory;
        }
        pass.each(call.b * call.g * chunks, static_cast<double>(call.b * call.g * pairs * call.dv), 0,
                  [&](std::int64_t i, void*, Stop) {
                      const std::int64_t head = i / chunks, first = i % chunks * KEYS;
                      kernels.pair(call.value, head / call.g, head % call.g, first, std::min(KEYS, call.k - first),
                                   call.dv, floats(memory) + (head * pairs + first / 2) * call.dv);
                  });
        call.value_pairs = floats(memory);
        return memory;
    }
};

// A table with zeros at its end: the kernels read it by whole vectors of queries, those past the last among them.
Memory padded(Call& call, Pass& pass) {
    const std::int64_t heads = call.table_h ? call.h : 1, distances = call.q + call.k - 1, pitch = distances + 15;
    Memory memory = allocate(call.table ? static_cast<std::size_t>(heads * pitch) * sizeof(float) : 0);
    if (!memory) {
        pass.fail(Status::no_memory);
    } else if (call.table) {
        for (std::int64_t h = 0; h < heads; ++h) {
            float* to = floats(memory) + h * pitch;
            std::fill(std::copy_n(call.table + h * call.table_h, distances, to), to + pitch, 0.0f);
        }
        call.table = floats(memory);
        call.table_h = call.table_h ? pitch : 0;
    }
    return memory;
}

double work_of(const Call& call) {
    return static_cast<double>(call.b * call.h) * static_cast<double>(call.q * call.k) *
           static_cast<double>(call.d + call.dv);
}

// A call cut over its keys: `parts` of `length` keys for each task, whose results lie in `size` floats each.
struct Cut {
    std::int64_t rows, length, parts, size;

    // At least `enough` pieces of work in all, if the keys allow it. Sizes alone decide.
    Cut(const Call& call, std::int64_t tasks, std::int64_t enough, std::int64_t most_rows) : rows(most_rows) {
        const std::int64_t wanted = std::clamp<std::int64_t>(parts_of(enough, tasks), 1, parts_of(call.k, 2 * KEYS));
        length = parts_of(parts_of(call.k, wanted), KEYS) * KEYS;
        parts = parts_of(call.k, length);
        size = parts_of(rows * (call.dv + 2), 16) * 16;
    }

    std::size_t bytes(std::int64_t tasks) const { return static_cast<std::size_t>(tasks * parts * size) * sizeof(float); }

    ForwardTask part_of(ForwardTask task, std::int64_t i, float* memory) const {
        task.key = i % parts * length;
        task.key_last = std::min(task.key + length, task.key_last);
        task.part = memory + i * size;
        return task;
    }
};

// Runs `kernel` on each task, or on its parts, which are then merged.
template <class Kernel, class TaskOf>
Status run_tasks(const Kernels& kernels, const Forward& call, Kernel kernel, std::size_t scratch, bool check,
                 std::int64_t tasks, const Cut& cut, bool merges, const TaskOf& task_of, Pass& pass) {
    const Memory memory = allocate(merges ? cut.bytes(tasks) : 0);
    if (!memory) return Status::no_memory;
    std::atomic<bool> finite{true};
    pass.each(tasks * cut.parts, work_of(call), scratch, [&](std::int64_t i, void* room, Stop stop) {
        const ForwardTask whole = task_of(i / cut.parts);
        const ForwardTask task = merges ? cut.part_of(whole, i, floats(memory)) : whole;
        if (!kernel(call, task, check, room, stop)) finite.store(false, std::memory_order_relaxed);
    });
    if (merges) {
        const double work = static_cast<double>(tasks * cut.parts * cut.rows * call.dv);
        pass.each(tasks, work, 0, [&](std::int64_t i, void*, Stop) {
            kernels.merge(call, task_of(i), floats(memory) + i * cut.parts * cut.size, cut.parts, cut.size);
        });
    }
    return pass.status() == Status::done && !finite ? Status::not_finite : pass.status();
}

Status decode(const Kernels& kernels, const Forward& call, bool check, Pass& pass) {
    const std::int64_t repeats = call.h / call.g;
    const std::int64_t heads = std::min(repeats, MOST_GROUPED / call.q);
    const std::int64_t groups = parts_of(repeats, heads), tasks = call.b * call.g * groups;
    const Cut cut(call, tasks, 2 * ENOUGH_TASKS, heads * call.q);
    const auto task_of = [&](std::int64_t i) {
        const std::int64_t head = i / groups, first = i % groups * heads;
        ForwardTask task{head / call.g, head % call.g * repeats + first, 0, 0, call.k};
        task.heads = std::min(heads, repeats - first);
        task.part_rows = cut.rows;
        return task;
    };
    return run_tasks(kernels, call, kernels.decode, kernels.decode_scratch(call), check, tasks, cut, true, task_of, pass);
}

}  // namespace

Status forward(const Kernels& kernels, Forward call, bool check, const Run& run) {
    Pass pass(run);
    call.key_type = call.type;
    if (call.q <= FEW_QUERIES && call.k >= BLOCK) return decode(kernels, call, check, pass);
    const Prepared prepared(kernels, call, true, pass);
    const Memory table = padded(call, pass);
    if (pass.status() != Status::done) return pass.status();
    const std::int64_t blocks = parts_of(call.q, BLOCK), tasks = call.b * call.h * blocks;
    const Cut cut(call, tasks, ENOUGH_TASKS, BLOCK);
    const auto task_of = [&](std::int64_t i) {
        // The last queries first: under a causal mask they have most to do.
        ForwardTask task{i / blocks / call.h, i / blocks % call.h, (blocks - 1 - i % blocks) * BLOCK, 0, call.k};
        task.part_rows = BLOCK;
        return task;
    };
    return run_tasks(kernels, call, kernels.forward, kernels.forward_scratch(call), check, tasks, cut, cut.parts > 1,
                     task_of, pass);
}

Status backward(const Kernels& kernels, Backward call, const Run& run) {
    Pass pass(run);
    const Prepared prepared(kernels, call, false, pass);
    const Memory table = padded(call, pass);
    if (pass.status() != Status::done) return pass.status();
    const std::int64_t blocks = parts_of(call.q, BLOCK), rows = call.b * call.h * blocks;
    pass.each(rows, work_of(call) / static_cast<double>(call.k), 0, [&](std::int64_t i, void*, Stop) {
        kernels.delta(call, i / blocks / call.h, i / blocks % call.h, i % blocks * BLOCK);
    });

    // Tasks may not write the same sums: heads that share a bias with a gradient are one task.
    const View& bias = call.bias_grad;
    const std::int64_t bs = bias.data && call.b > 1 && bias.stride[0] == 0 ? call.b : 1;
    const std::int64_t gs = bias.data && call.h > 1 && bias.stride[1] == 0 ? call.g : 1;
    const std::int64_t heads = call.b / bs * (call.g / gs);
    const bool split = !(bias.data && call.k > 1 && bias.stride[3] == 0);
    const std::int64_t width = (call.d + 15) / 16 * 16, grads = call.b * call.h * call.q * width;
    const std::int64_t affordable = std::max(MOST_SUMS / grads, LEAST_PARTS);
    const std::int64_t most = split ? std::min(parts_of(call.k, KEYS), affordable) : 1;
    const std::int64_t wanted = std::clamp<std::int64_t>(parts_of(ENOUGH_TASKS, heads), 1, most);
    const std::int64_t length = parts_of(parts_of(call.k, wanted), KEYS) * KEYS, parts = parts_of(call.k, length);
    const View& to = call.query_grad;
    const bool direct = parts == 1 && call.type == Type::float32 && call.d == width && to.stride[3] == 1;
    const std::int64_t distances = call.q + call.k - 1, pitch = (distances + 15 + 15) / 16 * 16;
    const std::int64_t tables = call.table_grad ? call.b * call.h * pitch : 0;
    const Memory memory = allocate(static_cast<std::size_t>((direct ? 0 : parts * grads) + parts * tables) * sizeof(float));
    if (!memory) return Status::no_memory;
    float* const query_sums = floats(memory);
    float* const table_sums = query_sums + (direct ? 0 : parts * grads);
    pass.each(rows * (direct ? 1 : parts), static_cast<double>(grads), 0, [&](std::int64_t i, void*, Stop) {
        const std::int64_t part = i / rows, row = i % rows, head = row / blocks, first = row % blocks * BLOCK;
        const std::int64_t n = std::min(BLOCK, call.q - first);
        for (std::int64_t r = first; r < first + n; ++r) {
            float* x = direct ? static_cast<float*>(to.data) + head / call.h * to.stride[0] +
                                    head % call.h * to.stride[1] + r * to.stride[2]
                              : query_sums + part * grads + (head * call.q + r) * width;
            std::fill(x, x + width, 0.0f);
        }
    });
    if (tables) std::fill(table_sums, table_sums + parts * tables, 0.0f);

    pass.each(heads * parts, work_of(call), kernels.backward_scratch(call), [&](std::int64_t i, void* scratch, Stop stop) {
        const std::int64_t part = i % parts, head = i / parts;
        BackwardTask task{};
        task.b = head / (call.g / gs) * bs;
        task.b_last = task.b + bs;
        task.g = head % (call.g / gs) * gs;
        task.g_last = task.g + gs;
        task.key = part * length;
        task.key_last = std::min(task.key + length, call.k);
        task.query_grad = direct ? nullptr : query_sums + part * grads;
        task.table_grad = call.table_grad ? table_sums + (part * call.b + task.b) * call.h * pitch : nullptr;
        task.table_pitch = pitch;
        kernels.backward(call, task, scratch, stop);
    });

    if (!direct) {
        pass.each(rows, static_cast<double>(grads), 0, [&](std::int64_t i, void*, Stop) {
            const std::int64_t head = i / blocks, first = i % blocks * BLOCK;
            kernels.add_up(to, call.type, head / call.h, head % call.h, first, std::min(BLOCK, call.q - first), call.d,
                           query_sums + (head * call.q + first) * width, width, parts, grads);
        });
    }
    if (call.table_grad) {
        pass.each(call.h, static_cast<double>(parts * tables), 0, [&](std::int64_t h, void*, Stop) {
            for (std::int64_t i = 0; i < distances; ++i) {
                float sum = 0.0f;
                for (std::int64_t j = 0; j < parts * call.b; ++j) sum += table_sums[(j * call.h + h) * pitch + i];
                call.table_grad[h * distances + i] = sum;
            }
        });
    }
    return pass.status();
}

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
        for (const auto start = Clock::now(); std::chrono::duration<double>(Clock::now() - start).count() < s.seconds;) {
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
