// Causal attention over a cache of blocks, accumulated in fp32; compiled once for each level.
//
// A task is some heads of one sequence: it writes the keys and values of its new tokens and then
// reads only what belongs to it, so tasks need not wait for each other. One query (decoding) reads
// the cache as it lies. Many queries of one head share transposed pieces of it, so that a piece is
// converted once and multiplied as a matrix.
#include "job.h"
#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 128, PIECE = 64, GROUP = 64;

const float NEVER = -__builtin_inff();

// exp(x) for x <= 0, relative error below 2e-7; 0 below -87.
inline Floats exp_of(Floats x) {
  const Floats lowest = all(-87.0f);
  const Floats clamped = x < lowest ? lowest : x;  // a NaN stays one
  const Floats shifted = clamped * 1.44269504088896341f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  const Floats r = (clamped - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Floats power = bits_of<Floats>((bits_of<Ints>(shifted) - 0x4b400000 + 127) << 23);
  const Floats result = p * power;
  return x < lowest ? Floats{} : result;
}

// One head of one sequence in the cache. HEAD_DIM 0 is any multiple of 16.
template <class Cache, int HEAD_DIM>
struct Head {
  Cache* cache;
  const int32_t* blocks;
  int64_t heads, head, dim;

  int64_t head_dim() const { return HEAD_DIM ? HEAD_DIM : dim; }
  int64_t vectors() const { return head_dim() / LANES; }

  Cache* keys(int64_t block) const {
    return cache + (2 * (int64_t)blocks[block] * heads + head) * BLOCK_ROWS * head_dim();
  }
  Cache* values(int64_t block) const { return keys(block) + heads * BLOCK_ROWS * head_dim(); }
};

template <class Cache, int HEAD_DIM, class Row>
void append(const Head<Cache, HEAD_DIM>& head, const Row* kvq, int64_t first, int64_t count) {
  const int64_t dim = head.head_dim(), width = head.heads * dim;
  for (int64_t i = 0; i < count; i++) {
    const int64_t position = first + i, row = position % BLOCK_ROWS * dim;
    const Row* from = kvq + i * 3 * width + head.head * dim;
    Cache* key = head.keys(position / BLOCK_ROWS) + row;
    Cache* value = head.values(position / BLOCK_ROWS) + row;
    for (int64_t d = 0; d < dim; d += LANES) {
      store(key + d, load(from + d));
      store(value + d, load(from + width + d));
    }
  }
}

// What softmax needs of the positions so far: the largest score and the sum of exp(score - it).
struct Softmax {
  float peak = NEVER, total = 0;

  // Scores become weights; returns what earlier sums have to be multiplied with.
  float add(float* scores, int64_t count) {
    Floats top = all(NEVER);
    for (int64_t i = 0; i < count; i += LANES) {
      const Floats v = load(scores + i);
      top = v > top ? v : top;
    }
    const float highest = largest(top), next = highest > peak ? highest : peak;
    const float factor = peak == NEVER ? 0 : exp_of(all(peak - next))[0];
    Floats added{};
    for (int64_t i = 0; i < count; i += LANES) {
      const Floats weight = exp_of(load(scores + i) - next);
      store(scores + i, weight);
      added += weight;
    }
    total = total * factor + sum(added);
    peak = next;
    return factor;
  }
};

// What lies one head further in memory, or what is read next.
template <class Cache>
inline void fetch(const Cache* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 64 / (int64_t)sizeof(Cache)) __builtin_prefetch(row + d);
}

// Scores of one query at the positions of one block.
template <class Cache, int HEAD_DIM>
inline void score_block(const float* query, const Cache* keys, const Cache* next, int64_t dim,
                        float* scores) {
  constexpr int64_t MOST = (HEAD_DIM ? HEAD_DIM : MAX_HEAD_DIM) / LANES;
  const int64_t vectors = (HEAD_DIM ? HEAD_DIM : dim) / LANES;
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
    store(scores + start, sums_of(rows));
  }
}

// out += weights @ values over the first `count` rows of one block: the others hold anything.
template <class Cache, int HEAD_DIM>
inline void gather_block(const float* weights, const Cache* values, const Cache* next,
                         int64_t count, int64_t dim, float* out) {
  constexpr int64_t MOST = (HEAD_DIM ? HEAD_DIM : MAX_HEAD_DIM) / LANES;
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

// One query of each of `heads` heads over positions [0, length), block by block as they lie in the
// cache; queries and out are (heads, head_dim).
template <class Cache, int HEAD_DIM>
void attend_one(const Head<Cache, HEAD_DIM>& first, int64_t heads, const float* queries,
                int64_t length, float* out) {
  const int64_t dim = first.head_dim(), step = BLOCK_ROWS * dim;
  float scores[MAX_TASK_HEADS][CHUNK];
  Softmax softmax[MAX_TASK_HEADS];
  memset(out, 0, sizeof(float) * heads * dim);
  for (int64_t start = 0; start < length; start += CHUNK) {
    const int64_t count = length - start < CHUNK ? length - start : CHUNK;
    for (int64_t p = 0; p < count; p += BLOCK_ROWS) {
      const int64_t block = (start + p) / BLOCK_ROWS;
      const Cache* keys = first.keys(block);
      const Cache* after = p + BLOCK_ROWS < count ? first.keys(block + 1) : keys;
      for (int64_t h = 0; h < heads; h++)
        score_block<Cache, HEAD_DIM>(queries + h * dim, keys + h * step,
                                     h + 1 < heads ? keys + (h + 1) * step : after, dim,
                                     scores[h] + p);
    }
    const int64_t padded = (count + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS;
    for (int64_t h = 0; h < heads; h++) {
      for (int64_t p = count; p < padded; p++) scores[h][p] = NEVER;
      const float factor = softmax[h].add(scores[h], padded);
      for (int64_t d = 0; d < dim; d += LANES)
        store(out + h * dim + d, load(out + h * dim + d) * factor);
    }
    for (int64_t p = 0; p < count; p += BLOCK_ROWS) {
      const int64_t block = (start + p) / BLOCK_ROWS;
      const Cache* values = first.values(block);
      const Cache* after = p + BLOCK_ROWS < count ? first.values(block + 1) : values;
      for (int64_t h = 0; h < heads; h++)
        gather_block<Cache, HEAD_DIM>(scores[h] + p, values + h * step,
                                      h + 1 < heads ? values + (h + 1) * step : after,
                                      count - p < BLOCK_ROWS ? count - p : BLOCK_ROWS, dim,
                                      out + h * dim);
    }
  }
  for (int64_t h = 0; h < heads; h++)
    for (int64_t d = 0; d < dim; d += LANES)
      store(out + h * dim + d, load(out + h * dim + d) / softmax[h].total);
}

// Scores of QUERIES queries at the PIECE positions of `keys`, (head_dim, PIECE).
template <int QUERIES>
void score(const float* queries, const float* keys, int64_t dim, float* scores) {
  for (int64_t start = 0; start < PIECE; start += 4 * LANES) {
    Floats found[QUERIES][4] = {};
    for (int64_t d = 0; d < dim; d++) {
      for (int v = 0; v < 4; v++) {
        const Floats key = load(keys + d * PIECE + start + v * LANES);
        for (int i = 0; i < QUERIES; i++) found[i][v] += queries[i * dim + d] * key;
      }
    }
    for (int i = 0; i < QUERIES; i++)
      for (int v = 0; v < 4; v++) store(scores + i * PIECE + start + v * LANES, found[i][v]);
  }
}

// out = out * factor + weights @ values, over `count` positions; VECTORS vectors of each row.
template <int QUERIES, int VECTORS>
void gather(const float* weights, const float* factors, const float* values, int64_t count,
            int64_t dim, float* out) {
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

template <int QUERIES>
void gather(const float* weights, const float* factors, const float* values, int64_t count,
            int64_t dim, float* out) {
  int64_t d = 0;
  for (; d + 4 * LANES <= dim; d += 4 * LANES)
    gather<QUERIES, 4>(weights, factors, values + d, count, dim, out + d);
  for (; d < dim; d += LANES)
    gather<QUERIES, 1>(weights, factors, values + d, count, dim, out + d);
}

// Positions [start, start + count) of the cache in fp32: keys transposed, (head_dim, PIECE), with
// zeros beyond `count`; values (PIECE, head_dim).
template <class Cache, int HEAD_DIM>
void unpack(const Head<Cache, HEAD_DIM>& head, int64_t start, int64_t count, float* keys,
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

// `count` <= GROUP queries at positions first, first + 1, …; out (count, head_dim).
template <class Cache, int HEAD_DIM>
void attend_group(const Head<Cache, HEAD_DIM>& head, const float* queries, int64_t first,
                  int64_t count, float* out) {
  const int64_t dim = head.head_dim();
  alignas(64) float keys[MAX_HEAD_DIM * PIECE], values[PIECE * MAX_HEAD_DIM];
  alignas(64) float scores[GROUP * PIECE];
  float factors[GROUP];
  Softmax softmax[GROUP];
  memset(out, 0, sizeof(float) * count * dim);
  for (int64_t start = 0; start < first + count; start += PIECE) {
    const int64_t left = first + count - start, here = left < PIECE ? left : PIECE;
    unpack(head, start, here, keys, values);
    // Queries before this piece see nothing of it.
    const int64_t from = start > first ? start - first : 0;
    int64_t i = from;
    for (; i + 4 <= count; i += 4) score<4>(queries + i * dim, keys, dim, scores + i * PIECE);
    for (; i < count; i++) score<1>(queries + i * dim, keys, dim, scores + i * PIECE);
    for (i = from; i < count; i++) {
      const int64_t seen = first + i + 1 - start;
      for (int64_t p = seen; p < PIECE; p++) scores[i * PIECE + p] = NEVER;
      factors[i] = softmax[i].add(scores + i * PIECE, PIECE);
    }
    i = from;
    for (; i + 4 <= count; i += 4)
      gather<4>(scores + i * PIECE, factors + i, values, here, dim, out + i * dim);
    for (; i < count; i++)
      gather<1>(scores + i * PIECE, factors + i, values, here, dim, out + i * dim);
  }
  for (int64_t i = 0; i < count; i++)
    for (int64_t d = 0; d < dim; d += LANES)
      store(out + i * dim + d, load(out + i * dim + d) / softmax[i].total);
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

  // `size` values of the queries of row i from column `from` on, scaled.
  void read_query(int64_t i, int64_t from, int64_t size, float scale, float* to) const {
    const Row* query = kvq + i * 3 * width + 2 * width + from;
    for (int64_t d = 0; d < size; d += LANES) store(to + d, load(query + d) * scale);
  }
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
  const int64_t dim = head.head_dim();
  const float scale = 1 / __builtin_sqrtf((float)dim);
  alignas(64) float queries[GROUP * MAX_HEAD_DIM], out[GROUP * MAX_HEAD_DIM];
  static_assert(MAX_TASK_HEADS <= GROUP, "the heads of a task fit as well");
  if (rows.count < FEW_QUERIES) {
    const int64_t from = first_head * dim, size = num_heads * dim;
    for (int64_t i = 0; i < rows.count; i++) {
      rows.read_query(i, from, size, scale, queries);
      attend_one(head, num_heads, queries, rows.first + i + 1, out);
      rows.write(i, from, size, out);
    }
    return;
  }
  for (int64_t start = 0; start < rows.count; start += GROUP) {
    const int64_t count = rows.count - start < GROUP ? rows.count - start : GROUP;
    for (int64_t i = 0; i < count; i++)
      rows.read_query(start + i, first_head * dim, dim, scale, queries + i * dim);
    attend_group(head, queries, rows.first + start, count, out);
    for (int64_t i = 0; i < count; i++) rows.write(start + i, first_head * dim, dim, out + i * dim);
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

#define JOINED(name, level) name##_##level
#define NAMED(name, level) JOINED(name, level)

extern "C" void NAMED(attend, LEVEL)(const AttentionJob* job, int64_t sequence, int64_t first_head,
                                     int64_t num_heads) {
  if (job->cache_is_bf16)
    attend<bf16>(*job, sequence, first_head, num_heads);
  else
    attend<float>(*job, sequence, first_head, num_heads);
}
