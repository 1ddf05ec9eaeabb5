// Not for users: avx512bf16's lanes and pairs on any processor, so that what is written for it can be tested.
#define REGARD_ISA emulated
#define REGARD_NAME "emulated"
#define REGARD_EMULATED
#define REGARD_LANES 16
#define REGARD_PAIRS
#include "../simd/portable.h"
#include "../kernels/all.h"
