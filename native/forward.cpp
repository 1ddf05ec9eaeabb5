// The forward pass: blocks of queries, or decoding, whole or split over keys.
#include "prepare.h"

namespace regard {
namespace {

// So many queries are decoded: with more, lanes of queries pay.
constexpr std::int64_t MAX_DECODE_QUERIES = 4;

// A call cut over its keys: `parts` of `length` keys for each task, whose results lie in `size` floats each.
struct KeyPartition {
    std::int64_t rows, length, parts, size;

    // At least `enough` pieces of work in all, if the keys allow it. Sizes alone decide.
    KeyPartition(const Call& call, std::int64_t tasks, std::int64_t min_parts, std::int64_t max_rows) : rows(max_rows) {
        const std::int64_t part_count =
            std::clamp<std::int64_t>(parts_of(min_parts, tasks), 1, parts_of(call.k, 2 * KEYS));
        length = parts_of(parts_of(call.k, part_count), KEYS) * KEYS;
        parts = parts_of(call.k, length);
        size = parts_of(rows * (call.dv + 2), 16) * 16;
    }

    std::size_t bytes(std::int64_t tasks) const {
        return static_cast<std::size_t>(tasks * parts * size) * sizeof(float);
    }

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
                 std::int64_t tasks, const KeyPartition& partition, bool merges, const TaskOf& task_of, Pass& pass) {
    const Memory memory = allocate(merges ? partition.bytes(tasks) : 0);
    if (!memory) return Status::no_memory;
    std::atomic<bool> finite{true};
    pass.each(tasks * partition.parts, work_of(call), scratch, [&](std::int64_t i, void* task_scratch, Stop stop) {
        const ForwardTask whole = task_of(i / partition.parts);
        const ForwardTask task = merges ? partition.part_of(whole, i, floats(memory)) : whole;
        if (!kernel(call, task, check, task_scratch, stop)) finite.store(false, std::memory_order_relaxed);
    });
    if (merges) {
        const double work = static_cast<double>(tasks * partition.parts * partition.rows * call.dv);
        pass.each(tasks, work, 0, [&](std::int64_t i, void*, Stop) {
            kernels.merge(call, task_of(i), floats(memory) + i * partition.parts * partition.size, partition.parts,
                          partition.size);
        });
    }
    return pass.status() == Status::done && !finite ? Status::non_finite : pass.status();
}

Status decode(const Kernels& kernels, const Forward& call, bool check, Pass& pass) {
    const std::int64_t repeats = call.h / call.g;
    const std::int64_t heads = std::min(repeats, MAX_GROUPED_ROWS / call.q);
    const std::int64_t groups = parts_of(repeats, heads), tasks = call.b * call.g * groups;
    const KeyPartition partition(call, tasks, 2 * MIN_TASKS, heads * call.q);
    const auto task_of = [&](std::int64_t i) {
        const std::int64_t head = i / groups, first = i % groups * heads;
        ForwardTask task{head / call.g, head % call.g * repeats + first, 0, 0, call.k};
        task.heads = std::min(heads, repeats - first);
        task.part_rows = partition.rows;
        return task;
    };
    return run_tasks(kernels, call, kernels.decode, kernels.decode_scratch(call), check, tasks, partition, true,
                     task_of, pass);
}

}  // namespace

Status forward(const Kernels& kernels, Forward call, bool check, const Run& run) {
    Pass pass(run);
    call.key_type = call.type;
    if (call.q <= MAX_DECODE_QUERIES && call.k >= BLOCK && !call.statistics) return decode(kernels, call, check, pass);
    const Prepared prepared(kernels, call, true, pass);
    const Memory table = padded(call, pass);
    if (pass.status() != Status::done) return pass.status();
    const std::int64_t blocks = parts_of(call.q, BLOCK), tasks = call.b * call.h * blocks;
    const KeyPartition partition(call, tasks, call.statistics ? 1 : MIN_TASKS, BLOCK);  // statistics are of whole rows
    const auto task_of = [&](std::int64_t i) {
        // The last queries first: under a causal mask they have most to do.
        ForwardTask task{i / blocks / call.h, i / blocks % call.h, (blocks - 1 - i % blocks) * BLOCK, 0, call.k};
        task.part_rows = BLOCK;
        return task;
    };
    return run_tasks(kernels, call, kernels.forward, kernels.forward_scratch(call), check, tasks, partition,
                     partition.parts > 1, task_of, pass);
}

}  // namespace regard
