// The functions that Python calls.
#include "attention_tasks.h"
#include "int8_rows.h"
#include "job.h"
#include "levels.h"
#include "stack.h"
#include "threads.h"

Parallel parallel = nullptr;

namespace {

constexpr int64_t MOST_RUNS = 64;

template <class Job>
struct Tasks {
  void (*work)(const Job*, int64_t);
  const Job* job;
  int64_t count, runs;
  std::atomic<int64_t> threads;
  Count taken[MOST_RUNS];
};

template <class Job>
void take(void* data) {
  Tasks<Job>& tasks = *(Tasks<Job>*)data;
  const int64_t own = tasks.threads.fetch_add(1, std::memory_order_relaxed);
  take_tasks(tasks.taken, tasks.runs, own, tasks.count,
             [&](int64_t task) { tasks.work(tasks.job, task); });
}

template <class Job>
void run(void (*work)(const Job*, int64_t), const Job& job, int64_t count, int64_t threads) {
  if (threads > count) threads = count;
  Tasks<Job> tasks;
  tasks.work = work;
  tasks.job = &job;
  tasks.count = count;
  tasks.runs = threads < MOST_RUNS ? threads : MOST_RUNS;
  tasks.threads = 0;
  for (int64_t i = 0; i < tasks.runs; i++) tasks.taken[i].value = 0;
  on_threads(take<Job>, &tasks, threads);
}

thread_local Scratch scratch;

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void unshard_use_threads(Parallel of_openmp) { parallel = of_openmp; }

// The name of level `number`, the best first; null beyond the last, "" for one that cannot run.
EXPORTED const char* unshard_level(int number) {
  if (number >= NUM_LEVELS) return nullptr;
  return runs_here(number) ? LEVELS[number].name : "";
}

EXPORTED void unshard_attention(int level, int64_t threads, const AttentionJob* job) {
  const Attention attention(*job, &LEVELS[level], threads);
  run(attend, attention, attention.tasks(), threads);
}

// Returns 0, or 1 where there is no memory for the rows' bytes.
EXPORTED int unshard_linear(int level, int64_t threads, const Int8Weight* weight, const void* x,
                            void* y, int64_t rows, int is_bf16, int relu) {
  constexpr int64_t MOST_ROWS = 256;  // bounds the bytes; weights are read again for the next
  const int64_t width = is_bf16 ? 2 : 4, most = rows < MOST_ROWS ? rows : MOST_ROWS;
  char* memory = (char*)scratch.of(int8_rows_size(most, weight->in));
  if (!memory) return 1;
  for (int64_t start = 0; start < rows; start += most) {
    const LinearJob job = int8_job(weight, (const char*)x + start * weight->in * width,
                                   (char*)y + start * weight->out * width,
                                   rows - start < most ? rows - start : most, is_bf16, relu, memory);
    // A few rows are done before another thread would have woken up.
    run(LEVELS[level].quantize_row, job, job.rows, job.rows * weight->in < 16384 ? 1 : threads);
    run(LEVELS[level].multiply_outputs, job, tasks_of(job), threads);
  }
  return 0;
}

EXPORTED void unshard_dense(int level, int64_t threads, const void* weight, const void* bias,
                            const void* x, void* y, int64_t rows, int64_t in, int64_t out,
                            int is_bf16, int relu) {
  const DenseJob job{weight, bias, x, y, rows, in, out, out, is_bf16, relu};
  run(LEVELS[level].multiply_dense, job, LEVELS[level].dense_tasks(&job), threads);
}

EXPORTED void unshard_norm(int level, int64_t threads, const NormJob* job, int64_t rows) {
  run(LEVELS[level].add_and_norm, *job, rows, rows * job->size < 16384 ? 1 : threads);
}

// Returns a StackEnd.
EXPORTED int unshard_stack(int level, int64_t threads, const StackJob* job) {
  return run_stack(*job, LEVELS[level], threads, scratch);
}
