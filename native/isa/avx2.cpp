#define REGARD_ISA avx2
#define REGARD_NAME "avx2"
#include "../simd/avx2.h"
#include "../kernels/all.h"
