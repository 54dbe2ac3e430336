// Memory for the whole numbers of activations.
#pragma once

#include "job.h"

inline int64_t padded_inputs(int64_t in) { return (in + 63) / 64 * 64; }

inline int64_t int8_rows_size(int64_t rows, int64_t in) {
  return rows * (3 * padded_inputs(in) + (int64_t)sizeof(WholeRow));
}

// Gives `job` its part of `memory`, of `int8_rows_size` bytes.
inline void use_int8_rows(LinearJob& job, char* memory, int64_t rows, int64_t in) {
  job.padded_in = padded_inputs(in);
  job.low = (int8_t*)memory;
  job.high = job.low + rows * job.padded_in;
  job.large = (int32_t*)(job.high + rows * job.padded_in);
  job.whole = (WholeRow*)(job.large + rows * job.padded_in / 4);
}
