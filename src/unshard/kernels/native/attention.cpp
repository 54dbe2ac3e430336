// Causal attention over a cache of blocks, accumulated in fp32; compiled once for each level.
//
// A task is some heads of one sequence: it writes the keys and values of its new tokens and then
// reads only what belongs to it, so tasks need not wait for each other. One query (decoding) reads
// the cache as it lies. Many queries of one head share unpacked pieces of it, so that a piece is
// converted once and multiplied as a matrix.
#include "pair_products.h"
#include "softmax.h"

namespace {

constexpr int64_t CHUNK = 128, GROUP = 64;
constexpr int64_t FETCHED = 3;  // pieces of one head and block that are on their way

// How rows of type Row meet the cache.
template <class Cache, int HEAD_DIM, class Row>
struct ProductsFor {
  typedef PlainProducts<Cache, HEAD_DIM> Type;
};

#if defined(__AVX512BF16__)
template <int HEAD_DIM, class Row>
struct ProductsFor<bf16, HEAD_DIM, Row> {
  typedef PairProducts<HEAD_DIM, sizeof(Row) / sizeof(bf16)> Type;
};
#endif

// One query of each of `heads` heads over positions [0, length), block by block as they lie in the
// cache; out is (heads, head_dim).
template <class Products, class Cache, int HEAD_DIM>
void attend_one(const Head<Cache, HEAD_DIM>& first, int64_t heads,
                const typename Products::Number* queries, int64_t length, float* out) {
  const int64_t dim = first.head_dim(), step = BLOCK_ROWS * dim;
  const int64_t query_size = Products::query_size(dim), size = Products::sum_size(dim);
  float scores[MAX_TASK_HEADS][CHUNK];
  Softmax softmax[MAX_TASK_HEADS];
  memset(out, 0, sizeof(float) * heads * size);
  for (int64_t start = 0; start < length; start += CHUNK) {
    const int64_t count = length - start < CHUNK ? length - start : CHUNK;
    // A block's heads, then the next block's: as they lie in the cache.
    const int64_t block = start / BLOCK_ROWS, blocks = parts_of(count, BLOCK_ROWS);
    const int64_t pieces = blocks * heads, padded = blocks * BLOCK_ROWS;
    const auto keys = [&](int64_t i) { return first.keys(block + i / heads) + i % heads * step; };
    const auto values = [&](int64_t i) {
      i = i < pieces ? i : pieces - 1;
      return first.values(block + i / heads) + i % heads * step;
    };
    for (int64_t i = 0; i < pieces; i++) {
      const int64_t h = i % heads, after = i + FETCHED;
      Products::score_block(queries + h * query_size, keys(i),
                            after < pieces ? keys(after) : values(after - pieces), dim,
                            scores[h] + i / heads * BLOCK_ROWS);
    }
    for (int64_t h = 0; h < heads; h++) {
      for (int64_t p = count; p < padded; p++) scores[h][p] = NEVER;
      const float factor = softmax[h].add(scores[h], padded);
      Products::prepare(scores[h], padded);
      for (int64_t d = 0; start > 0 && d < size; d += LANES)
        store(out + h * size + d, load(out + h * size + d) * factor);
    }
    for (int64_t i = 0; i < pieces; i++) {
      const int64_t h = i % heads, p = i / heads * BLOCK_ROWS;
      Products::gather_block(scores[h] + p, values(i), values(i + FETCHED),
                             count - p < BLOCK_ROWS ? count - p : BLOCK_ROWS, dim, out + h * size);
    }
  }
  // A finished sum is no longer than it was before, so it never reaches the next one.
  for (int64_t h = 0; h < heads; h++)
    Products::finish(out + h * size, softmax[h].total, dim, out + h * dim);
}

// `count` <= GROUP queries at positions first, first + 1, …; out (count, head_dim).
template <class Products, class Cache, int HEAD_DIM>
void attend_group(const Head<Cache, HEAD_DIM>& head, const typename Products::Number* queries,
                  int64_t first, int64_t count, float* out) {
  const int64_t dim = head.head_dim();
  const int64_t query_size = Products::query_size(dim), size = Products::sum_size(dim);
  alignas(64) float keys[MAX_HEAD_DIM * PIECE], values[PIECE * MAX_HEAD_DIM];
  alignas(64) float scores[GROUP * PIECE];
  float factors[GROUP];
  Softmax softmax[GROUP];
  memset(out, 0, sizeof(float) * count * size);
  for (int64_t start = 0; start < first + count; start += PIECE) {
    const int64_t left = first + count - start, here = left < PIECE ? left : PIECE;
    Products::unpack(head, start, here, keys, values);
    // Queries before this piece see nothing of it.
    const int64_t from = start > first ? start - first : 0;
    int64_t i = from;
    for (; i + 4 <= count; i += 4)
      Products::template score<4>(queries + i * query_size, keys, dim, scores + i * PIECE);
    for (; i < count; i++)
      Products::template score<1>(queries + i * query_size, keys, dim, scores + i * PIECE);
    for (i = from; i < count; i++) {
      const int64_t seen = first + i + 1 - start;
      for (int64_t p = seen; p < PIECE; p++) scores[i * PIECE + p] = NEVER;
      factors[i] = softmax[i].add(scores + i * PIECE, PIECE);
      Products::prepare(scores + i * PIECE, PIECE);
    }
    i = from;
    for (; i + 4 <= count; i += 4)
      Products::template gather<4>(scores + i * PIECE, factors + i, values, here, dim,
                                   out + i * size);
    for (; i < count; i++)
      Products::template gather<1>(scores + i * PIECE, factors + i, values, here, dim,
                                   out + i * size);
  }
  for (int64_t i = 0; i < count; i++)
    Products::finish(out + i * size, softmax[i].total, dim, out + i * dim);
}

// The rows of one sequence in a job: row i has query first + i.
template <class Row>
struct Rows {
  const Row* kvq;
  Row* out;
  int64_t first, count, width;

  Rows(const AttentionJob& job, int64_t sequence) : width(job.heads * job.head_dim) {
    const int64_t row = job.query_starts[sequence];
    count = job.query_starts[sequence + 1] - row;
    first = job.context_lengths[sequence] - count;
    kvq = (const Row*)job.kvq + row * 3 * width;
    out = (Row*)job.out + row * width;
  }

  const Row* query(int64_t i, int64_t from) const { return kvq + (3 * i + 2) * width + from; }
  void write(int64_t i, int64_t from, int64_t size, const float* values) const {
    for (int64_t d = 0; d < size; d += LANES) store(out + i * width + from + d, load(values + d));
  }
};

template <class Cache, int HEAD_DIM, class Row>
void attend(const AttentionJob& job, int64_t sequence, int64_t first_head, int64_t num_heads) {
  const Rows<Row> rows(job, sequence);
  Head<Cache, HEAD_DIM> head{(Cache*)job.cache, job.block_tables + sequence * job.max_blocks,
                             job.heads, first_head, job.head_dim};
  for (int64_t h = 0; h < num_heads; h++) {
    append(head, rows.kvq, rows.first, rows.count);
    head.head++;
  }
  head.head = first_head;
  const int64_t dim = head.head_dim(), from = first_head * dim;
  typedef typename ProductsFor<Cache, HEAD_DIM, Row>::Type Products;
  const int64_t query_size = Products::query_size(dim);
  alignas(64) typename Products::Number queries[GROUP * MAX_HEAD_DIM * sizeof(float) /
                                                sizeof(typename Products::Number)];
  alignas(64) float out[GROUP * MAX_HEAD_DIM];
  static_assert(MAX_TASK_HEADS <= GROUP, "the heads of a task fit as well");
  if (rows.count < FEW_QUERIES) {
    for (int64_t i = 0; i < rows.count; i++) {
      for (int64_t h = 0; h < num_heads; h++)
        Products::read_query(rows.query(i, from + h * dim), dim, queries + h * query_size);
      attend_one<Products>(head, num_heads, queries, rows.first + i + 1, out);
      rows.write(i, from, num_heads * dim, out);
    }
    return;
  }
  for (int64_t start = 0; start < rows.count; start += GROUP) {
    const int64_t count = rows.count - start < GROUP ? rows.count - start : GROUP;
    for (int64_t i = 0; i < count; i++)
      Products::read_query(rows.query(start + i, from), dim, queries + i * query_size);
    attend_group<Products>(head, queries, rows.first + start, count, out);
    for (int64_t i = 0; i < count; i++) rows.write(start + i, from, dim, out + i * dim);
  }
}

template <class Cache, int HEAD_DIM>
void attend(const AttentionJob& job, int64_t sequence, int64_t first_head, int64_t num_heads) {
  if (job.kvq_is_bf16)
    attend<Cache, HEAD_DIM, bf16>(job, sequence, first_head, num_heads);
  else
    attend<Cache, HEAD_DIM, float>(job, sequence, first_head, num_heads);
}

template <class Cache>
void attend(const AttentionJob& job, int64_t sequence, int64_t first_head, int64_t num_heads) {
  if (job.head_dim == 64) return attend<Cache, 64>(job, sequence, first_head, num_heads);
  if (job.head_dim == 80) return attend<Cache, 80>(job, sequence, first_head, num_heads);
  if (job.head_dim == 128) return attend<Cache, 128>(job, sequence, first_head, num_heads);
  attend<Cache, 0>(job, sequence, first_head, num_heads);
}

}  // namespace

extern "C" void NAMED(attend, LEVEL)(const AttentionJob* job, int64_t sequence, int64_t first_head,
                                     int64_t num_heads) {
  if (job->cache_is_bf16)
    attend<bf16>(*job, sequence, first_head, num_heads);
  else
    attend<float>(*job, sequence, first_head, num_heads);
}
