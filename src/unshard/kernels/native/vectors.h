// Vectors of the level that this file is compiled for, in GCC's and clang's own vector types:
// one source, as many lanes as the level's registers have.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

// What this file's level calls a function that each level has.
#define JOINED(name, level) name##_##level
#define NAMED(name, level) JOINED(name, level)

// Everything below has internal linkage: the levels are linked into one library, and a function
// that the linker merged could run with instructions that the processor lacks.
namespace {

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint16_t bf16;

template <class To, class From>
inline To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From), "same width");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

inline Floats all(float value) { return value - Floats{}; }

inline Floats load(const float* from) {
  Floats v;
  memcpy(&v, from, sizeof v);
  return v;
}

inline Floats load(const bf16* from) {
  Halves v;
  memcpy(&v, from, sizeof v);
  return bits_of<Floats>(__builtin_convertvector(v, Words) << 16);
}

inline void store(float* to, Floats v) { memcpy(to, &v, sizeof v); }

// Rounds to the nearest, ties to even; a NaN stays one.
inline void store(bf16* to, Floats v) {
  const Words bits = bits_of<Words>(v);
  Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  rounded = v == v ? rounded : Words{} + 0x7fc0;
  const Halves halves = __builtin_convertvector(rounded, Halves);
  memcpy(to, &halves, sizeof halves);
}

// `count` numbers, and zeros up to a vector.
template <class T>
inline Floats load_some(const T* from, int64_t count) {
  if (count >= LANES) return load(from);
  T padded[LANES] = {};
  memcpy(padded, from, sizeof(T) * count);
  return load(padded);
}

// The first `count` lanes.
template <class T>
inline void store_some(T* to, Floats v, int64_t count) {
  if (count >= LANES) return store(to, v);
  T padded[LANES];
  store(padded, v);
  memcpy(to, padded, sizeof(T) * count);
}

// Each lane's neighbour at distance D.
template <int D>
inline Floats swapped(Floats v) {
#if defined(__clang__)
  Floats found;
  for (int lane = 0; lane < LANES; lane++) found[lane] = v[lane ^ D];
  return found;
#else
  Ints from;
  for (int lane = 0; lane < LANES; lane++) from[lane] = lane ^ D;
  return __builtin_shuffle(v, from);
#endif
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float largest(Floats v) {
#if LANES >= 16
  v = larger(v, swapped<8>(v));
#endif
#if LANES >= 8
  v = larger(v, swapped<4>(v));
#endif
  v = larger(v, swapped<2>(v));
  return larger(v, swapped<1>(v))[0];
}

inline float sum(Floats v) {
#if LANES >= 16
  v += swapped<8>(v);
#endif
#if LANES >= 8
  v += swapped<4>(v);
#endif
  v += swapped<2>(v);
  return (v + swapped<1>(v))[0];
}

template <int D>
inline Floats pair_sums(Floats a, Floats b) {
  Ints first, second;
  for (int lane = 0; lane < LANES; lane++) {
    first[lane] = lane & D ? LANES + lane : lane;
    second[lane] = lane & D ? LANES + (lane ^ D) : lane ^ D;
  }
#if defined(__clang__)
  Floats x, y;
  for (int lane = 0; lane < LANES; lane++) {
    x[lane] = lane & D ? b[lane] : a[lane];
    y[lane] = lane & D ? b[lane ^ D] : a[lane ^ D];
  }
  return x + y;
#else
  return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, second);
#endif
}

// Lane i of the result is the sum of rows[i].
inline Floats sums_of(Floats (&rows)[LANES]) {
  for (int i = 0; i < LANES / 2; i++) rows[i] = pair_sums<1>(rows[2 * i], rows[2 * i + 1]);
  for (int i = 0; i < LANES / 4; i++) rows[i] = pair_sums<2>(rows[2 * i], rows[2 * i + 1]);
#if LANES >= 8
  for (int i = 0; i < LANES / 8; i++) rows[i] = pair_sums<4>(rows[2 * i], rows[2 * i + 1]);
#endif
#if LANES >= 16
  rows[0] = pair_sums<8>(rows[0], rows[1]);
#endif
  return rows[0];
}

// Lanes whose number has bit D go from `a` to `b`'s other ones, and back.
template <int D>
inline void exchange(Floats& a, Floats& b) {
#if defined(__clang__)
  const Floats x = a, y = b;
  for (int lane = 0; lane < LANES; lane++) {
    a[lane] = lane & D ? y[lane ^ D] : x[lane];
    b[lane] = lane & D ? y[lane] : x[lane ^ D];
  }
#else
  Ints first, second;
  for (int lane = 0; lane < LANES; lane++) {
    first[lane] = lane & D ? LANES + (lane ^ D) : lane;
    second[lane] = lane & D ? LANES + lane : lane ^ D;
  }
  const Floats x = a;
  a = __builtin_shuffle(x, b, first);
  b = __builtin_shuffle(x, b, second);
#endif
}

template <int D>
inline void turn_by(Floats (&rows)[LANES]) {
  for (int i = 0; i < LANES; i++)
    if (!(i & D)) exchange<D>(rows[i], rows[i ^ D]);
}

// Rows become columns.
inline void turn(Floats (&rows)[LANES]) {
  turn_by<1>(rows);
  turn_by<2>(rows);
#if LANES >= 8
  turn_by<4>(rows);
#endif
#if LANES >= 16
  turn_by<8>(rows);
#endif
}

}  // namespace
