// Threads: PyTorch's own OpenMP team where there is one, so that the two do not crowd each other out.
#pragma once

namespace regard {

// Calls work(context, i) for i = 0 … threads − 1, each on a thread of its own; i = 0 is the caller's.
void parallel(int threads, void (*work)(void*, int), void* context);

}  // namespace regard
