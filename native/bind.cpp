// The one file that knows Python. It only translates: src/regard/_native/core.pyi is what it offers.
#include <nanobind/nanobind.h>

#include <stdexcept>
#include <vector>

#include "dispatch.h"
#include "system_info.h"
#include "run.h"

namespace nb = nanobind;
using namespace regard;

namespace {

// The names of available instruction sets, or of all.
nb::tuple names(const SystemInfo& system_info, bool all) {
    nb::list out;
    for (const Isa& isa : system_info.isas) {
        if (all || isa.available) out.append(isa.name);
    }
    return nb::tuple(out);
}

template <class T>
T* address(std::int64_t value) {
    return reinterpret_cast<T*>(static_cast<std::intptr_t>(value));
}

View view_of(const nb::tuple& parts) {
    if (parts.size() != 5) throw std::invalid_argument("a view is (address, four strides)");
    View view;
    view.data = address<void>(nb::cast<std::int64_t>(parts[0]));
    for (std::size_t i = 0; i < 4; ++i) view.stride[i] = nb::cast<std::int64_t>(parts[i + 1]);
    return view;
}

Type type_of(int code) {
    if (code < 0 || code > 2) throw std::invalid_argument("a type is 0 (float32), 1 (bfloat16) or 2 (float16)");
    return static_cast<Type>(code);
}

// A call as Python builds it; `check`: whether numbers that are not finite are to be detected.
struct BoundCall : Call {
    bool check = true;
};

// On Python's main thread: whether Ctrl-C was pressed. The error is then set in Python.
bool interrupted(void*) {
    nb::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

bool check_status(Status status) {
    switch (status) {
        case Status::stopped: throw nb::python_error();
        case Status::no_memory: PyErr_NoMemory(); throw nb::python_error();
        default: return status == Status::done;
    }
}

// Statistics as Python requests them, with the lists that they point to.
struct BoundStatistics : Statistics {
    std::vector<std::int64_t> offset_list, band_list;
};

bool run_forward(const BoundCall& call, const nb::tuple& out, std::int64_t lse, const BoundStatistics* statistics,
                 int threads) {
    Forward pass;
    static_cast<Call&>(pass) = call;
    pass.out = view_of(out);
    pass.lse = address<float>(lse);
    pass.statistics = statistics;
    Status status;
    {
        nb::gil_scoped_release unlocked;
        status = forward(kernels_in_use(), pass, call.check, Run{threads, interrupted, nullptr});
    }
    return check_status(status);
}

void run_backward(const BoundCall& call, const nb::tuple& out, const nb::tuple& out_grad, std::int64_t lse,
                  std::int64_t lse_grad, std::int64_t delta, const nb::tuple& query_grad, const nb::tuple& key_grad,
                  const nb::tuple& value_grad, std::int64_t table_grad, const nb::object& bias_grad,
                  const BoundStatistics* statistics, int threads) {
    Backward pass;
    static_cast<Call&>(pass) = call;
    pass.out = view_of(out);
    pass.out_grad = view_of(out_grad);
    pass.lse = address<const float>(lse);
    pass.lse_grad = address<const float>(lse_grad);
    pass.delta = address<float>(delta);
    pass.query_grad = view_of(query_grad);
    pass.key_grad = view_of(key_grad);
    pass.value_grad = view_of(value_grad);
    pass.table_grad = address<float>(table_grad);
    if (!bias_grad.is_none()) pass.bias_grad = view_of(nb::cast<nb::tuple>(bias_grad));
    pass.statistics = statistics;
    Status status;
    {
        nb::gil_scoped_release unlocked;
        status = backward(kernels_in_use(), pass, Run{threads, interrupted, nullptr});
    }
    check_status(status);
}

// A second pass as Python requests it, with the list that it points to.
struct BoundSecondPass : SecondPass {
    std::vector<Pooling> pooling_list;
};

void run_second_pass(const BoundCall& call, const BoundSecondPass& request, int threads) {
    SecondPass pass = request;
    static_cast<Call&>(pass) = call;
    if (pass.first_b < 0 || pass.last_b > call.b || pass.first_h < 0 || pass.last_h > call.h || pass.first_query < 0 ||
        pass.last_query > call.q || pass.first_key < 0 || pass.last_key > call.k) {
        throw std::invalid_argument("a box beyond the call");
    }
    pass.pooling_count = static_cast<std::int64_t>(request.pooling_list.size());
    pass.poolings = request.pooling_list.data();
    Status status;
    {
        nb::gil_scoped_release unlocked;
        status = second_pass(kernels_in_use(), pass, Run{threads, interrupted, nullptr});
    }
    check_status(status);
}

}  // namespace

NB_MODULE(core, m) {
    m.doc() = "The compiled core of regard.";

    nb::class_<SystemInfo>(m, "SystemInfo", "The instruction sets of this machine, and how this core was built.")
        .def_ro("version", &SystemInfo::version)
        .def_ro("compiler", &SystemInfo::compiler)
        .def_ro("flags", &SystemInfo::flags)
        .def_ro("architecture", &SystemInfo::architecture)
        .def_ro("standard", &SystemInfo::standard)
        .def_ro("threads", &SystemInfo::threads)
        .def_prop_ro("isas", [](const SystemInfo& p) { return names(p, false); })
        .def_prop_ro("known", [](const SystemInfo& p) { return names(p, true); });

    m.def("system_info", &system_info, "Query the processor: cheap, and safe on any machine.");

    nb::class_<BoundCall>(m, "Call", "One attention call.")
        .def("__init__",
             [](BoundCall* self, int type, const nb::tuple& sizes, const nb::tuple& query, const nb::tuple& key,
                const nb::tuple& value, float scale, float softcap) {
                 if (sizes.size() != 7) throw std::invalid_argument("sizes are (b, h, g, q, k, d, dv)");
                 new (self) BoundCall();
                 self->type = type_of(type);
                 std::int64_t* const to[] = {&self->b, &self->h, &self->g, &self->q, &self->k, &self->d, &self->dv};
                 for (std::size_t i = 0; i < 7; ++i) *to[i] = nb::cast<std::int64_t>(sizes[i]);
                 if (self->b < 1 || self->g < 1 || self->h < self->g || self->h % self->g || self->q < 1 ||
                     self->k < 1 || self->k > INT32_MAX || self->d < 1 || self->d > 256 || self->dv < 1 ||
                     self->dv > 256) {
                     throw std::invalid_argument("sizes that the kernels do not take");
                 }
                 self->query = view_of(query);
                 self->key = view_of(key);
                 self->value = view_of(value);
                 self->scale = scale;
                 self->softcap = softcap;
             },
             nb::arg("dtype"), nb::arg("sizes"), nb::arg("query"), nb::arg("key"), nb::arg("value"), nb::arg("scale"),
             nb::arg("softcap") = 0.0f)
        .def_prop_ro("unit", [](const BoundCall& c) { return score_unit(c); })
        .def("set_sigmoid",
             [](BoundCall& c, float shift) {
                 c.sigmoid = true;
                 c.shift = shift;
             })
        .def("set_sink", [](BoundCall& c, std::int64_t p) { c.sink = address<const float>(p); })
        .def("set_spans",
             [](BoundCall& c, std::int64_t p, std::int64_t count, std::int64_t b, std::int64_t h) {
                 if (count < 1 || count > MAX_SPANS) throw std::invalid_argument("too many spans, or none");
                 c.spans = address<const std::int32_t>(p);
                 c.span_count = count;
                 c.spans_b = b;
                 c.spans_h = h;
             })
        .def("set_tiles",
             [](BoundCall& c, std::int64_t p, std::int64_t b, std::int64_t h, std::int64_t bitmaps) {
                 c.tiles = address<const std::int32_t>(p);
                 c.tiles_b = b;
                 c.tiles_h = h;
                 c.bitmaps = address<const std::uint64_t>(bitmaps);
             })
        .def("set_table",
             [](BoundCall& c, std::int64_t p, std::int64_t h) {
                 c.table = address<const float>(p);
                 c.table_h = h;
             })
        .def("set_bias",
             [](BoundCall& c, const nb::tuple& view, int type) {
                 c.bias = view_of(view);
                 c.bias_type = type_of(type);
             })
        .def("set_dropout",
             [](BoundCall& c, std::uint32_t seed, std::uint32_t threshold, float dropout_scale) {
                 c.seed = seed;
                 c.threshold = threshold;
                 c.dropout_scale = dropout_scale;
             })
        .def("set_non_finite", [](BoundCall& c, std::int64_t query, std::int64_t key) {
            c.check = false;
            c.non_finite_query = address<const std::uint8_t>(query);
            c.non_finite_key = address<const std::uint8_t>(key);
        });

    nb::class_<BoundStatistics>(m, "Statistics",
                                "Statistics of the weights to compute besides the output; or their gradients.")
        .def(nb::init<>())
        .def("set_entropy", [](BoundStatistics& w, std::int64_t p) { w.entropy = address<float>(p); })
        .def("set_max_score", [](BoundStatistics& w, std::int64_t p) { w.max_score = address<float>(p); })
        .def("set_top_keys",
             [](BoundStatistics& w, std::int64_t count, std::int64_t keys, std::int64_t weights) {
                 w.top_count = count;
                 w.top_keys = address<std::int64_t>(keys);
                 w.top_weights = address<float>(weights);
             })
        .def("set_distances",
             [](BoundStatistics& w, const nb::tuple& offsets, std::int64_t p) {
                 for (const nb::handle x : offsets) w.offset_list.push_back(nb::cast<std::int64_t>(x));
                 w.offset_count = static_cast<std::int64_t>(w.offset_list.size());
                 w.offsets = w.offset_list.data();
                 w.distances = address<float>(p);
             })
        .def("set_bands",
             [](BoundStatistics& w, const nb::tuple& bands, std::int64_t p) {
                 for (const nb::handle x : bands) {
                     const auto band = nb::cast<nb::tuple>(x);
                     w.band_list.push_back(nb::cast<std::int64_t>(band[0]));
                     w.band_list.push_back(nb::cast<std::int64_t>(band[1]));
                 }
                 w.band_count = static_cast<std::int64_t>(w.band_list.size() / 2);
                 w.bands = w.band_list.data();
                 w.band_masses = address<float>(p);
             })
        .def("set_key_sets",
             [](BoundStatistics& w, std::int64_t range_count, std::int64_t ranges, std::int64_t set_starts,
                std::int64_t set_members, std::int64_t set_count, std::int64_t p) {
                 w.range_count = range_count;
                 w.ranges = address<const std::int32_t>(ranges);
                 w.set_starts = address<const std::int32_t>(set_starts);
                 w.set_members = address<const std::int32_t>(set_members);
                 w.set_count = set_count;
                 w.set_masses = address<float>(p);
             })
        .def("set_received_gradient", [](BoundStatistics& w, std::int64_t group_count, std::int64_t group_of_query,
                                         std::int64_t received_grad, std::int64_t p) {
            w.group_count = group_count;
            w.group_of_query = address<const std::int32_t>(group_of_query);
            w.received_grad = address<const float>(received_grad);
            w.received_grad_sums = address<float>(p);
        });

    nb::class_<BoundSecondPass>(m, "SecondPass", "What a second pass over the weights computes.")
        .def("__init__",
             [](BoundSecondPass* self, std::int64_t top, std::int64_t share, const nb::tuple& box) {
                 if (box.size() != 8) throw std::invalid_argument("a box is from and to: b, h, queries, keys");
                 new (self) BoundSecondPass();
                 self->top = address<const float>(top);
                 self->share = address<const float>(share);
                 std::int64_t* const to[] = {&self->first_b,     &self->last_b,     &self->first_h,   &self->last_h,
                                             &self->first_query, &self->last_query, &self->first_key, &self->last_key};
                 for (std::size_t i = 0; i < 8; ++i) *to[i] = nb::cast<std::int64_t>(box[i]);
             })
        .def("set_weights", [](BoundSecondPass& a, std::int64_t p) { a.weights = address<float>(p); })
        .def("set_received",
             [](BoundSecondPass& a, std::int64_t group_count, std::int64_t group_of_query, std::int64_t p) {
                 a.group_count = group_count;
                 a.group_of_query = address<const std::int32_t>(group_of_query);
                 a.received = address<float>(p);
             })
        .def("add_pooling", [](BoundSecondPass& a, std::int64_t rows, std::int64_t cols, bool maximum, std::int64_t p) {
            if (rows < 1 || cols < 1) throw std::invalid_argument("a pooled map has a row and a column at least");
            a.pooling_list.push_back({rows, cols, maximum, address<float>(p), nullptr});
        });

    m.def("forward", &run_forward, nb::arg("call"), nb::arg("out"), nb::arg("lse"), nb::arg("statistics").none(),
          nb::arg("threads"));
    m.def("second_pass", &run_second_pass, nb::arg("call"), nb::arg("request"), nb::arg("threads"));
    m.def("backward", &run_backward, nb::arg("call"), nb::arg("out"), nb::arg("out_grad"), nb::arg("lse"),
          nb::arg("lse_grad"), nb::arg("delta"), nb::arg("query_grad"), nb::arg("key_grad"), nb::arg("value_grad"),
          nb::arg("table_grad"), nb::arg("bias_grad").none(), nb::arg("statistics").none(), nb::arg("threads"));

    m.def("isa", [] { return kernels_in_use().name; });
    m.def("kernels", [] {
        nb::list out;
        for (const Kernels* kernels : available_kernels()) out.append(kernels->name);
        return nb::tuple(out);
    });
    m.def("use", [](const char* isa) {
        if (use_kernels(isa)) return;
        std::string allowed;
        for (const Kernels* kernels : available_kernels()) {
            allowed += (allowed.empty() ? "" : ", ") + std::string(kernels->name);
        }
        throw nb::value_error(("no kernels for '" + std::string(isa) + "' here; allowed: " + allowed).c_str());
    });
    m.def("fma_peak", [](int threads, int type, double seconds) {
        nb::gil_scoped_release unlocked;
        return fma_peak(kernels_in_use(), type_of(type), seconds, threads);
    });
    m.def("read_bandwidth", [](int threads, std::int64_t bytes, double seconds) {
        nb::gil_scoped_release unlocked;
        return read_bandwidth(kernels_in_use(), bytes, seconds, threads);
    });
}
