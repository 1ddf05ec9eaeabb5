// The mask of a block of queries: which keys it sees at all, and which pairs must be masked one by one.
#pragma once

#include "pack.h"

namespace regard::REGARD_ISA {
namespace {

// Keys of one key block, counted from its first, by vector of queries. Outside of [first, last) no query of
// the vector sees anything; inside [full_first, full_last) each sees everything.
struct VisibleKeys {
    int first[VECTORS], last[VECTORS], full_first[VECTORS], full_last[VECTORS];
    bool empty = true;  // of all vectors
    bool whole = true;  // every query sees every key
};

// Some neighbouring keys, with the vectors from `begin` to `end` that see any of them.
struct Segment {
    int first, last, begin, end;
    bool test;  // some pairs are masked
};

struct Segments {
    Segment at[2 * NV + 3];
    int count = 0;
};

// The keys between the first and the last that a block of queries sees, by its spans alone: cheaper than a BlockMask.
INLINE Span hull_of(const Call& call, std::int64_t b, std::int64_t h, std::int64_t query) {
    if (!call.spans) return {0, call.k};
    const std::int32_t* span = call.spans + b * call.spans_b + h * call.spans_h + query * call.span_count * 2;
    Span hull{call.k, 0};
    const std::int64_t count = least<std::int64_t>(BLOCK, call.q - query) * call.span_count;
    for (std::int64_t i = 0; i < count; ++i, span += 2) {
        if (span[0] >= span[1]) continue;
        hull.first = least<std::int64_t>(hull.first, span[0]);
        hull.last = greatest<std::int64_t>(hull.last, span[1]);
    }
    return hull;
}

// The mask for one block of queries of one head.
class BlockMask {
  public:
    BlockMask(const Call& call, std::int64_t b, std::int64_t h, std::int64_t query)
        : call_(call), rows_(least<std::int64_t>(BLOCK, call.q - query)) {
        hull_ = {0, call.k};
        if (call.spans) read_spans(call.spans + b * call.spans_b + h * call.spans_h + query * call.span_count * 2);
        if (call.tiles) {
            const std::int64_t across = (call.k + BLOCK - 1) / BLOCK;
            tiles_ = call.tiles + b * call.tiles_b + h * call.tiles_h + query / BLOCK * across;
        }
    }

    std::int64_t rows() const { return rows_; }

    // All keys that any query sees lie in here.
    Span hull() const { return hull_; }

    VisibleKeys visible(std::int64_t key, std::int64_t last) const {
        VisibleKeys out;
        const int n = static_cast<int>(last - key);
        int low = 0, high = n;
        bool all = true;
        if (tiles_) tile_hull(key, last, low, high, all);
        for (int v = 0; v < VECTORS; ++v) {
            int first = low, end = high, full = all ? low : high, full_end = high;
            if (v * LANES >= rows_) first = end = full = full_end = 0;
            if (call_.spans && first < end) {
                int f = n, e = 0, sf = n, se = n;
                for (std::int64_t s = 0; s < call_.span_count; ++s) {
                    const Bounds& x = bounds_[s][v];
                    const int a = clip(x.min_first - key, n), z = clip(x.max_last - key, n);
                    if (a >= z) continue;
                    f = least(f, a);
                    e = greatest(e, z);
                    const int sa = clip(x.max_first - key, n), sz = clip(x.min_last - key, n);
                    if (sz - sa > se - sf) sf = sa, se = sz;
                }
                first = greatest(first, f);
                end = least(end, e);
                full = greatest(full, sf);
                full_end = least(full_end, se);
            }
            if (first >= end) first = end = 0;
            if (full >= full_end) full = full_end = first;
            out.first[v] = first;
            out.last[v] = end;
            out.full_first[v] = full;
            out.full_last[v] = full_end;
            out.empty = out.empty && first == end;
            out.whole = out.whole && (v * LANES >= rows_ || (full == 0 && full_end == n));
        }
        return out;
    }

    // The keys of a block cut where what the vectors of a panel see changes. Cuts lie at multiples of `step`.
    Segments segments(const VisibleKeys& visible, int panel, int keys, int step) const {
        Segments out;
        const int* first = visible.first + panel * NV;
        const int* last = visible.last + panel * NV;
        int full_first = 0, full_last = keys, cuts[2 * NV + 2], count = 0;
        for (int v = 0; v < NV; ++v) {
            if (first[v] == last[v]) continue;
            insert(cuts, count, first[v] / step * step);
            insert(cuts, count, least<int>(keys, static_cast<int>(round_up(last[v], step))));
            full_first = greatest(full_first, visible.full_first[panel * NV + v]);
            full_last = least(full_last, visible.full_last[panel * NV + v]);
        }
        if (!count) return out;
        full_first = static_cast<int>(round_up(full_first, step));
        if (full_last < keys) full_last = full_last / step * step;
        if (full_first < full_last) {
            insert(cuts, count, full_first);
            insert(cuts, count, full_last);
        }
        for (int i = 0; i + 1 < count; ++i) {
            Segment s{cuts[i], cuts[i + 1], NV, 0, false};
            for (int v = 0; v < NV; ++v) {
                if (first[v] < s.last && last[v] > s.first) s.begin = least(s.begin, v), s.end = v + 1;
            }
            if (s.begin >= s.end) continue;
            s.test = s.first < full_first || s.last > full_last;
            for (int v = s.begin; v < s.end; ++v) s.test = s.test || first[v] == last[v];
            out.at[out.count++] = s;
        }
        return out;
    }

    // Which queries of vector `v` of the block may see a key.
    I allows(std::int64_t key, int v) const {
        I ok = I{} - 1;
        if (call_.spans) {
            const I k = splat(static_cast<std::int32_t>(key));
            ok = I{};
            for (std::int64_t s = 0; s < call_.span_count; ++s) {
                ok |= (k >= load(first_[s] + v * LANES)) & (k < load(last_[s] + v * LANES));
            }
        }
        if (tiles_) {
            const std::int32_t kind = tiles_[key / BLOCK];
            if (kind == 0) return I{};
            if (kind > 1) {
                const std::uint64_t word = call_.bitmaps[(kind - 2) * BLOCK + key % BLOCK];
                ok &= mask_lanes(static_cast<std::uint32_t>(word >> (v * LANES)));
            }
        }
        return ok;
    }

  private:
    struct Bounds {
        std::int64_t min_first, max_first, min_last, max_last;
    };

    static int clip(std::int64_t x, int n) {
        return static_cast<int>(x < 0 ? 0 : x > n ? n : x);
    }

    static void insert(int* cuts, int& count, int cut) {
        int i = count;
        while (i > 0 && cuts[i - 1] > cut) --i;
        if (i > 0 && cuts[i - 1] == cut) return;
        for (int j = count; j > i; --j) cuts[j] = cuts[j - 1];
        cuts[i] = cut;
        ++count;
    }

    void read_spans(const std::int32_t* rows) {
        hull_ = {call_.k, 0};
        for (std::int64_t s = 0; s < call_.span_count; ++s) {
            for (std::int64_t i = 0; i < BLOCK; ++i) {
                const std::int32_t* span = rows + (i * call_.span_count + s) * 2;
                first_[s][i] = i < rows_ ? span[0] : 0;
                last_[s][i] = i < rows_ ? span[1] : 0;
            }
            for (int v = 0; v < VECTORS; ++v) {
                Bounds& x = bounds_[s][v] = {call_.k, 0, call_.k, 0};
                const std::int64_t end = least<std::int64_t>(v * LANES + LANES, rows_);
                for (std::int64_t i = v * LANES; i < end; ++i) {
                    const std::int64_t first = first_[s][i], last = last_[s][i];
                    x.max_first = greatest(x.max_first, first);
                    x.min_last = least(x.min_last, last);
                    if (first >= last) {
                        x.min_last = 0;
                        continue;
                    }
                    x.min_first = least(x.min_first, first);
                    x.max_last = greatest(x.max_last, last);
                }
                hull_.first = least(hull_.first, x.min_first);
                hull_.last = greatest(hull_.last, x.max_last);
            }
        }
    }

    void tile_hull(std::int64_t key, std::int64_t last, int& low, int& high, bool& all) const {
        const int n = static_cast<int>(last - key);
        low = n;
        high = 0;
        for (std::int64_t k = key, next; k < last; k = next) {
            next = least(last, (k / BLOCK + 1) * BLOCK);
            const std::int32_t kind = tiles_[k / BLOCK];
            if (kind == 0) continue;
            const int from = static_cast<int>(k - key);
            if (high && high != from) all = false;  // a gap
            low = least(low, from);
            high = static_cast<int>(next - key);
            all = all && kind == 1;
        }
        if (low > high) low = high = 0;
    }

    const Call& call_;
    std::int64_t rows_;
    Span hull_;
    const std::int32_t* tiles_ = nullptr;
    alignas(64) std::int32_t first_[MAX_SPANS][BLOCK], last_[MAX_SPANS][BLOCK];
    Bounds bounds_[MAX_SPANS][VECTORS];
};

}  // namespace
}  // namespace regard::REGARD_ISA
