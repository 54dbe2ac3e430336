// y = x Wᵀ + b for many rows. Parts of the weight are copied to the cache, in fp32 and turned, and
// each is used by all rows of a block: so a weight stays as it is in files, in whichever dtype.
#pragma once

#include "job.h"
#include "vectors.h"

namespace {

constexpr int64_t WIDE = 2 * LANES;               // outputs of the sums that registers hold
constexpr int TALL = LANES == 16 ? 14 : 6;        // rows of them
constexpr int64_t DEPTH = 256;                    // inputs of a part
constexpr int64_t BLOCK = 336;                    // rows of a task
constexpr int64_t PANELS = MANY_OUTPUTS / WIDE;

struct Part {
  alignas(64) float weight[PANELS][DEPTH * WIDE];
  alignas(64) float x[TALL * DEPTH];
  alignas(64) float sums[BLOCK * MANY_OUTPUTS];
};

inline float single(float value) { return value; }
inline float single(bf16 value) { return bits_of<float>((uint32_t)value << 16); }

// The last output is there again for those beyond it; beyond the last input there are zeros.
template <class T>
void copy_turned(const DenseJob& job, int64_t first, int64_t start, int64_t depth, Part& part) {
  for (int64_t o = 0; o < MANY_OUTPUTS; o += LANES) {
    float* to = part.weight[o / WIDE] + o % WIDE;
    const T* rows[LANES];
    for (int64_t i = 0; i < LANES; i++) {
      const int64_t output = first + o + i;
      rows[i] = (const T*)job.weight + (output < job.out ? output : job.out - 1) * job.in + start;
    }
    for (int64_t k = 0; k < depth; k += LANES) {
      Floats square[LANES];
      for (int64_t i = 0; i < LANES; i++) square[i] = load_some(rows[i] + k, depth - k);
      turn(square);
      for (int64_t i = 0; i < LANES; i++) store(to + (k + i) * WIDE, square[i]);
    }
  }
}

// sums += ROWS rows of x (`stride` apart) times a panel of the weight. What a part sums begins at 0:
// short sums added up are more exact than a long one.
template <int ROWS>
void multiply_panel(const float* x, int64_t stride, const float* weight, int64_t depth,
                    float* sums) {
  Floats left[ROWS] = {}, right[ROWS] = {};
  for (int64_t k = 0; k < depth; k++) {
    const Floats a = load(weight + k * WIDE), b = load(weight + k * WIDE + LANES);
    for (int r = 0; r < ROWS; r++) {
      const Floats each = all(x[r * stride + k]);
      left[r] += each * a;
      right[r] += each * b;
    }
  }
  for (int r = 0; r < ROWS; r++) {
    float* to = sums + r * MANY_OUTPUTS;
    store(to, load(to) + left[r]);
    store(to + LANES, load(to + LANES) + right[r]);
  }
}

template <int ROWS>
void multiply_some(int64_t rows, const float* x, int64_t stride, const float* weight,
                   int64_t depth, float* sums) {
  if (rows == ROWS) return multiply_panel<ROWS>(x, stride, weight, depth, sums);
  if constexpr (ROWS > 1) multiply_some<ROWS - 1>(rows, x, stride, weight, depth, sums);
}

// Where `rows` rows of fp32 lie, each `stride` after the one before.
inline const float* singles(const float* x, int64_t, int64_t, int64_t in, float*, int64_t& stride) {
  stride = in;
  return x;
}

inline const float* singles(const bf16* x, int64_t rows, int64_t depth, int64_t in, float* copy,
                            int64_t& stride) {
  stride = DEPTH;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = 0; k < depth; k++) copy[r * DEPTH + k] = single(x[r * in + k]);
  return copy;
}

template <class T>
void finish(const DenseJob& job, int64_t row, int64_t rows, int64_t first, const float* sums) {
  const int64_t count = job.out - first < MANY_OUTPUTS ? job.out - first : MANY_OUTPUTS;
  for (int64_t o = 0; o < count; o += LANES) {
    const int64_t left = count - o;
    const Floats bias = job.bias ? load_some((const T*)job.bias + first + o, left) : Floats{};
    for (int64_t r = 0; r < rows; r++) {
      Floats value = load(sums + r * MANY_OUTPUTS + o) + bias;
      if (job.relu) value = value < 0 ? Floats{} : value;
      store_some((T*)job.y + (row + r) * job.stride + first + o, value, left);
    }
  }
}

inline int64_t tasks_of_many(const DenseJob& job) {
  return parts_of(job.out, MANY_OUTPUTS) * parts_of(job.rows, BLOCK);
}

// A task is a block of rows times MANY_OUTPUTS outputs.
template <class T>
void multiply_many(const DenseJob& job, int64_t task) {
  const int64_t blocks = parts_of(job.rows, BLOCK), block = task % blocks;
  const int64_t row = job.rows * block / blocks, rows = job.rows * (block + 1) / blocks - row;
  const int64_t first = task / blocks * MANY_OUTPUTS;
  Part part;
  memset(part.sums, 0, sizeof(float) * rows * MANY_OUTPUTS);
  for (int64_t start = 0; start < job.in; start += DEPTH) {
    const int64_t depth = job.in - start < DEPTH ? job.in - start : DEPTH;
    copy_turned<T>(job, first, start, depth, part);
    for (int64_t r = 0; r < rows; r += TALL) {
      const int64_t some = rows - r < TALL ? rows - r : TALL;
      int64_t stride;
      const float* x = singles((const T*)job.x + (row + r) * job.in + start, some, depth, job.in,
                               part.x, stride);
      for (int64_t p = 0; p < PANELS; p++)
        multiply_some<TALL>(some, x, stride, part.weight[p], depth,
                            part.sums + r * MANY_OUTPUTS + p * WIDE);
    }
  }
  finish<T>(job, row, rows, first, part.sums);
}

}  // namespace
