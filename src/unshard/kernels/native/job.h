// What the calls from Python ask for, and what each level offers. Plain C structs: the levels are
// compiled with different flags and share nothing else.
#pragma once

#include <stdint.h>

constexpr int64_t BLOCK_ROWS = 16, MAX_HEAD_DIM = 256, MAX_TASK_HEADS = 16;

// Attention of a step's new tokens over the block cache of one layer; see attention.py.
struct AttentionJob {
  const void* kvq;              // (T, 3 * heads * head_dim), a row = [K | V | Q]
  void* cache;                  // (blocks, 2, heads, BLOCK_ROWS, head_dim)
  void* out;                    // (T, heads * head_dim)
  const int32_t* block_tables;  // (sequences, max_blocks)
  const int32_t* query_starts;  // (sequences + 1,)
  const int32_t* context_lengths;  // (sequences,), the new tokens counted in
  int64_t sequences, max_blocks, heads, head_dim;
  int32_t kvq_is_bf16, cache_is_bf16;
  // How many heads of a sequence with few queries are one task. Side by side they lie in the
  // cache side by side too, and long runs are what a processor fetches ahead.
  int64_t task_heads;
};

constexpr int64_t FEW_QUERIES = 4;

constexpr int64_t OUTPUTS = 64;        // of an int8 task
constexpr int64_t DENSE_OUTPUTS = 16;  // fewer: the last task is what other threads wait for
constexpr int64_t MANY_OUTPUTS = 64;   // of a dense task with many rows

// An int8 weight, OUTPUTS rows side by side; see int8.py.
struct Int8Weight {
  const uint8_t* packed;  // (out / OUTPUTS, in / 4, OUTPUTS, 4), each value + 128
  const float* scales;    // (out,), padded to OUTPUTS
  const float* bias;      // (out,), padded to OUTPUTS
  int64_t in, out;
};

// A row of activations as whole numbers of `scale`, each 256 * high + low; see linear.cpp.
struct WholeRow {
  float scale;
  int32_t low_sum, high_sum;
  int32_t num_large;  // groups of four inputs whose high bytes are not all 0
};

struct LinearJob {
  const Int8Weight* weight;
  const void* x;  // (rows, in)
  void* y;        // (rows, out)
  int64_t rows;
  int32_t is_bf16, relu;
  int64_t padded_in;
  WholeRow* whole;  // (rows,)
  int8_t* low;      // (rows, padded_in)
  int8_t* high;     // (rows, padded_in), the bytes of large groups alone, side by side
  int32_t* large;   // (rows, padded_in / 4), which groups those are
};

// y = x Wᵀ + b with the weight as it is in files: (out, in), fp32 or bf16 like x.
struct DenseJob {
  const void* weight;
  const void* bias;  // (out,) in the same dtype, or null
  const void* x;     // (rows, in)
  void* y;           // (rows, out)
  int64_t rows, in, out;
  int64_t stride;  // from a row of y to the next
  int32_t is_bf16, relu;
};

inline int64_t parts_of(int64_t count, int64_t most) { return (count + most - 1) / most; }
inline int64_t tasks_of(const LinearJob& job) { return parts_of(job.weight->out, OUTPUTS); }

struct NormWeight {
  const void* weight;  // (size,) in x's dtype, like bias
  const void* bias;
};

// x += y, where there is a y; then z = x normalised, where there is a norm.
struct NormJob {
  void* x;  // (rows, size), fp32 or bf16, like y and z
  const void* y;
  void* z;
  NormWeight norm;
  int64_t size;
  int32_t is_bf16;
};

enum { TOKENS_FP32, TOKENS_BF16, TOKENS_FP16 };

// (num_tokens, size) and (num_places, size), the latter in the dtype of their sums.
struct EmbeddingTables {
  const void *tokens, *places;
  int64_t num_tokens, num_places;
  int64_t tokens_format;  // that of the sums where these are bf16
};

// x = a row of tokens + a row of places.
struct EmbedJob {
  EmbeddingTables tables;
  const int64_t* ids;        // (rows,)
  const int64_t* positions;  // (rows,)
  void* x;                   // (rows, size), fp32 or bf16
  int64_t size;
  int32_t is_bf16;
};

struct Level {
  const char* name;
  void (*attend)(const AttentionJob*, int64_t sequence, int64_t first_head,
                 int64_t num_heads);
  void (*quantize_row)(const LinearJob*, int64_t row);       // tasks: rows
  void (*multiply_outputs)(const LinearJob*, int64_t task);  // tasks: out / OUTPUTS
  int64_t (*dense_tasks)(const DenseJob*);
  void (*multiply_dense)(const DenseJob*, int64_t task);
  void (*add_and_norm)(const NormJob*, int64_t row);          // tasks: rows
  void (*embed)(const EmbedJob*, int64_t row);                // tasks: rows
};
