// Softmax over scores that come piece by piece.
#pragma once

#include "vectors.h"

namespace {

const float NEVER = -__builtin_inff();

// exp(x) for x <= 0, relative error below 2e-7; 0 below -87.
inline Floats exp_of(Floats x) {
  const Floats lowest = all(-87.0f);
  const Floats clamped = x < lowest ? lowest : x;  // a NaN stays one
  const Floats shifted = clamped * 1.44269504088896341f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  const Floats r = (clamped - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Floats power = bits_of<Floats>((bits_of<Ints>(shifted) - 0x4b400000 + 127) << 23);
  const Floats result = p * power;
  return x < lowest ? Floats{} : result;
}

// What softmax needs of the positions so far: the largest score and the sum of exp(score - it).
struct Softmax {
  float peak = NEVER, total = 0;

  // Scores become weights; returns what earlier sums have to be multiplied with.
  float add(float* scores, int64_t count) {
    Floats top = all(NEVER);
    for (int64_t i = 0; i < count; i += LANES) {
      const Floats v = load(scores + i);
      top = v > top ? v : top;
    }
    const float highest = largest(top), next = highest > peak ? highest : peak;
    const float factor = peak == NEVER ? 0 : exp_of(all(peak - next))[0];
    Floats added{};
    for (int64_t i = 0; i < count; i += LANES) {
      const Floats weight = exp_of(load(scores + i) - next);
      store(scores + i, weight);
      added += weight;
    }
    total = total * factor + sum(added);
    peak = next;
    return factor;
  }
};

}  // namespace
