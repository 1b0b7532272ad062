// Registers of one type of numbers (REAL, and INT of the same size), and their exponentials.

#define LANES (int)(WIDTH / sizeof(REAL))
#define VEC NAME(vec)
#define INTS NAME(ints)

typedef REAL VEC __attribute__((vector_size(WIDTH), aligned(sizeof(REAL)), may_alias));
typedef INT INTS __attribute__((vector_size(WIDTH), aligned(sizeof(INT)), may_alias));

INLINE VEC NAME(load)(const REAL *x) { return *(const VEC *)x; }
INLINE void NAME(store)(VEC x, REAL *out) { *(VEC *)out = x; }
INLINE VEC NAME(spread)(REAL x) { return x - (VEC){0}; }
INLINE VEC NAME(where)(INTS mask, VEC a, VEC b) { return (VEC)((mask & (INTS)a) | (~mask & (INTS)b)); }

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
