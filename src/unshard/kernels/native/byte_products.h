// Products of rows of bytes with int8 weights, as whole numbers: the same bits at every level.
#pragma once

#include <string.h>

#include "job.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

// Bytes of one group of four inputs for OUTPUTS outputs.
constexpr int64_t STEP = 4 * OUTPUTS;

// Group k of a row's inputs meets the weights of group `listed[k]`, or k where there is no list.
inline const uint8_t* weights_of(const uint8_t* weight, const int32_t* listed, int64_t k) {
  return weight + (listed ? listed[k] : k) * STEP;
}

inline int32_t four_bytes(const int8_t* from) {
  int32_t word;
  memcpy(&word, from, sizeof word);
  return word;
}

#if defined(__AVX512VNNI__)

constexpr int64_t ROWS_AT_ONCE = 6;

template <int ROWS>
inline void dot(const int8_t* bytes, int64_t stride, const uint8_t* weight, const int32_t* listed,
                int64_t steps, int32_t (*sums)[OUTPUTS]) {
  __m512i total[ROWS][4];
  for (int p = 0; p < ROWS; p++)
    for (int v = 0; v < 4; v++) total[p][v] = _mm512_setzero_si512();
  for (int64_t k = 0; k < steps; k++) {
    __m512i w[4];
    const uint8_t* from = weights_of(weight, listed, k);
    for (int v = 0; v < 4; v++) w[v] = _mm512_loadu_si512(from + 64 * v);
    for (int p = 0; p < ROWS; p++) {
      const __m512i x = _mm512_set1_epi32(four_bytes(bytes + p * stride + 4 * k));
      for (int v = 0; v < 4; v++) total[p][v] = _mm512_dpbusd_epi32(total[p][v], w[v], x);
    }
  }
  for (int p = 0; p < ROWS; p++)
    for (int v = 0; v < 4; v++) _mm512_storeu_si512(sums[p] + 16 * v, total[p][v]);
}

#elif defined(__AVX2__)

constexpr int64_t ROWS_AT_ONCE = 256, NEAR = 32;  // steps whose weights stay in the first cache

// The sums of pairs in two vectors as those of 8 outputs.
inline void add_pairs(__m256i first, __m256i second, int32_t* sums) {
  // Pairs of outputs (0 1 4 5 2 3 6 7) after the addition in 128-bit halves.
  const __m256i both =
      _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), _MM_SHUFFLE(3, 1, 2, 0));
  __m256i* to = (__m256i*)sums;
  _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), both));
}

// 8-bit products are summed in pairs as 16-bit ones: `maddubs` would saturate.
template <int ROWS>
inline void dot(const int8_t* bytes, int64_t stride, const uint8_t* weight, const int32_t* listed,
                int64_t steps, int32_t (*sums)[OUTPUTS]) {
  memset(sums, 0, sizeof(int32_t) * ROWS * OUTPUTS);
  for (int64_t start = 0; start < steps; start += NEAR) {
    const int64_t end = start + NEAR < steps ? start + NEAR : steps;
    for (int part = 0; part < 4; part++) {
      __m256i total[ROWS][4];
      for (int p = 0; p < ROWS; p++)
        for (int v = 0; v < 4; v++) total[p][v] = _mm256_setzero_si256();
      for (int64_t k = start; k < end; k++) {
        __m256i x[ROWS];
        for (int p = 0; p < ROWS; p++)
          x[p] = _mm256_cvtepi8_epi16(_mm_set1_epi32(four_bytes(bytes + p * stride + 4 * k)));
        const uint8_t* from = weights_of(weight, listed, k) + 64 * part;
        for (int v = 0; v < 4; v++) {
          const __m256i w = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(from + 16 * v)));
          for (int p = 0; p < ROWS; p++)
            total[p][v] = _mm256_add_epi32(total[p][v], _mm256_madd_epi16(w, x[p]));
        }
      }
      for (int p = 0; p < ROWS; p++)
        for (int v = 0; v < 4; v += 2)
          add_pairs(total[p][v], total[p][v + 1], sums[p] + 16 * part + 4 * v);
    }
  }
}

#else

constexpr int64_t ROWS_AT_ONCE = 2;

template <int ROWS>
inline void dot(const int8_t* bytes, int64_t stride, const uint8_t* weight, const int32_t* listed,
                int64_t steps, int32_t (*sums)[OUTPUTS]) {
  memset(sums, 0, sizeof(int32_t) * ROWS * OUTPUTS);
  for (int64_t k = 0; k < steps; k++)
    for (int p = 0; p < ROWS; p++) {
      const int8_t* x = bytes + p * stride + 4 * k;
      const uint8_t* w = weights_of(weight, listed, k);
      for (int64_t o = 0; o < OUTPUTS; o++) {
        int32_t sum = 0;
        for (int i = 0; i < 4; i++) sum += x[i] * w[4 * o + i];
        sums[p][o] += sum;
      }
    }
}

#endif

template <int ROWS>
void dot_some(int64_t count, const int8_t* bytes, int64_t stride, const uint8_t* weight,
              int64_t steps, int32_t (*sums)[OUTPUTS]) {
  if (count == ROWS) return dot<ROWS>(bytes, stride, weight, nullptr, steps, sums);
  if constexpr (ROWS > 1) dot_some<ROWS - 1>(count, bytes, stride, weight, steps, sums);
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__)

template <class Byte>
inline void widen(const Byte* from, int64_t count, int16_t* to) {
  for (int64_t i = 0; i < count; i++) to[i] = from[i];
}

// sums += ROWS rows times the weights of 8 outputs, both in 16 bits.
template <int ROWS>
inline void dot_near(const int16_t* x, const int16_t* weight, int64_t steps,
                     int32_t (*sums)[OUTPUTS]) {
  __m256i total[ROWS][2] = {};
#pragma GCC unroll 4  // or gcc moves each sum to another register and back
  for (int64_t k = 0; k < steps; k++) {
    __m256i four[ROWS];
    for (int p = 0; p < ROWS; p++) {
      int64_t word;
      memcpy(&word, x + p * 4 * NEAR + 4 * k, sizeof word);
      four[p] = _mm256_set1_epi64x(word);
    }
    for (int v = 0; v < 2; v++) {
      const __m256i w = _mm256_load_si256((const __m256i*)(weight + k * STEP + 16 * v));
      for (int p = 0; p < ROWS; p++)
        total[p][v] = _mm256_add_epi32(total[p][v], _mm256_madd_epi16(w, four[p]));
    }
  }
  for (int p = 0; p < ROWS; p++) add_pairs(total[p][0], total[p][1], sums[p]);
}

template <int ROWS>
void dot_near_some(int64_t rows, const int16_t* x, const int16_t* weight, int64_t steps,
                   int32_t (*sums)[OUTPUTS]) {
  if (rows == ROWS) return dot_near<ROWS>(x, weight, steps, sums);
  if constexpr (ROWS > 1) dot_near_some<ROWS - 1>(rows, x, weight, steps, sums);
}

// Weights are widened once for all rows.
inline void dot_many(int64_t rows, const int8_t* bytes, int64_t stride, const uint8_t* weight,
                     int64_t steps, int32_t (*sums)[OUTPUTS]) {
  constexpr int64_t TOGETHER = 4;
  alignas(32) int16_t near[NEAR * STEP], x[TOGETHER * 4 * NEAR];
  memset(sums, 0, sizeof(int32_t) * rows * OUTPUTS);
  for (int64_t start = 0; start < steps; start += NEAR) {
    const int64_t count = steps - start < NEAR ? steps - start : NEAR;
    widen(weight + start * STEP, count * STEP, near);
    for (int64_t row = 0; row < rows; row += TOGETHER) {
      const int64_t some = rows - row < TOGETHER ? rows - row : TOGETHER;
      for (int64_t p = 0; p < some; p++)
        widen(bytes + (row + p) * stride + 4 * start, 4 * count, x + p * 4 * NEAR);
      for (int64_t output = 0; output < OUTPUTS; output += 8)
        dot_near_some<TOGETHER>(some, x, near + 4 * output, count,
                                (int32_t (*)[OUTPUTS])(sums[row] + output));
    }
  }
}

inline void dot_all(int64_t rows, const int8_t* bytes, int64_t stride, const uint8_t* weight,
                    int64_t steps, int32_t (*sums)[OUTPUTS]) {
  if (rows > 2) return dot_many(rows, bytes, stride, weight, steps, sums);
  dot_some<2>(rows, bytes, stride, weight, steps, sums);
}

#else

inline void dot_all(int64_t rows, const int8_t* bytes, int64_t stride, const uint8_t* weight,
                    int64_t steps, int32_t (*sums)[OUTPUTS]) {
  dot_some<ROWS_AT_ONCE>(rows, bytes, stride, weight, steps, sums);
}

#endif

}  // namespace
