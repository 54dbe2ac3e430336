// Who runs the tasks of the functions that Python calls.
//
// Threads are those of the OpenMP runtime that torch loaded, started through `GOMP_parallel`
// (libgomp's entry, which libomp has too): a second pool would fight the first for the cores.
#pragma once

#include <atomic>
#include <stdint.h>
#include <stdlib.h>

typedef void (*Parallel)(void (*)(void*), void*, unsigned threads, unsigned flags);

extern Parallel parallel;

// Does `work(data)` on each of `threads` threads at once, this one among them.
inline void on_threads(void (*work)(void*), void* data, int64_t threads) {
  if (parallel && threads > 1)
    parallel(work, data, (unsigned)threads, 0);
  else
    work(data);
}

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Memory of a thread, kept for its next call.
struct Scratch {
  void* memory = nullptr;
  size_t size = 0;

  ~Scratch() { free(memory); }

  void* of(size_t wanted) {
    if (wanted > size) {
      free(memory);
      memory = malloc(wanted);
      size = memory ? wanted : 0;
    }
    return memory;
  }
};
