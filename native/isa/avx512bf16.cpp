#define REGARD_ISA avx512bf16
#define REGARD_NAME "avx512-bf16"
#define REGARD_PAIRS
#include "../simd/avx512.h"
#include "../kernels/all.h"
