// The choice for one type of descriptors (REAL). Included by diverse.c.

#include "vectors.h"

struct NAME(memory) {
  REAL *near;     // what the distance costs; never falls along the pool
  REAL *worst;    // absolute cosine with those chosen that were looked at
  REAL *vectors;  // of the candidates, side by side, so that they stay in cache; or one coordinate after the other
  REAL *cosine;
  double *distance, *offsets;
  int64_t *known;  // with how many of those chosen, the same for four candidates in a row
  int64_t *order;  // the candidates chosen
};

static REAL NAME(larger)(REAL a, REAL b) { return a > b ? a : b; }
static REAL NAME(size_of)(REAL a) { return a < 0 ? -a : a; }

// worst[i] = max(worst[i], |<a, b[i]>|) for four vectors that lie side by side.
static void NAME(compare_four)(const REAL *a, const REAL *b, int64_t width, REAL *worst) {
  VEC sum[FOUR] = {{0}};
  REAL rest[FOUR] = {0};
  int64_t c = 0;
  for (; c + LANES <= width; c += LANES)
    for (int i = 0; i < FOUR; i++) sum[i] += NAME(load)(a + c) * NAME(load)(b + i * width + c);
  for (; c < width; c++)
    for (int i = 0; i < FOUR; i++) rest[i] += a[c] * b[i * width + c];
  for (int i = 0; i < FOUR; i++) {
    rest[i] += NAME(total)(sum[i]);
    worst[i] = NAME(larger)(worst[i], NAME(size_of)(rest[i]));
  }
}

// Vectors are short, so each one chosen is compared with all candidates, whose coordinates lie side by side.
static void NAME(by_direction)(const struct choice *job, struct NAME(memory) * m, uint8_t *chosen) {
  const int64_t size = job->size;
  const REAL weight = (REAL)job->orthogonality_weight;
  for (int64_t count = 0; count < job->k; count++) {
    int64_t best = size;
    REAL lowest = weight;
    for (int64_t j = 0; j < size; j++) {
      // Only a lower cost is better: among equals the first, which is the nearest, is chosen.
      if (best < size && m->near[j] >= lowest) break;
      const REAL cost = m->near[j] + weight * m->worst[j];
      if ((best == size || cost < lowest) && !chosen[j]) best = j, lowest = cost;
    }
    chosen[best] = 1;
    memset(m->cosine, 0, size * sizeof(REAL));
    for (int64_t column = 0; column < job->dimensions; column++) {
      const REAL *all = m->vectors + column * size, own = all[best];
      for (int64_t j = 0; j < size; j++) m->cosine[j] += own * all[j];
    }
    for (int64_t j = 0; j < size; j++) m->worst[j] = NAME(larger)(m->worst[j], NAME(size_of)(m->cosine[j]));
  }
}

// Four candidates in a row are compared with all of those chosen as soon as one of the four may be the best.
static void NAME(by_descriptor)(const struct choice *job, struct NAME(memory) * m, const int64_t *pool,
                                uint8_t *chosen) {
  const int64_t size = job->size, width = job->channels;
  const REAL weight = (REAL)job->orthogonality_weight;
  memset(m->known, 0, (size + FOUR - 1) / FOUR * sizeof(int64_t));
  for (int64_t count = 0; count < job->k; count++) {
    int64_t best = size;
    REAL lowest = weight;
    for (int64_t j = 0; j < size; j++) {
      // Only a lower cost is better: among equals the first, which is the nearest, is chosen.
      if (best < size && m->near[j] >= lowest) break;
      REAL cost = m->near[j] + weight * m->worst[j];
      if (chosen[j] || (best < size && cost >= lowest)) continue;
      const int64_t four = j / FOUR;
      if (m->known[four] < count) {
        REAL *own = m->vectors + FOUR * four * width;
        if (m->known[four] == 0)  // after the first choice this holds the first candidate, too
          for (int64_t i = 0; i < FOUR; i++) {
            const int64_t place = FOUR * four + i < size ? FOUR * four + i : size - 1;
            memcpy(own + i * width, (const REAL *)job->descriptors + pool[place] * width, width * sizeof(REAL));
          }
        for (int64_t step = m->known[four]; step < count; step++)
          NAME(compare_four)(m->vectors + m->order[step] * width, own, width, m->worst + FOUR * four);
        m->known[four] = count;
        cost = m->near[j] + weight * m->worst[j];
      }
      if (best == size || cost < lowest) best = j, lowest = cost;
    }
    chosen[best] = 1;
    m->order[count] = best;
  }
}

static void NAME(choose_row)(const struct choice *job, struct NAME(memory) * m, int64_t row) {
  const int64_t size = job->size, dimensions = job->dimensions, *pool = job->candidates + row * size;
  const double *own = job->pos + (job->first + row) * dimensions;
  double reach = 0;
  for (int64_t j = 0; j < size; j++) {
    double square = 0;
    for (int64_t column = 0; column < dimensions; column++) {
      const double offset = job->pos[pool[j] * dimensions + column] - own[column];
      m->offsets[column * size + j] = offset;
      square += offset * offset;
    }
    // Never falls along the pool, whatever rounding does, so that without cosines the nearest are chosen.
    reach = sqrt(square) > reach ? sqrt(square) : reach;
    m->distance[j] = reach;
    const double length = square > 0 ? sqrt(square) : 1;
    for (int64_t column = 0; column < dimensions && !job->channels; column++)
      m->vectors[column * size + j] = (REAL)(m->offsets[column * size + j] / length);
  }
  const double scale = reach > 0 ? job->distance_weight / reach : 0;
  for (int64_t j = 0; j < size; j++) m->near[j] = (REAL)(scale * m->distance[j]);
  memset(m->worst, 0, (size + FOUR) * sizeof(REAL));
  if (job->channels)
    NAME(by_descriptor)(job, m, pool, job->chosen + row * size);
  else
    NAME(by_direction)(job, m, job->chosen + row * size);
}

void EXPORT(choose)(struct choice *job) {
  const int64_t size = job->size, wide = job->channels ? job->channels : job->dimensions;
  struct NAME(memory) m = {
      malloc(size * sizeof(REAL)),
      malloc((size + FOUR) * sizeof(REAL)),
      malloc(((size + FOUR) * wide + 1) * sizeof(REAL)),
      malloc(size * sizeof(REAL)),
      malloc(size * sizeof(double)),
      malloc((size * job->dimensions + 1) * sizeof(double)),
      malloc((size + FOUR) / FOUR * sizeof(int64_t)),
      malloc(job->k * sizeof(int64_t)),
  };
  if (!m.near || !m.worst || !m.vectors || !m.cosine || !m.distance || !m.offsets || !m.known || !m.order)
    __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
  else
    FOR_RANGES(first, end, job->next_task, job->rows, job->rows_at_once)
      for (int64_t row = first; row < end; row++) NAME(choose_row)(job, &m, row);
  free(m.near), free(m.worst), free(m.vectors), free(m.cosine);
  free(m.distance), free(m.offsets), free(m.known), free(m.order);
}

#undef LANES
#undef VEC
#undef INTS
