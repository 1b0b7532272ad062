// Scores of all pixels, their maxima, and features of some pixels, for detectors that join maps of several resolutions;
// detection.py calls it.
//
// The joint map, 128 channels of each pixel, is never stored. The first layer of the score head is linear, so that each
// coarse map goes through its share of it before it is enlarged; features are put together where they are read.

#include <math.h>
#include <string.h>

#include "common.h"
#include "tiles.h"

#define LEVELS 3  // coarse maps
#define LAYERS 3  // of the score head after its first, each of which reads one more row to either side
#define FIRST 8   // channels of the score head after its first layer,
#define OTHER 4   // and after the second and third
#define AROUND 16  // numbers before and behind a row of a plane, of which the nearest is read as 0

struct level {
  int64_t height, width;
  const float *map;  // [images, height, width, channels]
};

// The fields are those of _ScoreJob in detection.py, in the same order.
struct score_job {
  int64_t next_task, next_worker;  // counters
  int64_t images, height, width, rows_at_once, scratch_bytes;
  struct layer hidden, head;     // of a pixel of the fine map: to its share of the joint map, and that to FIRST
  struct level level[LEVELS];    // FIRST channels
  const float *weight[LAYERS];   // [out, in, 3, 3] of the layers from FIRST to OTHER, to OTHER, to 1
  const float *map;              // [images, height, width, channels], the fine map
  float *out;                    // [images, height, width]
  char *scratch;
};

typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));

// Adds a row of a coarse map, enlarged so that its corners meet those of the fine one, to `out` [width, FIRST].
static void add_enlarged(const struct level *level, int64_t image, int64_t y, int64_t height, int64_t width,
                         float *out) {
  const float step_y = height > 1 ? (float)(level->height - 1) / (height - 1) : 0, at_y = y * step_y;
  const float step_x = width > 1 ? (float)(level->width - 1) / (width - 1) : 0;
  const int64_t row = (int64_t)at_y, stride = level->width * FIRST;
  const int64_t below = row + 1 < level->height ? stride : 0;
  const float *line = level->map + (image * level->height + row) * stride, down = at_y - row;
  for (int64_t x = 0; x < width; x++) {
    const float at_x = x * step_x;
    const int64_t column = (int64_t)at_x, after = column + 1 < level->width ? FIRST : 0;
    const float right = at_x - column, *a = line + column * FIRST;
    const eight top = *(const eight *)a * (1 - right) + *(const eight *)(a + after) * right;
    const eight bottom = *(const eight *)(a + below) * (1 - right) + *(const eight *)(a + below + after) * right;
    *(eight *)(out + x * FIRST) += top * (1 - down) + bottom * down;
  }
}

// A row of the first layer of the head, as FIRST planes.
static void first_row(const struct score_job *job, int64_t image, int64_t y, int64_t stride, float *enlarged,
                      float *plane) {
  const int64_t width = job->width, channels = job->hidden.channels;
  memset(enlarged, 0, width * FIRST * sizeof(float));
  for (int l = 0; l < LEVELS; l++) add_enlarged(&job->level[l], image, y, job->height, width, enlarged);
  const float *pixel = job->map + (image * job->height + y) * width * channels;
  for (int64_t x = 0; x < width; x += PIXELS) {
    // The last two tiles may overlap; `enlarged` is read, not changed.
    const int64_t from = x + PIXELS <= width ? x : width - PIXELS;
    float share[PIXELS * 2 * COLUMNS], first[PIXELS * FIRST];
    const float *tap = pixel + from * channels, *hidden = share;
    compute_tile(PIXELS, &job->hidden, &tap, channels, 0, share);
    compute_tile(PIXELS, &job->head, &hidden, job->head.channels, enlarged + from * FIRST, first);
    for (int c = 0; c < FIRST; c++)
      for (int p = 0; p < PIXELS; p++) plane[c * stride + from + p] = first[p * FIRST + c];
  }
}

INLINE VEC sigmoid(VEC x) {
  const VEC zero = {0}, small = decay(NAME(where)(x > zero, -x, x));
  const VEC value = NAME(where)(x > zero, 1.0f / (1.0f + small), small / (1.0f + small));
  return NAME(where)(x == x, value, x);
}

// A row of a convolution of planes, whose rows above, here and below are given; SELU or, of the last one, a sigmoid.
INLINE void plane_row(const int in, const int out, const int last, const float *weight, const float *const *row,
                      int64_t stride, int64_t width, float *plane) {
  for (int64_t x = 0; x < width; x += 2 * LANES) {
    VEC sum[2 * OTHER] = {{0}};
    for (int c = 0; c < in; c++)
      for (int t = 0; t < TAPS; t++) {
        const float *near = row[t / 3] + c * stride + x + t % 3 - 1;
        const VEC a = NAME(load)(near), b = NAME(load)(near + LANES);
        for (int o = 0; o < out; o++) {
          const VEC w = NAME(spread)(weight[(o * in + c) * TAPS + t]);
          sum[2 * o] += a * w;
          sum[2 * o + 1] += b * w;
        }
      }
    for (int i = 0; i < 2 * out; i++)
      NAME(store)(last ? sigmoid(sum[i]) : selu(sum[i]), plane + i / 2 * stride + x + i % 2 * LANES);
  }
}

// Rows of the head's layers: of each layer the three that the next one reads.
struct rings {
  float *plane[LAYERS];  // FIRST, OTHER and OTHER planes, three rows of each
  int64_t stride;
};

static float *ring_row(const struct rings *rings, int layer, int64_t y) {
  return rings->plane[layer] + (y + 3) % 3 * (layer ? OTHER : FIRST) * rings->stride;
}

// Row y of a layer from those of the layer before; 0 outside of the image.
INLINE void next_row(const struct score_job *job, const struct rings *rings, const int layer, int64_t y) {
  const int in = layer == 1 ? FIRST : OTHER;
  float *out = ring_row(rings, layer, y);
  const float *row[3];
  for (int i = 0; i < 3; i++) row[i] = ring_row(rings, layer - 1, y + i - 1);
  if (y >= 0 && y < job->height)
    plane_row(in, OTHER, 0, job->weight[layer - 1], row, rings->stride, job->width, out);
  else
    for (int c = 0; c < OTHER; c++) memset(out + c * rings->stride, 0, job->width * sizeof(float));
}

static void score_rows(const struct score_job *job, int64_t image, int64_t first, int64_t end, float *own) {
  const int64_t width = job->width, stride = width + 2 * AROUND, rows = 3 * (FIRST + 2 * OTHER);
  float *planes = own + width * FIRST;
  const struct rings rings = {
      {planes + AROUND, planes + AROUND + 3 * FIRST * stride, planes + AROUND + 3 * (FIRST + OTHER) * stride}, stride};
  memset(planes, 0, rows * stride * sizeof(float));
  for (int64_t y = first - LAYERS; y < end + LAYERS; y++) {
    float *plane = ring_row(&rings, 0, y);
    if (y >= 0 && y < job->height)
      first_row(job, image, y, stride, own, plane);
    else
      for (int c = 0; c < FIRST; c++) memset(plane + c * stride, 0, width * sizeof(float));
    if (y - 1 >= first - 2) next_row(job, &rings, 1, y - 1);
    if (y - 2 >= first - 1) next_row(job, &rings, 2, y - 2);
    if (y - LAYERS < first) continue;
    const float *row[3];
    for (int i = 0; i < 3; i++) row[i] = ring_row(&rings, 2, y - LAYERS + i - 1);
    plane_row(OTHER, 1, 1, job->weight[2], row, stride, width, job->out + (image * job->height + y - LAYERS) * width);
  }
}

void EXPORT(score)(struct score_job *job) {
  float *own = (float *)(job->scratch + COUNT(job->next_worker) * job->scratch_bytes);
  const int64_t tasks = (job->height + job->rows_at_once - 1) / job->rows_at_once;
  int64_t task;
  while ((task = COUNT(job->next_task)) < job->images * tasks) {
    const int64_t first = task % tasks * job->rows_at_once, end = first + job->rows_at_once;
    score_rows(job, task / tasks, first, end < job->height ? end : job->height, own);
  }
}

// The fields are those of _MaximaJob in detection.py, in the same order.
struct maxima_job {
  int64_t next_task;  // counter
  int64_t images, height, width, radius;
  const float *score;      // [images, height, width]
  const float *threshold;  // of each image
  uint8_t *out;            // [images, height, width], all 0; becomes 1 at maxima
};

// Marks what is above the threshold and above all others within the radius, and not as close to the border.
void EXPORT(maxima)(struct maxima_job *job) {
  const int64_t radius = job->radius, width = job->width;
  int64_t task;
  while ((task = COUNT(job->next_task)) < job->images * job->height) {
    const int64_t y = task % job->height;
    if (y < radius || y + radius >= job->height) continue;
    const float *row = job->score + task * width, threshold = job->threshold[task / job->height];
    for (int64_t x = radius; x + radius < width; x++) {
      const float score = row[x];
      if (!(score > threshold)) continue;
      // Most pixels are below one of the nearest.
      if (radius && !(score > row[x - 1] && score > row[x + 1] && score > row[x - width] && score > row[x + width]))
        continue;
      int highest = 1;
      for (int64_t i = -radius; i <= radius && highest; i++)
        for (int64_t j = -radius; j <= radius; j++) highest &= (!i && !j) || score > row[x + i * width + j];
      job->out[task * width + x] = highest;
    }
  }
}

// The fields are those of _FeatureJob in detection.py, in the same order.
struct feature_job {
  int64_t next_task;  // counter
  int64_t points, points_at_once, height, width;
  int64_t top, left, bottom, right;  // outside of which features are 0
  struct layer hidden;
  struct level level[LEVELS];  // as many channels as `hidden` gives
  const float *map;            // [images, height, width, channels], the fine map
  const int64_t *image;        // [points]
  const float *pos;            // [points, 2], x and y
  float *out;                  // [points, features]
};

#define CORNERS 4  // of the square between pixels

// Adds what a coarse map has at a pixel of the fine one.
INLINE void enlarge_pixel(const struct feature_job *job, const struct level *level, int64_t image, int64_t y,
                          int64_t x, int64_t channels, float *out) {
  const float at_y = job->height > 1 ? y * ((float)(level->height - 1) / (job->height - 1)) : 0;
  const float at_x = job->width > 1 ? x * ((float)(level->width - 1) / (job->width - 1)) : 0;
  const int64_t row = (int64_t)at_y, column = (int64_t)at_x, stride = level->width * channels;
  const int64_t below = row + 1 < level->height ? stride : 0, after = column + 1 < level->width ? channels : 0;
  const float down = at_y - row, right = at_x - column;
  const float *a = level->map + (image * level->height + row) * stride + column * channels;
  const float *b = a + after, *c = a + below, *d = c + after;
  const float wa = (1 - down) * (1 - right), wb = (1 - down) * right, wc = down * (1 - right), wd = down * right;
  for (int64_t i = 0; i < channels; i++) out[i] = wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
}

// The features between pixels: the sum of those at the corners, each of unit length, times their shares.
static void features_between(const struct feature_job *job, int64_t image, float y, float x, float *out) {
  const int64_t in = job->hidden.channels, channels = job->hidden.out_channels, size = (1 + LEVELS) * channels;
  const float left = floorf(x), top = floorf(y);
  memset(out, 0, size * sizeof(float));
  if (!(left >= job->left - 1 && left < job->right && top >= job->top - 1 && top < job->bottom)) return;
  float share[CORNERS], pixel[CORNERS * 2 * COLUMNS], fine[CORNERS * 2 * COLUMNS];
  int64_t row[CORNERS], column[CORNERS];
  const float *tap = pixel;
  for (int i = 0; i < CORNERS; i++) {
    row[i] = (int64_t)top + i / 2, column[i] = (int64_t)left + i % 2;
    share[i] = (i / 2 ? y - top : 1 - (y - top)) * (i % 2 ? x - left : 1 - (x - left));
    const int inside = row[i] >= job->top && row[i] < job->bottom && column[i] >= job->left && column[i] < job->right;
    if (!inside) share[i] = 0;
    if (share[i] > 0)
      memcpy(pixel + i * in, job->map + ((image * job->height + row[i]) * job->width + column[i]) * in,
             in * sizeof(float));
    else
      memset(pixel + i * in, 0, in * sizeof(float));
  }
  compute_tile(CORNERS, &job->hidden, &tap, in, 0, fine);
  for (int i = 0; i < CORNERS; i++) {
    if (!(share[i] > 0)) continue;
    float features[(1 + LEVELS) * 2 * COLUMNS];
    memcpy(features, fine + i * channels, channels * sizeof(float));
    for (int l = 0; l < LEVELS; l++)
      enlarge_pixel(job, &job->level[l], image, row[i], column[i], channels, features + (1 + l) * channels);
    VEC sum = {0};
    for (int64_t c = 0; c < size; c += LANES) sum += NAME(load)(features + c) * NAME(load)(features + c);
    float square = 0;
    for (int l = 0; l < LANES; l++) square += sum[l];
    const float length = sqrtf(square), factor = share[i] / (length > 1e-12f ? length : 1e-12f);
    for (int64_t c = 0; c < size; c++) out[c] += factor * features[c];
  }
}

void EXPORT(features)(struct feature_job *job) {
  const int64_t size = (1 + LEVELS) * job->hidden.out_channels;
  FOR_RANGES(first, end, job->next_task, job->points, job->points_at_once) {
    for (int64_t point = first; point < end; point++)
      features_between(job, job->image[point], job->pos[2 * point + 1], job->pos[2 * point], job->out + point * size);
  }
}
