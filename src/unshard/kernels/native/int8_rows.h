// Int8 linears, and the memory for the whole numbers of their activations.
#pragma once

#include "job.h"

inline int64_t padded_inputs(int64_t in) { return (in + 63) / 64 * 64; }

inline int64_t int8_rows_size(int64_t rows, int64_t in) {
  return rows * (3 * padded_inputs(in) + (int64_t)sizeof(WholeRow));
}

// A job whose rows' whole numbers are in `memory`, of `int8_rows_size` bytes.
inline LinearJob int8_job(const Int8Weight* weight, const void* x, void* y, int64_t rows,
                          int32_t is_bf16, int32_t relu, char* memory) {
  LinearJob job;
  job.weight = weight;
  job.x = x;
  job.y = y;
  job.rows = rows;
  job.is_bf16 = is_bf16;
  job.relu = relu;
  job.padded_in = padded_inputs(weight->in);
  job.low = (int8_t*)memory;
  job.high = job.low + rows * job.padded_in;
  job.large = (int32_t*)(job.high + rows * job.padded_in);
  job.whole = (WholeRow*)(job.large + rows * job.padded_in / 4);
  return job;
}
