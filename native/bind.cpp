// The one file that knows Python. It only translates: src/regard/_native/core.pyi is what it offers.
#include <nanobind/nanobind.h>

#include <stdexcept>
#include <vector>

#include "dispatch.h"
#include "probe.h"
#include "run.h"

namespace nb = nanobind;
using namespace regard;

namespace {

// The names for which `here` holds, or of all.
nb::tuple names(const Probe& probe, bool all) {
    nb::list out;
    for (const Isa& isa : probe.isas) {
        if (all || isa.here) out.append(isa.name);
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

// What Python builds, and what remains to be asked at its run.
struct Asked : Call {
    bool check = true;
};

// On Python's main thread: whether Ctrl-C was pressed. The error is then set in Python.
bool interrupted(void*) {
    nb::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

bool answer(Status status) {
    switch (status) {
        case Status::stopped: throw nb::python_error();
        case Status::no_memory: PyErr_NoMemory(); throw nb::python_error();
        default: return status == Status::done;
    }
}

// What Python asks for, with room for what it says in lists.
struct Wanted : Statistics {
    std::vector<std::int64_t> offset_list, band_list;
};

bool run_forward(const Asked& call, const nb::tuple& out, std::int64_t lse, const Wanted* statistics, int threads) {
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
    return answer(status);
}

void run_backward(const Asked& call, const nb::tuple& out, const nb::tuple& out_grad, std::int64_t lse,
                  std::int64_t lse_grad, std::int64_t delta, const nb::tuple& query_grad, const nb::tuple& key_grad,
                  const nb::tuple& value_grad, std::int64_t table_grad, const nb::object& bias_grad,
                  const Wanted* statistics, int threads) {
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
    answer(status);
}

// What is asked of a second visit.
struct Again : Revisit {
    std::vector<Pooling> pooling_list;
};

void run_revisit(const Asked& call, const Again& asked, int threads) {
    Revisit pass = asked;
    static_cast<Call&>(pass) = call;
    if (pass.first_b < 0 || pass.last_b > call.b || pass.first_h < 0 || pass.last_h > call.h || pass.first_query < 0 ||
        pass.last_query > call.q || pass.first_key < 0 || pass.last_key > call.k) {
        throw std::invalid_argument("a box beyond the call");
    }
    pass.pooling_count = static_cast<std::int64_t>(asked.pooling_list.size());
    pass.poolings = asked.pooling_list.data();
    Status status;
    {
        nb::gil_scoped_release unlocked;
        status = revisit(kernels_in_use(), pass, Run{threads, interrupted, nullptr});
    }
    answer(status);
}

}  // namespace

NB_MODULE(core, m) {
    m.doc() = "The compiled core of regard.";

    nb::class_<Probe>(m, "Probe", "What this machine can run, and how this core was built.")
        .def_ro("version", &Probe::version)
        .def_ro("compiler", &Probe::compiler)
        .def_ro("flags", &Probe::flags)
        .def_ro("architecture", &Probe::architecture)
        .def_ro("standard", &Probe::standard)
        .def_ro("threads", &Probe::threads)
        .def_prop_ro("isas", [](const Probe& p) { return names(p, false); })
        .def_prop_ro("known", [](const Probe& p) { return names(p, true); });

    m.def("probe", &probe, "Ask the processor: cheap, and safe on any machine.");

    nb::class_<Asked>(m, "Call", "One attention call.")
        .def("__init__",
             [](Asked* self, int type, const nb::tuple& sizes, const nb::tuple& query, const nb::tuple& key,
                const nb::tuple& value, float scale, float softcap) {
                 if (sizes.size() != 7) throw std::invalid_argument("sizes are (b, h, g, q, k, d, dv)");
                 new (self) Asked();
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
        .def_prop_ro("unit", [](const Asked& c) { return score_unit(c); })
        .def("set_sigmoid",
             [](Asked& c, float shift) {
                 c.sigmoid = true;
                 c.shift = shift;
             })
        .def("set_sink", [](Asked& c, std::int64_t p) { c.sink = address<const float>(p); })
        .def("set_spans",
             [](Asked& c, std::int64_t p, std::int64_t count, std::int64_t b, std::int64_t h) {
                 if (count < 1 || count > MOST_SPANS) throw std::invalid_argument("too many spans, or none");
                 c.spans = address<const std::int32_t>(p);
                 c.span_count = count;
                 c.spans_b = b;
                 c.spans_h = h;
             })
        .def("set_tiles",
             [](Asked& c, std::int64_t p, std::int64_t b, std::int64_t h, std::int64_t bitmaps) {
                 c.tiles = address<const std::int32_t>(p);
                 c.tiles_b = b;
                 c.tiles_h = h;
                 c.bitmaps = address<const std::uint64_t>(bitmaps);
             })
        .def("set_table",
             [](Asked& c, std::int64_t p, std::int64_t h) {
                 c.table = address<const float>(p);
                 c.table_h = h;
             })
        .def("set_bias",
             [](Asked& c, const nb::tuple& view, int type) {
                 c.bias = view_of(view);
                 c.bias_type = type_of(type);
             })
        .def("set_dropout",
             [](Asked& c, std::uint32_t seed, std::uint32_t threshold, float kept) {
                 c.seed = seed;
                 c.threshold = threshold;
                 c.kept = kept;
             })
        .def("set_spoilt", [](Asked& c, std::int64_t query, std::int64_t key) {
            c.check = false;
            c.spoilt_query = address<const std::uint8_t>(query);
            c.spoilt_key = address<const std::uint8_t>(key);
        });

    nb::class_<Wanted>(m, "Statistics", "What is asked of the weights besides the output; or gradients of that.")
        .def(nb::init<>())
        .def("set_entropy", [](Wanted& w, std::int64_t p) { w.entropy = address<float>(p); })
        .def("set_greatest", [](Wanted& w, std::int64_t p) { w.greatest = address<float>(p); })
        .def("set_top",
             [](Wanted& w, std::int64_t count, std::int64_t keys, std::int64_t weights) {
                 w.top_count = count;
                 w.top_keys = address<std::int64_t>(keys);
                 w.top_weights = address<float>(weights);
             })
        .def("set_distances",
             [](Wanted& w, const nb::tuple& offsets, std::int64_t p) {
                 for (const nb::handle x : offsets) w.offset_list.push_back(nb::cast<std::int64_t>(x));
                 w.offset_count = static_cast<std::int64_t>(w.offset_list.size());
                 w.offsets = w.offset_list.data();
                 w.distances = address<float>(p);
             })
        .def("set_bands",
             [](Wanted& w, const nb::tuple& bands, std::int64_t p) {
                 for (const nb::handle x : bands) {
                     const auto band = nb::cast<nb::tuple>(x);
                     w.band_list.push_back(nb::cast<std::int64_t>(band[0]));
                     w.band_list.push_back(nb::cast<std::int64_t>(band[1]));
                 }
                 w.band_count = static_cast<std::int64_t>(w.band_list.size() / 2);
                 w.bands = w.band_list.data();
                 w.band_masses = address<float>(p);
             })
        .def("set_sets",
             [](Wanted& w, std::int64_t range_count, std::int64_t ranges, std::int64_t in_sets, std::int64_t sets,
                std::int64_t set_count, std::int64_t p) {
                 w.range_count = range_count;
                 w.ranges = address<const std::int32_t>(ranges);
                 w.in_sets = address<const std::int32_t>(in_sets);
                 w.sets = address<const std::int32_t>(sets);
                 w.set_count = set_count;
                 w.set_masses = address<float>(p);
             })
        .def("set_keyed", [](Wanted& w, std::int64_t lot_count, std::int64_t lot, std::int64_t keyed, std::int64_t p) {
            w.lot_count = lot_count;
            w.lot = address<const std::int32_t>(lot);
            w.keyed = address<const float>(keyed);
            w.keyed_sums = address<float>(p);
        });

    nb::class_<Again>(m, "Revisit", "What is asked of the weights when they are made once more.")
        .def("__init__",
             [](Again* self, std::int64_t top, std::int64_t share, const nb::tuple& box) {
                 if (box.size() != 8) throw std::invalid_argument("a box is from and to: b, h, queries, keys");
                 new (self) Again();
                 self->top = address<const float>(top);
                 self->share = address<const float>(share);
                 std::int64_t* const to[] = {&self->first_b,     &self->last_b,     &self->first_h,   &self->last_h,
                                             &self->first_query, &self->last_query, &self->first_key, &self->last_key};
                 for (std::size_t i = 0; i < 8; ++i) *to[i] = nb::cast<std::int64_t>(box[i]);
             })
        .def("set_weights", [](Again& a, std::int64_t p) { a.weights = address<float>(p); })
        .def("set_received",
             [](Again& a, std::int64_t lot_count, std::int64_t lot, std::int64_t p) {
                 a.lot_count = lot_count;
                 a.lot = address<const std::int32_t>(lot);
                 a.received = address<float>(p);
             })
        .def("add_pooling", [](Again& a, std::int64_t rows, std::int64_t cols, bool maximum, std::int64_t p) {
            if (rows < 1 || cols < 1) throw std::invalid_argument("a pooled map has a row and a column at least");
            a.pooling_list.push_back({rows, cols, maximum, address<float>(p), nullptr});
        });

    m.def("forward", &run_forward, nb::arg("call"), nb::arg("out"), nb::arg("lse"), nb::arg("statistics").none(),
          nb::arg("threads"));
    m.def("revisit", &run_revisit, nb::arg("call"), nb::arg("asked"), nb::arg("threads"));
    m.def("backward", &run_backward, nb::arg("call"), nb::arg("out"), nb::arg("out_grad"), nb::arg("lse"),
          nb::arg("lse_grad"), nb::arg("delta"), nb::arg("query_grad"), nb::arg("key_grad"), nb::arg("value_grad"),
          nb::arg("table_grad"), nb::arg("bias_grad").none(), nb::arg("statistics").none(), nb::arg("threads"));

    m.def("isa", [] { return kernels_in_use().name; });
    m.def("kernels", [] {
        nb::list out;
        for (const Kernels* kernels : kernels_here()) out.append(kernels->name);
        return nb::tuple(out);
    });
    m.def("use", [](const char* isa) {
        if (use_kernels(isa)) return;
        std::string allowed;
        for (const Kernels* kernels : kernels_here()) allowed += (allowed.empty() ? "" : ", ") + std::string(kernels->name);
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
