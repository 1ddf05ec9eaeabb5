// Statistics of a block's weights during the forward pass. Sums are of weights relative to each row's maximum score so
// far, and are rescaled when that grows, as the sums of the softmax itself are.
#pragma once

#include "top_keys.h"
#include "weights.h"

namespace regard::REGARD_ISA {
namespace {

// Of a vector of rows, in the end: weight = 2^((score − top) · log2_factor) · share.
struct Norm {
    V top, sum, share;  // 1 / sum, a sink's part included; 0 where a row sees nothing, NaN where it must be NaN
    I nothing, bad;
};

INLINE V size_of(V x) { return from_bits(bits(x) & MAGNITUDE_BITS); }

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

    Band(const Statistics& statistics, std::int64_t index, std::int64_t ahead, const Segment& s) {
        const std::int64_t low = ahead + statistics.bands[2 * index], high = ahead + statistics.bands[2 * index + 1];
        from = splat(static_cast<std::int32_t>(low)) + iota();
        to = splat(static_cast<std::int32_t>(high)) + iota();
        first = clip(low, s.first, s.last);
        last = clip(high + LANES - 1, s.first, s.last);
    }
    I has(int row) const { return (splat(row) >= from) & (splat(row) < to); }
};

// The first range of keys that ends after a key.
INLINE std::int64_t range_at(const Statistics& statistics, std::int64_t key) {
    std::int64_t low = 0, high = statistics.range_count;
    while (low < high) {
        const std::int64_t middle = (low + high) / 2;
        if (statistics.ranges[2 * middle + 1] <= key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

class Observer {
  public:
    Observer(const Call& call, const Statistics* statistics, ScratchAllocator& allocate_scratch)
        : call_(call), statistics_(statistics), top_keys_(statistics ? statistics->top_count : 0, allocate_scratch) {
        if (!statistics) return;
        entropies_ = allocate_scratch(BLOCK);
        distances_ = allocate_scratch(statistics->offset_count * BLOCK);
        bands_ = allocate_scratch(statistics->band_count * BLOCK);
        received_grad_sums_ = allocate_scratch(statistics->received_grad_sums ? BLOCK : 0);
        masses_ = allocate_scratch(statistics->set_count * BLOCK);
        rests_ = allocate_scratch(statistics->set_count * BLOCK);
        tops_ = allocate_scratch(statistics->set_count * BLOCK);
    }

    void begin() {
        top_keys_.begin();
        for (const Sums& sums : all()) {
            for (std::int64_t i = 0; i < sums.count * BLOCK; ++i) sums.at[i] = 0.0f;
        }
        for (std::int64_t i = 0; i < statistics_->set_count * BLOCK; ++i) {
            masses_[i] = rests_[i] = 0.0f, tops_[i] = -INF;
        }
    }

    // A row's maximum score has grown: the exponents of its weights decrease by `fall`, weights are scaled `by` 2 to
    // that power, and `sum` was their sum.
    void shrink(int index, int v, V fall, V by, V sum) {
        const std::int64_t lane = index * PANEL + v * LANES;
        store(entropies_ + lane, fma(sum, max(splat(-MAX_EXPONENT), fall), load(entropies_ + lane)));
        for (const Sums& sums : all()) {
            for (std::int64_t i = 0; i < sums.count; ++i) {
                float* x = sums.at + i * BLOCK + lane;
                store(x, load(x) * by);
            }
        }
    }

    void update_top_keys(const Panel& panel, const Segment& s, std::int64_t key, const float* scores) {
        if (statistics_->top_count) top_keys_.update(s, key, panel.index * PANEL, scores);
    }

    void update_entropies(int index, const V* partial) {
        for (int v = 0; v < NV; ++v) add(entropies_ + index * PANEL + v * LANES, partial[v]);
    }

    // Adds a segment's weights, which are relative to `top`.
    __attribute__((noinline)) void update_sums(const Panel& panel, const Segment& s, std::int64_t key,
                                               const float* weights, const V* top) {
        for (int v = s.begin; v < s.end; ++v) {
            const float* column = weights + v * LANES;
            const std::int64_t query = panel.query + v * LANES, lane = panel.index * PANEL + v * LANES;
            for (std::int64_t i = 0; i < statistics_->offset_count; ++i) {
                const V place = places(query + statistics_->offsets[i] - key);
                add(distances_ + i * BLOCK + lane, sum_of(s.first, s.last, [&](int r, V sum) {
                        return fma(load(column + r * PANEL), size_of(place - splat(static_cast<float>(r))), sum);
                    }));
            }
            for (std::int64_t i = 0; i < statistics_->band_count; ++i) {
                const Band band(*statistics_, i, query - key, s);
                add(bands_ + i * BLOCK + lane, sum_of(band.first, band.last, [&](int r, V sum) {
                        return sum + select(band.has(r), load(column + r * PANEL), V{});
                    }));
            }
            if (statistics_->received_grad_sums) {
                add(received_grad_sums_ + lane, weighted_received_grad(panel, s, key, column, query));
            }
        }
        if (statistics_->set_count) add_set_masses(panel, s, key, weights, top);
    }

    // The statistics of a vector of rows, to their output. The sums are relative to the maximum, without a sink.
    void write(const Scoring& scoring, std::int64_t row, std::int64_t lane, std::int64_t rows, V maximum, V sum,
              const Norm& norm) const {
        const V log2_factor = splat(scoring.log2_factor);
        const V lower = max(splat(-MAX_EXPONENT), exponent_of(maximum, norm.top, log2_factor)),
                share = exp2(lower) * norm.share;
        const I empty_rows = norm.nothing & ~norm.bad;
        if (statistics_->entropy) {
            const V mass = sum * share, exponents = fma(sum, lower, load(entropies_ + lane)) * share;
            // All weight on one key: rounding would make a little of it.
            const I single_key = empty_rows | (norm.sum == 1.0f);
            for (int i = 0; i < rows; ++i) {
                const float entropy = LN2 * (mass[i] * __builtin_log2f(norm.sum[i]) - exponents[i]);
                statistics_->entropy[row + i] = single_key[i] || entropy < 0.0f ? 0.0f : entropy;
            }
        }
        if (statistics_->max_score) {
            const float size = call_.scale < 0.0f ? 0.0f - call_.scale : call_.scale;
            const float unit = scoring.needs_transform ? LN2 : size > 0.0f ? size : 1.0f;
            for (int i = 0; i < rows; ++i) {
                statistics_->max_score[row + i] = norm.bad[i] ? INF - INF : maximum[i] * unit;
            }
        }
        put(distances_, statistics_->offset_count, statistics_->distances, row, lane, rows, share, empty_rows);
        put(bands_, statistics_->band_count, statistics_->band_masses, row, lane, rows, share, empty_rows);
        put(received_grad_sums_, statistics_->received_grad_sums ? 1 : 0, statistics_->received_grad_sums, row, lane,
            rows, share, empty_rows);
        for (std::int64_t c = 0; c < statistics_->set_count; ++c) {
            const V whole = load(masses_ + c * BLOCK + lane) + load(rests_ + c * BLOCK + lane);
            const V x = whole * exp2(exponent_of(load(tops_ + c * BLOCK + lane), norm.top, log2_factor)) * norm.share;
            for (int i = 0; i < rows; ++i) {
                statistics_->set_masses[(row + i) * statistics_->set_count + c] = empty_rows[i] ? 0.0f : x[i];
            }
        }
        if (statistics_->top_count) {
            const std::int64_t at = row * statistics_->top_count;
            top_keys_.write(lane, rows, scoring.log2_factor, norm.top, select(empty_rows, V{}, norm.share), call_.k,
                            statistics_->top_keys + at, statistics_->top_weights + at);
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
                 {distances_, statistics_->offset_count},
                 {bands_, statistics_->band_count},
                 {received_grad_sums_, statistics_->received_grad_sums ? 1 : 0}}};
    }

    static void add(float* to, V x) { store(to, load(to) + x); }
    static void put(const float* sums, std::int64_t count, float* to, std::int64_t row, std::int64_t lane,
                    std::int64_t rows, V share, I empty_rows) {
        for (std::int64_t c = 0; c < count; ++c) {
            const V x = load(sums + c * BLOCK + lane) * share;
            for (int i = 0; i < rows; ++i) to[(row + i) * count + c] = empty_rows[i] ? 0.0f : x[i];
        }
    }

    V weighted_received_grad(const Panel& panel, const Segment& s, std::int64_t key, const float* column,
                             std::int64_t query) const {
        const std::int64_t rows = least<std::int64_t>(LANES, call_.q - query), k = call_.k;
        const float* received_grad =
            statistics_->received_grad + (panel.b * call_.h + panel.h) * statistics_->group_count * k + key;
        const std::int32_t* group_of_row = statistics_->group_of_query + query;
        V sum{};
        for (std::int64_t i = 0; i < rows; ++i) {  // once, where all rows are of one group
            if (group_of_row[i] < 0 || (i > 0 && group_of_row[i] == group_of_row[i - 1])) continue;
            const V group_sum = sum_of(s.first, s.last, [&](int r, V partial) {
                return fma(load(column + r * PANEL), splat(received_grad[group_of_row[i] * k + r]), partial);
            });
            for (std::int64_t j = i; j < rows && group_of_row[j] == group_of_row[i]; ++j) sum[j] = group_sum[j];
        }
        return sum;
    }

    // Each set has an exponent of its own, so that earlier sums are not rescaled with every new maximum.
    void add_set_masses(const Panel& panel, const Segment& s, std::int64_t key, const float* weights, const V* top) {
        for (std::int64_t i = range_at(*statistics_, key + s.first); i < statistics_->range_count; ++i) {
            const std::int64_t from = statistics_->ranges[2 * i] - key, to = statistics_->ranges[2 * i + 1] - key;
            if (from >= s.last) break;
            const int first = clip(from, s.first, s.last), last = clip(to, s.first, s.last);
            for (int v = s.begin; v < s.end; ++v) {
                const V sum = sum_of(first, last,
                                     [&](int r, V partial) { return partial + load(weights + r * PANEL + v * LANES); });
                for (std::int32_t j = statistics_->set_starts[i]; j < statistics_->set_starts[i + 1]; ++j) {
                    const std::int64_t at = statistics_->set_members[j] * BLOCK + panel.index * PANEL + v * LANES;
                    const V before = load(tops_ + at);
                    V mass = load(masses_ + at);
                    V rest = load(rests_ + at);
                    if (any(before != top[v])) {
                        const V by = exp2(exponent_of(before, top[v], splat(panel.scoring.log2_factor)));
                        mass *= by;
                        rest *= by;
                        store(tops_ + at, top[v]);
                    }
                    // The rounding error of the addition is added up too: a set may be of many ranges (Knuth's
                    // two-sum).
                    const V both = mass + sum, part = both - mass;
                    store(rests_ + at, rest + ((mass - (both - part)) + (sum - part)));
                    store(masses_ + at, both);
                }
            }
        }
    }

    const Call& call_;
    const Statistics* statistics_;
    TopKeys top_keys_;
    float *entropies_ = nullptr, *distances_ = nullptr, *bands_ = nullptr,
          *received_grad_sums_ = nullptr;                           // (…, BLOCK)
    float *masses_ = nullptr, *rests_ = nullptr, *tops_ = nullptr;  // (sets, BLOCK)
};

}  // namespace
}  // namespace regard::REGARD_ISA
