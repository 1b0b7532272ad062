// The arithmetic of rows, a target with its incoming edges each, for one type of numbers (REAL) and one of tables
// (TABLE). Included by attention.c, once for each pair of types.

#include "vectors.h"

#define EIGHT 8  // scalar products that are taken at a time

#if TABLE_IS_HALF  // bfloat16 is the upper half of single precision

INLINE REAL NAME(widen)(TABLE x) {
  union {
    uint32_t bits;
    float value;
  } both = {(uint32_t)x << 16};
  return both.value;
}

INLINE VEC NAME(load_table)(const TABLE *x) {
  typedef uint16_t shorts __attribute__((vector_size(WIDTH / 2), aligned(2), may_alias));
  typedef uint32_t words __attribute__((vector_size(WIDTH)));
  return (VEC)(__builtin_convertvector(*(const shorts *)x, words) << 16);
}

// Two vectors at once, which need not be moved within registers: the numbers in even places, then those in odd ones.
INLINE void NAME(load_two)(const TABLE *x, VEC *even, VEC *odd) {
  typedef uint32_t words __attribute__((vector_size(WIDTH), aligned(2), may_alias));
  const words both = *(const words *)x;
  *even = (VEC)(both << 16);
  *odd = (VEC)(both & 0xFFFF0000u);
}

// The same order for two vectors of other numbers, and back.
INLINE void NAME(part)(VEC *a, VEC *b) {
  const VEC low = *a, high = *b;
  *a = __builtin_shufflevector(low, high, EVEN_PLACES);
  *b = __builtin_shufflevector(low, high, ODD_PLACES);
}

INLINE void NAME(join)(VEC *a, VEC *b) {
  const VEC even = *a, odd = *b;
  *a = __builtin_shufflevector(even, odd, LOW_PLACES);
  *b = __builtin_shufflevector(even, odd, HIGH_PLACES);
}

#else

INLINE void NAME(load_two)(const TABLE *x, VEC *a, VEC *b) {
  *a = *(const VEC *)x;
  *b = *(const VEC *)(x + LANES);
}

INLINE void NAME(part)(VEC *a, VEC *b) { (void)a, (void)b; }
INLINE void NAME(join)(VEC *a, VEC *b) { (void)a, (void)b; }

INLINE REAL NAME(widen)(TABLE x) { return x; }
INLINE VEC NAME(load_table)(const TABLE *x) { return *(const VEC *)x; }

#endif

// The sums of eight vectors, written to out[0..7].
INLINE void NAME(sum_eight)(const VEC *s, REAL scale, REAL *out, int64_t count) {
  typedef REAL eight __attribute__((vector_size(8 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
  eight sums;
#if WIDTH / REAL_BYTES == 16
#define FOLD(a, b, ...) (__builtin_shufflevector(a, b, __VA_ARGS__))
  VEC m[4], n[2], t;
  for (int i = 0; i < 4; i++)
    m[i] = FOLD(s[i], s[i + 4], 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) +
           FOLD(s[i], s[i + 4], 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
  for (int i = 0; i < 2; i++)
    n[i] = FOLD(m[i], m[i + 2], 0, 1, 2, 3, 20, 21, 22, 23, 8, 9, 10, 11, 28, 29, 30, 31) +
           FOLD(m[i], m[i + 2], 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
  t = FOLD(n[0], n[1], 0, 1, 18, 19, 4, 5, 22, 23, 8, 9, 26, 27, 12, 13, 30, 31) +
      FOLD(n[0], n[1], 2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29);
  sums = FOLD(t, t, 0, 2, 4, 6, 8, 10, 12, 14) + FOLD(t, t, 1, 3, 5, 7, 9, 11, 13, 15);
#elif WIDTH / REAL_BYTES == 8
#define FOLD(a, b, ...) (__builtin_shufflevector(a, b, __VA_ARGS__))
  VEC m[4], n[2];
  for (int i = 0; i < 4; i++)
    m[i] = FOLD(s[i], s[i + 4], 0, 1, 2, 3, 12, 13, 14, 15) + FOLD(s[i], s[i + 4], 4, 5, 6, 7, 8, 9, 10, 11);
  for (int i = 0; i < 2; i++)
    n[i] = FOLD(m[i], m[i + 2], 0, 1, 10, 11, 4, 5, 14, 15) + FOLD(m[i], m[i + 2], 2, 3, 8, 9, 6, 7, 12, 13);
  sums = (eight)(FOLD(n[0], n[1], 0, 9, 2, 11, 4, 13, 6, 15) + FOLD(n[0], n[1], 1, 8, 3, 10, 5, 12, 7, 14));
#else
#define FOLD(a, b, ...)
  for (int i = 0; i < EIGHT; i++) sums[i] = NAME(total)(s[i]);
#endif
#undef FOLD
  sums *= scale;
  if (count == EIGHT) {
    *(eight *)out = sums;
  } else {
    for (int64_t i = 0; i < count; i++) out[i] = sums[i];
  }
}

// out[e] = scale <a, b[col[e]]> for up to eight edges; the last one is read again in place of those that are missing.
INLINE void NAME(dot_eight)(const REAL *a, const TABLE *b, int64_t step, const uint32_t *col, int64_t count,
                            int64_t channels, REAL scale, REAL *out) {
  const TABLE *row[EIGHT];
  VEC sum[EIGHT] = {{0}};
  for (int i = 0; i < EIGHT; i++) row[i] = b + (int64_t)col[i < count ? i : count - 1] * step;
  int64_t c = 0;
  for (; c + 2 * LANES <= channels; c += 2 * LANES) {
    VEC x = NAME(load)(a + c), y = NAME(load)(a + c + LANES), u, v;
    NAME(part)(&x, &y);
    for (int i = 0; i < EIGHT; i++) {
      NAME(load_two)(row[i] + c, &u, &v);
      sum[i] += x * u;
      sum[i] += y * v;
    }
  }
  for (; c + LANES <= channels; c += LANES) {
    VEC x = NAME(load)(a + c);
    for (int i = 0; i < EIGHT; i++) sum[i] += x * NAME(load_table)(row[i] + c);
  }
  if (c < channels) {  // what fills no vector
    REAL rest[EIGHT] = {0};
    for (; c < channels; c++)
      for (int i = 0; i < EIGHT; i++) rest[i] += a[c] * NAME(widen)(row[i][c]);
    for (int i = 0; i < EIGHT; i++) sum[i][0] += rest[i];
  }
  NAME(sum_eight)(sum, scale, out, count);
}

// out[e] = scale <a, b[col[e]]> for the edges of a row.
INLINE void NAME(dots)(const REAL *a, const TABLE *b, int64_t step, const uint32_t *col, int64_t count,
                       int64_t channels, REAL scale, REAL *out) {
  int64_t e = 0;
  for (; e + EIGHT <= count; e += EIGHT) NAME(dot_eight)(a, b, step, col + e, EIGHT, channels, scale, out + e);
  if (e < count) NAME(dot_eight)(a, b, step, col + e, count - e, channels, scale, out + e);
}

// out = sum of weight[e] b[col[e]] over the edges of a row, for twice `pairs` vectors of channels.
INLINE void NAME(sum_pairs)(const REAL *weight, const TABLE *b, int64_t step, const uint32_t *col, int64_t count,
                            int pairs, REAL *out) {
  // Sums of edges with an even and with an odd number, so that one need not wait for the other.
  VEC first[4] = {{0}}, second[4] = {{0}}, u, v;
  int64_t e = 0;
  for (; e + 2 <= count; e += 2) {
    const TABLE *x = b + (int64_t)col[e] * step, *y = b + (int64_t)col[e + 1] * step;
    for (int i = 0; i < 2 * pairs; i += 2) {
      NAME(load_two)(x + i * LANES, &u, &v);
      first[i] += weight[e] * u, first[i + 1] += weight[e] * v;
    }
    for (int i = 0; i < 2 * pairs; i += 2) {
      NAME(load_two)(y + i * LANES, &u, &v);
      second[i] += weight[e + 1] * u, second[i + 1] += weight[e + 1] * v;
    }
  }
  if (e < count)
    for (int i = 0; i < 2 * pairs; i += 2) {
      NAME(load_two)(b + (int64_t)col[e] * step + i * LANES, &u, &v);
      first[i] += weight[e] * u, first[i + 1] += weight[e] * v;
    }
  for (int i = 0; i < 2 * pairs; i += 2) {
    first[i] += second[i], first[i + 1] += second[i + 1];
    NAME(join)(&first[i], &first[i + 1]);
    NAME(store)(first[i], out + i * LANES);
    NAME(store)(first[i + 1], out + (i + 1) * LANES);
  }
}

// The same for all channels.
INLINE void NAME(sums)(const REAL *weight, const TABLE *b, int64_t step, const uint32_t *col, int64_t count,
                       int64_t channels, REAL *out) {
  int64_t c = 0;
  for (; c + 4 * LANES <= channels; c += 4 * LANES) NAME(sum_pairs)(weight, b + c, step, col, count, 2, out + c);
  for (; c + 2 * LANES <= channels; c += 2 * LANES) NAME(sum_pairs)(weight, b + c, step, col, count, 1, out + c);
  for (; c + LANES <= channels; c += LANES) {
    VEC sum = {0};
    for (int64_t e = 0; e < count; e++) sum += weight[e] * NAME(load_table)(b + (int64_t)col[e] * step + c);
    NAME(store)(sum, out + c);
  }
  if (c == channels) return;
  for (int64_t i = c; i < channels; i++) out[i] = 0;
  for (int64_t e = 0; e < count; e++)
    for (int64_t i = c; i < channels; i++) out[i] += weight[e] * NAME(widen)(b[(int64_t)col[e] * step + i]);
}

// Has the memory of a row of results ready to be written.
INLINE void NAME(fetch_result)(REAL *out, int64_t channels) {
  for (int64_t byte = 0; byte < channels * (int64_t)sizeof(REAL); byte += 64)
    __builtin_prefetch((char *)out + byte, 1, 3);
}

// Has the sources of a row come near the core.
INLINE void NAME(fetch)(const TABLE *b, int64_t step, const uint32_t *col, int64_t count, int64_t channels) {
  for (int64_t e = 0; e < (count < MOST_AHEAD ? count : MOST_AHEAD); e++)
    for (int64_t byte = 0; byte < channels * (int64_t)sizeof(TABLE); byte += 64)
      __builtin_prefetch((const char *)(b + (int64_t)col[e] * step) + byte, 0, 2);
}

// out[e] = scale <a[row], b[col[e]]> for the edges of rows from start to stop.
static void NAME(score_rows)(const struct job *job, const table *a, const table *b, int64_t channels, int64_t head,
                             int64_t start, int64_t stop, REAL scale, REAL *out) {
  const REAL *rows = (const REAL *)a->at + head * a->head;
  const TABLE *nodes = (const TABLE *)b->at + head * b->head;
  const int64_t base = job->rowptr[start];
#define SCORE_ROWS(channels)                                                                                     \
  for (int64_t row = start; row < stop; row++) {                                                                 \
    const int64_t first = job->rowptr[row], count = job->rowptr[row + 1] - first, next = row + job->ahead;       \
    if (job->ahead && next < job->num_rows)                                                                      \
      NAME(fetch)(nodes, b->step, job->col + job->rowptr[next], job->rowptr[next + 1] - job->rowptr[next], channels); \
    NAME(dots)(rows + row * a->step, nodes, b->step, job->col + first, count, channels, scale, out + first - base); \
  }
  FOR_WIDTHS(SCORE_ROWS, channels)
#undef SCORE_ROWS
}

// out[row] = sum of weight[e] b[col[e]] over the edges of rows from start to stop.
static void NAME(sum_rows)(const struct job *job, const REAL *weight, const table *b, const table *out,
                           int64_t channels, int64_t head, int64_t start, int64_t stop) {
  const TABLE *nodes = (const TABLE *)b->at + head * b->head;
  REAL *rows = (REAL *)out->at + head * out->head;
  const int64_t base = job->rowptr[start];
#define SUM_ROWS(channels)                                                                                       \
  for (int64_t row = start; row < stop; row++) {                                                                 \
    const int64_t first = job->rowptr[row], count = job->rowptr[row + 1] - first, next = row + job->ahead;       \
    if (job->ahead && next < job->num_rows)                                                                      \
      NAME(fetch)(nodes, b->step, job->col + job->rowptr[next], job->rowptr[next + 1] - job->rowptr[next], channels); \
    if (row + RESULTS_AHEAD < stop) NAME(fetch_result)(rows + (row + RESULTS_AHEAD) * out->step, channels);        \
    NAME(sums)(weight + first - base, nodes, b->step, job->col + first, count, channels, rows + row * out->step); \
  }
  FOR_WIDTHS(SUM_ROWS, channels)
#undef SUM_ROWS
}

#if REAL_BYTES == 4

// Replaces scores by exp(min(score - top, 0)); returns their sum. What lies less than a vector behind them is
// read and written as it is.
INLINE REAL NAME(exponentials)(REAL *score, int64_t count, REAL top) {
  VEC sum = {0};
  int64_t e = 0;
  for (; e + LANES <= count; e += LANES) {
    VEC x = NAME(power)(NAME(load)(score + e) - top);
    NAME(store)(x, score + e);
    sum += x;
  }
  if (e < count) {
    const INTS within = NAME(places)(count - e);
    const VEC given = NAME(load)(score + e), x = NAME(power)(given - top);
    NAME(store)(NAME(where)(within, x, given), score + e);
    sum += NAME(where)(within, x, (VEC){0});
  }
  return NAME(total)(sum);
}

#else

INLINE REAL NAME(exponentials)(REAL *score, int64_t count, REAL top) {
  REAL total = 0;
  for (int64_t e = 0; e < count; e++) {
    REAL x = score[e] - top;
    total += score[e] = exp(x > 0 ? 0 : x);
  }
  return total;
}

#endif

// The largest score that is a number. What lies less than a vector behind them is read.
INLINE REAL NAME(largest)(const REAL *score, int64_t count) {
  VEC highest = NAME(spread)(-INFINITY);
  int64_t e = 0;
  for (; e + LANES <= count; e += LANES) {
    VEC x = NAME(load)(score + e);
    highest = NAME(where)(x > highest, x, highest);
  }
  if (e < count) {
    VEC x = NAME(load)(score + e);
    highest = NAME(where)(NAME(places)(count - e) & (x > highest), x, highest);
  }
  return NAME(highest)(highest);
}

INLINE int NAME(any_nan)(const REAL *score, int64_t count) {
  int found = 0;
  for (int64_t e = 0; e < count; e++) found |= score[e] != score[e];
  return found;
}
