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
    // pass needs: the exponent that weights are relative to, and the share of a weight of 1. Null: not wanted.
    float* lse = nullptr;
};

struct Backward : Call {
    View out, out_grad;                 // (b, h, q, dv)
    const float* lse = nullptr;         // of the forward pass, all three
    const float* lse_grad = nullptr;    // (b, h, q) or null
    float* delta = nullptr;             // (b, h, q), written: Σ out · out_grad of each row
    View query_grad, key_grad, value_grad;  // of the call's type; overwritten
    float* table_grad = nullptr;        // (h, q + k − 1) or null; overwritten
    View bias_grad;                     // float32, of the bias's shape (stride 0 where shared); zeros when given
};

}  // namespace regard
