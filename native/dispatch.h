// Which kernels run: those of the best instruction set that is available, unless another is requested.
#pragma once

#include <vector>

#include "kernels.h"

namespace regard {

// The kernels that this library was built with and this machine can run, best first.
const std::vector<const Kernels*>& available_kernels();

const Kernels& kernels_in_use();

// False, and nothing changed, where there are no such kernels.
bool use_kernels(const char* name);

}  // namespace regard
