// One attention call, as the kernels see it: addresses, sizes and strides. They know nothing of PyTorch.
//
// Kernels know no named masks or biases: every mask arrives as spans of keys or as tiles of bits, every bias as a
// table by distance or as a tensor. Masks × biases × instruction sets is then a sum, not a product.
#pragma once

#include <cstdint>

namespace regard {

enum class Type : int { float32, bfloat16, float16 };

// A tensor of four dimensions, (batch, heads, sequence, head size). Strides count elements and may be 0.
struct View {
    void* data = nullptr;
    std::int64_t stride[4] = {};
};

// Statistics of a call's weights before dropout, as numbers (b, h, q, …). What is null or none is not computed.
// In a backward pass the same arrays hold their gradients.
struct Statistics {
    float* entropy = nullptr;   // Σ −w ln w
    float* max_score = nullptr;  // the maximum score; −∞ where a row sees nothing
    // The keys of largest weight in order, of equal ones the lower first: (b, h, q, top_count). −1 and 0: no more.
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
    const std::int32_t *ranges = nullptr, *set_starts = nullptr, *set_members = nullptr;
    float* set_masses = nullptr;
    // For the gradient of the attention that keys receive from groups of queries, (b, h, groups, k): a forward pass
    // computes Σ w · received_grad[key], a backward pass adds it to the gradients of weights and needs no sums.
    // `group_of_query` (q) is the group of each query; negative: none.
    std::int64_t group_count = 0;
    const float* received_grad = nullptr;
    const std::int32_t* group_of_query = nullptr;
    float* received_grad_sums = nullptr;
};

struct Call {
    Type type = Type::float32;
    std::int64_t b = 0, h = 0, g = 0, q = 0, k = 0, d = 0, dv = 0;
    View query, key, value;
    Type key_type = Type::float32;  // of keys and values: the call's, or float32 where they were widened
    // Values as pairs of keys, (b, g, ⌈k/2⌉, dv): for processors that multiply pairs of bfloat16. Null: not available.
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

    // Which pairs of a query and a key are allowed, as tiles of 64 queries × 64 keys: an array (b or 1, h or 1, ⌈q/64⌉,
    // ⌈k/64⌉) of 0: no pair, 1: all pairs, n ≥ 2: `bitmaps` n − 2. A bitmap has a 64-bit word for each key of the tile;
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

    // Dropout (regard/spec/dropout.py): a weight is kept where its hash is at or above `threshold`, and is then
    // multiplied by `dropout_scale`. threshold 0: no dropout.
    std::uint32_t seed = 0, threshold = 0;
    float dropout_scale = 1.0f;

    // Rows that see a number that is not finite become NaN: flags of the queries (b, h, q) and keys (b, g, k) that
    // have one; the tensors themselves then have 0 there. Null: no flags.
    const std::uint8_t* non_finite_query = nullptr;
    const std::uint8_t* non_finite_key = nullptr;
};

struct Forward : Call {
    View out;              // (b, h, q, dv), of the call's type
    // (3, b, h, q): of each row of scores its log-sum-exp, −∞ where it sees nothing; then what the backward
    // pass needs: the score that weights are relative to, and the share of a weight of 1. Null: not computed.
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

// A second pass recomputes weights from queries, keys and what a forward pass left of each row: those in the rectangle
// [first_query, last_query) × [first_key, last_key) of some batch rows and heads. Values are not used. In the
// sizes of outputs, b, h, queries and keys count those of the rectangle.
struct SecondPass : Call {
    const float *top = nullptr, *share = nullptr;  // (b, h, q): of a forward pass, or of a log-sum-exp
    std::int64_t first_b = 0, last_b = 0, first_h = 0, last_h = 0;
    std::int64_t first_query = 0, last_query = 0, first_key = 0, last_key = 0;
    float* weights = nullptr;   // (b, h, queries, keys)
    // The attention that each key receives from each group of queries, (b, h, groups, keys); zeros when given.
    std::int64_t group_count = 0;
    const std::int32_t* group_of_query = nullptr;  // (q), negative: none. Null: all are in group 0
    float* received = nullptr;
    std::int64_t pooling_count = 0;
    const Pooling* poolings = nullptr;
};

}  // namespace regard
