// Products of queries with keys and of weights with values, in fp32, at every level.
#pragma once

#include "cache_head.h"

namespace {

constexpr int64_t PIECE = 64;  // positions that many queries share

inline float score_scale(int64_t dim) { return 1 / __builtin_sqrtf((float)dim); }

template <class Cache, int HEAD_DIM>
struct PlainProducts {
  typedef float Number;  // of queries and of weights
  static constexpr int64_t MOST = (HEAD_DIM ? HEAD_DIM : MAX_HEAD_DIM) / LANES;

  // Numbers of a query, and of a sum on its way.
  static int64_t query_size(int64_t dim) { return dim; }
  static int64_t sum_size(int64_t dim) { return dim; }

  template <class Row>
  static void read_query(const Row* from, int64_t dim, Number* to) {
    for (int64_t d = 0; d < dim; d += LANES) store(to + d, load(from + d));
  }

  // Makes `count` weights, a multiple of BLOCK_ROWS, what `gather` reads, where they are.
  static void prepare(float*, int64_t) {}

  static void finish(const float* sums, float total, int64_t dim, float* out) {
    for (int64_t d = 0; d < dim; d += LANES) store(out + d, load(sums + d) / total);
  }

  // Scores of one query at the positions of one block; `next` is read after it.
  static void score_block(const Number* query, const Cache* keys, const Cache* next, int64_t dim,
                          float* scores) {
    const int64_t vectors = (HEAD_DIM ? HEAD_DIM : dim) / LANES;
    const float scale = score_scale(dim);
    Floats q[MOST];
    for (int64_t d = 0; d < vectors; d++) q[d] = load(query + d * LANES);
    for (int64_t start = 0; start < BLOCK_ROWS; start += LANES) {
      Floats rows[LANES];
      for (int64_t j = 0; j < LANES; j++) {
        const int64_t row = (start + j) * vectors * LANES;
        fetch(next + row, vectors * LANES);
        rows[j] = Floats{};
        for (int64_t d = 0; d < vectors; d++) rows[j] += q[d] * load(keys + row + d * LANES);
      }
      store(scores + start, sums_of(rows) * scale);
    }
  }

  // out += weights @ values over the first `count` rows of one block: the others hold anything.
  static void gather_block(const float* weights, const Cache* values, const Cache* next,
                           int64_t count, int64_t dim, float* out) {
    const int64_t vectors = (HEAD_DIM ? HEAD_DIM : dim) / LANES, width = vectors * LANES;
    Floats even[MOST], odd[MOST];
    for (int64_t d = 0; d < vectors; d++) even[d] = load(out + d * LANES), odd[d] = Floats{};
    int64_t row = 0;
    for (; row + 2 <= count; row += 2) {
      fetch(next + row * width, 2 * width);
      for (int64_t d = 0; d < vectors; d++) {
        even[d] += weights[row] * load(values + row * width + d * LANES);
        odd[d] += weights[row + 1] * load(values + (row + 1) * width + d * LANES);
      }
    }
    if (row < count)
      for (int64_t d = 0; d < vectors; d++)
        even[d] += weights[row] * load(values + row * width + d * LANES);
    for (int64_t d = 0; d < vectors; d++) store(out + d * LANES, even[d] + odd[d]);
  }

  // Positions [start, start + count) of the cache in fp32: keys transposed, (head_dim, PIECE),
  // with zeros beyond `count`; values (PIECE, head_dim).
  static void unpack(const Head<Cache, HEAD_DIM>& head, int64_t start, int64_t count, float* keys,
                     float* values) {
    const int64_t dim = head.head_dim();
    if (count < PIECE) memset(keys, 0, sizeof(float) * dim * PIECE);
    for (int64_t p = 0; p < count; p++) {
      const int64_t block = (start + p) / BLOCK_ROWS, row = (start + p) % BLOCK_ROWS * dim;
      for (int64_t d = 0; d < dim; d += LANES) {
        const Floats key = load(head.keys(block) + row + d);
        for (int lane = 0; lane < LANES; lane++) keys[(d + lane) * PIECE + p] = key[lane];
        store(values + p * dim + d, load(head.values(block) + row + d));
      }
    }
  }

  // Scores of QUERIES queries at the PIECE positions of unpacked keys.
  template <int QUERIES>
  static void score(const Number* queries, const float* keys, int64_t dim, float* scores) {
    const float scale = score_scale(dim);
    for (int64_t start = 0; start < PIECE; start += 4 * LANES) {
      Floats found[QUERIES][4] = {};
      for (int64_t d = 0; d < dim; d++) {
        for (int v = 0; v < 4; v++) {
          const Floats key = load(keys + d * PIECE + start + v * LANES);
          for (int i = 0; i < QUERIES; i++) found[i][v] += queries[i * dim + d] * key;
        }
      }
      for (int i = 0; i < QUERIES; i++)
        for (int v = 0; v < 4; v++)
          store(scores + i * PIECE + start + v * LANES, found[i][v] * scale);
    }
  }

  // out = out * factor + weights @ unpacked values, over `count` positions.
  template <int QUERIES>
  static void gather(const float* weights, const float* factors, const float* values,
                     int64_t count, int64_t dim, float* out) {
    int64_t d = 0;
    for (; d + 4 * LANES <= dim; d += 4 * LANES)
      gather_some<QUERIES, 4>(weights, factors, values + d, count, dim, out + d);
    for (; d < dim; d += LANES)
      gather_some<QUERIES, 1>(weights, factors, values + d, count, dim, out + d);
  }

 private:
  template <int QUERIES, int VECTORS>
  static void gather_some(const float* weights, const float* factors, const float* values,
                          int64_t count, int64_t dim, float* out) {
    Floats total[QUERIES][VECTORS];
    for (int i = 0; i < QUERIES; i++)
      for (int v = 0; v < VECTORS; v++) total[i][v] = load(out + i * dim + v * LANES) * factors[i];
    for (int64_t p = 0; p < count; p++) {
      for (int v = 0; v < VECTORS; v++) {
        const Floats value = load(values + p * dim + v * LANES);
        for (int i = 0; i < QUERIES; i++) total[i][v] += weights[i * PIECE + p] * value;
      }
    }
    for (int i = 0; i < QUERIES; i++)
      for (int v = 0; v < VECTORS; v++) store(out + i * dim + v * LANES, total[i][v]);
  }
};

}  // namespace
