#include "system_info.h"

#include <cstdint>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__) || defined(_M_IX86)
#define REGARD_X86 1
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace regard {
namespace {

struct X86 {
    bool avx2 = false, avx512 = false, avx512_bf16 = false, amx_bf16 = false;
};

#ifdef REGARD_X86

struct Leaf {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zeros for a leaf that the processor does not know.
Leaf cpuid(std::uint32_t leaf, std::uint32_t sub) noexcept {
    Leaf out;
#ifdef _MSC_VER
    int regs[4];
    __cpuid(regs, 0);
    if (static_cast<std::uint32_t>(regs[0]) < leaf) return out;
    __cpuidex(regs, static_cast<int>(leaf), static_cast<int>(sub));
    out.eax = static_cast<std::uint32_t>(regs[0]);
    out.ebx = static_cast<std::uint32_t>(regs[1]);
    out.ecx = static_cast<std::uint32_t>(regs[2]);
    out.edx = static_cast<std::uint32_t>(regs[3]);
#else
    __get_cpuid_count(leaf, sub, &out.eax, &out.ebx, &out.ecx, &out.edx);
#endif
    return out;
}

// XCR0: the register files that the operating system saves when it switches threads. Without its
// consent a processor may have AVX-512 and still trap on its first instruction.
// Only call where CPUID says OSXSAVE.
std::uint64_t saved_register_state() noexcept {
#ifdef _MSC_VER
    return _xgetbv(0);
#else
    // Not the intrinsic: that would need -mxsave, and this file is compiled for any x86.
    std::uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

constexpr bool bit(std::uint32_t word, int n) noexcept { return ((word >> n) & 1u) != 0; }

constexpr bool has_all(std::uint64_t word, std::uint64_t mask) noexcept { return (word & mask) == mask; }

X86 detect() noexcept {
    constexpr std::uint64_t ymm = 0x6;        // XMM, YMM
    constexpr std::uint64_t zmm = ymm | 0xe0;  // opmask, ZMM 0-15, ZMM 16-31
    constexpr std::uint64_t tiles = 0x60000;   // TILECFG, TILEDATA

    X86 out;
    const Leaf leaf1 = cpuid(1, 0);
    const bool osxsave = bit(leaf1.ecx, 27);
    if (!osxsave) return out;
    const std::uint64_t saved = saved_register_state();
    const Leaf leaf7 = cpuid(7, 0);
    const Leaf leaf7_1 = leaf7.eax >= 1 ? cpuid(7, 1) : Leaf{};

    const bool fma = bit(leaf1.ecx, 12), avx = bit(leaf1.ecx, 28), f16c = bit(leaf1.ecx, 29);
    const bool avx2 = bit(leaf7.ebx, 5);
    const bool f = bit(leaf7.ebx, 16), dq = bit(leaf7.ebx, 17);
    const bool avx512_bf16 = bit(leaf7_1.eax, 5), amx_bf16 = bit(leaf7.edx, 22), amx_tile = bit(leaf7.edx, 24);
    const bool bw = bit(leaf7.ebx, 30), vl = bit(leaf7.ebx, 31);

    // Each level holds the one before it, so that a kernel may mix their instructions.
    out.avx2 = has_all(saved, ymm) && avx && avx2 && fma && f16c;
    out.avx512 = out.avx2 && has_all(saved, zmm) && f && dq && bw && vl;
    out.avx512_bf16 = out.avx512 && avx512_bf16;
    // Linux also requires a request (arch_prctl) before a process uses tiles: for the kernels to make.
    out.amx_bf16 = out.avx512_bf16 && has_all(saved, tiles) && amx_bf16 && amx_tile;
    return out;
}

#else

X86 detect() noexcept { return {}; }

#endif

// Every 64-bit Arm has it; asking 32-bit ones is not worth its code.
#if defined(__aarch64__) || defined(_M_ARM64)
constexpr bool neon = true;
#else
constexpr bool neon = false;
#endif

constexpr const char* architecture() noexcept {
#if defined(__x86_64__) || defined(_M_X64)
    return "x86-64";
#elif defined(REGARD_X86)
    return "x86";
#elif defined(__aarch64__) || defined(_M_ARM64)
    return "arm64";
#else
    return "other";
#endif
}

}  // namespace

SystemInfo system_info() noexcept {
    const X86 x86 = detect();
    return {
        .version = REGARD_VERSION,
        .compiler = REGARD_COMPILER,
        .flags = REGARD_FLAGS,
        .architecture = architecture(),
        .standard = __cplusplus,
        .threads = std::thread::hardware_concurrency(),
        .isas = {{
            {"amx-bf16", x86.amx_bf16},
            {"avx512-bf16", x86.avx512_bf16},
            {"avx512", x86.avx512},
            {"avx2", x86.avx2},
            {"neon", neon},
            {"portable", true},
        }},
    };
}

}  // namespace regard
