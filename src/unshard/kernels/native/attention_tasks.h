// Attention of a step cut into tasks.
#pragma once

#include "job.h"

// A sequence with many queries has one for each head.
struct Attention {
  AttentionJob job;
  const Level* level;

  Attention(const AttentionJob& job, const Level* level, int64_t threads) : job(job), level(level) {
    // Several tasks for each thread, so that none waits long for the last, all of them alike.
    int64_t heads = job.heads * job.sequences / (2 * threads);
    heads = heads < 1 ? 1 : heads < MAX_TASK_HEADS ? heads : MAX_TASK_HEADS;
    this->job.task_heads = parts_of(job.heads, parts_of(job.heads, heads));
  }

  int64_t heads_of(int64_t sequence) const {
    const int64_t queries = job.query_starts[sequence + 1] - job.query_starts[sequence];
    return queries < FEW_QUERIES ? job.task_heads : 1;
  }
  int64_t tasks_of(int64_t sequence) const {
    const int64_t heads = heads_of(sequence);
    return (job.heads + heads - 1) / heads;
  }
  int64_t tasks() const {
    int64_t count = 0;
    for (int64_t sequence = 0; sequence < job.sequences; sequence++) count += tasks_of(sequence);
    return count;
  }
};

inline void attend(const Attention* attention, int64_t task) {
  int64_t sequence = 0;
  for (int64_t count; task >= (count = attention->tasks_of(sequence)); sequence++) task -= count;
  const AttentionJob& job = attention->job;
  const int64_t heads = attention->heads_of(sequence), first = task * heads;
  attention->level->attend(&job, sequence, first,
                           job.heads - first < heads ? job.heads - first : heads);
}
