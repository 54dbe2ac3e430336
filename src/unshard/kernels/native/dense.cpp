// y = x Wᵀ + b for few rows, with the weight as it is in files; compiled once for each level.
//
// With few rows the time is that of reading the weight once. Rows of a weight lie one after
// another, so they are read as they come, and nothing has to be laid out anew at loading. A sum
// runs over vectors of a row and then over the lanes, the same for every number of rows.
#include "job.h"
#include "vectors.h"

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
#endif

template <class T>
typename Dot<T>::Vector read_some(const T* from, int64_t count) {
  T padded[Dot<T>::WIDTH] = {};
  memcpy(padded, from, sizeof(T) * count);
  return Dot<T>::read(padded);
}

inline float single(float value) { return value; }
inline float single(bf16 value) { return bits_of<float>((uint32_t)value << 16); }

// ROWS rows of x times STREAMS rows of the weight, all sums in registers. What lies `ahead` of the
// weight is fetched meanwhile, unless that is 0.
template <class T, int ROWS, int STREAMS>
void read_together(const T* x, const T* const* weight, int64_t in, int64_t ahead, Floats* totals) {
  typedef Dot<T> D;
  Floats total[ROWS * STREAMS];
  for (Floats& each : total) each = Floats{};
  for (int64_t k = 0; k + D::WIDTH <= in; k += D::WIDTH) {
    typename D::Vector rows[ROWS];
    for (int64_t r = 0; r < ROWS; r++) rows[r] = D::read(x + r * in + k);
    for (int64_t o = 0; o < STREAMS; o++) {
      if (ahead) __builtin_prefetch(weight[o] + ahead + k);
      const typename D::Vector each = D::read(weight[o] + k);
      for (int64_t r = 0; r < ROWS; r++) D::add(total[r * STREAMS + o], each, rows[r]);
    }
  }
  for (int64_t r = 0; r < ROWS; r++)
    for (int64_t o = 0; o < STREAMS; o++) totals[r * (LANES / ROWS) + o] = total[r * STREAMS + o];
}

// ROWS rows of x times LANES / ROWS rows of the weight, four at a time: a processor follows few
// streams best.
template <class T, int ROWS>
void tile(const DenseJob& job, const T* x, const T* weight, Floats bias, int64_t first,
          bool fetches_next, T* y) {
  typedef Dot<T> D;
  constexpr int64_t OUTS = LANES / ROWS, STREAMS = OUTS < 4 ? OUTS : 4;
  const int64_t in = job.in, whole = in / D::WIDTH * D::WIDTH;
  // Beyond the last output there is nothing to read: the last one is computed again.
  const int64_t last = job.out - first - 1;
  const int64_t ahead = fetches_next && last >= 2 * OUTS ? OUTS * in : 0;
  const T* w[OUTS];
  for (int64_t o = 0; o < OUTS; o++) w[o] = weight + (o < last ? o : last) * in;
  Floats total[LANES];
  for (int64_t o = 0; o < OUTS; o += STREAMS)
    read_together<T, ROWS, STREAMS>(x, w + o, in, ahead, total + o);
  if (whole < in)
    for (int64_t o = 0; o < OUTS; o++)
      for (int64_t r = 0; r < ROWS; r++)
        D::add(total[r * OUTS + o], read_some(w[o] + whole, in - whole),
               read_some(x + r * in + whole, in - whole));
  Floats result = sums_of(total) + bias;
  if (job.relu) result = result < 0 ? Floats{} : result;
  T results[LANES];
  store(results, result);
  for (int64_t r = 0; r < ROWS; r++)
    memcpy(y + r * job.stride, results + r * OUTS, sizeof(T) * (OUTS <= last ? OUTS : last + 1));
}

// Tiles of ROWS rows, as many as there are from `row` on, for outputs [start, end).
template <class T, int ROWS>
int64_t multiply_rows(const DenseJob& job, int64_t row, int64_t start, int64_t end) {
  constexpr int64_t OUTS = LANES / ROWS;
  const int64_t whole = row + (job.rows - row) / ROWS * ROWS;
  for (int64_t first = start; row < whole && first < end; first += OUTS) {
    Floats bias{};
    for (int64_t i = 0; job.bias && i < LANES; i++)
      if (first + i % OUTS < job.out) bias[i] = single(((const T*)job.bias)[first + i % OUTS]);
    // The first rows wait for the weight; the next find it near, and fetch what comes after it.
    for (int64_t r = row; r < whole; r += ROWS)
      tile<T, ROWS>(job, (const T*)job.x + r * job.in, (const T*)job.weight + first * job.in, bias,
                    first, r == row + ROWS, (T*)job.y + r * job.stride + first);
  }
  return whole;
}

template <class T>
void multiply(const DenseJob& job, int64_t block) {
  const int64_t start = block * DENSE_OUTPUTS, left = job.out - start;
  const int64_t end = start + (left < DENSE_OUTPUTS ? left : DENSE_OUTPUTS);
  // Four rows use each vector of the weight four times, and leave registers for four outputs.
  int64_t row = multiply_rows<T, 4>(job, 0, start, end);
  row = multiply_rows<T, 2>(job, row, start, end);
  multiply_rows<T, 1>(job, row, start, end);
}

}  // namespace

extern "C" void NAMED(multiply_dense, LEVEL)(const DenseJob* job, int64_t block) {
  if (job->is_bf16)
    multiply<bf16>(*job, block);
  else
    multiply<float>(*job, block);
}
