// Registers of one type of numbers (REAL, and INT of the same size), their sums and exponentials.

#define LANES (int)(WIDTH / sizeof(REAL))
#define VEC NAME(vec)
#define INTS NAME(ints)

typedef REAL VEC __attribute__((vector_size(WIDTH), aligned(sizeof(REAL)), may_alias));
typedef INT INTS __attribute__((vector_size(WIDTH), aligned(sizeof(INT)), may_alias));

INLINE VEC NAME(load)(const REAL *x) { return *(const VEC *)x; }
INLINE void NAME(store)(VEC x, REAL *out) { *(VEC *)out = x; }
INLINE VEC NAME(spread)(REAL x) { return x - (VEC){0}; }
INLINE VEC NAME(where)(INTS mask, VEC a, VEC b) { return (VEC)((mask & (INTS)a) | (~mask & (INTS)b)); }

// Ones in the first places of a vector, zeros in the others.
INLINE INTS NAME(places)(int64_t count) {
  INTS place;
  for (int i = 0; i < LANES; i++) place[i] = i;
  return place < (INT)count;
}

// The sum of the numbers of a vector, and the largest of them: four at a time, so that few wait for each other.
#if WIDTH / REAL_BYTES == 2

INLINE REAL NAME(total)(VEC x) { return x[0] + x[1]; }
INLINE REAL NAME(highest)(VEC x) { return x[1] > x[0] ? x[1] : x[0]; }

#else

typedef REAL NAME(four) __attribute__((vector_size(4 * REAL_BYTES), aligned(REAL_BYTES), may_alias));

INLINE REAL NAME(total)(VEC x) {
  const NAME(four) *part = (const NAME(four) *)&x;
  NAME(four) sum = part[0];
  for (int i = 1; i < LANES / 4; i++) sum += part[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

INLINE REAL NAME(highest)(VEC x) {
  const NAME(four) *part = (const NAME(four) *)&x;
  REAL top[4];
  for (int lane = 0; lane < 4; lane++) {
    top[lane] = part[0][lane];
    for (int i = 1; i < LANES / 4; i++) top[lane] = part[i][lane] > top[lane] ? part[i][lane] : top[lane];
  }
  for (int lane = 0; lane < 2; lane++) top[lane] = top[lane + 2] > top[lane] ? top[lane + 2] : top[lane];
  return top[1] > top[0] ? top[1] : top[0];
}

#endif

#if REAL_BYTES == 4

// exp(min(x, 0)) as Cephes' expf: 2^n e^r with |r| < ln(2) / 2; NaN stays NaN.
INLINE VEC NAME(power)(VEC x) {
  const VEC zero = {0}, floor = NAME(spread)(-87);
  x = NAME(where)(x > zero, zero, x);
  x = NAME(where)(x < floor, floor, x);
  VEC nearest = NAME(where)(x == x, x * 1.4426950408889634f - 0.5f, zero);
  INTS whole = __builtin_convertvector(nearest, INTS);  // towards zero, as x is not positive
  VEC n = __builtin_convertvector(whole, VEC);
  VEC r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  VEC p = NAME(spread)(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (VEC)((whole + 127) << 23);
}

#endif
