// What the kernels of one instruction set offer: each file in `isa/` exports one such table, and nothing else.
#pragma once

#include <cstddef>

#include "kernel.h"

namespace regard {

// A block of a call: queries, and keys; a mask's tiles are as wide as the one, and divide the other.
constexpr std::int64_t BLOCK = 64, KEYS = 256;
// The most spans of keys that a query may have.
constexpr std::int64_t MAX_SPANS = 4;

// Whether rows of a tensor are read fast where they lie, each time that they are needed: float32, side by side
// within a row, and rows not 1 KiB or a multiple apart, because such rows fall into few sets of the cache.
static inline bool reads_well(Type type, std::int64_t row, std::int64_t column, std::int64_t columns) {
    return type == Type::float32 && column == 1 && (row == columns || (row * 4) % 1024 != 0);
}

// Products of queries and keys become scores in units of log 2: by a factor alone, or by a pass over them where there
// is more to do (soft-cap, biases).
static inline float product_unit(const Call& call) {
    // With a scale of 0 the queries become 0 instead: ∞ · 0 would make NaN of what is masked.
    const float size = call.scale < 0 ? -call.scale : call.scale;
    return (size > 0 ? size : 1.0f) * 1.4426950408889634f;
}
static inline bool has_cap_or_bias(const Call& call) { return call.softcap > 0 || call.table || call.bias.data; }
// What scores, as the kernels compare them, are multiplied with to be in units of log 2.
static inline float score_unit(const Call& call) { return has_cap_or_bias(call) ? 1.0f : product_unit(call); }

// Long tasks poll it now and then: whether to stop.
struct Stop {
    bool (*poll)(void*) = nullptr;
    void* context = nullptr;
    bool now() const { return poll && poll(context); }
};

// A forward task: some rows (queries of a head), with all keys or a part of them.
struct ForwardTask {
    std::int64_t b, h, query;  // of the first row
    std::int64_t key, key_last;
    // Where a call is split over keys: the part's output (rows, dv), its rows' maxima (rows) and sums (rows), where
    // `rows` is how many there may be: `part_rows`. Null: the call's own output.
    float* part = nullptr;
    std::int64_t part_rows = 0;
    // Decoding: the rows are all queries of so many query heads, of one key head, h the first. 0: a block.
    std::int64_t heads = 0;
};

// A backward task: some keys of one key head (or of all that share a bias), with all queries.
struct BackwardTask {
    std::int64_t b, b_last, g, g_last;
    std::int64_t key, key_last;
    // Sums that tasks cannot share: (b, h, q, d rounded up to 16), and where the bias has a table (b, h, table_pitch)
    // of the task's own batch rows. No query_grad: the call's itself, which is then float32.
    float* query_grad = nullptr;
    float* table_grad = nullptr;
    std::int64_t table_pitch = 0;  // q + k − 1, and padding for the lanes of the last queries
};

// A task of a second pass: some keys of one head, at most KEYS, with all queries of the rectangle.
struct SecondPassTask {
    std::int64_t b, h, key, key_last;
    std::int64_t head;   // among those of the rectangle
    std::int64_t index;  // among the tasks of its head, of which there are `count`
    std::int64_t count;
};

constexpr std::int64_t MAX_GROUPED_ROWS = 16;

struct Kernels {
    const char* name;
    bool pairs;  // multiplies pairs of bfloat16

    // Bytes of scratch memory that a task needs, aligned to 64.
    std::size_t (*forward_scratch)(const Forward&);
    std::size_t (*backward_scratch)(const Backward&);
    std::size_t (*decode_scratch)(const Call&);
    std::size_t (*second_pass_scratch)(const Call&);

    // False where a number was not finite; what was written is then invalid.
    bool (*forward)(const Forward&, const ForwardTask&, bool check, void* scratch, Stop);
    void (*backward)(const Backward&, const BackwardTask&, void* scratch, Stop);

    // Few rows against many keys: at most MOST_GROUPED, a part of the call.
    bool (*decode)(const Forward&, const ForwardTask&, bool check, void* scratch, Stop);

    // Recomputes weights from what a forward pass left of each row.
    void (*second_pass)(const SecondPass&, const SecondPassTask&, void* scratch, Stop);

    // Parts become the call's output: `count` of them, `stride` floats apart.
    void (*merge)(const Forward&, const ForwardTask&, const float* parts, std::int64_t count, std::int64_t stride);

    // Σ out · out_grad (less the gradient of lse) for the rows of one block of queries.
    void (*delta)(const Backward&, std::int64_t b, std::int64_t h, std::int64_t query);

    // Rows of a tensor as float32, side by side.
    void (*widen)(const View&, Type, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows,
                  std::int64_t columns, float* to);
    // Rows of bfloat16 as pairs of rows (⌈rows/2⌉, columns).
    void (*pair)(const View&, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows,
                 std::int64_t columns, float* to);

    // The sum of `count` float32 blocks (rows, width) as rows of a tensor.
    void (*add_up)(const View&, Type, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows,
                   std::int64_t columns, const float* from, std::int64_t width, std::int64_t count,
                   std::int64_t stride);

    // Multiplications and additions done by so many rounds of the microkernel's instruction.
    double (*work)(Type, std::int64_t rounds);
    // The sum of an array: to measure how fast it can be read.
    float (*sum)(const float*, std::int64_t);
};

}  // namespace regard
