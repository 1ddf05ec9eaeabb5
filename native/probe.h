// What this machine can run, and how this library was built.
#pragma once

#include <array>

namespace regard {

// One instruction set that a kernel may be compiled for.
struct Isa {
    const char* name;
    bool here;  // the processor has it, and the operating system saves its registers
};

struct Probe {
    const char* version;
    const char* compiler;
    const char* flags;
    const char* architecture;
    long standard;        // __cplusplus
    unsigned threads;     // hardware threads; 0 where the system does not say
    std::array<Isa, 6> isas;  // best first; the last is "portable", and is always here
};

// Asks the processor. Cheap (microseconds), and safe on any machine.
Probe probe() noexcept;

}  // namespace regard
