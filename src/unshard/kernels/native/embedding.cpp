// Rows of two tables, added: what goes into the first layer. Compiled once for each level.
#include "job.h"
#include "vectors.h"

namespace {

struct fp16 {
  uint16_t bits;
};

// Exact; infinities and NaN stay what they are.
inline Floats load(const fp16* from) {
  Halves v;
  memcpy(&v, from, sizeof v);
  const Words words = __builtin_convertvector(v, Words);
  const Words rest = (words & 0x7fff) << 13;
  // Subnormal ones are counted in steps of 2⁻²⁴: processors may be told to take fp32's for 0.
  const Words small = bits_of<Words>(bits_of<Floats>(rest | 113u << 23) - all(0x1p-14f));
  const Words finite = rest < 1u << 23 ? small : rest + (112u << 23);
  const Words found = rest >= 31u << 23 ? rest | 0x7f800000 : finite;
  return bits_of<Floats>(found | (words & 0x8000) << 16);
}

template <class Token, class T>
void embed(const EmbedJob& job, int64_t row) {
  const Token* token = (const Token*)job.tables.tokens + job.ids[row] * job.size;
  const T* place = (const T*)job.tables.places + job.positions[row] * job.size;
  T* x = (T*)job.x + row * job.size;
  for (int64_t i = 0; i < job.size; i += LANES) {
    const int64_t count = job.size - i;
    store_some(x + i, load_some(token + i, count) + load_some(place + i, count), count);
  }
}

}  // namespace

extern "C" void NAMED(embed, LEVEL)(const EmbedJob* job, int64_t row) {
  if (job->is_bf16)
    embed<bf16, bf16>(*job, row);
  else if (job->tables.tokens_format == TOKENS_FP32)
    embed<float, float>(*job, row);
  else if (job->tables.tokens_format == TOKENS_BF16)
    embed<bf16, float>(*job, row);
  else
    embed<fp16, float>(*job, row);
}
