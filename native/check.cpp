// The core against its meaning, without Python: each instruction set runs a handful of calls, forward and backward,
// beside plain loops in double precision. For processors that are only emulated; elsewhere tests/ does more.
//
//     cd native
//     c++ -std=c++20 -O2 -ffp-contract=off -Wno-psabi -DREGARD_CHECK=neon check.cpp parallel.cpp forward.cpp backward.cpp \
//         revisit.cpp peak.cpp isa/neon.cpp
//     ./a.out
//
// REGARD_CHECK names the one namespace of kernels to run; without it, all run that dispatch.cpp finds here.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "run.h"

#ifdef REGARD_CHECK
namespace regard::REGARD_CHECK {
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
class Draw {
  public:
    explicit Draw(std::uint32_t seed) : state_(seed * 2654435761u + 1) {}
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
    void fill(Draw& draw) {
        const std::size_t count = bytes.size() / (type == Type::float32 ? 4 : 2);
        for (std::size_t i = 0; i < count; ++i) encode(type, bytes.data(), i, draw.number());
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

// The largest distance, as a share of the largest number that is wanted.
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

constexpr std::uint32_t SEED = 77, THRESHOLD = 0x40000000;
constexpr double KEPT = 4.0 / 3.0, SHIFT = -1.5;

// How far the core is off, as a multiple of what the type allows.
double off(const Kernels& kernels, const Case& c, int threads) {
    const Case& s = c;
    Draw draw(static_cast<std::uint32_t>(&c - cases));
    const auto n = [](std::int64_t count) { return static_cast<std::size_t>(count); };
    Tensor query(s.type, s.b, s.h, s.q, s.d, s.by_rows), key(s.type, s.b, s.g, s.k, s.d, s.by_rows),
        value(s.type, s.b, s.g, s.k, s.dv, s.by_rows), out(s.type, s.b, s.h, s.q, s.dv, s.by_rows),
        out_grad(s.type, s.b, s.h, s.q, s.dv), bias(s.type, 1, s.h, s.q, s.k), bias_grad(Type::float32, 1, s.h, s.q, s.k);
    Tensor query_grad = query, key_grad = key, value_grad = value;
    for (Tensor* t : {&query, &key, &value, &out_grad, &bias}) t->fill(draw);
    const std::int64_t distances = s.q + s.k - 1, all = s.b * s.h * s.q;
    std::vector<float> table(n(s.h * distances)), sink(n(s.h)), lse(n(3 * all)), delta(n(all)), lse_grad(n(all)),
        table_grad(n(s.h * distances));
    for (std::vector<float>* v : {&table, &sink, &lse_grad}) {
        for (float& x : *v) x = static_cast<float>(draw.number());
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
        for (int i = 0; i < 2 * 64; ++i) bitmaps.push_back(std::uint64_t{draw.word()} << 32 | draw.word());
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
    if (s.dropout) call.seed = SEED, call.threshold = THRESHOLD, call.kept = static_cast<float>(KEPT);
    Forward forward_call;
    static_cast<Call&>(forward_call) = call;
    forward_call.out = out.view();
    forward_call.lse = lse.data();
    const Run run{threads, nullptr, nullptr};
    if (forward(kernels, forward_call, true, run) != Status::done) return INF;
    call.out = out.view(), call.out_grad = out_grad.view();
    call.lse = lse.data(), call.delta = delta.data();
    if (!s.sigmoid) call.lse_grad = lse_grad.data();
    call.query_grad = query_grad.view(), call.key_grad = key_grad.view(), call.value_grad = value_grad.view();
    if (s.table) call.table_grad = table_grad.data();
    if (s.dense) call.bias_grad = bias_grad.view(), call.bias_grad.stride[0] = 0;
    // A row that sees nothing has no log-sum-exp to ask a gradient of.
    for (std::size_t i = 0; i < lse_grad.size(); ++i) lse_grad[i] = std::isinf(lse[i]) ? 0 : lse_grad[i];
    if (backward(kernels, call, run) != Status::done) return INF;

    Gap outs, sums, query_grads, key_grads, value_grads, table_grads, bias_grads;
    std::vector<double> dk(n(s.b * s.g * s.k * s.d)), dv(n(s.b * s.g * s.k * s.dv)), dt(n(s.h * distances)),
        db(n(s.h * s.q * s.k));
    for (std::int64_t row = 0; row < all; ++row) {
        const std::int64_t b = row / s.q / s.h, h = row / s.q % s.h, i = row % s.q, g = h / (s.h / s.g);
        std::vector<double> score(n(s.k), -INF), slope(n(s.k)), p(n(s.k)), weight(n(s.k)), dp(n(s.k));
        double top = s.sink ? static_cast<double>(sink[n(h)]) : -INF;
        bool sees = false;
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
            sees = true;
        }
        double sum = s.sink ? std::exp(static_cast<double>(sink[n(h)]) - top) : 0;
        for (std::int64_t j = 0; j < s.k; ++j) sum += sees ? std::exp(score[n(j)] - top) : 0;
        if (!s.sigmoid) sums.add(static_cast<double>(lse[n(row)]), sees ? top + std::log(sum) : -INF);
        const std::uint32_t seen = mix(mix(mix(SEED + static_cast<std::uint32_t>(b)) + static_cast<std::uint32_t>(h)) +
                                       static_cast<std::uint32_t>(i));
        double delta_here = s.sigmoid ? 0 : -static_cast<double>(lse_grad[n(row)]);
        for (std::int64_t j = 0; j < s.k; ++j) {
            p[n(j)] = !sees        ? 0
                      : s.sigmoid ? 1 / (1 + std::exp(-score[n(j)] - SHIFT))
                                  : std::exp(score[n(j)] - top) / sum;
            const bool stays = !s.dropout || mix(mix(static_cast<std::uint32_t>(j)) ^ seen) >= THRESHOLD;
            const double factor = !stays ? 0 : s.dropout ? KEPT : 1;
            weight[n(j)] = p[n(j)] * factor;
            for (std::int64_t e = 0; e < s.dv; ++e) {
                dp[n(j)] += factor * out_grad.get(b, h, i, e) * value.get(b, g, j, e);
                dv[n(((b * s.g + g) * s.k + j) * s.dv + e)] += weight[n(j)] * out_grad.get(b, h, i, e);
            }
            delta_here += p[n(j)] * dp[n(j)];
        }
        for (std::int64_t e = 0; e < s.dv; ++e) {
            double x = 0;
            for (std::int64_t j = 0; j < s.k; ++j) x += weight[n(j)] * value.get(b, g, j, e);
            outs.add(out.get(b, h, i, e), x);
        }
        std::vector<double> dq(n(s.d));
        for (std::int64_t j = 0; j < s.k; ++j) {
            double ds = s.sigmoid ? p[n(j)] * (1 - p[n(j)]) * dp[n(j)] : p[n(j)] * (dp[n(j)] - delta_here);
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
    return worst;
}

}  // namespace

int main() {
#ifdef REGARD_CHECK
    const std::vector<const Kernels*> here = {&regard::REGARD_CHECK::kernels};
#else
    const std::vector<const Kernels*>& here = kernels_here();
#endif
    bool good = true;
    for (const Kernels* kernels : here) {
        double worst = 0;
        for (const Case& c : cases) worst = std::max(worst, off(*kernels, c, 1 + static_cast<int>(&c - cases) % 3));
        std::printf("%s %s: %zu calls, the worst at %.2f of the error allowed\n", worst <= 1 ? "PASS" : "FAIL",
                    kernels->name, std::size(cases), worst);
        good = good && worst <= 1;
    }
    return good ? 0 : 1;
}
