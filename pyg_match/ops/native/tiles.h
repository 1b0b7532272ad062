// Tiles of convolutions: some pixels by some registers of output channels. A tile is the product of an operand, what the
// taps of its pixels read, and the weights; bias, shortcut and SELU are applied to it in registers.

#define KIND f32
#define REAL float
#define INT int32_t
#define REAL_BYTES 4
#include "vectors.h"

#define COLUMNS 16  // to whole ones of which weights and biases of output channels are padded
#define TAPS 9      // of a convolution of side 3, the largest
// Pixels of a tile of one register of channels, and of one of two registers.
#if WIDTH == 64
#define PIXELS 16
#define PIXELS_OF_TWO 8
#elif WIDTH == 32
#define PIXELS 6
#define PIXELS_OF_TWO 6
#else
#define PIXELS 4
#define PIXELS_OF_TWO 4
#endif

struct layer {
  int64_t side, channels, out_channels, selu;
  const float *weight;  // [side side channels, columns], columns being out_channels in whole COLUMNS
  const float *bias;    // [columns]
};

// Adds operand times weights to a tile; the operand's pixels are `step` numbers apart in each tap.
INLINE void multiply(const int pixels, const int registers, const float *const *tap, int64_t taps, int64_t step,
                     int64_t channels, const float *weight, int64_t columns, VEC *sum) {
  for (int64_t t = 0; t < taps; t++) {
    const float *pixel = tap[t];
    for (int64_t c = 0; c < channels; c++, weight += columns) {
      VEC w[2];
      for (int r = 0; r < registers; r++) w[r] = NAME(load)(weight + r * LANES);
      for (int p = 0; p < pixels; p++)
        for (int r = 0; r < registers; r++) sum[p * registers + r] += NAME(spread)(pixel[p * step + c]) * w[r];
    }
  }
}

// exp(min(x, 0)) with an error below 2e-7: 2^n e^r with |r| < ln(2) / 2. Adding a large number rounds to whole ones.
INLINE VEC decay(VEC x) {
  const VEC zero = {0}, least = NAME(spread)(-80);
  x = NAME(where)(x < zero, x, zero);
  x = NAME(where)(x > least, x, least);
  const VEC shifted = x * 1.4426950408889634f + 12582912.0f, n = shifted - 12582912.0f;
  const VEC r = x - n * 0.6931471805599453f;
  VEC p = r * 0.008290272122f + 0.04189816037f;
  p = p * r + 0.1666763813f;
  p = p * r + 0.4999914784f;
  p = p * r + 0.9999997063f;
  p = p * r + 1.0f;
  return (VEC)((INTS)p + ((INTS)shifted << 23));
}

INLINE VEC selu(VEC x) {
  const float scale = 1.0507009873554805f, below = 1.7580993408473766f;
  const VEC zero = {0};
  const VEC value = decay(x) * below + (NAME(where)(x > zero, x, zero) * scale - below);
  return NAME(where)(x == x, value, x);
}

// Some registers of output channels of a tile, from `column` on.
INLINE void compute(const int pixels, const int registers, const struct layer *layer, const float *const *tap,
                    int64_t step, int64_t column, const float *shortcut, float *out) {
  const int64_t columns = (layer->out_channels + COLUMNS - 1) / COLUMNS * COLUMNS;
  VEC sum[PIXELS * 2];
  for (int r = 0; r < registers; r++) {
    const VEC bias = NAME(load)(layer->bias + column + r * LANES);
    for (int p = 0; p < pixels; p++) sum[p * registers + r] = bias;
  }
  multiply(pixels, registers, tap, layer->side * layer->side, step, layer->channels, layer->weight + column, columns,
           sum);
  for (int p = 0; p < pixels; p++)
    for (int r = 0; r < registers; r++) {
      const int64_t first = column + r * LANES, place = p * layer->out_channels + first;
      const int64_t left = layer->out_channels - first;
      VEC x = sum[p * registers + r];
      if (left >= LANES) {
        if (shortcut) x += NAME(load)(shortcut + place);
        NAME(store)(layer->selu ? selu(x) : x, out + place);
      } else if (left > 0) {
        if (shortcut)
          for (int64_t i = 0; i < left; i++) x[i] += shortcut[place + i];
        if (layer->selu) x = selu(x);
        for (int64_t i = 0; i < left; i++) out[place + i] = x[i];
      }
    }
}

INLINE void compute_two(const int pixels, const struct layer *layer, const float *const *tap, int64_t step,
                        int64_t column, const float *shortcut, float *out) {
  for (int p = 0; p < pixels; p += PIXELS_OF_TWO) {
    const int64_t place = p * layer->out_channels;
    const float *moved[TAPS];
    for (int64_t t = 0; t < layer->side * layer->side; t++) moved[t] = tap[t] + p * step;
    compute(pixels < PIXELS_OF_TWO ? pixels : PIXELS_OF_TWO, 2, layer, moved, step, column,
            shortcut ? shortcut + place : 0, out + place);
  }
}

// All output channels of a tile; `shortcut`, if there is one, and `out` are [pixels, out_channels].
INLINE void compute_tile(const int pixels, const struct layer *layer, const float *const *tap, int64_t step,
                         const float *shortcut, float *out) {
  int64_t column = 0;
  for (; column + LANES < layer->out_channels; column += 2 * LANES)
    compute_two(pixels, layer, tap, step, column, shortcut, out);
  if (column < layer->out_channels) compute(pixels, 1, layer, tap, step, column, shortcut, out);
}
