// Statistics of a block's weights while they pass by. Sums are of weights relative to each row's greatest score so
// far, and shrink when that grows, as the sums of the softmax itself do.
#pragma once

#include "strongest.h"
#include "weights.h"

namespace regard::REGARD_ISA {
namespace {

// Of a vector of rows, in the end: weight = 2^((score − top) · left) · share.
struct Norm {
    V top, sum, share;  // 1 / sum, a sink's part included; 0 where a row sees nothing, NaN where it must be NaN
    I nothing, bad;
};

INLINE V size_of(V x) { return from_bits(bits(x) & 0x7fffffffu); }

// How far each query of a vector stands from a block's first key; the first of them stands `ahead` of it.
INLINE V places(std::int64_t ahead) {
    return __builtin_convertvector(splat(static_cast<std::int32_t>(ahead)) + iota(), V);
}

INLINE int clip(std::int64_t x, int low, int high) {
    return static_cast<int>(x < low ? low : x > high ? high : x);
}

// Of a band of distances, the keys of a segment that a vector of queries has in it; `ahead` is how far its first query
// is from the segment's block.
struct Band {
    I from, to;
    int first, last;

    Band(const Statistics& asked, std::int64_t index, std::int64_t ahead, const Segment& s) {
        const std::int64_t low = ahead + asked.bands[2 * index], high = ahead + asked.bands[2 * index + 1];
        from = splat(static_cast<std::int32_t>(low)) + iota();
        to = splat(static_cast<std::int32_t>(high)) + iota();
        first = clip(low, s.first, s.last);
        last = clip(high + LANES - 1, s.first, s.last);
    }
    I has(int row) const { return (splat(row) >= from) & (splat(row) < to); }
};

// The first range of keys that ends after a key.
INLINE std::int64_t range_at(const Statistics& asked, std::int64_t key) {
    std::int64_t low = 0, high = asked.range_count;
    while (low < high) {
        const std::int64_t middle = (low + high) / 2;
        if (asked.ranges[2 * middle + 1] <= key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

class Observer {
  public:
    Observer(const Call& call, const Statistics* asked, Room& take)
        : call_(call), asked_(asked), strongest_(asked ? asked->top_count : 0, take) {
        if (!asked) return;
        entropies_ = take(BLOCK);
        distances_ = take(asked->offset_count * BLOCK);
        bands_ = take(asked->band_count * BLOCK);
        keyed_ = take(asked->keyed_sums ? BLOCK : 0);
        masses_ = take(asked->set_count * BLOCK);
        rests_ = take(asked->set_count * BLOCK);
        tops_ = take(asked->set_count * BLOCK);
    }

    void begin() {
        strongest_.begin();
        for (const Sums& sums : all()) {
            for (std::int64_t i = 0; i < sums.count * BLOCK; ++i) sums.at[i] = 0.0f;
        }
        for (std::int64_t i = 0; i < asked_->set_count * BLOCK; ++i) masses_[i] = rests_[i] = 0.0f, tops_[i] = -INF;
    }

    // A row's greatest score has grown: the exponents of its weights fall, weights shrink by 2 to that power, and `sum`
    // was their sum.
    void shrink(int index, int v, V fall, V by, V sum) {
        const std::int64_t lane = index * PANEL + v * LANES;
        store(entropies_ + lane, fma(sum, max(splat(-128.0f), fall), load(entropies_ + lane)));
        for (const Sums& sums : all()) {
            for (std::int64_t i = 0; i < sums.count; ++i) {
                float* x = sums.at + i * BLOCK + lane;
                store(x, load(x) * by);
            }
        }
    }

    void scores(const Panel& panel, const Segment& s, std::int64_t key, const float* scores) {
        if (asked_->top_count) strongest_.meet(s, key, panel.index * PANEL, scores);
    }

    void exponents(int index, const V* some) {
        for (int v = 0; v < NV; ++v) add(entropies_ + index * PANEL + v * LANES, some[v]);
    }

    // What is asked of a segment's weights, which are relative to `top`.
    __attribute__((noinline)) void weights(const Panel& panel, const Segment& s, std::int64_t key, const float* weights,
                                           const V* top) {
        for (int v = s.begin; v < s.end; ++v) {
            const float* column = weights + v * LANES;
            const std::int64_t query = panel.query + v * LANES, lane = panel.index * PANEL + v * LANES;
            for (std::int64_t i = 0; i < asked_->offset_count; ++i) {
                const V place = places(query + asked_->offsets[i] - key);
                add(distances_ + i * BLOCK + lane, sum_of(s.first, s.last, [&](int r, V sum) {
                        return fma(load(column + r * PANEL), size_of(place - splat(static_cast<float>(r))), sum);
                    }));
            }
            for (std::int64_t i = 0; i < asked_->band_count; ++i) {
                const Band band(*asked_, i, query - key, s);
                add(bands_ + i * BLOCK + lane, sum_of(band.first, band.last, [&](int r, V sum) {
                        return sum + select(band.has(r), load(column + r * PANEL), V{});
                    }));
            }
            if (asked_->keyed_sums) add(keyed_ + lane, against(panel, s, key, column, query));
        }
        if (asked_->set_count) mass(panel, s, key, weights, top);
    }

    // The statistics of a vector of rows, to where they are wanted. The sums are relative to the maximum, without a sink.
    void tell(const Scoring& scoring, std::int64_t row, std::int64_t lane, std::int64_t rows, V maximum, V sum,
              const Norm& norm) const {
        const V left = splat(scoring.left);
        const V lower = max(splat(-128.0f), exponent_of(maximum, norm.top, left)), share = exp2(lower) * norm.share;
        const I blind = norm.nothing & ~norm.bad;
        if (asked_->entropy) {
            const V mass = sum * share, exponents = fma(sum, lower, load(entropies_ + lane)) * share;
            // All weight on one key: rounding would make a little of it.
            const I one = blind | (norm.sum == 1.0f);
            for (int i = 0; i < rows; ++i) {
                const float entropy = LN2 * (mass[i] * __builtin_log2f(norm.sum[i]) - exponents[i]);
                asked_->entropy[row + i] = one[i] || entropy < 0.0f ? 0.0f : entropy;
            }
        }
        if (asked_->greatest) {
            const float size = call_.scale < 0.0f ? 0.0f - call_.scale : call_.scale;
            const float unit = scoring.cooked ? LN2 : size > 0.0f ? size : 1.0f;
            for (int i = 0; i < rows; ++i) asked_->greatest[row + i] = norm.bad[i] ? INF - INF : maximum[i] * unit;
        }
        put(distances_, asked_->offset_count, asked_->distances, row, lane, rows, share, blind);
        put(bands_, asked_->band_count, asked_->band_masses, row, lane, rows, share, blind);
        put(keyed_, asked_->keyed_sums ? 1 : 0, asked_->keyed_sums, row, lane, rows, share, blind);
        for (std::int64_t c = 0; c < asked_->set_count; ++c) {
            const V whole = load(masses_ + c * BLOCK + lane) + load(rests_ + c * BLOCK + lane);
            const V x = whole * exp2(exponent_of(load(tops_ + c * BLOCK + lane), norm.top, left)) * norm.share;
            for (int i = 0; i < rows; ++i) asked_->set_masses[(row + i) * asked_->set_count + c] = blind[i] ? 0.0f : x[i];
        }
        if (asked_->top_count) {
            const std::int64_t at = row * asked_->top_count;
            strongest_.tell(lane, rows, scoring.left, norm.top, select(blind, V{}, norm.share), call_.k,
                            asked_->top_keys + at, asked_->top_weights + at);
        }
    }

  private:
    struct Sums {
        float* at;
        std::int64_t count;
    };
    // What shrinks with the weights: (count, BLOCK) each.
    struct AllSums {
        Sums of[4];
        const Sums* begin() const { return of; }
        const Sums* end() const { return of + 4; }
    };
    AllSums all() const {
        return {{{entropies_, 1},
                 {distances_, asked_->offset_count},
                 {bands_, asked_->band_count},
                 {keyed_, asked_->keyed_sums ? 1 : 0}}};
    }

    static void add(float* to, V x) { store(to, load(to) + x); }
    static void put(const float* sums, std::int64_t count, float* to, std::int64_t row, std::int64_t lane,
                    std::int64_t rows, V share, I blind) {
        for (std::int64_t c = 0; c < count; ++c) {
            const V x = load(sums + c * BLOCK + lane) * share;
            for (int i = 0; i < rows; ++i) to[(row + i) * count + c] = blind[i] ? 0.0f : x[i];
        }
    }

    V against(const Panel& panel, const Segment& s, std::int64_t key, const float* column, std::int64_t query) const {
        const std::int64_t rows = least<std::int64_t>(LANES, call_.q - query), k = call_.k;
        const float* keyed = asked_->keyed + (panel.b * call_.h + panel.h) * asked_->lot_count * k + key;
        const std::int32_t* lot = asked_->lot + query;
        V sum{};
        for (std::int64_t i = 0; i < rows; ++i) {  // once, where all rows are of one lot
            if (lot[i] < 0 || (i > 0 && lot[i] == lot[i - 1])) continue;
            const V mine = sum_of(s.first, s.last, [&](int r, V some) {
                return fma(load(column + r * PANEL), splat(keyed[lot[i] * k + r]), some);
            });
            for (std::int64_t j = i; j < rows && lot[j] == lot[i]; ++j) sum[j] = mine[j];
        }
        return sum;
    }

    // Each set has an exponent of its own, so that what it got long ago is not rescaled again and again.
    void mass(const Panel& panel, const Segment& s, std::int64_t key, const float* weights, const V* top) {
        for (std::int64_t i = range_at(*asked_, key + s.first); i < asked_->range_count; ++i) {
            const std::int64_t from = asked_->ranges[2 * i] - key, to = asked_->ranges[2 * i + 1] - key;
            if (from >= s.last) break;
            const int first = clip(from, s.first, s.last), last = clip(to, s.first, s.last);
            for (int v = s.begin; v < s.end; ++v) {
                const V sum = sum_of(first, last, [&](int r, V some) { return some + load(weights + r * PANEL + v * LANES); });
                for (std::int32_t j = asked_->in_sets[i]; j < asked_->in_sets[i + 1]; ++j) {
                    const std::int64_t at = asked_->sets[j] * BLOCK + panel.index * PANEL + v * LANES;
                    const V before = load(tops_ + at);
                    V mine = load(masses_ + at);
                    V rest = load(rests_ + at);
                    if (any(before != top[v])) {
                        const V by = exp2(exponent_of(before, top[v], splat(panel.scoring.left)));
                        mine *= by;
                        rest *= by;
                        store(tops_ + at, top[v]);
                    }
                    // What the addition rounds off is kept: a set may be of many ranges (Knuth's two-sum).
                    const V both = mine + sum, part = both - mine;
                    store(rests_ + at, rest + ((mine - (both - part)) + (sum - part)));
                    store(masses_ + at, both);
                }
            }
        }
    }

    const Call& call_;
    const Statistics* asked_;
    Strongest strongest_;
    float *entropies_ = nullptr, *distances_ = nullptr, *bands_ = nullptr, *keyed_ = nullptr;  // (…, BLOCK)
    float *masses_ = nullptr, *rests_ = nullptr, *tops_ = nullptr;  // (sets, BLOCK)
};

}  // namespace
}  // namespace regard::REGARD_ISA
