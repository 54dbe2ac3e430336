// y = x Wᵀ + b with 8-bit weights and activations that are whole numbers; compiled once for each
// level.
//
// A row's scale is that at which most of its activations fit one signed byte. A larger one is
// 256 * high + low, and the few groups of four inputs that have such are multiplied a second time,
// by their high bytes: an outlier costs its own group, not the precision of the others.
//
// Sums are exact integers, and what follows is rounded the same at every level (compiled without
// contraction to fused multiply-adds), so every level gives the same bits, for a row alone as for
// a row among many. None can overflow 32 bits before 65536 inputs.
#include "byte_products.h"
#include "vectors.h"

namespace {

constexpr float MOST_STEPS = 32639;  // 127 * 256 + 127
constexpr float BYTE_STEPS = 127;
// Of the mean size of what is not 0, 3.2 deviations of a normal distribution: one activation in
// 700 is larger.
constexpr double MEANS_IN_A_BYTE = 4;

inline Ints whole_numbers(Floats v, float factor) {
  return bits_of<Ints>(v * factor + 12582912.0f) - 0x4b400000;
}

inline int64_t sum(Ints v) {
  int64_t total = 0;
  for (int lane = 0; lane < LANES; lane++) total += v[lane];
  return total;
}

// How many steps of the finest scale, at which the peak has MOST_STEPS, are one of the row's: from
// integers, whose sum is the same in any order.
inline float coarseness(Ints sizes, Ints counts) {
  const int64_t count = sum(counts);
  const double mean = count ? (double)sum(sizes) / (double)count : 0;
  const double coarse = mean * MEANS_IN_A_BYTE / BYTE_STEPS;
  const double most = MOST_STEPS / BYTE_STEPS;
  return (float)(coarse > most ? most : coarse > 1 ? coarse : 1);
}

// One row of x as whole numbers.
template <class T>
void quantize_row(const LinearJob& job, int64_t row) {
  const int64_t in = job.weight->in;
  const T* x = (const T*)job.x + row * in;
  Floats peaks{}, poison{};
  float peak = 0, scalar_poison = 0;
  int64_t i = 0;
  for (; i + LANES <= in; i += LANES) {
    const Floats v = load(x + i), size = v < 0 ? -v : v;
    peaks = size > peaks ? size : peaks;
    poison += v * 0.0f;  // NaN or infinite values make it NaN, and so the whole row
  }
  peak = largest(peaks);
  scalar_poison = sum(poison);
  Floats last{};
  for (int64_t j = i; j < in; j++) {
    float v;
    if constexpr (sizeof(T) == 2)
      v = bits_of<float>((uint32_t)x[j] << 16);
    else
      v = x[j];
    last[j - i] = v;
    peak = (v < 0 ? -v : v) > peak ? (v < 0 ? -v : v) : peak;
    scalar_poison += v * 0.0f;
  }
  const bool zero = peak < 1e-30f;
  const float finest = zero ? 0 : MOST_STEPS / peak;
  Ints sizes{}, counts{};
  for (int64_t j = 0; j < in; j += LANES) {
    const Ints whole = whole_numbers(j < i ? load(x + j) : last, finest);
    sizes += whole < 0 ? -whole : whole;
    counts -= whole != 0;
  }
  const float coarse = coarseness(sizes, counts), factor = finest / coarse;
  WholeRow& found = job.whole[row];
  found.scale = (zero ? 0 : peak / MOST_STEPS * coarse) + scalar_poison;
  int8_t* low = job.low + row * job.padded_in;
  int8_t* high = job.high + row * job.padded_in;
  int32_t* large = job.large + row * (job.padded_in / 4);
  typedef int8_t Bytes __attribute__((vector_size(LANES)));
  const Bytes none_large{};
  Ints high_sum{}, low_sum{};
  int32_t num_large = 0;
  for (int64_t j = 0; j < in; j += LANES) {
    const Ints whole = whole_numbers(j < i ? load(x + j) : last, factor);
    const Ints top = (whole + 128) >> 8, rest = whole - (top << 8);
    high_sum += top;
    low_sum += rest;
    const Bytes low_bytes = __builtin_convertvector(rest, Bytes);
    const Bytes high_bytes = __builtin_convertvector(top, Bytes);
    memcpy(low + j, &low_bytes, LANES);
    if (!memcmp(&high_bytes, &none_large, LANES)) continue;
    for (int64_t group = 0; group < LANES / 4; group++) {
      int32_t word;
      memcpy(&word, (const char*)&high_bytes + 4 * group, 4);
      memcpy(high + 4 * num_large, &word, 4);
      large[num_large] = (int32_t)(j / 4 + group);
      num_large += word != 0;
    }
  }
  found.num_large = num_large;
  found.low_sum = (int32_t)sum(low_sum);
  found.high_sum = (int32_t)sum(high_sum);
}

// The weights' bytes are 128 too large: 128 times the sum of a row's is taken off again.
template <class T>
void finish(const LinearJob& job, int64_t row, int64_t first, const int32_t* low_sums,
            const int32_t* high_sums) {
  const Int8Weight& weight = *job.weight;
  const WholeRow& whole = job.whole[row];
  const Floats scale = all(whole.scale);
  T* y = (T*)job.y + row * weight.out + first;
  const int64_t count = weight.out - first < OUTPUTS ? weight.out - first : OUTPUTS;
  for (int64_t o = 0; o < count; o += LANES) {
    Ints low;
    memcpy(&low, low_sums + o, sizeof low);
    Floats total = __builtin_convertvector(low - whole.low_sum * 128, Floats);
    if (whole.num_large) {
      Ints high;
      memcpy(&high, high_sums + o, sizeof high);
      total += __builtin_convertvector(high - whole.high_sum * 128, Floats) * 256.0f;
    }
    Floats value = total * (scale * load(weight.scales + first + o)) + load(weight.bias + first + o);
    if (job.relu) value = value < 0 ? Floats{} : value;
    store_some(y + o, value, count - o);
  }
}

}  // namespace

extern "C" void NAMED(quantize_row, LEVEL)(const LinearJob* job, int64_t row) {
  if (job->is_bf16)
    quantize_row<bf16>(*job, row);
  else
    quantize_row<float>(*job, row);
}

extern "C" void NAMED(multiply_outputs, LEVEL)(const LinearJob* job, int64_t task) {
  const Int8Weight& weight = *job->weight;
  const int64_t steps = (weight.in + 3) / 4;
  const uint8_t* packed = weight.packed + task * steps * STEP;
  int32_t low[ROWS_AT_ONCE][OUTPUTS], high[1][OUTPUTS];
  for (int64_t first = 0; first < job->rows; first += ROWS_AT_ONCE) {
    const int64_t left = job->rows - first, rows = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
    dot_all(rows, job->low + first * job->padded_in, job->padded_in, packed, steps, low);
    for (int64_t i = 0; i < rows; i++) {
      const int64_t row = first + i, num_large = job->whole[row].num_large;
      if (num_large)
        dot<1>(job->high + row * job->padded_in, 0, packed,
               job->large + row * (job->padded_in / 4), num_large, high);
      if (job->is_bf16)
        finish<bf16>(*job, row, task * OUTPUTS, low[i], *high);
      else
        finish<float>(*job, row, task * OUTPUTS, low[i], *high);
    }
  }
}
