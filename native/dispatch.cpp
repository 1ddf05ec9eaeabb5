#include "dispatch.h"

#include <atomic>
#include <cstring>

#include "system_info.h"

#define REGARD_KERNELS(isa)       \
    namespace regard::isa {       \
    extern const Kernels kernels; \
    }
#ifdef REGARD_HAS_avx512bf16
REGARD_KERNELS(avx512bf16)
#endif
#ifdef REGARD_HAS_avx512
REGARD_KERNELS(avx512)
#endif
#ifdef REGARD_HAS_avx2
REGARD_KERNELS(avx2)
#endif
#ifdef REGARD_HAS_neon
REGARD_KERNELS(neon)
#endif
REGARD_KERNELS(portable)
#ifdef REGARD_HAS_emulated  // for tests: runs anywhere, and is never chosen
REGARD_KERNELS(emulated)
#endif

namespace regard {
namespace {

const Kernels* const built[] = {  // best first
#ifdef REGARD_HAS_avx512bf16
    &avx512bf16::kernels,
#endif
#ifdef REGARD_HAS_avx512
    &avx512::kernels,
#endif
#ifdef REGARD_HAS_avx2
    &avx2::kernels,
#endif
#ifdef REGARD_HAS_neon
    &neon::kernels,
#endif
    &portable::kernels,
#ifdef REGARD_HAS_emulated
    &emulated::kernels,
#endif
};

std::atomic<const Kernels*>& in_use() {
    static std::atomic<const Kernels*> kernels{available_kernels().front()};
    return kernels;
}

}  // namespace

const std::vector<const Kernels*>& available_kernels() {
    static const std::vector<const Kernels*> available = [] {
        std::vector<const Kernels*> usable;
        for (const Kernels* kernels : built) {
            bool runs = std::strcmp(kernels->name, "emulated") == 0;
            for (const Isa& isa : system_info().isas) {
                runs = runs || (isa.available && std::strcmp(isa.name, kernels->name) == 0);
            }
            if (runs) usable.push_back(kernels);
        }
        return usable;
    }();
    return available;
}

const Kernels& kernels_in_use() { return *in_use().load(std::memory_order_relaxed); }

bool use_kernels(const char* name) {
    for (const Kernels* kernels : available_kernels()) {
        if (std::strcmp(kernels->name, name) == 0) {
            in_use().store(kernels, std::memory_order_relaxed);
            return true;
        }
    }
    return false;
}

}  // namespace regard
