// What the processor can do.

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

// The number of the C code that the library was built from.
EXPORT int64_t sources(void) { return SOURCES; }

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>

static uint64_t enabled_registers(void) {  // by the operating system
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

// The best instruction set that the library has code for: 0 the baseline, 1 AVX2 with FMA, 2 AVX-512.
EXPORT int64_t instruction_set(void) {
  uint32_t a, b, c, d;
  const uint32_t osxsave = 1u << 27, fma = 1u << 12, avx2 = 1u << 5;
  const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & osxsave) || !(c & fma)) return 0;
  const uint64_t registers = enabled_registers();
  if ((registers & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & avx2)) return 0;
  return (registers & 0xE6) == 0xE6 && (b & avx512) == avx512 ? 2 : 1;
}

#else

EXPORT int64_t instruction_set(void) { return 0; }

#endif
