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
  StackLinear kvq[3];  // K, V and Q, or one that is all of them
  StackLinear out, fc1, fc2;
};

struct StackJob {
  const StackLayer* layers;
  void* const* caches;     // of each layer
  int64_t num_layers;
  AttentionJob attention;  // but kvq, cache and out
  void* x;                 // (rows, hidden), changed
  int64_t rows, hidden, ffn, num_kvq;
  NormWeight norm;  // of what leaves the last layer, where norms come first
  int32_t is_bf16, pre_norm;
};

// False where there is no memory for what lies between the layers' parts.
bool run_stack(const StackJob& job, const Level& level, int64_t threads, Scratch& scratch);
