// Between tensors as they lie in memory and what the products read: float32, rows of whole vectors.
#pragma once

#include "../kernels.h"
#include "product.h"

namespace regard::REGARD_ISA {
namespace {

// A panel is what one product is wide; a block is so many panels.
constexpr int PANEL = NV * LANES;
constexpr int PANELS = static_cast<int>(BLOCK / PANEL);
constexpr int VECTORS = static_cast<int>(BLOCK / LANES);

// Scratch memory, handed out piece by piece. With none it only counts: how much a task will need.
class ScratchAllocator {
  public:
    explicit ScratchAllocator(void* memory) : memory_(static_cast<float*>(memory)) {}
    float* operator()(std::int64_t n) {
        float* block = memory_ ? memory_ + used_ : nullptr;
        used_ += round_up(n, 16);
        return block;
    }
    std::size_t bytes() const { return static_cast<std::size_t>(used_) * sizeof(float); }

  private:
    float* memory_;
    std::int64_t used_ = 0;
};

INLINE const void* at(Type type, const void* data, std::int64_t elements) {
    return static_cast<const char*>(data) + elements * (type == Type::float32 ? 4 : 2);
}
INLINE void* at(Type type, void* data, std::int64_t elements) {
    return static_cast<char*>(data) + elements * (type == Type::float32 ? 4 : 2);
}

// One head of a tensor: numbers by row and column.
struct Matrix {
    const void* data;
    std::int64_t row, column;
    Type type;

    Matrix from(std::int64_t first) const { return {at(type, data, first * row), row, column, type}; }
    bool plain() const { return type == Type::float32 && column == 1; }
    const float* numbers() const { return static_cast<const float*>(data); }
};

INLINE Matrix head_of(const View& view, Type type, std::int64_t b, std::int64_t h) {
    return {at(type, view.data, b * view.stride[0] + h * view.stride[1]), view.stride[2], view.stride[3], type};
}

// LANES numbers of a row; columns must lie side by side.
INLINE V load_row(const Matrix& m, std::int64_t row, std::int64_t column) {
    const void* p = at(m.type, m.data, row * m.row + column);
    if (m.type == Type::float32) return load(static_cast<const float*>(p));
    return widen(m.type, load(static_cast<const std::uint16_t*>(p)));
}

// The rows as float32, side by side in `width` columns; columns past `columns` are 0.
__attribute__((noinline)) void copy_rows(const Matrix& m, std::int64_t rows, std::int64_t columns, float* to,
                                         std::int64_t width) {
    const std::int64_t whole = m.column == 1 ? columns / LANES * LANES : 0;
    for (std::int64_t r = 0; r < rows; ++r, to += width) {
        std::int64_t c = 0;
        for (; c < whole; c += LANES) store(to + c, load_row(m, r, c));
        for (; c < columns; ++c) to[c] = get(m.type, m.data, r * m.row + c * m.column);
        for (; c < width; ++c) to[c] = 0.0f;
    }
}

// The transpose, in panels: to[panel][column][lane] is row panel · PANEL + lane. Rows past the last are 0.
template <class Scale>
INLINE void transpose_rows(const Matrix& m, std::int64_t rows, std::int64_t columns, float* to, int width,
                           std::int64_t panel_size, Scale scale) {
    for (std::int64_t r0 = 0; r0 < round_up(rows, LANES); r0 += LANES) {
        float* out = to + r0 / width * panel_size + r0 % width;
        const std::int64_t count = least<std::int64_t>(LANES, rows - r0);
        std::int64_t c = 0;
        if (m.column == 1) {
            for (; c + LANES <= columns; c += LANES) {
                V t[LANES];
#pragma GCC unroll 16
                for (int i = 0; i < LANES; ++i) t[i] = i < count ? scale(load_row(m, r0 + i, c)) : V{};
                transpose(t);
#pragma GCC unroll 16
                for (int i = 0; i < LANES; ++i) store(out + (c + i) * width, t[i]);
            }
        }
        for (; c < columns; ++c) {
            V t{};
            for (std::int64_t i = 0; i < count; ++i) t[i] = get(m.type, m.data, (r0 + i) * m.row + c * m.column);
            store(out + c * width, scale(t));
        }
    }
}

// Rows of bfloat16 as pairs along the row, `width` pairs each: a copy, with zeros at the end.
__attribute__((noinline)) void copy_pairs(const Matrix& m, std::int64_t rows, std::int64_t columns, float* to,
                                          std::int64_t width) {
    const auto* from = static_cast<const std::uint16_t*>(m.data);
    auto* out = reinterpret_cast<std::uint16_t*>(to);
    for (std::int64_t r = 0; r < rows; ++r, from += m.row, out += 2 * width) {
        if (m.column == 1) {
            std::memcpy(out, from, static_cast<std::size_t>(columns) * 2);
        } else {
            for (std::int64_t c = 0; c < columns; ++c) out[c] = from[c * m.column];
        }
        std::memset(out + columns, 0, static_cast<std::size_t>(2 * width - columns) * 2);
    }
}

// Rows of bfloat16 as pairs of rows: to[r / 2][c] holds rows r and r + 1. After the last row comes one of zeros.
__attribute__((noinline)) void pair_rows(const Matrix& m, std::int64_t rows, std::int64_t columns, float* to,
                                         std::int64_t width) {
    const auto* from = static_cast<const std::uint16_t*>(m.data);
    for (std::int64_t r = 0; r < rows; r += 2, from += 2 * m.row, to += width) {
        const bool both = r + 1 < rows;
        std::int64_t c = 0;
        if (m.column == 1 && both) {
            for (; c + LANES <= columns; c += LANES) {
                const U low = __builtin_convertvector(load(from + c), U);
                const U high = __builtin_convertvector(load(from + m.row + c), U);
                store(to + c, from_bits(low | (high << 16)));
            }
        }
        for (; c < width; ++c) {
            const std::uint32_t low = c < columns ? from[c * m.column] : 0;
            const std::uint32_t high = c < columns && both ? from[m.row + c * m.column] : 0;
            const std::uint32_t pair = low | (high << 16);
            std::memcpy(to + c, &pair, sizeof pair);
        }
    }
}

// A float32 row to a tensor of any type and stride.
INLINE void write_row(Type type, void* to, std::int64_t stride, const float* from, std::int64_t n) {
    std::int64_t i = 0;
    if (stride == 1) {
        for (; i + LANES <= n; i += LANES) {
            if (type == Type::float32) {
                store(static_cast<float*>(to) + i, load(from + i));
            } else {
                store(static_cast<std::uint16_t*>(to) + i, narrow(type, load(from + i)));
            }
        }
    }
    for (; i < n; ++i) set(type, to, i * stride, from[i]);
}

}  // namespace
}  // namespace regard::REGARD_ISA
