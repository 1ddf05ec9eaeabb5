#define REGARD_ISA neon
#define REGARD_NAME "neon"
#include "../simd/neon.h"
#include "../kernels/all.h"
