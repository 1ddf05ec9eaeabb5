// The greatest scores of each row while they pass by, exactly and in order.
#pragma once

#include "scores.h"

namespace regard::REGARD_ISA {
namespace {

// What the rows of a segment are dealt into, so that a few comparisons tell how many of them matter: row r is in pile
// r mod PILES. The greatest of the piles are as many different rows; the n-th greatest of them is a score that n rows
// reach, and what lies below it need not be looked at. So scores that rise or fall from key to key cost little more
// than others.
constexpr int PILES = 32;

// Batcher's odd-even merge sort (1968), as pairs of places to be put in order.
struct Sorting {
    struct Pair {
        std::uint8_t first, second;
    } pairs[191] = {};
    int count = 0;

    constexpr Sorting() {
        for (int p = 1; p < PILES; p *= 2) {
            for (int k = p; k > 0; k /= 2) {
                for (int j = k % p; j + k < PILES; j += 2 * k) {
                    for (int i = j; i < j + k && i + k < PILES; ++i) {
                        if (i / (2 * p) != (i + k) / (2 * p)) continue;
                        pairs[count++] = {static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(i + k)};
                    }
                }
            }
        }
    }
};
constexpr Sorting SORTING;
static_assert(SORTING.count == 191);

class Strongest {
  public:
    Strongest(std::int64_t count, Room& take) : count_(static_cast<int>(count)) {
        scores_ = take(count * BLOCK);
        keys_ = reinterpret_cast<std::int32_t*>(take(count * BLOCK));
        for (float& score : waiting_) score = -INF;
    }

    void begin() {
        for (std::int64_t i = 0; i < count_ * BLOCK; ++i) scores_[i] = -INF, keys_[i] = -1;
    }

    // Scores of a segment; `lane` is the panel's first in the block.
    __attribute__((noinline)) void meet(const Segment& s, std::int64_t key, std::int64_t lane, const float* scores) {
        for (int v = s.begin; v < s.end; ++v) {
            const float* column = scores + s.first * PANEL + v * LANES;
            const int rows = s.last - s.first;
            V pile[PILES];
            deal(column, rows, pile);
            const std::int64_t here = lane + v * LANES;
            const V least = load(scores_ + (count_ - 1) * BLOCK + here);
            V enough = above(least);  // what a score must reach
            std::uint32_t hot = piles_from(pile, enough);
            if (!hot) continue;
            if (count_ <= PILES && __builtin_popcount(hot) > greatest(count_, MANY) && rows > PILES) {
                V sorted[PILES];
                for (int i = 0; i < PILES; ++i) sorted[i] = pile[i];
                for (const auto& [first, second] : SORTING.pairs) {
                    const V a = sorted[first], b = sorted[second];
                    sorted[first] = max(a, b);
                    sorted[second] = min(a, b);
                }
                enough = max(enough, sorted[count_ - 1]);
                hot = piles_from(pile, enough);
            }
            // Keys in order: of equal scores the lower comes first, and stays before the later.
            std::uint32_t found[KEYS / PILES] = {};
            for (; hot; hot &= hot - 1) {
                const int i = __builtin_ctz(hot);
                for (int r = i, deal = 0; r < rows; r += PILES, ++deal) {
                    found[deal] |= static_cast<std::uint32_t>(any(load(column + r * PANEL) >= enough)) << i;
                }
            }
            for (int begin = 0; begin < rows; begin += PILES) {
                for (std::uint32_t left = found[begin / PILES]; left; left &= left - 1) {
                    const int r = begin + __builtin_ctz(left);
                    const float* row = column + r * PANEL;
                    const I wanted = load(row) >= enough;
                    const std::uint32_t lanes = word_of(wanted);
                    const std::int32_t this_key = static_cast<std::int32_t>(key + s.first + r);
                    if (2 * __builtin_popcount(lanes) > LANES) {  // as where scores rise from key to key
                        admit(here);
                        walk(here, select(wanted, load(row), splat(-INF)), splat(this_key));
                    } else {
                        wait(lanes, row, this_key);
                        if (deepest_ == DEPTH) admit(here);
                    }
                }
            }
            admit(here);
        }
    }

    // The weights of some rows' keys, 2^((score − top) · left) · share, and the keys as they are told; of so many keys in all.
    void tell(std::int64_t lane, std::int64_t rows, float left, V top, V share, std::int64_t keys,
              std::int64_t* to_keys, float* to_weights) const {
        for (int i = 0; i < count_; ++i) {
            const V w = exp2(exponent_of(load(scores_ + i * BLOCK + lane), top, splat(left))) * share;
            for (std::int64_t j = 0; j < rows; ++j) {
                to_keys[j * count_ + i] = w[j] > 0.0f ? keys_[i * BLOCK + lane + j] : -1;
                to_weights[j * count_ + i] = i < keys ? w[j] : 0.0f;  // NaN too, but not of more keys than there are
            }
        }
    }

  private:
    // The greatest of each pile.
    static void deal(const float* column, int rows, V (&pile)[PILES]) {
        for (int i = 0; i < PILES; ++i) {
            V most = splat(-INF);
            if (rows == KEYS) {
#pragma GCC unroll 8
                for (int r = 0; r < KEYS; r += PILES) most = max(most, load(column + (r + i) * PANEL));
            } else {
                for (int r = i; r < rows; r += PILES) most = max(most, load(column + r * PANEL));
            }
            pile[i] = most;
        }
    }

    // Which piles have a score that reaches so much.
    static std::uint32_t piles_from(const V (&pile)[PILES], V enough) {
        std::uint32_t hot = 0;
#pragma GCC unroll 32
        for (int i = 0; i < PILES; ++i) hot |= static_cast<std::uint32_t>(any(pile[i] >= enough)) << i;
        return hot;
    }

    // The next greater number. (Of 0 it counts as 0 where tiny numbers do: who only reaches a place stays behind it.)
    static V above(V x) {
        const U word = bits(x + splat(0.0f));  // −0 becomes 0
        return from_bits(word + (reinterpret_cast<I>(word) < 0 ? splat(0xffffffffu) : splat(1u)));
    }

    // A key waits behind those before it in each lane that wants it: few want the same key, but soon each wants one, and
    // then a walk down the lists takes one of every lane.
    void wait(std::uint32_t lanes, const float* scores, std::int32_t key) {
        for (; lanes; lanes &= lanes - 1) {
            const int j = __builtin_ctz(lanes), at = depth_[j]++;
            waiting_[at * LANES + j] = scores[j];
            waiting_keys_[at * LANES + j] = key;
            deepest_ = deepest_ > at ? deepest_ : at + 1;
        }
    }

    // Who waits comes into the lists, in order.
    void admit(std::int64_t lane) {
        for (int at = 0; at < deepest_; ++at) {
            walk(lane, load(waiting_ + at * LANES), load(waiting_keys_ + at * LANES));
            store(waiting_ + at * LANES, splat(-INF));
        }
        if (deepest_) {
            for (int& depth : depth_) depth = 0;
        }
        deepest_ = 0;
    }

    // Down the lists: from its place on, all that follow move one further. −∞ finds none.
    void walk(std::int64_t lane, V x, I k) {
        I before{};
        for (int i = 0; i < count_; ++i) {
            float* score_at = scores_ + i * BLOCK + lane;
            std::int32_t* key_at = keys_ + i * BLOCK + lane;
            const V score = load(score_at);
            const I other = load(key_at);
            before |= x > score;
            store(score_at, max(score, x));
            store(key_at, before ? k : other);
            k = before ? other : k;
            x = min(score, x);
        }
    }

    static constexpr int MANY = 24;  // piles that make sorting worth its time
    static constexpr int DEPTH = 16;  // keys that wait in a lane at most

    int count_;
    float* scores_;  // (count, BLOCK), the greatest first
    std::int32_t* keys_;
    float waiting_[DEPTH * LANES];  // −∞ where nobody waits
    std::int32_t waiting_keys_[DEPTH * LANES] = {};
    int depth_[LANES] = {}, deepest_ = 0;
};

}  // namespace
}  // namespace regard::REGARD_ISA
