// The levels that the kernels are compiled for, the best first. For library.cpp alone.
#pragma once

#include "job.h"

extern "C" {

#define DECLARE(level)                                                        \
  void attend_##level(const AttentionJob*, int64_t, int64_t, int64_t);        \
  void quantize_row_##level(const LinearJob*, int64_t);                       \
  void multiply_outputs_##level(const LinearJob*, int64_t);                   \
  int64_t dense_tasks_##level(const DenseJob*);                               \
  void multiply_dense_##level(const DenseJob*, int64_t);                      \
  void add_and_norm_##level(const NormJob*, int64_t);                         \
  void embed_##level(const EmbedJob*, int64_t);
#define LEVEL_NAMED(level)                                                    \
  {#level,                                                                    \
   attend_##level,                                                            \
   quantize_row_##level,                                                      \
   multiply_outputs_##level,                                                  \
   dense_tasks_##level,                                                       \
   multiply_dense_##level,                                                    \
   add_and_norm_##level,                                                      \
   embed_##level}

DECLARE(portable)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512bf16)
#endif
}

namespace {

#if defined(__x86_64__)
const Level LEVELS[] = {LEVEL_NAMED(avx512bf16), LEVEL_NAMED(avx512), LEVEL_NAMED(avx2),
                        LEVEL_NAMED(portable)};

bool runs_here(int level) {
  __builtin_cpu_init();
  if (level == 0 && !__builtin_cpu_supports("avx512bf16")) return false;
  if (level <= 1)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
  return level == 3 || (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
}
#else
const Level LEVELS[] = {LEVEL_NAMED(portable)};

bool runs_here(int) { return true; }
#endif

constexpr int NUM_LEVELS = sizeof LEVELS / sizeof *LEVELS;

}  // namespace
