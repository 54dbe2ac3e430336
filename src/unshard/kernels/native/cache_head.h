// Where the keys and values of one head of one sequence lie in the cache of blocks.
#pragma once

#include "job.h"
#include "vectors.h"

namespace {

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

// What lies one head further in memory, or what is read next: into the second cache, because the
// first keeps no more than some twenty lines on their way.
template <class Cache>
inline void fetch(const Cache* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 64 / (int64_t)sizeof(Cache)) __builtin_prefetch(row + d, 0, 2);
}

}  // namespace
