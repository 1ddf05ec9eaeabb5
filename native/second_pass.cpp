// The second pass over the weights: tasks of keys, each with all queries.
#include <vector>

#include "prepare.h"

namespace regard {
namespace {

// Columns of a pooled map whose keys two tasks or more share: adds the result of each task in order.
void join_edges(const SecondPass& call, const Pooling& pooling, std::int64_t count, std::int64_t head) {
    const std::int64_t keys = call.last_key - call.first_key;
    for (std::int64_t task = 0; task < count; ++task) {
        const std::int64_t first = task * KEYS, last = std::min(first + KEYS, keys) - 1;
        for (const std::int64_t edge : {0, 1}) {
            const std::int64_t column = (edge ? last : first) * pooling.cols / keys;
            const float* from = pooling.edges + ((head * count + task) * 2 + edge) * pooling.rows;
            float* to = pooling.out + head * pooling.rows * pooling.cols + column;
            for (std::int64_t row = 0; row < pooling.rows; ++row, to += pooling.cols) {
                const float x = from[row];
                *to = !pooling.maximum ? *to + x : x > *to || x != x ? x : *to;
            }
        }
    }
}

}  // namespace

Status second_pass(const Kernels& kernels, SecondPass call, const Run& run) {
    Pass pass(run);
    const std::int64_t keys = call.last_key - call.first_key, queries = call.last_query - call.first_query;
    if (keys <= 0 || queries <= 0) return Status::done;
    call.key_type = call.type;
    const std::int64_t count = parts_of(keys, KEYS);
    const std::int64_t across = call.last_h - call.first_h, heads = (call.last_b - call.first_b) * across;
    const Memory table = padded(call, pass);
    std::vector<Pooling> poolings(call.poolings, call.poolings + call.pooling_count);
    std::vector<Memory> edges;
    for (Pooling& pooling : poolings) {
        const auto floats_of = static_cast<std::size_t>(heads * count * 2 * pooling.rows);
        edges.push_back(allocate(floats_of * sizeof(float)));
        if (!edges.back()) return Status::no_memory;
        pooling.edges = floats(edges.back());
        std::fill(pooling.edges, pooling.edges + floats_of, 0.0f);
    }
    call.poolings = poolings.data();
    const double work = static_cast<double>(heads) * static_cast<double>(queries * keys) * static_cast<double>(call.d);
    pass.each(heads * count, work, kernels.second_pass_scratch(call), [&](std::int64_t i, void* scratch, Stop stop) {
        const std::int64_t head = i / count, index = i % count, key = call.first_key + index * KEYS;
        const std::int64_t b = call.first_b + head / across, h = call.first_h + head % across;
        const SecondPassTask task{b, h, key, std::min(key + KEYS, call.last_key), head, index, count};
        kernels.second_pass(call, task, scratch, stop);
    });
    for (const Pooling& pooling : poolings) {
        pass.each(heads, static_cast<double>(heads * count * pooling.rows), 0, [&](std::int64_t head, void*, Stop) {
            join_edges(call, pooling, count, head);
        });
    }
    return pass.status();
}

}  // namespace regard
