// The one file that knows Python. It only translates: src/regard/_native/core.pyi is what it offers.
#include <nanobind/nanobind.h>

#include "probe.h"

namespace nb = nanobind;
using regard::Probe;

namespace {

// The names for which `here` holds, or of all.
nb::tuple names(const Probe& probe, bool all) {
    nb::list out;
    for (const regard::Isa& isa : probe.isas) {
        if (all || isa.here) out.append(isa.name);
    }
    return nb::tuple(out);
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

    m.def("probe", &regard::probe, "Ask the processor: cheap, and safe on any machine.");
}
