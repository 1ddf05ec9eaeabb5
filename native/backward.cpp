// The backward pass: tasks of keys, each with sums of its own for what all queries share.
#include "prepare.h"

namespace regard {
namespace {

// Each part of a backward pass has sums of its own for the gradients of all queries: so many floats in all, unless
// that would leave fewer parts than these.
constexpr std::int64_t MAX_SUMS = std::int64_t{64} << 20, MIN_PARTS = 4;

}  // namespace

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
    const std::int64_t affordable_parts = std::max(MAX_SUMS / grads, MIN_PARTS);
    const std::int64_t max_parts = split ? std::min(parts_of(call.k, KEYS), affordable_parts) : 1;
    const std::int64_t part_count = std::clamp<std::int64_t>(parts_of(MIN_TASKS, heads), 1, max_parts);
    const std::int64_t length = parts_of(parts_of(call.k, part_count), KEYS) * KEYS, parts = parts_of(call.k, length);
    const View& to = call.query_grad;
    const bool direct = parts == 1 && call.type == Type::float32 && call.d == width && to.stride[3] == 1;
    const std::int64_t distances = call.q + call.k - 1, pitch = (distances + 15 + 15) / 16 * 16;
    const std::int64_t tables = call.table_grad ? call.b * call.h * pitch : 0;
    const Memory memory =
        allocate(static_cast<std::size_t>((direct ? 0 : parts * grads) + parts * tables) * sizeof(float));
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

    pass.each(heads * parts, work_of(call), kernels.backward_scratch(call),
              [&](std::int64_t i, void* scratch, Stop stop) {
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

}  // namespace regard
