// The functions that Python calls, and who runs their tasks.
//
// Threads are those of the OpenMP runtime that torch loaded, started through `GOMP_parallel`
// (libgomp's entry, which libomp has too): a second pool would fight the first for the cores.
#include <atomic>
#include <stdlib.h>
#include <string.h>

#include "job.h"

extern "C" {

#define DECLARE(level)                                                        \
  void attend_##level(const AttentionJob*, int64_t, int64_t, int64_t);        \
  void quantize_row_##level(const LinearJob*, int64_t);                       \
  void multiply_outputs_##level(const LinearJob*, int64_t);                   \
  void multiply_dense_##level(const DenseJob*, int64_t);
#define LEVEL_NAMED(level)                                                           \
  {#level, attend_##level, quantize_row_##level, multiply_outputs_##level, multiply_dense_##level}

DECLARE(portable)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512bf16)
#endif
}

namespace {

#if defined(__x86_64__)
const Level LEVELS[] = {LEVEL_NAMED(avx512bf16), LEVEL_NAMED(avx512), LEVEL_NAMED(avx2),
                        LEVEL_NAMED(portable)};

bool runs_here(int level) {
  __builtin_cpu_init();
  if (level == 0 && !__builtin_cpu_supports("avx512bf16")) return false;
  if (level <= 1)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
  return level == 3 || (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
}
#else
const Level LEVELS[] = {LEVEL_NAMED(portable)};

bool runs_here(int) { return true; }
#endif

constexpr int NUM_LEVELS = sizeof LEVELS / sizeof *LEVELS;

typedef void (*Parallel)(void (*)(void*), void*, unsigned threads, unsigned flags);

Parallel parallel = nullptr;

// Tasks 0 … count - 1 of one job, each taken by the thread that comes first.
template <class Job>
struct Tasks {
  void (*work)(const Job*, int64_t);
  const Job* job;
  int64_t count;
  std::atomic<int64_t> next;
};

template <class Job>
void take(void* data) {
  Tasks<Job>& tasks = *(Tasks<Job>*)data;
  for (int64_t task; (task = tasks.next.fetch_add(1, std::memory_order_relaxed)) < tasks.count;)
    tasks.work(tasks.job, task);
}

template <class Job>
void run(void (*work)(const Job*, int64_t), const Job& job, int64_t count, int64_t threads) {
  Tasks<Job> tasks{work, &job, count, {0}};
  if (threads > count) threads = count;
  if (parallel && threads > 1)
    parallel(take<Job>, &tasks, (unsigned)threads, 0);
  else
    take<Job>(&tasks);
}

// Attention cut into tasks: a sequence with many queries has one for each head.
struct Attention {
  AttentionJob job;
  const Level* level;

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

void attend(const Attention* attention, int64_t task) {
  int64_t sequence = 0;
  for (int64_t count; task >= (count = attention->tasks_of(sequence)); sequence++) task -= count;
  const AttentionJob& job = attention->job;
  const int64_t heads = attention->heads_of(sequence), first = task * heads;
  attention->level->attend(&job, sequence, first,
                           job.heads - first < heads ? job.heads - first : heads);
}

// Memory of a thread, kept for its next call.
struct Scratch {
  void* memory = nullptr;
  size_t size = 0;

  ~Scratch() { free(memory); }

  void* of(size_t wanted) {
    if (wanted > size) {
      free(memory);
      memory = malloc(wanted);
      size = memory ? wanted : 0;
    }
    return memory;
  }
};

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
  Attention attention{*job, &LEVELS[level]};
  // Several tasks for each thread, so that none waits long for the last.
  int64_t heads = job->heads * job->sequences / (4 * threads);
  heads = heads < 1 ? 1 : heads < job->heads ? heads : job->heads;
  attention.job.task_heads = heads < MAX_TASK_HEADS ? heads : MAX_TASK_HEADS;
  run(attend, attention, attention.tasks(), threads);
}

// Returns 0, or 1 where there is no memory for the rows' bytes.
EXPORTED int unshard_linear(int level, int64_t threads, const Int8Weight* weight, const void* x,
                            void* y, int64_t rows, int is_bf16, int relu) {
  constexpr int64_t MOST_ROWS = 256;  // bounds the bytes; weights are read again for the next
  const int64_t padded_in = (weight->in + 63) / 64 * 64, width = is_bf16 ? 2 : 4;
  const int64_t most = rows < MOST_ROWS ? rows : MOST_ROWS;
  char* memory = (char*)scratch.of(most * (3 * padded_in + sizeof(WholeRow)));
  if (!memory) return 1;
  for (int64_t start = 0; start < rows; start += most) {
    LinearJob job;
    job.weight = weight;
    job.x = (const char*)x + start * weight->in * width;
    job.y = (char*)y + start * weight->out * width;
    job.rows = rows - start < most ? rows - start : most;
    job.is_bf16 = is_bf16;
    job.relu = relu;
    job.padded_in = padded_in;
    job.low = (int8_t*)memory;
    job.high = job.low + most * padded_in;
    job.large = (int32_t*)(job.high + most * padded_in);
    job.whole = (WholeRow*)(job.large + most * padded_in / 4);
    // A few rows are done before another thread would have woken up.
    run(LEVELS[level].quantize_row, job, job.rows, job.rows * weight->in < 16384 ? 1 : threads);
    run(LEVELS[level].multiply_outputs, job, (weight->out + OUTPUTS - 1) / OUTPUTS, threads);
  }
  return 0;
}

EXPORTED void unshard_dense(int level, int64_t threads, const void* weight, const void* bias,
                            const void* x, void* y, int64_t rows, int64_t in, int64_t out,
                            int is_bf16, int relu) {
  const DenseJob job{weight, bias, x, y, rows, in, out, is_bf16, relu};
  run(LEVELS[level].multiply_dense, job, (out + OUTPUTS - 1) / OUTPUTS, threads);
}
