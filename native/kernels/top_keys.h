// The largest scores of each row, exactly and in order, updated segment by segment.
#pragma once

#include "scores.h"

namespace regard::REGARD_ISA {
namespace {

// The rows of a segment are partitioned, so that a few comparisons decide how many of them matter: row r is in
// partition r mod PARTITIONS. The maxima of the partitions are of as many different rows; the n-th largest of them is a
// score that n rows reach, and scores below it need no comparison. So scores that rise or fall from key to key cost
// little more than others.
constexpr int PARTITIONS = 32;

// Batcher's odd-even merge sort (1968), as pairs of places to be put in order.
struct Sorting {
    struct Pair {
        std::uint8_t first, second;
    } pairs[191] = {};
    int count = 0;

    constexpr Sorting() {
        for (int p = 1; p < PARTITIONS; p *= 2) {
            for (int k = p; k > 0; k /= 2) {
                for (int j = k % p; j + k < PARTITIONS; j += 2 * k) {
                    for (int i = j; i < j + k && i + k < PARTITIONS; ++i) {
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

class TopKeys {
  public:
    TopKeys(std::int64_t count, ScratchAllocator& allocate_scratch) : count_(static_cast<int>(count)) {
        scores_ = allocate_scratch(count * BLOCK);
        keys_ = reinterpret_cast<std::int32_t*>(allocate_scratch(count * BLOCK));
        for (float& score : pending_scores_) score = -INF;
    }

    void begin() {
        for (std::int64_t i = 0; i < count_ * BLOCK; ++i) scores_[i] = -INF, keys_[i] = -1;
    }

    // Scores of a segment; `lane` is the panel's first in the block.
    __attribute__((noinline)) void update(const Segment& s, std::int64_t key, std::int64_t lane, const float* scores) {
        for (int v = s.begin; v < s.end; ++v) {
            const float* column = scores + s.first * PANEL + v * LANES;
            const int rows = s.last - s.first;
            V partition_max[PARTITIONS];
            compute_partition_maxima(column, rows, partition_max);
            const std::int64_t first_row = lane + v * LANES;
            const V least = load(scores_ + (count_ - 1) * BLOCK + first_row);
            V threshold = above(least);  // the lowest score that enters the lists
            std::uint32_t candidates = partitions_reaching(partition_max, threshold);
            if (!candidates) continue;
            if (count_ <= PARTITIONS && __builtin_popcount(candidates) > greatest(count_, SORT_THRESHOLD) &&
                rows > PARTITIONS) {
                V sorted[PARTITIONS];
                for (int i = 0; i < PARTITIONS; ++i) sorted[i] = partition_max[i];
                for (const auto& [first, second] : SORTING.pairs) {
                    const V a = sorted[first], b = sorted[second];
                    sorted[first] = max(a, b);
                    sorted[second] = min(a, b);
                }
                threshold = max(threshold, sorted[count_ - 1]);
                candidates = partitions_reaching(partition_max, threshold);
            }
            // Keys in order: of equal scores the lower comes first, and stays before the later.
            std::uint32_t candidate_rows[KEYS / PARTITIONS] = {};
            for (; candidates; candidates &= candidates - 1) {
                const int i = __builtin_ctz(candidates);
                for (int r = i, chunk = 0; r < rows; r += PARTITIONS, ++chunk) {
                    candidate_rows[chunk] |= static_cast<std::uint32_t>(any(load(column + r * PANEL) >= threshold))
                                             << i;
                }
            }
            for (int begin = 0; begin < rows; begin += PARTITIONS) {
                for (std::uint32_t remaining = candidate_rows[begin / PARTITIONS]; remaining;
                     remaining &= remaining - 1) {
                    const int r = begin + __builtin_ctz(remaining);
                    const float* row = column + r * PANEL;
                    const I reaching = load(row) >= threshold;
                    const std::uint32_t lanes = mask_bits(reaching);
                    const std::int32_t this_key = static_cast<std::int32_t>(key + s.first + r);
                    if (2 * __builtin_popcount(lanes) > LANES) {  // as where scores rise from key to key
                        insert_pending(first_row);
                        insert(first_row, select(reaching, load(row), splat(-INF)), splat(this_key));
                    } else {
                        enqueue(lanes, row, this_key);
                        if (max_pending_ == MAX_PENDING) insert_pending(first_row);
                    }
                }
            }
            insert_pending(first_row);
        }
    }

    // The weights of some rows' keys, 2^((score − top) · log2_factor) · share, and the keys; of `keys` in all.
    void write(std::int64_t lane, std::int64_t rows, float log2_factor, V top, V share, std::int64_t keys,
              std::int64_t* to_keys, float* to_weights) const {
        for (int i = 0; i < count_; ++i) {
            const V w = exp2(exponent_of(load(scores_ + i * BLOCK + lane), top, splat(log2_factor))) * share;
            for (std::int64_t j = 0; j < rows; ++j) {
                to_keys[j * count_ + i] = w[j] > 0.0f ? keys_[i * BLOCK + lane + j] : -1;
                to_weights[j * count_ + i] = i < keys ? w[j] : 0.0f;  // NaN too, but not of more keys than there are
            }
        }
    }

  private:
    // The maximum of each partition.
    static void compute_partition_maxima(const float* column, int rows, V (&partition_max)[PARTITIONS]) {
        for (int i = 0; i < PARTITIONS; ++i) {
            V maximum = splat(-INF);
            if (rows == KEYS) {
#pragma GCC unroll 8
                for (int r = 0; r < KEYS; r += PARTITIONS) maximum = max(maximum, load(column + (r + i) * PANEL));
            } else {
                for (int r = i; r < rows; r += PARTITIONS) maximum = max(maximum, load(column + r * PANEL));
            }
            partition_max[i] = maximum;
        }
    }

    // Which partitions have a score of at least `threshold`.
    static std::uint32_t partitions_reaching(const V (&partition_max)[PARTITIONS], V threshold) {
        std::uint32_t candidates = 0;
#pragma GCC unroll 32
        for (int i = 0; i < PARTITIONS; ++i) {
            candidates |= static_cast<std::uint32_t>(any(partition_max[i] >= threshold)) << i;
        }
        return candidates;
    }

    // The next larger number. (For 0 it is a denormal, which may count as 0: an equal score goes behind the earlier
    // one.)
    static V above(V x) {
        const U word = bits(x + splat(0.0f));  // −0 becomes 0
        return from_bits(word + (reinterpret_cast<I>(word) < 0 ? splat(0xffffffffu) : splat(1u)));
    }

    // A key is queued in each lane whose threshold it reaches: few lanes take the same key, but soon each has one
    // queued, and then one insertion into the lists takes a key of every lane.
    void enqueue(std::uint32_t lanes, const float* scores, std::int32_t key) {
        for (; lanes; lanes &= lanes - 1) {
            const int j = __builtin_ctz(lanes), at = pending_count_[j]++;
            pending_scores_[at * LANES + j] = scores[j];
            pending_keys_[at * LANES + j] = key;
            max_pending_ = max_pending_ > at ? max_pending_ : at + 1;
        }
    }

    // Inserts the queued keys into the lists, in order.
    void insert_pending(std::int64_t lane) {
        for (int at = 0; at < max_pending_; ++at) {
            insert(lane, load(pending_scores_ + at * LANES), load(pending_keys_ + at * LANES));
            store(pending_scores_ + at * LANES, splat(-INF));
        }
        if (max_pending_) {
            for (int& count : pending_count_) count = 0;
        }
        max_pending_ = 0;
    }

    // Into the sorted lists: the entries after its place move down by one. −∞ changes nothing.
    void insert(std::int64_t lane, V x, I k) {
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

    static constexpr int SORT_THRESHOLD = 24;  // partitions that make sorting worth its time
    static constexpr int MAX_PENDING = 16;  // keys that are queued in a lane at most

    int count_;
    float* scores_;  // (count, BLOCK), the largest first
    std::int32_t* keys_;
    float pending_scores_[MAX_PENDING * LANES];  // −∞ where nothing is queued
    std::int32_t pending_keys_[MAX_PENDING * LANES] = {};
    int pending_count_[LANES] = {}, max_pending_ = 0;
};

}  // namespace
}  // namespace regard::REGARD_ISA
