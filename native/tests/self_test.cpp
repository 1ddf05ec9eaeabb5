// Self-test of the core without Python: each instruction set runs a handful of calls, forward and backward, which are
// compared with plain loops in double precision. For processors that are only emulated; elsewhere tests/ does more.
//
//     cd native
//     c++ -std=c++20 -O2 -ffp-contract=off -Wno-psabi -I. -DREGARD_SELF_TEST=neon tests/self_test.cpp parallel.cpp
//     forward.cpp
//         backward.cpp second_pass.cpp peak.cpp isa/neon.cpp
//     ./a.out
//
// REGARD_SELF_TEST names the one namespace of kernels to run; without it, all run that dispatch.cpp has for this
// machine.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "run.h"

#ifdef REGARD_SELF_TEST
namespace regard::REGARD_SELF_TEST {
extern const Kernels kernels;
}
#else
#include "dispatch.h"
#endif

using namespace regard;

namespace {

constexpr double INF = std::numeric_limits<double>::infinity();

// ------------------------------------------------------------------ numbers

// The same numbers on every machine: multiples of 1/32 in [−2, 2), which each type holds exactly.
class RandomNumbers {
  public:
    explicit RandomNumbers(std::uint32_t seed) : state_(seed * 2654435761u + 1) {}
    std::uint32_t word() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 17;
        return state_ ^= state_ << 5;
    }
    double number() { return (static_cast<double>(word() >> 25) - 64) / 32; }

  private:
    std::uint32_t state_;
};

float decode(Type type, const void* data, std::size_t i) {
    if (type == Type::float32) return static_cast<const float*>(data)[i];
    const std::uint32_t word = static_cast<const std::uint16_t*>(data)[i];
    if (type == Type::bfloat16) return std::bit_cast<float>(word << 16);
    const int exponent = static_cast<int>(word >> 10 & 31);
    const float rest = static_cast<float>(word & 1023) / 1024;
    const float size = exponent == 31  ? (rest > 0 ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(rest, -14)
                                       : std::ldexp(1 + rest, exponent - 15);
    return word >> 15 ? -size : size;
}

// Only what needs no rounding.
void encode(Type type, void* data, std::size_t i, double x) {
    const std::uint32_t word = std::bit_cast<std::uint32_t>(static_cast<float>(x));
    if (type == Type::float32) {
        static_cast<float*>(data)[i] = static_cast<float>(x);
    } else if (type == Type::bfloat16) {
        static_cast<std::uint16_t*>(data)[i] = static_cast<std::uint16_t>(word >> 16);
    } else {
        const std::uint32_t half = x == 0 ? 0 : ((word >> 23 & 255) - 112) << 10 | (word >> 13 & 1023);
        static_cast<std::uint16_t*>(data)[i] = static_cast<std::uint16_t>(word >> 31 << 15 | half);
    }
}

// A tensor as the core reads it: exactly as many bytes as it needs. `by_rows`: heads lie within rows.
struct Tensor {
    Type type;
    std::int64_t sizes[4], strides[4];
    std::vector<char> bytes;

    Tensor(Type t, std::int64_t b, std::int64_t h, std::int64_t n, std::int64_t d, bool by_rows = false)
        : type(t), sizes{b, h, n, d}, strides{h * n * d, by_rows ? d : n * d, by_rows ? h * d : d, 1},
          bytes(static_cast<std::size_t>(b * h * n * d) * (t == Type::float32 ? 4 : 2)) {}

    std::size_t at(std::int64_t b, std::int64_t h, std::int64_t n, std::int64_t d) const {
        return static_cast<std::size_t>(b * strides[0] + h * strides[1] + n * strides[2] + d * strides[3]);
    }
    double get(std::int64_t b, std::int64_t h, std::int64_t n, std::int64_t d) const {
        return static_cast<double>(decode(type, bytes.data(), at(b, h, n, d)));
    }
    void fill(RandomNumbers& rng) {
        const std::size_t count = bytes.size() / (type == Type::float32 ? 4 : 2);
        for (std::size_t i = 0; i < count; ++i) encode(type, bytes.data(), i, rng.number());
    }
    View view() { return {bytes.data(), {strides[0], strides[1], strides[2], strides[3]}}; }
};

// ------------------------------------------------------------------ calls

enum class Mask { none, causal, window, tiles };

struct Case {
    Type type;
    std::int64_t b, h, g, q, k, d, dv;
    Mask mask;
    float softcap = 0;
    bool table = false, dense = false, sink = false, sigmoid = false, dropout = false, by_rows = false;
    float scale = 0.25f;
};

const Case cases[] = {
    {Type::float32, 1, 1, 1, 1, 1, 1, 1, Mask::none},
    {Type::float32, 1, 2, 1, 70, 90, 40, 24, Mask::causal},
    {Type::float32, 2, 2, 2, 130, 300, 64, 64, Mask::none, 0, false, false, true},
    {Type::float32, 1, 3, 1, 65, 129, 17, 5, Mask::window, 2.0f, true, true},
    {Type::float32, 1, 2, 2, 140, 200, 32, 48, Mask::tiles, 0, true, false, true, false, true},
    {Type::float32, 1, 4, 2, 33, 600, 16, 16, Mask::causal, 0, false, true, false, true, false, true, -0.25f},
    {Type::float32, 1, 8, 2, 1, 700, 64, 64, Mask::none, 0, true, false, true},
    {Type::float32, 2, 3, 1, 4, 333, 20, 36, Mask::tiles, 3.0f, false, true, false, false, true},
    {Type::float32, 1, 1, 1, 64, 256, 256, 200, Mask::causal},
    {Type::bfloat16, 1, 2, 1, 100, 130, 64, 64, Mask::causal, 0, false, false, true, false, false, true},
    {Type::bfloat16, 2, 2, 2, 66, 290, 33, 15, Mask::window, 0, true, true},
    {Type::bfloat16, 1, 6, 2, 2, 500, 80, 80, Mask::causal},
    {Type::bfloat16, 1, 2, 2, 190, 64, 96, 128, Mask::none, 0, false, false, false, true, true},
    {Type::float16, 1, 2, 1, 100, 130, 64, 64, Mask::tiles, 2.0f, false, false, true},
    {Type::float16, 1, 2, 2, 3, 280, 24, 8, Mask::none, 0, true, true, false, false, true},
    {Type::float16, 1, 1, 1, 77, 77, 18, 18, Mask::causal, 0, false, false, false, false, false, true},
};

std::uint32_t mix(std::uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// The largest distance, as a share of the largest expected number.
struct Gap {
    double gap = 0, size = 0;
    void add(double got, double want) {
        if (std::isinf(want)) {
            if (got != want) gap = INF;
            return;
        }
        if (!(std::abs(got - want) <= gap)) gap = std::isnan(got) ? INF : std::abs(got - want);
        size = std::max(size, std::abs(want));
    }
    double share() const { return gap / std::max(size, 1e-2); }
};

// Statistics of one call, and their gradients.
struct StatisticsCase {
    std::int64_t rows, k, top;
    std::vector<std::int64_t> offsets, bands;
    std::vector<std::int32_t> ranges, set_starts{0}, set_members, group_of_query;
    std::vector<float> entropy, max_score, top_weights, distances, masses, band_masses, received_grad,
        received_grad_sums;
    std::vector<float> entropy_grad, distance_grad, band_grad, mass_grad;
    std::vector<std::int64_t> top_keys;
    static constexpr std::int64_t SETS = 3, GROUPS = 2;

    StatisticsCase(const Case& c, RandomNumbers& rng)
        : rows(c.b * c.h * c.q), k(c.k), top(c.q % 2 ? 5 : 20), offsets{c.k - c.q, -3},
          bands{c.k - c.q - 9, c.k - c.q + 1, -2, c.k / 2} {
        const std::int64_t ends[][2] = {{0, k / 5}, {k / 5, k / 3}, {k / 2, k}};
        const std::vector<std::int32_t> of[] = {{0}, {0, 1}, {2, 1}};
        for (int i = 0; i < 3; ++i) {
            if (ends[i][0] == ends[i][1]) continue;
            ranges.insert(ranges.end(), {static_cast<std::int32_t>(ends[i][0]), static_cast<std::int32_t>(ends[i][1])});
            set_members.insert(set_members.end(), of[i].begin(), of[i].end());
            set_starts.push_back(static_cast<std::int32_t>(set_members.size()));
        }
        for (std::int64_t i = 0; i < c.q; ++i) group_of_query.push_back(i % 13 == 11 ? -1 : i >= c.q / 2 ? 1 : 0);
        const auto make = [&](std::vector<float>& v, std::int64_t columns, bool randomized) {
            v.assign(static_cast<std::size_t>(columns), NAN);
            for (float& x : v) x = randomized ? static_cast<float>(rng.number()) : x;
        };
        make(entropy, rows, false), make(max_score, rows, false), make(top_weights, rows * top, false);
        make(distances, rows * 2, false), make(band_masses, rows * 2, false), make(masses, rows * SETS, false);
        make(received_grad_sums, rows, false), make(received_grad, c.b * c.h * GROUPS * k, true),
            make(entropy_grad, rows, true);
        make(distance_grad, rows * 2, true), make(band_grad, rows * 2, true), make(mass_grad, rows * SETS, true);
        for (float& x : distance_grad) x /= static_cast<float>(k);
        top_keys.assign(top_weights.size(), -7);
    }

    Statistics request(bool grads) {
        Statistics s;
        s.entropy = grads ? entropy_grad.data() : entropy.data();
        s.offset_count = 2, s.offsets = offsets.data(), s.distances = grads ? distance_grad.data() : distances.data();
        s.band_count = 2, s.bands = bands.data(), s.band_masses = grads ? band_grad.data() : band_masses.data();
        s.range_count = static_cast<std::int64_t>(ranges.size() / 2), s.set_count = SETS;
        s.ranges = ranges.data(), s.set_starts = set_starts.data(), s.set_members = set_members.data();
        s.set_masses = grads ? mass_grad.data() : masses.data();
        s.group_count = GROUPS, s.group_of_query = group_of_query.data(), s.received_grad = received_grad.data();
        if (grads) return s;
        s.received_grad_sums = received_grad_sums.data(), s.max_score = max_score.data();
        s.top_count = top, s.top_keys = top_keys.data(), s.top_weights = top_weights.data();
        return s;
    }

    bool in_band(std::size_t band, std::int64_t i, std::int64_t j) const {
        return j >= i + bands[2 * band] && j < i + bands[2 * band + 1];
    }
    template <class Each>
    void each_set(std::int64_t j, const Each& each) const {
        for (std::size_t r = 0; 2 * r < ranges.size(); ++r) {
            if (j < ranges[2 * r] || j >= ranges[2 * r + 1]) continue;
            for (auto x = set_starts[r]; x < set_starts[r + 1]; ++x) {
                each(static_cast<std::size_t>(set_members[static_cast<std::size_t>(x)]));
            }
        }
    }
    double received_grad_at(std::size_t head, std::int64_t i, std::int64_t j) const {
        const std::int32_t group = group_of_query[static_cast<std::size_t>(i)];
        if (group < 0) return 0;
        return static_cast<double>(
            received_grad[(head * GROUPS + static_cast<std::size_t>(group)) * static_cast<std::size_t>(k) +
                          static_cast<std::size_t>(j)]);
    }
    // The gradient of a weight: of all statistics together.
    double weight_gradient(std::size_t row, std::size_t head, std::int64_t i, std::int64_t j, double p) const {
        double x = received_grad_at(head, i, j);
        if (p > 0) x -= static_cast<double>(entropy_grad[row]) * (1 + std::log(p));
        for (std::size_t n = 0; n < 2; ++n) {
            x += static_cast<double>(distance_grad[2 * row + n]) * std::abs(static_cast<double>(i + offsets[n] - j));
            if (in_band(n, i, j)) x += static_cast<double>(band_grad[2 * row + n]);
        }
        each_set(j, [&](std::size_t set) { x += static_cast<double>(mass_grad[row * SETS + set]); });
        return x;
    }
    // Σ p · its gradient, as a caller has it from the statistics themselves.
    double weighted_gradient(std::size_t row, double mass) const {
        double x = static_cast<double>(received_grad_sums[row]) +
                   static_cast<double>(entropy_grad[row]) * (static_cast<double>(entropy[row]) - mass);
        for (std::size_t n = 0; n < 2; ++n) {
            x += static_cast<double>(distance_grad[2 * row + n]) * static_cast<double>(distances[2 * row + n]);
            x += static_cast<double>(band_grad[2 * row + n]) * static_cast<double>(band_masses[2 * row + n]);
        }
        for (std::size_t n = 0; n < SETS; ++n) {
            x += static_cast<double>(mass_grad[row * SETS + n]) * static_cast<double>(masses[row * SETS + n]);
        }
        return x;
    }

    // How far a row's statistics are off.
    void compare(std::size_t row, std::size_t head, std::int64_t i, const std::vector<double>& p, double most,
                 Gap* gaps) const {
        double h = 0, distance_sums[2] = {}, band_sums[2] = {}, mass[SETS] = {}, sum = 0;
        for (std::int64_t j = 0; j < k; ++j) {
            const double w = p[static_cast<std::size_t>(j)];
            if (w > 0) h -= w * std::log(w);
            for (std::size_t n = 0; n < 2; ++n) {
                distance_sums[n] += w * std::abs(static_cast<double>(i + offsets[n] - j));
                band_sums[n] += in_band(n, i, j) ? w : 0;
            }
            each_set(j, [&](std::size_t set) { mass[set] += w; });
            sum += w * received_grad_at(head, i, j);
        }
        gaps[0].add(static_cast<double>(entropy[row]), h);
        gaps[1].add(static_cast<double>(max_score[row]), most);
        for (std::size_t n = 0; n < 2; ++n) {
            gaps[2].add(static_cast<double>(distances[2 * row + n]), distance_sums[n]);
            gaps[3].add(static_cast<double>(band_masses[2 * row + n]), band_sums[n]);
        }
        for (std::size_t n = 0; n < SETS; ++n) gaps[3].add(static_cast<double>(masses[row * SETS + n]), mass[n]);
        gaps[4].add(static_cast<double>(received_grad_sums[row]), sum);
        std::vector<double> sorted = p;
        std::sort(sorted.begin(), sorted.end(), [](double a, double b) { return a > b; });
        sorted.resize(static_cast<std::size_t>(std::max(top, k)));
        std::vector<char> listed(static_cast<std::size_t>(k));
        for (std::size_t n = 0; n < static_cast<std::size_t>(top); ++n) {
            const std::int64_t key = top_keys[row * static_cast<std::size_t>(top) + n];
            const double w = static_cast<double>(top_weights[row * static_cast<std::size_t>(top) + n]);
            gaps[5].add(w, sorted[n]);
            if (key < 0 ? w != 0 || key != -1 : key >= k || listed[static_cast<std::size_t>(key)]++) gaps[5].gap = INF;
            if (key >= 0 && key < k) gaps[5].add(w, p[static_cast<std::size_t>(key)]);
        }
    }
};

// The error of a second pass over a part of the heads, queries and keys; `p` are the weights of all.
double second_pass_error(const Kernels& kernels, const Case& c, const Call& call, const StatisticsCase& statistics_case,
                         const std::vector<double>& p, const std::vector<float>& lse, int threads) {
    SecondPass second;
    static_cast<Call&>(second) = call;
    const auto n = [](std::int64_t count) { return static_cast<std::size_t>(count); };
    second.top = lse.data() + statistics_case.rows, second.share = lse.data() + 2 * statistics_case.rows;
    second.last_b = c.b, second.first_h = c.h / 2, second.last_h = c.h;
    second.first_query = c.q / 4, second.last_query = c.q, second.first_key = c.k / 5, second.last_key = c.k;
    const std::int64_t h = c.h - second.first_h, q = c.q - second.first_query, k = c.k - second.first_key;
    const std::int64_t down = std::min<std::int64_t>(q, 3), across = std::min<std::int64_t>(k, 5);
    std::vector<float> weights(n(c.b * h * q * k)), received(n(c.b * h * StatisticsCase::GROUPS * k)),
        sums(n(c.b * h * down * across)), most = sums;
    second.weights = weights.data();
    second.group_count = StatisticsCase::GROUPS, second.group_of_query = statistics_case.group_of_query.data(),
    second.received = received.data();
    const Pooling poolings[] = {{down, across, false, sums.data(), nullptr},
                                {down, across, true, most.data(), nullptr}};
    second.pooling_count = 2, second.poolings = poolings;
    if (second_pass(kernels, second, {threads, nullptr, nullptr}) != Status::done) return INF;
    Gap gaps[4];
    for (std::int64_t head = 0; head < c.b * h; ++head) {
        std::vector<double> groups(n(StatisticsCase::GROUPS * k)), cells(n(down * across)), peaks = cells;
        const std::int64_t from = (head / h * c.h + second.first_h + head % h) * c.q + second.first_query;
        for (std::int64_t i = 0; i < q; ++i) {
            const std::int32_t group = statistics_case.group_of_query[n(second.first_query + i)];
            for (std::int64_t j = 0; j < k; ++j) {
                const double w = p[n((from + i) * c.k + second.first_key + j)];
                const std::size_t cell = n(i * down / q * across + j * across / k);
                gaps[0].add(static_cast<double>(weights[n((head * q + i) * k + j)]), w);
                if (group >= 0) groups[n(group * k + j)] += w;
                cells[cell] += w;
                peaks[cell] = std::max(peaks[cell], w);
            }
        }
        for (std::size_t i = 0; i < groups.size(); ++i) {
            gaps[1].add(static_cast<double>(received[n(head) * groups.size() + i]), groups[i]);
        }
        for (std::size_t i = 0; i < cells.size(); ++i) {
            gaps[2].add(static_cast<double>(sums[n(head) * cells.size() + i]), cells[i]);
            gaps[3].add(static_cast<double>(most[n(head) * cells.size() + i]), peaks[i]);
        }
    }
    double worst = 0;
    for (const Gap& gap : gaps) worst = std::max(worst, gap.share());
    return worst;
}

constexpr std::uint32_t SEED = 77, THRESHOLD = 0x40000000;  // a quarter of all words
constexpr double DROPOUT_SCALE = 4.0 / 3.0, SHIFT = -1.5;

// How far the core is off, as a multiple of what the type allows. `watched`: with statistics of the weights.
double relative_error(const Kernels& kernels, const Case& c, int threads, bool observed) {
    const Case& s = c;
    RandomNumbers rng(static_cast<std::uint32_t>(&c - cases));
    const auto n = [](std::int64_t count) { return static_cast<std::size_t>(count); };
    Tensor query(s.type, s.b, s.h, s.q, s.d, s.by_rows), key(s.type, s.b, s.g, s.k, s.d, s.by_rows),
        value(s.type, s.b, s.g, s.k, s.dv, s.by_rows), out(s.type, s.b, s.h, s.q, s.dv, s.by_rows),
        out_grad(s.type, s.b, s.h, s.q, s.dv), bias(s.type, 1, s.h, s.q, s.k),
        bias_grad(Type::float32, 1, s.h, s.q, s.k);
    Tensor query_grad = query, key_grad = key, value_grad = value;
    for (Tensor* t : {&query, &key, &value, &out_grad, &bias}) t->fill(rng);
    const std::int64_t distances = s.q + s.k - 1, all = s.b * s.h * s.q;
    std::vector<float> table(n(s.h * distances)), sink(n(s.h)), lse(n(3 * all)), delta(n(all)), lse_grad(n(all)),
        table_grad(n(s.h * distances));
    for (std::vector<float>* v : {&table, &sink, &lse_grad}) {
        for (float& x : *v) x = static_cast<float>(rng.number());
    }
    std::vector<std::int32_t> spans, kinds;
    std::vector<std::uint64_t> bitmaps;
    const std::int64_t across = (s.k + 63) / 64, down = (s.q + 63) / 64, ahead = s.k - s.q;
    for (std::int64_t i = 0; i < s.q; ++i) {
        const auto end = static_cast<std::int32_t>(std::clamp<std::int64_t>(i + 1 + ahead, 0, s.k));
        if (s.mask == Mask::causal) spans.insert(spans.end(), {0, end});
        // The last eleven keys and the first three; each seventh row sees nothing.
        if (s.mask == Mask::window) {
            const std::int32_t from = std::max(0, end - 11), last = i % 7 == 3 ? 0 : end;
            spans.insert(spans.end(), {0, std::min({3, from, last}), std::min(from, last), last});
        }
    }
    if (s.mask == Mask::tiles) {
        for (std::int64_t i = 0; i < across * down; ++i) kinds.push_back(static_cast<std::int32_t>((i + 2) % 4));
        for (int i = 0; i < 2 * 64; ++i) bitmaps.push_back(std::uint64_t{rng.word()} << 32 | rng.word());
    }
    const auto allowed = [&](std::int64_t i, std::int64_t j) {
        bool ok = spans.empty();
        const std::size_t count = n(static_cast<std::int64_t>(spans.size()) / s.q);
        for (std::size_t x = 0; x < count; x += 2) {
            ok = ok || (j >= spans[n(i) * count + x] && j < spans[n(i) * count + x + 1]);
        }
        if (kinds.empty()) return ok;
        const std::int32_t kind = kinds[n(i / 64 * across + j / 64)];
        return ok && (kind == 1 || (kind > 1 && (bitmaps[n((kind - 2) * 64 + j % 64)] >> (i % 64) & 1)));
    };

    Backward call;
    call.type = s.type;
    call.b = s.b, call.h = s.h, call.g = s.g, call.q = s.q, call.k = s.k, call.d = s.d, call.dv = s.dv;
    call.query = query.view(), call.key = key.view(), call.value = value.view();
    call.scale = s.scale;
    call.softcap = s.softcap;
    call.sigmoid = s.sigmoid;
    call.shift = static_cast<float>(SHIFT);
    if (s.sink) call.sink = sink.data();
    if (!spans.empty()) call.spans = spans.data(), call.span_count = static_cast<std::int64_t>(spans.size()) / s.q / 2;
    if (!kinds.empty()) call.tiles = kinds.data(), call.bitmaps = bitmaps.data();
    if (s.table) call.table = table.data(), call.table_h = distances;
    if (s.dense) call.bias = bias.view(), call.bias.stride[0] = 0, call.bias_type = s.type;
    if (s.dropout) call.seed = SEED, call.threshold = THRESHOLD, call.dropout_scale = static_cast<float>(DROPOUT_SCALE);
    Forward forward_call;
    static_cast<Call&>(forward_call) = call;
    forward_call.out = out.view();
    forward_call.lse = lse.data();
    StatisticsCase statistics_case(s, rng);
    const Statistics request = statistics_case.request(false), request_grads = statistics_case.request(true);
    if (observed) forward_call.statistics = &request, call.statistics = &request_grads;
    const Run run{threads, nullptr, nullptr};
    if (forward(kernels, forward_call, true, run) != Status::done) return INF;
    call.out = out.view(), call.out_grad = out_grad.view();
    call.lse = lse.data(), call.delta = delta.data();
    if (!s.sigmoid) call.lse_grad = lse_grad.data();
    call.query_grad = query_grad.view(), call.key_grad = key_grad.view(), call.value_grad = value_grad.view();
    if (s.table) call.table_grad = table_grad.data();
    if (s.dense) call.bias_grad = bias_grad.view(), call.bias_grad.stride[0] = 0;
    // A row that sees nothing has no log-sum-exp, and so no gradient of it.
    for (std::size_t i = 0; i < lse_grad.size(); ++i) lse_grad[i] = std::isinf(lse[i]) ? 0 : lse_grad[i];
    const std::vector<float> lse_grad_without_statistics = lse_grad;
    for (std::size_t i = 0; observed && i < lse_grad.size(); ++i) {
        if (std::isinf(lse[i])) continue;
        const double sink_share =
            s.sink ? std::exp(static_cast<double>(sink[i / n(s.q) % n(s.h)]) - static_cast<double>(lse[i])) : 0;
        lse_grad[i] =
            static_cast<float>(static_cast<double>(lse_grad[i]) - statistics_case.weighted_gradient(i, 1 - sink_share));
    }
    if (backward(kernels, call, run) != Status::done) return INF;

    Gap seen_gaps[6];
    std::vector<double> weights(n(observed ? all * s.k : 0));
    Gap outs, sums, query_grads, key_grads, value_grads, table_grads, bias_grads;
    std::vector<double> dk(n(s.b * s.g * s.k * s.d)), dv(n(s.b * s.g * s.k * s.dv)), dt(n(s.h * distances)),
        db(n(s.h * s.q * s.k));
    for (std::int64_t row = 0; row < all; ++row) {
        const std::int64_t b = row / s.q / s.h, h = row / s.q % s.h, i = row % s.q, g = h / (s.h / s.g);
        std::vector<double> score(n(s.k), -INF), slope(n(s.k)), p(n(s.k)), weight(n(s.k)), dp(n(s.k));
        double top = s.sink ? static_cast<double>(sink[n(h)]) : -INF;
        bool sees_key = false;
        for (std::int64_t j = 0; j < s.k; ++j) {
            if (!allowed(i, j)) continue;
            double x = 0;
            for (std::int64_t e = 0; e < s.d; ++e) x += query.get(b, h, i, e) * key.get(b, g, j, e);
            x *= static_cast<double>(s.scale);
            const double cap = static_cast<double>(s.softcap), t = cap > 0 ? std::tanh(x / cap) : 0;
            slope[n(j)] = 1 - t * t;
            if (cap > 0) x = cap * t;
            if (s.table) x += static_cast<double>(table[n(h * distances + i - j + s.k - 1)]);
            if (s.dense) x += bias.get(0, h, i, j);
            score[n(j)] = x;
            top = std::max(top, x);
            sees_key = true;
        }
        double sum = s.sink ? std::exp(static_cast<double>(sink[n(h)]) - top) : 0;
        for (std::int64_t j = 0; j < s.k; ++j) sum += sees_key ? std::exp(score[n(j)] - top) : 0;
        if (!s.sigmoid) sums.add(static_cast<double>(lse[n(row)]), sees_key ? top + std::log(sum) : -INF);
        const std::uint32_t row_hash =
            mix(mix(mix(SEED + static_cast<std::uint32_t>(b)) + static_cast<std::uint32_t>(h)) +
                static_cast<std::uint32_t>(i));
        double row_delta = s.sigmoid ? 0 : -static_cast<double>(lse_grad_without_statistics[n(row)]);
        for (std::int64_t j = 0; j < s.k; ++j) {
            p[n(j)] = !sees_key        ? 0
                      : s.sigmoid ? 1 / (1 + std::exp(-score[n(j)] - SHIFT))
                                  : std::exp(score[n(j)] - top) / sum;
            const bool keeps = !s.dropout || mix(mix(static_cast<std::uint32_t>(j)) ^ row_hash) >= THRESHOLD;
            const double factor = !keeps ? 0 : s.dropout ? DROPOUT_SCALE : 1;
            weight[n(j)] = p[n(j)] * factor;
            for (std::int64_t e = 0; e < s.dv; ++e) {
                dp[n(j)] += factor * out_grad.get(b, h, i, e) * value.get(b, g, j, e);
                dv[n(((b * s.g + g) * s.k + j) * s.dv + e)] += weight[n(j)] * out_grad.get(b, h, i, e);
            }
            if (observed && sees_key) dp[n(j)] += statistics_case.weight_gradient(n(row), n(row / s.q), i, j, p[n(j)]);
            row_delta += p[n(j)] * dp[n(j)];
        }
        if (observed) {
            statistics_case.compare(n(row), n(row / s.q), i, p, *std::max_element(score.begin(), score.end()),
                                    seen_gaps);
            std::copy(p.begin(), p.end(), weights.begin() + row * s.k);
        }
        for (std::int64_t e = 0; e < s.dv; ++e) {
            double x = 0;
            for (std::int64_t j = 0; j < s.k; ++j) x += weight[n(j)] * value.get(b, g, j, e);
            outs.add(out.get(b, h, i, e), x);
        }
        std::vector<double> dq(n(s.d));
        for (std::int64_t j = 0; j < s.k; ++j) {
            double ds = s.sigmoid ? p[n(j)] * (1 - p[n(j)]) * dp[n(j)] : p[n(j)] * (dp[n(j)] - row_delta);
            dt[n(h * distances + i - j + s.k - 1)] += ds;
            db[n((h * s.q + i) * s.k + j)] += ds;
            ds *= static_cast<double>(s.scale) * slope[n(j)];
            for (std::int64_t e = 0; e < s.d; ++e) {
                dq[n(e)] += ds * key.get(b, g, j, e);
                dk[n(((b * s.g + g) * s.k + j) * s.d + e)] += ds * query.get(b, h, i, e);
            }
        }
        for (std::int64_t e = 0; e < s.d; ++e) query_grads.add(query_grad.get(b, h, i, e), dq[n(e)]);
    }
    for (std::int64_t row = 0; row < s.b * s.g * s.k; ++row) {
        const std::int64_t b = row / s.k / s.g, g = row / s.k % s.g, j = row % s.k;
        for (std::int64_t e = 0; e < s.d; ++e) key_grads.add(key_grad.get(b, g, j, e), dk[n(row * s.d + e)]);
        for (std::int64_t e = 0; e < s.dv; ++e) value_grads.add(value_grad.get(b, g, j, e), dv[n(row * s.dv + e)]);
    }
    for (std::size_t i = 0; s.table && i < dt.size(); ++i) table_grads.add(static_cast<double>(table_grad[i]), dt[i]);
    for (std::int64_t i = 0; s.dense && i < s.h * s.q * s.k; ++i) {
        bias_grads.add(bias_grad.get(0, i / s.k / s.q, i / s.k % s.q, i % s.k), db[n(i)]);
    }

    const double allowed_share = s.type == Type::float32 ? 2e-5 : s.type == Type::bfloat16 ? 2e-2 : 3e-3;
    const struct {
        const char* name;
        const Gap& gap;
    } parts[] = {{"out", outs},         {"lse", sums},         {"query grad", query_grads}, {"key grad", key_grads},
                 {"value grad", value_grads}, {"table grad", table_grads}, {"bias grad", bias_grads}};
    double worst = 0;
    for (const auto& part : parts) {
        const double share = part.gap.share() / allowed_share;
        if (share > 1) {
            std::printf("  case %d: %s is %.3g off, of at most %.3g\n", static_cast<int>(&c - cases), part.name,
                        part.gap.gap, part.gap.size);
        }
        worst = std::max(worst, share);
    }
    if (!observed) return worst;
    // Statistics are float32 whatever the type.
    const char* const names[] = {"entropy",  "max score",  "distances", "bands and sets", "received gradient sums",
                                 "top keys", "second pass"};
    for (std::size_t i = 0; i < 7; ++i) {
        const double share = (i < 6 ? seen_gaps[i].share()
                                    : second_pass_error(kernels, s, call, statistics_case, weights, lse, threads)) /
                             2e-5;
        if (share > 1) {
            std::printf("  case %d: %s at %.3g of the error allowed\n", static_cast<int>(&c - cases), names[i], share);
        }
        worst = std::max(worst, share);
    }
    return worst;
}

}  // namespace

int main() {
#ifdef REGARD_SELF_TEST
    const std::vector<const Kernels*> available = {&regard::REGARD_SELF_TEST::kernels};
#else
    const std::vector<const Kernels*>& available = available_kernels();
#endif
    bool passed = true;
    for (const Kernels* kernels : available) {
        double worst = 0;
        int calls = 0;
        for (const Case& c : cases) {
            for (const bool observed : {false, true}) {
                if (observed && c.sigmoid) continue;
                worst = std::max(worst, relative_error(*kernels, c, 1 + calls++ % 3, observed));
            }
        }
        std::printf("%s %s: %d calls, the worst at %.2f of the error allowed\n", worst <= 1 ? "PASS" : "FAIL",
                    kernels->name, calls, worst);
        passed = passed && worst <= 1;
    }
    return passed ? 0 : 1;
}
