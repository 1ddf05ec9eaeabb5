// Inputs that many tasks will read, in the form that is read fastest: copies that live as long as a pass.
#pragma once

#include "pass.h"

namespace regard {

// A tensor (b, g, k, columns) as float32 rows side by side.
inline Memory widened(const Kernels& kernels, const Call& call, View& view, std::int64_t columns, Pass& pass) {
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
inline Memory padded(Call& call, Pass& pass) {
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

}  // namespace regard
