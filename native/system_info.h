// The instruction sets of this machine, and how this library was built.
#pragma once

#include <array>

namespace regard {

// One instruction set that a kernel may be compiled for.
struct Isa {
    const char* name;
    bool available;  // the processor has it, and the operating system saves its registers
};

struct SystemInfo {
    const char* version;
    const char* compiler;
    const char* flags;
    const char* architecture;
    long standard;        // __cplusplus
    unsigned threads;     // hardware threads; 0 where the system does not say
    std::array<Isa, 6> isas;  // best first; the last is "portable", and is always available
};

// Queries the processor. Cheap (microseconds), and safe on any machine.
SystemInfo system_info() noexcept;

}  // namespace regard
