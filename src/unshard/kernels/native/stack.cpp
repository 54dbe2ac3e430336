// All layers of a step that decodes, in one call and with one start of the threads.
//
// A call for each part starts threads and waits for them some sixty times, with Python in between.
// Here every thread goes through the same phases. It takes tasks of a phase while there are some and
// goes on when all are done, so a thread that comes late is not waited for: the others have done its
// share.
#include "stack.h"

#include <sched.h>

#include <atomic>
#include <new>

#include "attention_tasks.h"
#include "int8_rows.h"
#include "threads.h"

namespace {

constexpr int SPINS = 2000;  // some 50 us, far more than a task of few rows takes

constexpr int64_t MOST_PHASES_OF_A_LAYER = 15, OTHER_PHASES = 2;

// What lies between the parts of a layer; rows of each side by side.
struct Between {
  char *normed, *kvq, *attended, *added, *inner, *rounded;
  Count* phases;  // of each: how many of its tasks are done, and what is taken of each run
};

int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

bool make_room(const StackJob& job, int64_t runs, Scratch& scratch, Between& between) {
  const int64_t row = (job.is_bf16 ? 2 : 4) * job.rows;
  const int64_t widest = job.hidden > job.ffn ? job.hidden : job.ffn;
  const int64_t counters = (job.num_layers * MOST_PHASES_OF_A_LAYER + OTHER_PHASES) * (runs + 1);
  struct Part {
    char** start;
    int64_t size;
  } parts[] = {
      {(char**)&between.phases, counters * (int64_t)sizeof(Count)},
      {&between.normed, row * job.hidden},
      {&between.kvq, 3 * row * job.hidden},
      {&between.attended, row * job.hidden},
      {&between.added, row * job.hidden},
      {&between.inner, row * job.ffn},
      {&between.rounded, int8_rows_size(job.rows, widest)},
  };
  int64_t size = 63;
  for (const Part& part : parts) size += whole_lines(part.size);
  char* memory = (char*)scratch.of(size);
  if (!memory) return false;
  memory += -(uintptr_t)memory % 64;
  for (const Part& part : parts) {
    *part.start = memory;
    memory += whole_lines(part.size);
  }
  for (int64_t i = 0; i < counters; i++) new (&between.phases[i]) Count{{0}};
  return true;
}

struct Step {
  const StackJob& job;
  const Level& level;
  Attention attention;
  int64_t runs;  // as many as threads
  Between between;
  std::atomic<int64_t> threads;  // that have begun
};

// One thread's way through the layers.
class Walk {
 public:
  Walk(const Step& step, int64_t number)
      : job(step.job),
        level(step.level),
        attention(step.attention),
        between(step.between),
        runs(step.runs),
        number(number),
        phase(between.phases) {}

  void all() {
    if (job.ids) embed();
    const void* added = nullptr;
    for (int64_t place = 0; place < job.num_layers; place++) {
      const StackLayer& layer = job.layers[place];
      if (job.pre_norm) add_and_norm(added, layer.attention_norm, between.normed);
      const void* from = job.pre_norm ? between.normed : job.x;
      int64_t first = 0;
      for (int64_t i = 0; i < 3 && layer.kvq[i].out; first += layer.kvq[i++].out)
        multiply(layer.kvq[i], from, between.kvq, first, 3 * job.hidden, false);
      attend(job.caches[place]);
      multiply(layer.out, between.attended, between.added, 0, job.hidden, false);
      void* normed = job.pre_norm ? between.normed : job.x;
      add_and_norm(between.added, job.pre_norm ? layer.ffn_norm : layer.attention_norm, normed);
      multiply(layer.fc1, normed, between.inner, 0, job.ffn, true);
      multiply(layer.fc2, between.inner, between.added, 0, job.hidden, false);
      if (!job.pre_norm) add_and_norm(between.added, layer.ffn_norm, job.x);
      added = between.added;
    }
    if (job.pre_norm) add_and_norm(added, job.norm, job.x);
  }

 private:
  template <class Work>
  void each(int64_t count, Work work) {
    std::atomic<int64_t>& done = phase->value;
    const int64_t mine = take_tasks(phase + 1, runs, number, count, work);
    if (mine) done.fetch_add(mine, std::memory_order_release);
    phase += runs + 1;
    for (int spin = 0; done.load(std::memory_order_acquire) < count; spin++)
      if (spin < SPINS)
        relax();
      else
        sched_yield();
  }

  void embed() {
    const EmbedJob rows{job.tables, job.ids, job.positions, job.x, job.hidden, job.is_bf16};
    each(job.rows, [&](int64_t row) { level.embed(&rows, row); });
  }

  void add_and_norm(const void* y, NormWeight norm, void* z) {
    const NormJob rows{job.x, y, z, norm, job.hidden, job.is_bf16};
    each(job.rows, [&](int64_t row) { level.add_and_norm(&rows, row); });
  }

  // Outputs go to columns [first, first + out) of y, whose rows have `stride` numbers.
  void multiply(const StackLinear& linear, const void* x, char* y, int64_t first, int64_t stride,
                bool relu) {
    if (!linear.rounded) {
      const DenseJob dense{linear.weight, linear.bias, x, y + first * (job.is_bf16 ? 2 : 4),
                           job.rows, linear.in, linear.out, stride, job.is_bf16, relu};
      each(level.dense_tasks(&dense), [&](int64_t task) { level.multiply_dense(&dense, task); });
      return;
    }
    const LinearJob rounded =
        int8_job(linear.rounded, x, y, job.rows, job.is_bf16, relu, between.rounded);
    each(job.rows, [&](int64_t row) { level.quantize_row(&rounded, row); });
    each(tasks_of(rounded), [&](int64_t task) { level.multiply_outputs(&rounded, task); });
  }

  void attend(void* cache) {
    Attention here = attention;
    here.job.kvq = between.kvq;
    here.job.cache = cache;
    here.job.out = between.attended;
    each(here.tasks(), [&](int64_t task) { ::attend(&here, task); });
  }

  const StackJob& job;
  const Level& level;
  const Attention& attention;
  const Between& between;
  const int64_t runs, number;  // of all threads; this one's
  Count* phase;
};

bool is_in_tables(const StackJob& job) {
  for (int64_t row = 0; row < job.rows; row++)
    if (job.ids[row] < 0 || job.ids[row] >= job.tables.num_tokens || job.positions[row] < 0 ||
        job.positions[row] >= job.tables.num_places)
      return false;
  return true;
}

void walk(void* data) {
  Step& step = *(Step*)data;
  Walk(step, step.threads.fetch_add(1, std::memory_order_relaxed)).all();
}

}  // namespace

StackEnd run_stack(const StackJob& job, const Level& level, int64_t threads, Scratch& scratch) {
  if (job.ids && !is_in_tables(job)) return NO_SUCH_ROW;
  Step step{job, level, Attention(job.attention, &level, threads), threads, {}, {0}};
  if (!make_room(job, threads, scratch, step.between)) return NO_MEMORY;
  on_threads(walk, &step, threads);
  return COMPUTED;
}
