// y = x Wᵀ + b with 8-bit weights and 8- or 16-bit activations; compiled once for each level.
//
// Sums are exact integers, and what follows is rounded the same at every level (compiled without
// contraction to fused multiply-adds), so every level gives the same bits, for a row alone as for
// a row among many. A 16-bit activation is 256 * high + low, two signed bytes: each is a plane of
// bytes that the same loop multiplies, and none can overflow 32 bits before 65536 inputs.
#include "job.h"
#include "vectors.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

// Bytes of one group of four inputs for OUTPUTS outputs.
constexpr int64_t STEP = 4 * OUTPUTS;

inline int32_t four_bytes(const int8_t* from) {
  int32_t word;
  memcpy(&word, from, sizeof word);
  return word;
}

#if defined(__AVX512VNNI__)

constexpr int64_t MOST_PLANES = 6;

template <int PLANES>
void dot(const int8_t* planes, int64_t stride, const uint8_t* weight, int64_t steps,
         int32_t (*sums)[OUTPUTS]) {
  __m512i total[PLANES][4];
  for (int p = 0; p < PLANES; p++)
    for (int v = 0; v < 4; v++) total[p][v] = _mm512_setzero_si512();
  for (int64_t k = 0; k < steps; k++) {
    __m512i w[4];
    for (int v = 0; v < 4; v++) w[v] = _mm512_loadu_si512(weight + k * STEP + 64 * v);
    for (int p = 0; p < PLANES; p++) {
      const __m512i x = _mm512_set1_epi32(four_bytes(planes + p * stride + 4 * k));
      for (int v = 0; v < 4; v++) total[p][v] = _mm512_dpbusd_epi32(total[p][v], w[v], x);
    }
  }
  for (int p = 0; p < PLANES; p++)
    for (int v = 0; v < 4; v++) _mm512_storeu_si512(sums[p] + 16 * v, total[p][v]);
}

#elif defined(__AVX2__)

constexpr int64_t MOST_PLANES = 2;

// 8-bit products are summed in pairs as 16-bit ones: `maddubs` would saturate.
template <int PLANES>
void dot(const int8_t* planes, int64_t stride, const uint8_t* weight, int64_t steps,
         int32_t (*sums)[OUTPUTS]) {
  constexpr int64_t NEAR = 32;  // steps whose weights stay in the first cache for four passes
  memset(sums, 0, sizeof(int32_t) * PLANES * OUTPUTS);
  for (int64_t start = 0; start < steps; start += NEAR) {
    const int64_t end = start + NEAR < steps ? start + NEAR : steps;
    for (int part = 0; part < 4; part++) {
      __m256i total[PLANES][4];
      for (int p = 0; p < PLANES; p++)
        for (int v = 0; v < 4; v++) total[p][v] = _mm256_setzero_si256();
      for (int64_t k = start; k < end; k++) {
        __m256i x[PLANES];
        for (int p = 0; p < PLANES; p++)
          x[p] = _mm256_cvtepi8_epi16(_mm_set1_epi32(four_bytes(planes + p * stride + 4 * k)));
        for (int v = 0; v < 4; v++) {
          const __m256i w = _mm256_cvtepu8_epi16(
              _mm_loadu_si128((const __m128i*)(weight + k * STEP + 64 * part + 16 * v)));
          for (int p = 0; p < PLANES; p++)
            total[p][v] = _mm256_add_epi32(total[p][v], _mm256_madd_epi16(w, x[p]));
        }
      }
      for (int p = 0; p < PLANES; p++)
        for (int v = 0; v < 4; v += 2) {
          // Pairs of outputs (0 1 4 5 2 3 6 7) after the addition in 128-bit halves.
          const __m256i both = _mm256_permute4x64_epi64(
              _mm256_hadd_epi32(total[p][v], total[p][v + 1]), _MM_SHUFFLE(3, 1, 2, 0));
          __m256i* to = (__m256i*)(sums[p] + 16 * part + 4 * v);
          _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), both));
        }
    }
  }
}

#else

constexpr int64_t MOST_PLANES = 2;

template <int PLANES>
void dot(const int8_t* planes, int64_t stride, const uint8_t* weight, int64_t steps,
         int32_t (*sums)[OUTPUTS]) {
  memset(sums, 0, sizeof(int32_t) * PLANES * OUTPUTS);
  for (int64_t k = 0; k < steps; k++)
    for (int p = 0; p < PLANES; p++) {
      const int8_t* x = planes + p * stride + 4 * k;
      const uint8_t* w = weight + k * STEP;
      for (int64_t o = 0; o < OUTPUTS; o++) {
        int32_t sum = 0;
        for (int i = 0; i < 4; i++) sum += x[i] * w[4 * o + i];
        sums[p][o] += sum;
      }
    }
}

#endif

template <int PLANES>
void dot_some(int64_t count, const int8_t* planes, int64_t stride, const uint8_t* weight,
              int64_t steps, int32_t (*sums)[OUTPUTS]) {
  if (count == PLANES) return dot<PLANES>(planes, stride, weight, steps, sums);
  if constexpr (PLANES > 1) dot_some<PLANES - 1>(count, planes, stride, weight, steps, sums);
}

// Bytes of one row of x, their scale and the sum of each plane.
template <class T>
void quantize_row(const LinearJob& job, int64_t row) {
  const bool wide = job.planes_per_row == 2;
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
  const float steps = wide ? 32639.0f : 127.0f;  // 127 * 256 + 127
  const bool zero = peak < 1e-30f;
  const float factor = zero ? 0 : steps / peak;
  job.row_scales[row] = (zero ? 0 : peak / steps) + scalar_poison;
  int8_t* high = job.planes + row * job.planes_per_row * job.padded_in;
  int8_t* low = high + job.padded_in;
  Ints high_sum{}, low_sum{};
  for (int64_t j = 0; j < in; j += LANES) {
    const Floats v = (j < i ? load(x + j) : last) * factor + 12582912.0f;
    const Ints whole = bits_of<Ints>(v) - 0x4b400000;
    const Ints top = wide ? (whole + 128) >> 8 : whole, rest = whole - (top << 8);
    high_sum += top;
    low_sum += rest;
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    const Bytes top_bytes = __builtin_convertvector(top, Bytes);
    memcpy(high + j, &top_bytes, LANES);
    if (!wide) continue;
    const Bytes low_bytes = __builtin_convertvector(rest, Bytes);
    memcpy(low + j, &low_bytes, LANES);
  }
  int32_t* sums = job.sums + row * job.planes_per_row;
  sums[0] = 0;
  for (int lane = 0; lane < LANES; lane++) sums[0] += high_sum[lane];
  if (!wide) return;
  sums[1] = 0;
  for (int lane = 0; lane < LANES; lane++) sums[1] += low_sum[lane];
}

// The weights' bytes are 128 too large: 128 times the sum of a plane is taken off again.
template <class T>
void finish(const LinearJob& job, int64_t row, int64_t first, const int32_t (*sums)[OUTPUTS]) {
  const Int8Weight& weight = *job.weight;
  const int32_t* offsets = job.sums + row * job.planes_per_row;
  const Floats scale = all(job.row_scales[row]);
  T* y = (T*)job.y + row * weight.out + first;
  const int64_t count = weight.out - first < OUTPUTS ? weight.out - first : OUTPUTS;
  for (int64_t o = 0; o < count; o += LANES) {
    Ints high;
    memcpy(&high, sums[0] + o, sizeof high);
    Floats total = __builtin_convertvector(high - offsets[0] * 128, Floats);
    if (job.planes_per_row == 2) {
      Ints low;
      memcpy(&low, sums[1] + o, sizeof low);
      total = total * 256.0f + __builtin_convertvector(low - offsets[1] * 128, Floats);
    }
    Floats value = total * (scale * load(weight.scales + first + o)) + load(weight.bias + first + o);
    if (job.relu) value = value < 0 ? Floats{} : value;
    if (o + LANES <= count) {
      store(y + o, value);
    } else {
      T some[LANES];
      store(some, value);
      memcpy(y + o, some, sizeof(T) * (count - o));
    }
  }
}

}  // namespace

#define JOINED(name, level) name##_##level
#define NAMED(name, level) JOINED(name, level)

extern "C" void NAMED(quantize_row, LEVEL)(const LinearJob* job, int64_t row) {
  if (job->is_bf16)
    quantize_row<bf16>(*job, row);
  else
    quantize_row<float>(*job, row);
}

extern "C" void NAMED(multiply_outputs, LEVEL)(const LinearJob* job, int64_t block) {
  const Int8Weight& weight = *job->weight;
  const int64_t steps = (weight.in + 3) / 4, per_row = job->planes_per_row;
  const uint8_t* packed = weight.packed + block * steps * STEP;
  const int64_t rows_at_once = MOST_PLANES / per_row;
  int32_t sums[MOST_PLANES][OUTPUTS];
  for (int64_t row = 0; row < job->rows; row += rows_at_once) {
    const int64_t rows = job->rows - row < rows_at_once ? job->rows - row : rows_at_once;
    dot_some<MOST_PLANES>(rows * per_row, job->planes + row * per_row * job->padded_in,
                          job->padded_in, packed, steps, sums);
    for (int64_t i = 0; i < rows; i++) {
      if (job->is_bf16)
        finish<bf16>(*job, row + i, block * OUTPUTS, sums + i * per_row);
      else
        finish<float>(*job, row + i, block * OUTPUTS, sums + i * per_row);
    }
  }
}
