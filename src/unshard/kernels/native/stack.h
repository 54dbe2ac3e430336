// The layers of a decoder, for the few rows of a step that decodes; see stack.cpp and stack.py.
#pragma once

#include "job.h"

struct Scratch;

// A linear layer: `rounded`, or a weight as it is in files.
struct StackLinear {
  const Int8Weight* rounded;
  const void* weight;
  const void* bias;
  int64_t in, out;
};

struct StackLayer {
  NormWeight attention_norm, ffn_norm;
  StackLinear kvq[3];  // K, V and Q, or one that is all of them; the rest have no outputs
  StackLinear out, fc1, fc2;
};

struct StackJob {
  const StackLayer* layers;
  void* const* caches;     // of each layer
  int64_t num_layers;
  AttentionJob attention;  // but kvq, cache and out
  EmbeddingTables tables;
  const int64_t* ids;        // (rows,), of tokens; null where x is given
  const int64_t* positions;  // (rows,), of places
  void* x;                   // (rows, hidden), changed
  int64_t rows, hidden, ffn;
  NormWeight norm;  // of what leaves the last layer, where norms come first
  int32_t is_bf16, pre_norm;
};

enum StackEnd { COMPUTED, NO_MEMORY, NO_SUCH_ROW };

StackEnd run_stack(const StackJob& job, const Level& level, int64_t threads, Scratch& scratch);
