#define REGARD_ISA avx512
#define REGARD_NAME "avx512"
#include "../simd/avx512.h"
#include "../kernels/all.h"
