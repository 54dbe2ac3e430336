// y = x Wᵀ + b with the weight as it is in files; compiled once for each level.
//
// With many rows see many_rows.h. With few the time is that of reading the weight once. Rows of a
// weight lie one after another, so they are read as they come, and nothing has to be laid out anew
// at loading. A sum runs over vectors of a row and then over the lanes, the same for every number
// of few rows.
#include "many_rows.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

template <class T>
struct Dot {
  static constexpr int64_t WIDTH = LANES;
  typedef Floats Vector;

  static Vector read(const T* from) { return load(from); }
  static void add(Floats& total, Vector w, Vector x) { total += w * x; }
};

#if defined(__AVX512BF16__)
template <>
struct Dot<bf16> {
  static constexpr int64_t WIDTH = 2 * LANES;
  typedef __m512bh Vector;

  static Vector read(const bf16* from) { return (Vector)_mm512_loadu_si512(from); }
  static void add(Floats& total, Vector w, Vector x) {
    total = (Floats)_mm512_dpbf16_ps((__m512)total, w, x);
  }
};
#else
// Of each pair of numbers the second is a word's upper half as it is, and the first after a shift:
// no lane has to go elsewhere.
template <>
struct Dot<bf16> {
  static constexpr int64_t WIDTH = 2 * LANES;
  struct Vector {
    Floats first, second;
  };

  static Vector read(const bf16* from) {
    Words pairs;
    memcpy(&pairs, from, sizeof pairs);
    return {bits_of<Floats>(pairs << 16), bits_of<Floats>(pairs & 0xffff0000)};
  }
  static void add(Floats& total, Vector w, Vector x) {
    total += w.first * x.first;
    total += w.second * x.second;
  }
};
#endif

template <class T>
typename Dot<T>::Vector read_some(const T* from, int64_t count) {
  T padded[Dot<T>::WIDTH] = {};
  memcpy(padded, from, sizeof(T) * count);
  return Dot<T>::read(padded);
}

// Weights to come, fetched into the second cache while others are multiplied, some lines at each
// step: the first cache has no room for them.
struct Ahead {
  const char* next = nullptr;
  const char* end = nullptr;
  int64_t lines = 0;

  void fetch() {
    for (int64_t i = 0; i < lines && next < end; i++, next += 64) __builtin_prefetch(next, 0, 2);
  }
};

// ROWS rows of x times STREAMS rows of the weight, all sums in registers.
template <class T, int ROWS, int STREAMS>
void read_together(const T* const* x, const T* const* weight, int64_t in, Ahead& ahead,
                   Floats* totals) {
  typedef Dot<T> D;
  Floats total[ROWS * STREAMS];
  for (Floats& each : total) each = Floats{};
  for (int64_t k = 0; k + D::WIDTH <= in; k += D::WIDTH) {
    ahead.fetch();
    typename D::Vector rows[ROWS];
    for (int64_t r = 0; r < ROWS; r++) rows[r] = D::read(x[r] + k);
    for (int64_t o = 0; o < STREAMS; o++) {
      const typename D::Vector each = D::read(weight[o] + k);
      for (int64_t r = 0; r < ROWS; r++) D::add(total[r * STREAMS + o], each, rows[r]);
    }
  }
  for (int64_t r = 0; r < ROWS; r++)
    for (int64_t o = 0; o < STREAMS; o++) totals[r * (LANES / ROWS) + o] = total[r * STREAMS + o];
}

// Up to ROWS rows of x from `row` on, times LANES / ROWS rows of the weight from `first` on,
// STREAMS at a time.
template <class T, int ROWS, int STREAMS>
void tile(const DenseJob& job, int64_t row, int64_t first, Floats bias, Ahead& ahead) {
  typedef Dot<T> D;
  constexpr int64_t OUTS = LANES / ROWS;
  const int64_t in = job.in, whole = in / D::WIDTH * D::WIDTH;
  // Beyond the last row and output there is nothing to read: the last one is computed again.
  const int64_t last_row = job.rows - row - 1, last = job.out - first - 1;
  const T *x[ROWS], *w[OUTS];
  for (int64_t r = 0; r < ROWS; r++)
    x[r] = (const T*)job.x + (row + (r < last_row ? r : last_row)) * in;
  for (int64_t o = 0; o < OUTS; o++)
    w[o] = (const T*)job.weight + (first + (o < last ? o : last)) * in;
  Floats total[LANES];
  for (int64_t o = 0; o < OUTS; o += STREAMS)
    read_together<T, ROWS, STREAMS>(x, w + o, in, ahead, total + o);
  if (whole < in)
    for (int64_t o = 0; o < OUTS; o++)
      for (int64_t r = 0; r < ROWS; r++)
        D::add(total[r * OUTS + o], read_some(w[o] + whole, in - whole),
               read_some(x[r] + whole, in - whole));
  Floats result = sums_of(total) + bias;
  if (job.relu) result = result < 0 ? Floats{} : result;
  T results[LANES];
  store(results, result);
  T* y = (T*)job.y + row * job.stride + first;
  for (int64_t r = 0; r < ROWS && r <= last_row; r++)
    memcpy(y + r * job.stride, results + r * OUTS, sizeof(T) * (OUTS <= last ? OUTS : last + 1));
}

// The weight of `outs` outputs from `first` on, to be fetched while `passes` rows of it are read.
template <class T>
Ahead weights_from(const DenseJob& job, int64_t first, int64_t outs, int64_t passes) {
  const T *weight = (const T*)job.weight, *end = weight + job.out * job.in;
  const T *from = weight + first * job.in, *to = from + outs * job.in;
  const int64_t a_step = outs * Dot<T>::WIDTH * (int64_t)sizeof(T);
  return {(const char*)from, (const char*)(to < end ? to : end), parts_of(a_step, 64 * passes)};
}

// `tiles` tiles of ROWS rows from `row` on, for outputs [start, end).
//
// With 16 lanes one row alone does nothing but read, row by row: of several rows of a weight side by
// side processors foresee less (of four, Zen 4 reads half as fast). Others are slower than
// memory, and fetch what comes next: those alone from further ahead, more while they multiply what
// the first have read.
template <class T, int ROWS>
void multiply_rows(const DenseJob& job, int64_t row, int64_t tiles, int64_t start, int64_t end) {
  constexpr int64_t OUTS = LANES / ROWS, STREAMS = OUTS < 4 ? OUTS : 4;
  constexpr bool ONLY_READS = LANES == 16 && ROWS == 1;
  constexpr int64_t FEW = ONLY_READS || OUTS == 1 ? 1 : 2;
  const bool is_first = row == 0;
  for (int64_t first = start; tiles && first < end; first += OUTS) {
    Floats bias{};
    for (int64_t i = 0; job.bias && i < LANES; i++)
      if (first + i % OUTS < job.out) bias[i] = single(((const T*)job.bias)[first + i % OUTS]);
    Ahead alone, beside;
    if (is_first && tiles > 1)
      beside = weights_from<T>(job, first + OUTS, OUTS, tiles - 1);
    else if (is_first && !ONLY_READS)
      alone = weights_from<T>(job, first + DENSE_OUTPUTS, OUTS, OUTS / FEW);
    if (is_first) tile<T, ROWS, FEW>(job, 0, first, bias, alone);
    for (int64_t t = is_first; t < tiles; t++)
      tile<T, ROWS, STREAMS>(job, row + t * ROWS, first, bias, beside);
  }
}

// Whether it is faster to copy the weight first. Of bf16 numbers it is sooner, as the copy is fp32.
// With 16 lanes it was measured to be so nowhere below 65 rows.
template <class T>
bool has_many_rows(const DenseJob& job) {
  return job.rows >= (LANES == 16 ? 65 : sizeof(T) == 2 ? 13 : 25);
}

template <class T>
int64_t count_tasks(const DenseJob& job) {
  return has_many_rows<T>(job) ? tasks_of_many(job) : parts_of(job.out, DENSE_OUTPUTS);
}

template <class T>
void multiply(const DenseJob& job, int64_t task) {
  if (has_many_rows<T>(job)) return multiply_many<T>(job, task);
  const int64_t start = task * DENSE_OUTPUTS, left = job.out - start, rows = job.rows;
  const int64_t end = start + (left < DENSE_OUTPUTS ? left : DENSE_OUTPUTS);
  // Four rows use each vector of the weight four times, and leave registers for four outputs. Two
  // or three that are left over take longer alone than as if they were four.
  const int64_t fours = (rows + (rows > 2 ? 2 : 0)) / 4, row = 4 * fours;
  multiply_rows<T, 4>(job, 0, fours, start, end);
  if (rows == row + 2) multiply_rows<T, 2>(job, row, 1, start, end);
  if (rows == row + 1) multiply_rows<T, 1>(job, row, 1, start, end);
}

}  // namespace

extern "C" int64_t NAMED(dense_tasks, LEVEL)(const DenseJob* job) {
  return job->is_bf16 ? count_tasks<bf16>(*job) : count_tasks<float>(*job);
}

extern "C" void NAMED(multiply_dense, LEVEL)(const DenseJob* job, int64_t task) {
  if (job->is_bf16)
    multiply<bf16>(*job, task);
  else
    multiply<float>(*job, task);
}
