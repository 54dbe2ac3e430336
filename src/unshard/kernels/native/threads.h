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

// Alone in its cache line.
struct alignas(64) Count {
  std::atomic<int64_t> value;
};

// Does those of tasks 0 … count - 1 that no other thread takes, and says how many. They are cut into
// `runs`, of each of which `taken` says how far it has come. A thread begins with its own: what it
// reads then lies on end, which a processor fetches ahead best. After that it takes of others'.
template <class Work>
int64_t take_tasks(Count* taken, int64_t runs, int64_t own, int64_t count, Work work) {
  int64_t done = 0;
  for (int64_t i = 0; i < runs; i++) {
    const int64_t run = (own + i) % runs, start = count * run / runs;
    const int64_t size = count * (run + 1) / runs - start;
    std::atomic<int64_t>& next = taken[run].value;
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < size; done++)
      work(start + task);
  }
  return done;
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
