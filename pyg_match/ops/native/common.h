// What the files that are compiled once for each instruction set share: names and sizes of registers.

#include <stdint.h>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX2__)
#define WIDTH 32
#else
#define WIDTH 16
#endif

// Names end in the type of numbers (KIND) and the instruction set (ISA).
#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(name) JOIN(name, KIND, ISA)
#define EXPORT(name) __attribute__((visibility("default"))) JOIN(name, KIND, ISA)
#define INLINE static inline __attribute__((always_inline))

// The next number of a counter that threads share.
#define COUNT(counter) __atomic_fetch_add(&(counter), 1, __ATOMIC_RELAXED)

// Goes through ranges of at most `step` of `count` things, which threads take until none is left.
#define FOR_RANGES(first, end, counter, count, step)                      \
  for (int64_t first, end; (first = COUNT(counter) * (step)) < (count) && \
                           (end = first + (step) < (count) ? first + (step) : (count), 1);)
