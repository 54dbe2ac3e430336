// The same products from a bf16 cache as it lies, by instructions that multiply pairs of bf16 and
// sum in fp32 (AVX512-BF16).
//
// A number that is no bf16 is the sum of PARTS of them: one for rows that are bf16 themselves, two
// (16 bits) for those in fp32. What is summed pair by pair leaves the dimensions of a value in the
// order of the interleaving; `finish` puts them right.
#pragma once

#include "plain_products.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>

namespace {

typedef __m512i Pairs;
constexpr int64_t WIDTH = 2 * LANES;

inline Floats dot(Floats total, Pairs a, Pairs b) {
  return (Floats)_mm512_dpbf16_ps((__m512)total, (__m512bh)a, (__m512bh)b);
}

// The same two numbers in every place.
inline Pairs pair_at(const bf16* from) {
  int32_t word;
  memcpy(&word, from, sizeof word);
  return _mm512_set1_epi32(word);
}

// 16 numbers as PARTS times 16 of bf16, `stride` apart.
template <int PARTS>
inline void split(Floats numbers, bf16* to, int64_t stride) {
  for (int part = 0; part < PARTS; part++) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh((__m512)numbers);
    _mm256_storeu_si256((__m256i*)(to + part * stride), rounded);
    if (part + 1 < PARTS) numbers -= load(to + part * stride);
  }
}

// 16 rows of 16 words become columns.
inline void transpose(Pairs (&rows)[16]) {
  Pairs t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int j = 0; j < 4; j++) {
    const Pairs even = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0x88);
    const Pairs odd = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0xdd);
    const Pairs even_after = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0x88);
    const Pairs odd_after = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(even, even_after, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(odd, odd_after, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(even, even_after, 0xdd);
    t[12 + j] = _mm512_shuffle_i32x4(odd, odd_after, 0xdd);
  }
  for (int i = 0; i < 16; i++) rows[i] = t[i];
}

template <int HEAD_DIM, int PARTS>
struct PairProducts {
  typedef bf16 Number;
  static constexpr int64_t MOST = ((HEAD_DIM ? HEAD_DIM : MAX_HEAD_DIM) + WIDTH - 1) / WIDTH;

  static int64_t vectors(int64_t dim) { return ((HEAD_DIM ? HEAD_DIM : dim) + WIDTH - 1) / WIDTH; }
  static int64_t query_size(int64_t dim) { return PARTS * sum_size(dim); }
  static int64_t sum_size(int64_t dim) { return vectors(dim) * WIDTH; }

  // Vector v of a row, zeros beyond its end.
  static Pairs read(const bf16* row, int64_t v, int64_t dim) {
    if (WIDTH * (v + 1) <= (HEAD_DIM ? HEAD_DIM : dim)) return _mm512_loadu_si512(row + WIDTH * v);
    return _mm512_maskz_loadu_epi16(0xffff, row + WIDTH * v);
  }

  template <class Row>
  static void read_query(const Row* from, int64_t dim, Number* to) {
    const int64_t size = sum_size(dim);
    for (int64_t d = 0; d < size; d += LANES)
      split<PARTS>(d < dim ? load(from + d) : Floats{}, to + d, size);
  }

  // Each 16 weights become PARTS times 16.
  static void prepare(float* weights, int64_t count) {
    for (int64_t p = 0; p < count; p += BLOCK_ROWS)
      split<PARTS>(load(weights + p), (bf16*)(weights + p), BLOCK_ROWS);
  }

  static void finish(const float* sums, float total, int64_t dim, float* out) {
    float ordered[MOST * WIDTH];
    for (int64_t i = 0; i < sum_size(dim); i += 4) {
      const int64_t run = i % WIDTH / 4, place = run < 4 ? 2 * run : 2 * run - 7;
      memcpy(ordered + i - i % WIDTH + 4 * place, sums + i, 4 * sizeof(float));
    }
    for (int64_t d = 0; d < dim; d += LANES) store(out + d, load(ordered + d) / total);
  }

  static void score_block(const Number* query, const bf16* keys, const bf16* next, int64_t dim,
                          float* scores) {
    const int64_t count = vectors(dim), size = sum_size(dim);
    Pairs q[PARTS][MOST];
    for (int part = 0; part < PARTS; part++)
      for (int64_t v = 0; v < count; v++)
        q[part][v] = _mm512_loadu_si512(query + part * size + v * WIDTH);
    Floats rows[LANES];
    for (int64_t j = 0; j < LANES; j++) {
      fetch(next + j * dim, dim);
      rows[j] = Floats{};
      for (int64_t v = 0; v < count; v++) {
        const Pairs key = read(keys + j * dim, v, dim);
        for (int part = 0; part < PARTS; part++) rows[j] = dot(rows[j], q[part][v], key);
      }
    }
    store(scores, sums_of(rows) * score_scale(dim));
  }

  static void gather_block(const float* weights, const bf16* values, const bf16* next,
                           int64_t count, int64_t dim, float* out) {
    const int64_t some = vectors(dim);
    const bf16* numbers = (const bf16*)weights;
    Floats total[2 * MOST];
    for (int64_t v = 0; v < 2 * some; v++) total[v] = load(out + v * LANES);
    for (int64_t row = 0; row < count; row += 2) {
      fetch(next + row * dim, 2 * dim);
      for (int64_t v = 0; v < some; v++) {
        const Pairs a = read(values + row * dim, v, dim);
        const Pairs b = row + 1 < count ? read(values + (row + 1) * dim, v, dim) : Pairs{};
        const Pairs low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
        for (int part = 0; part < PARTS; part++) {
          const Pairs weight = pair_at(numbers + part * BLOCK_ROWS + row);
          total[2 * v] = dot(total[2 * v], weight, low);
          total[2 * v + 1] = dot(total[2 * v + 1], weight, high);
        }
      }
    }
    for (int64_t v = 0; v < 2 * some; v++) store(out + v * LANES, total[v]);
  }

  // Keys transposed pair by pair, (head_dim / 2, PIECE) pairs with zeros beyond `count`; values of
  // two positions side by side, (PIECE / 2, head_dim) pairs.
  static void unpack(const Head<bf16, HEAD_DIM>& head, int64_t start, int64_t count, float* keys,
                     float* values) {
    const int64_t dim = head.head_dim(), size = sum_size(dim);
    for (int64_t p = 0; p < PIECE; p += BLOCK_ROWS) {
      const int64_t left = count - p, rows = left < BLOCK_ROWS ? left : BLOCK_ROWS;
      const bf16* key = rows > 0 ? head.keys((start + p) / BLOCK_ROWS) : nullptr;
      const bf16* value = rows > 0 ? head.values((start + p) / BLOCK_ROWS) : nullptr;
      for (int64_t v = 0; v < vectors(dim); v++) {
        Pairs columns[16];
        for (int64_t i = 0; i < 16; i++)
          columns[i] = i < rows ? read(key + i * dim, v, dim) : Pairs{};
        transpose(columns);
        for (int64_t i = 0; i < 16; i++)
          _mm512_storeu_si512(keys + (LANES * v + i) * PIECE + p, columns[i]);
        for (int64_t i = 0; i < rows; i += 2) {
          const Pairs a = read(value + i * dim, v, dim);
          const Pairs b = i + 1 < rows ? read(value + (i + 1) * dim, v, dim) : Pairs{};
          float* to = values + (p + i) / 2 * size + v * WIDTH;
          _mm512_storeu_si512(to, _mm512_unpacklo_epi16(a, b));
          _mm512_storeu_si512(to + LANES, _mm512_unpackhi_epi16(a, b));
        }
      }
    }
  }

  template <int QUERIES>
  static void score(const Number* queries, const float* keys, int64_t dim, float* scores) {
    const int64_t size = sum_size(dim);
    Floats found[QUERIES][4] = {};
    static_assert(PIECE == 4 * LANES, "one pass");
    for (int part = 0; part < PARTS; part++)
      for (int64_t d = 0; d < size; d += 2) {
        Pairs key[4];
        for (int v = 0; v < 4; v++) key[v] = _mm512_loadu_si512(keys + d / 2 * PIECE + v * LANES);
        for (int i = 0; i < QUERIES; i++) {
          const Pairs query = pair_at(queries + (i * PARTS + part) * size + d);
          for (int v = 0; v < 4; v++) found[i][v] = dot(found[i][v], query, key[v]);
        }
      }
    for (int i = 0; i < QUERIES; i++)
      for (int v = 0; v < 4; v++)
        store(scores + i * PIECE + v * LANES, found[i][v] * score_scale(dim));
  }

  template <int QUERIES>
  static void gather(const float* weights, const float* factors, const float* values,
                     int64_t count, int64_t dim, float* out) {
    const int64_t size = sum_size(dim);
    int64_t d = 0;
    for (; d + 4 * LANES <= size; d += 4 * LANES)
      gather_some<QUERIES, 4>(weights, factors, values + d, count, size, out + d);
    for (; d < size; d += WIDTH)
      gather_some<QUERIES, 2>(weights, factors, values + d, count, size, out + d);
  }

 private:
  template <int QUERIES, int VECTORS>
  static void gather_some(const float* weights, const float* factors, const float* values,
                          int64_t count, int64_t size, float* out) {
    Floats total[QUERIES][VECTORS];
    for (int i = 0; i < QUERIES; i++)
      for (int v = 0; v < VECTORS; v++) total[i][v] = load(out + i * size + v * LANES) * factors[i];
    for (int64_t p = 0; p < count; p += 2) {
      Pairs value[VECTORS];
      for (int v = 0; v < VECTORS; v++)
        value[v] = _mm512_loadu_si512(values + p / 2 * size + v * LANES);
      for (int i = 0; i < QUERIES; i++) {
        const bf16* of_block = (const bf16*)(weights + i * PIECE + p - p % BLOCK_ROWS);
        for (int part = 0; part < PARTS; part++) {
          const Pairs weight = pair_at(of_block + part * BLOCK_ROWS + p % BLOCK_ROWS);
          for (int v = 0; v < VECTORS; v++) total[i][v] = dot(total[i][v], weight, value[v]);
        }
      }
    }
    for (int i = 0; i < QUERIES; i++)
      for (int v = 0; v < VECTORS; v++) store(out + i * size + v * LANES, total[i][v]);
  }
};

}  // namespace
#endif
