// x += y and its norm, row by row; compiled once for each level.
//
// Sums are fp32, over vectors of a row and then over the lanes: a row's result does not depend on
// the other rows.
#include <math.h>

#include "job.h"
#include "vectors.h"

namespace {

constexpr float EPSILON = 1e-5f;

inline Floats first_of(Floats v, int64_t count) {
  for (int64_t lane = count; lane < LANES; lane++) v[lane] = 0;
  return v;
}

template <class T>
void add(T* x, const T* y, int64_t size) {
  for (int64_t i = 0; i < size; i += LANES)
    store_some(x + i, load_some(x + i, size - i) + load_some(y + i, size - i), size - i);
}

template <class T>
void norm(const T* x, T* z, const T* weight, const T* bias, int64_t size) {
  Floats total{}, squares{};
  for (int64_t i = 0; i < size; i += LANES) total += load_some(x + i, size - i);
  const Floats mean = all(sum(total) / (float)size);
  for (int64_t i = 0; i < size; i += LANES) {
    const Floats apart = first_of(load_some(x + i, size - i) - mean, size - i);
    squares += apart * apart;
  }
  const Floats scale = all(1 / sqrtf(sum(squares) / (float)size + EPSILON));
  for (int64_t i = 0; i < size; i += LANES) {
    const int64_t count = size - i;
    const Floats apart = load_some(x + i, count) - mean;
    store_some(z + i, apart * scale * load_some(weight + i, count) + load_some(bias + i, count),
               count);
  }
}

template <class T>
void add_and_norm(const NormJob& job, int64_t row) {
  T* x = (T*)job.x + row * job.size;
  if (job.y) add(x, (const T*)job.y + row * job.size, job.size);
  if (job.norm.weight)
    norm(x, (T*)job.z + row * job.size, (const T*)job.norm.weight, (const T*)job.norm.bias,
         job.size);
}

}  // namespace

extern "C" void NAMED(add_and_norm, LEVEL)(const NormJob* job, int64_t row) {
  if (job->is_bf16)
    add_and_norm<bf16>(*job, row);
  else
    add_and_norm<float>(*job, row);
}
