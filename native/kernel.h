// One attention call, as the kernels see it: addresses, sizes and strides. They know nothing of PyTorch.
//
// Kernels see work, not names: whatever mask there is arrives as spans of keys or as tiles of bits, whatever
// bias as a table by distance or as a tensor. Masks × biases × instruction sets is then a sum, not a product.
#pragma once

#include <cstdint>

namespace regard {

enum class Type : int { float32, bfloat16, float16 };

// A tensor of four dimensions, (batch, heads, sequence, head size). Strides count elements and may be 0.
struct View {
    void* data = nullptr;
    std::int64_t stride[4] = {};
};

// Statistics of a call's weights before dropout, as numbers (b, h, q, …). What is null or none is not asked for.
// In a backward pass the same arrays hold their gradients.
struct Statistics {
    float* entropy = nullptr;   // Σ −w ln w
    float* greatest = nullptr;  // the greatest score; −∞ where a row sees nothing
    // The keys of greatest weight in order, of equal ones the lower first: (b, h, q, top_count). −1 and 0: no more.
    std::int64_t top_count = 0;
    std::int64_t* top_keys = nullptr;
    float* top_weights = nullptr;
    // Σ w · |query + offset − key|, for each of so many offsets.
    std::int64_t offset_count = 0;
    const std::int64_t* offsets = nullptr;
    float* distances = nullptr;
    // The weight on the keys from query + first to query + last, for each of so many pairs (first, last).
    std::int64_t band_count = 0;
    const std::int64_t* bands = nullptr;
    float* band_masses = nullptr;
    // The weight on so many sets of keys. Sorted ranges [first, last) that do not overlap: range i belongs to the
    // sets in_sets[i] … in_sets[i + 1] of `sets`.
    std::int64_t range_count = 0, set_count = 0;
    const std::int32_t *ranges = nullptr, *in_sets = nullptr, *sets = nullptr;
    float* set_masses = nullptr;
    // Σ w · keyed[key], where `keyed` is (b, h, lots, k) and `lot` (q) says which lot is a query's; negative: none.
    // In a backward pass `keyed` is the gradient of what keys receive, and `keyed_sums` is not used.
    std::int64_t lot_count = 0;
    const float* keyed = nullptr;
    const std::int32_t* lot = nullptr;
    float* keyed_sums = nullptr;
};

struct Call {
    Type type = Type::float32;
    std::int64_t b = 0, h = 0, g = 0, q = 0, k = 0, d = 0, dv = 0;
    View query, key, value;
    Type key_type = Type::float32;  // of keys and values: the call's, or float32 where they were widened
    // Values as pairs of keys, (b, g, ⌈k/2⌉, dv): for processors that multiply pairs of bfloat16. Null: not made.
    const float* value_pairs = nullptr;

    float scale = 1.0f;    // of q·k
    float softcap = 0.0f;  // c·tanh(score / c); 0: none

    // sigmoid(score + shift) instead of a softmax.
    bool sigmoid = false;
    float shift = 0.0f;

    // (h): a logit that takes part in the softmax and gives nothing.
    const float* sink = nullptr;

    // Which keys each query may see, as sorted spans [first, last) of keys that do not overlap: an array
    // (b or 1, h or 1, q, span_count, 2). A stride of 0 shares one among batch rows or heads.
    const std::int32_t* spans = nullptr;
    std::int64_t span_count = 0, spans_b = 0, spans_h = 0;

    // Which pairs may meet, as tiles of 64 queries × 64 keys: an array (b or 1, h or 1, ⌈q/64⌉, ⌈k/64⌉) of
    // 0: no pair, 1: all pairs, n ≥ 2: `bitmaps` n − 2. A bitmap has a word for each key of the tile;
    // its bit i says whether the tile's query i may see that key. With spans as well, both must allow a pair.
    const std::int32_t* tiles = nullptr;
    std::int64_t tiles_b = 0, tiles_h = 0;
    const std::uint64_t* bitmaps = nullptr;

    // A bias by distance: entry q − key + (k − 1) of an array (h or 1, q + k − 1).
    const float* table = nullptr;
    std::int64_t table_h = 0;

    // A bias for each pair: (b, h, q, k), shared along a dimension whose stride is 0.
    View bias;
    Type bias_type = Type::float32;

    // Dropout (regard/dropout.py): a weight stays where its word is at or above `threshold`, and is then
    // multiplied by `kept`. threshold 0: no dropout.
    std::uint32_t seed = 0, threshold = 0;
    float kept = 1.0f;

    // Rows that see a number that is not finite become NaN: these say which queries (b, h, q) and keys
    // (b, g, k) hold one; the tensors themselves then hold 0 there. Null: none does.
    const std::uint8_t* spoilt_query = nullptr;
    const std::uint8_t* spoilt_key = nullptr;
};

struct Forward : Call {
    View out;              // (b, h, q, dv), of the call's type
    // (3, b, h, q): of each row of scores its log-sum-exp, −∞ where it sees nothing; then what the backward
    // pass needs: the score that weights are relative to, and the share of a weight of 1. Null: not wanted.
    float* lse = nullptr;
    const Statistics* statistics = nullptr;  // of a softmax; null: none
};

struct Backward : Call {
    View out, out_grad;                 // (b, h, q, dv)
    const float* lse = nullptr;         // of the forward pass, all three
    const float* lse_grad = nullptr;    // (b, h, q) or null
    float* delta = nullptr;             // (b, h, q), written: Σ out · out_grad of each row
    View query_grad, key_grad, value_grad;  // of the call's type; overwritten
    float* table_grad = nullptr;        // (h, q + k − 1) or null; overwritten
    View bias_grad;                     // float32, of the bias's shape (stride 0 where shared); zeros when given
    const Statistics* statistics = nullptr;  // gradients of statistics; null: none
};

// The map of weights at another size: the pairs of a rectangle of the map fall into rows × cols cells, query i of it
// into row i · rows / queries and key j into column j · cols / keys.
struct Pooling {
    std::int64_t rows, cols;
    bool maximum;  // of each cell; else the sum
    float* out;    // (b, h, rows, cols); zeros when given
    float* edges;  // (b, h, tasks, 2, rows), zeros when given: of columns that two tasks share
};

// The weights once more, from the queries, the keys and what a forward pass left of each row: those in the rectangle
// [first_query, last_query) × [first_key, last_key) of some batch rows and heads. Values are not used. In what is
// written, b, h, queries and keys are those that are asked about.
struct Revisit : Call {
    const float *top = nullptr, *share = nullptr;  // (b, h, q): of a forward pass, or of a log-sum-exp
    std::int64_t first_b = 0, last_b = 0, first_h = 0, last_h = 0;
    std::int64_t first_query = 0, last_query = 0, first_key = 0, last_key = 0;
    float* weights = nullptr;   // (b, h, queries, keys)
    // What each key receives from the queries of each lot, (b, h, lots, keys); zeros when given.
    std::int64_t lot_count = 0;
    const std::int32_t* lot = nullptr;  // (q), negative: of none. Null: all are of lot 0
    float* received = nullptr;
    std::int64_t pooling_count = 0;
    const Pooling* poolings = nullptr;
};

}  // namespace regard
