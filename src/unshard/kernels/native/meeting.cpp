// Where processes that share memory wait for each other.
#include <atomic>
#include <limits.h>
#include <stdint.h>
#include <time.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include "threads.h"

namespace {

// How far a rank has come, alone in its cache line.
struct alignas(64) Counter {
  std::atomic<uint32_t> turn;
};
static_assert(sizeof(std::atomic<uint32_t>) == 4, "the kernel waits on 32 bits");

constexpr int SPINS = 4000;  // some 100 us: what ranks that compute alike differ by

void sleep_while(Counter& counter, uint32_t turn, int64_t timeout_ns) {
#if defined(__linux__)
  const timespec timeout{timeout_ns / 1000000000, timeout_ns % 1000000000};
  syscall(SYS_futex, &counter.turn, FUTEX_WAIT, turn, &timeout, nullptr, 0);
#else
  (void)counter, (void)turn, (void)timeout_ns;
  usleep(50);
#endif
}

void wake_all(Counter& counter) {
#if defined(__linux__)
  syscall(SYS_futex, &counter.turn, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
#else
  (void)counter;
#endif
}

int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

bool is_there(Counter& counter, uint32_t turn) {  // turns wrap around
  return (int32_t)(counter.turn.load(std::memory_order_acquire) - turn) >= 0;
}

}  // namespace

// Says that `rank` has come to `turn`, and waits for all of `size` ranks. What they wrote before is
// then visible. Returns -1, or who had not come after `timeout_ns`: call it again to wait longer.
extern "C" __attribute__((visibility("default"))) int64_t unshard_meet(
    void* memory, int64_t size, int64_t rank, uint32_t turn, int64_t timeout_ns) {
  Counter* counters = (Counter*)memory;
  counters[rank].turn.store(turn, std::memory_order_release);
  wake_all(counters[rank]);
  const int64_t end = now_ns() + timeout_ns;
  for (int64_t other = 0; other < size; other++) {
    Counter& counter = counters[other];
    for (int spin = 0; spin < SPINS && !is_there(counter, turn); spin++) relax();
    while (!is_there(counter, turn)) {
      const uint32_t seen = counter.turn.load(std::memory_order_acquire);
      const int64_t left = end - now_ns();
      if (left <= 0) return other;
      if ((int32_t)(seen - turn) < 0) sleep_while(counter, seen, left);
    }
  }
  return -1;
}
