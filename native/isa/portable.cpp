#define REGARD_ISA portable
#define REGARD_NAME "portable"
#include "../simd/portable.h"
#include "../kernels/all.h"
