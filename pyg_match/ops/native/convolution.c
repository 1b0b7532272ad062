// Convolutions of maps whose channels lie side by side, plain and deformable; convolution.py calls it.
//
// Where the taps of a plain convolution read whole pixels of the map, the operand of a tile is the map itself. At the
// border, and where sampling positions are deformed, it is a small copy. Of two convolutions in a row the first is done
// for some rows at a time, which stay in the cache until the second has read them.

#include <math.h>
#include <string.h>

#include "common.h"
#include "tiles.h"

// The fields are those of _Job in convolution.py, in the same order.
struct convolution {
  int64_t next_task, next_worker;  // counters
  int64_t images, height, width, rows_at_once, pool;
  int64_t scratch_bytes, strip_at;  // of a worker
  struct layer layer, before;       // `before` is done first, if it has channels
  const float *map;                 // [images, height, width, channels]
  const float *offset;              // [images, height, width, 2 side side], dy and dx of each tap, or null
  const float *shortcut;            // as out, or null
  float *out;                       // [images, height, width, out_channels]
  float *pooled;                    // [images, height / pool, width / pool, out_channels], their means, or null
  char *scratch;                    // of each worker: the operand of a tile, and rows between two convolutions
};

// A map of some rows of all images together, from row `origin` on.
typedef struct {
  float *at;
  int64_t origin;
} rows;

// Samples an image between its pixels; it is 0 outside.
static void sample(const float *image, int64_t height, int64_t width, int64_t channels, float y, float x, float *out) {
  const float top = floorf(y), left = floorf(x);
  if (!(top >= -1 && top < height && left >= -1 && left < width)) {
    memset(out, 0, channels * sizeof(float));
    return;
  }
  const int64_t row = (int64_t)top, column = (int64_t)left;
  const float down = y - top, right = x - left;
  const int above = row >= 0, below = row + 1 < height, before = column >= 0, after = column + 1 < width;
  const float *a = image + (row + !above) * width * channels + (column + !before) * channels;
  const float *b = a + (before && after) * channels;
  const float *c = a + (above && below) * width * channels, *d = c + (b - a);
  const float wa = above * before * (1 - down) * (1 - right), wb = above * after * (1 - down) * right;
  const float wc = below * before * down * (1 - right), wd = below * after * down * right;
  for (int64_t i = 0; i < channels; i++) out[i] = wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
}

// Brings what the taps of some pixels of a row read into an operand of [pixels, taps, channels].
static void gather(const struct convolution *job, const struct layer *layer, rows map, int64_t image, int64_t y,
                   int64_t x, int pixels, float *operand) {
  const int64_t side = layer->side, taps = side * side, channels = layer->channels;
  const float *pixel = map.at + (image * job->height - map.origin) * job->width * channels;  // of the image
  for (int p = 0; p < pixels; p++)
    for (int64_t t = 0; t < taps; t++, operand += channels) {
      const int64_t row = y + t / side - side / 2, column = x + p + t % side - side / 2;
      if (job->offset) {
        const float *offset = job->offset + (((image * job->height + y) * job->width + x + p) * taps + t) * 2;
        sample(pixel, job->height, job->width, channels, row + offset[0], column + offset[1], operand);
      } else if (row < 0 || row >= job->height || column < 0 || column >= job->width) {
        memset(operand, 0, channels * sizeof(float));
      } else {
        memcpy(operand, pixel + (row * job->width + column) * channels, channels * sizeof(float));
      }
    }
}

INLINE void tile(const int pixels, const struct convolution *job, const struct layer *layer, rows map,
                 const float *shortcut, rows out, int64_t row, int64_t x, float *operand) {
  const int64_t side = layer->side, taps = side * side, channels = layer->channels, reach = side / 2;
  const int64_t image = row / job->height, y = row % job->height;
  const float *tap[TAPS];
  const int inside = y >= reach && y + reach < job->height && x >= reach && x + pixels + reach <= job->width;
  const int direct = inside && !job->offset;
  if (!direct) gather(job, layer, map, image, y, x, pixels, operand);
  for (int64_t t = 0; t < taps; t++)
    tap[t] = direct ? map.at + ((row - map.origin + t / side - reach) * job->width + x + t % side - reach) * channels
                    : operand + t * channels;
  compute_tile(pixels, layer, tap, direct ? channels : taps * channels,
               shortcut ? shortcut + (row * job->width + x) * layer->out_channels : 0,
               out.at + ((row - out.origin) * job->width + x) * layer->out_channels);
}

static void compute_rows(const struct convolution *job, const struct layer *layer, rows map, const float *shortcut,
                         rows out, int64_t first, int64_t end, float *operand) {
  for (int64_t row = first; row < end; row++)
    if (job->width < PIXELS)
      for (int64_t x = 0; x < job->width; x++) tile(1, job, layer, map, shortcut, out, row, x, operand);
    else
      for (int64_t x = 0; x < job->width; x += PIXELS)  // the last two may overlap
        tile(PIXELS, job, layer, map, shortcut, out, row, x + PIXELS <= job->width ? x : job->width - PIXELS, operand);
}

// Means of squares of rows that are there already.
static void pool_rows(const struct convolution *job, int64_t first, int64_t end) {
  const int64_t side = job->pool, channels = job->layer.out_channels, width = job->width / side;
  const float share = 1.0f / (side * side);
  for (int64_t row = first / side; row < end / side; row++)
    for (int64_t x = 0; x < width; x++) {
      float *mean = job->pooled + (row * width + x) * channels;
      memset(mean, 0, channels * sizeof(float));
      for (int64_t i = 0; i < side * side; i++) {
        const float *pixel = job->out + ((row * side + i / side) * job->width + x * side + i % side) * channels;
        for (int64_t c = 0; c < channels; c++) mean[c] += share * pixel[c];
      }
    }
}

void EXPORT(convolve)(struct convolution *job) {
  char *own = job->scratch + COUNT(job->next_worker) * job->scratch_bytes;
  float *operand = (float *)own;
  const int64_t all = job->images * job->height, reach = job->layer.side / 2;
  FOR_RANGES(first, end, job->next_task, all, job->rows_at_once) {
    rows map = {(float *)job->map, 0}, out = {job->out, 0};
    if (job->before.channels) {
      const int64_t from = first > reach ? first - reach : 0, to = end + reach < all ? end + reach : all;
      rows strip = {(float *)(own + job->strip_at), from};
      compute_rows(job, &job->before, map, 0, strip, from, to, operand);
      map = strip;
    }
    compute_rows(job, &job->layer, map, job->shortcut, out, first, end, operand);
    if (job->pooled) pool_rows(job, first, end);
  }
}
