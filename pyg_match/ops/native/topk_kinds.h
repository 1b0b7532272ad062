// The kernels for one type of numbers (REAL), counted in whole numbers of the same size (INT). Included by topk.c.

// A bound that at least `wanted` of `count` numbers reach, between two others, and hardly more.
INLINE REAL NAME(raise_bound)(const REAL *number, int64_t count, int64_t wanted, REAL low, REAL high) {
  for (int i = 0; i < HALVINGS; i++) {
    const REAL middle = (REAL)0.5 * (low + high);
    INT reaching = 0;
    for (int64_t a = 0; a < count; a++) reaching += number[a] >= middle;
    if (reaching >= wanted)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Writes the places of the k largest numbers of a row; -1 first if that cannot be told.
//
// The k-th largest of the maxima of some bins is a bound that at least k numbers reach. Those that do are collected, and
// the place of each is the number of larger ones among them.
static void NAME(select_row)(const struct row_job *job, int64_t length, const REAL *row, char *own, int64_t *out) {
  REAL *top = (REAL *)own, *found = (REAL *)(own + job->found_at);
  int64_t *place = (int64_t *)(own + job->place_at);
  const int64_t bins = job->bins < length ? job->bins : length, k = job->k;
  out[0] = -1;
  for (int64_t b = 0; b < bins; b++) top[b] = row[b];
  for (int64_t j = bins; j < length; j += bins) {
    const int64_t size = length - j < bins ? length - j : bins;
    for (int64_t b = 0; b < size; b++) top[b] = row[j + b] > top[b] ? row[j + b] : top[b];
  }
  REAL low = top[0], high = top[0];
  for (int64_t b = 0; b < bins; b++) low = top[b] < low ? top[b] : low;
  for (int64_t b = 0; b < bins; b++) high = top[b] > high ? top[b] : high;
  low = NAME(raise_bound)(top, bins, k, low, high);
  int64_t n = 0;
  for (int64_t j = 0; j < length; j += BLOCK) {
    const int64_t size = length - j < BLOCK ? length - j : BLOCK;
    INT hits = 0;
    if (size == BLOCK)
      for (int64_t b = 0; b < BLOCK; b++) hits += row[j + b] >= low;
    else
      for (int64_t b = 0; b < size; b++) hits += row[j + b] >= low;
    if (!hits) continue;
    if (n + BLOCK > job->room) return;
    for (int64_t i = j; i < j + size; i++) {
      found[n] = row[i], place[n] = i;
      n += row[i] >= low;
    }
  }
  if (n < k) return;
  const int64_t whole = (n + BLOCK - 1) / BLOCK * BLOCK;
  for (int64_t a = n; a < whole; a++) found[a] = -INFINITY;
  for (int64_t a = 0; a < k; a++) out[a] = -1;
  for (int64_t a = 0; a < n; a++) {
    const REAL number = found[a];
    INT larger = 0;
    for (int64_t b = 0; b < whole; b++) larger += found[b] > number;
    int64_t rank = larger;
    while (rank < k && out[rank] >= 0) rank++;  // taken by an equal one before it
    if (rank < k) out[rank] = place[a];
  }
}

void EXPORT(select)(struct row_job *job) {
  char *own = job->scratch + COUNT(job->next_worker) * job->scratch_bytes;
  FOR_RANGES(first, end, job->next_task, job->rows, job->rows_at_once) {
    for (int64_t row = first; row < end; row++)
      NAME(select_row)(job, job->length, (const REAL *)job->values + row * job->step, own, job->out + row * job->k);
  }
}

// Minus the squared distances of one point to some that follow each other. Squares are rounded before they are summed, as
// torch does it, so that equal distances are equal here, too.
static void NAME(distances)(const struct row_job *job, int64_t node, int64_t begin, int64_t end, REAL *row,
                            REAL *square) {
  for (int64_t j = 0; j < end - begin; j++) row[j] = 0;
  for (int64_t column = 0; column < job->dimensions; column++) {
    const REAL *all = (const REAL *)job->values + column * job->step, own = all[node];
    for (int64_t j = 0; j < end - begin; j++) square[j] = (all[begin + j] - own) * (all[begin + j] - own);
    for (int64_t j = 0; j < end - begin; j++) row[j] -= square[j];
  }
}

// Whether a point is at least as far by one coordinate alone.
INLINE int NAME(is_beyond)(const REAL *place, int64_t node, int64_t other, REAL distance) {
  return (place[other] - place[node]) * (place[other] - place[node]) >= distance;
}

// The nearest of all points, which are sorted along an axis, to some of them. Those before and behind in that order are
// compared, and twice as many while one beyond them might be nearer.
void EXPORT(nearest)(struct row_job *job) {
  char *own = job->scratch + COUNT(job->next_worker) * job->scratch_bytes;
  const int64_t count = job->length;
  const REAL *place = (const REAL *)job->values + job->axis * job->step;
  REAL *row = (REAL *)(own + job->distance_at), *square = row + count;
  FOR_RANGES(first, stop, job->next_task, job->rows, job->rows_at_once) {
    for (int64_t i = first; i < stop; i++) {
      const int64_t node = job->nodes[i];
      int64_t *out = job->out + i * job->k;
      for (int64_t half = job->half_window;; half *= 2) {
        const int64_t begin = half < node ? node - half : 0, end = half < count - node ? node + half : count;
        NAME(distances)(job, node, begin, end, row, square);
        NAME(select_row)(job, end - begin, row, own, out);
        if (out[0] < 0) break;
        const REAL distance = -row[out[job->k - 1]];
        if (begin > 0 && !NAME(is_beyond)(place, node, begin - 1, distance)) continue;
        if (end < count && !NAME(is_beyond)(place, node, end, distance)) continue;
        for (int64_t j = 0; j < job->k; j++) out[j] += begin;
        break;
      }
    }
  }
}

// The places of numbers in falling order.
INLINE void NAME(rank_all)(const REAL *found, int64_t n, INT *rank) {
  for (int64_t a = 0; a < n; a++) {
    const REAL number = found[a];
    INT before = 0;
    for (int64_t b = 0; b < n; b++) before += found[b] > number;
    for (int64_t b = 0; b < a; b++) before += found[b] == number;
    rank[a] = before;
  }
}

// Keeps the k largest of n numbers and perhaps some more, in their order, and raises the bound; returns how many.
static int64_t NAME(forget)(REAL *found, int32_t *place, int64_t n, int64_t k, REAL *bound, INT *rank) {
  REAL low = *bound, high = found[0];
  for (int64_t a = 0; a < n; a++) high = found[a] > high ? found[a] : high;
  low = NAME(raise_bound)(found, n, k, low, high);
  INT count = 0;
  for (int64_t a = 0; a < n; a++) count += found[a] >= low;
  int64_t kept = 0;
  if (count <= k + k / 2) {
    for (int64_t a = 0; a < n; a++) {
      const REAL number = found[a];
      found[kept] = number, place[kept] = place[a];
      kept += number >= low;
    }
  } else {  // the range is much wider than what is in it, or many are equal
    NAME(rank_all)(found, n, rank);
    for (int64_t a = 0; a < n; a++) {
      const REAL number = found[a];
      low = rank[a] == k - 1 ? number : low;
      found[kept] = number, place[kept] = place[a];
      kept += rank[a] < k;
    }
  }
  *bound = low;
  return kept;
}

// Which of ABREAST numbers reach their bounds, a bit for each.
INLINE uint32_t NAME(reaching)(const REAL *number, const REAL *bound) {
  uint32_t bits = 0;
  for (int i = 0; i < ABREAST; i++) bits |= (uint32_t)(number[i] >= bound[i]) << i;
  return bits;
}

// Goes through some rows. Each column has room for some more numbers than are wanted: what reaches its bound is put
// there; when the room is full, a higher bound is sought among it, and what does not reach that is forgotten.
void EXPORT(collect)(struct column_job *job) {
  INT *rank = (INT *)(job->rank + COUNT(job->next_worker) * job->rank_bytes);
  REAL *all_found = job->found, *bound = job->bound;
  FOR_RANGES(first, end, job->next_task, job->columns, job->columns_at_once) {
    for (int64_t row = 0; row < job->rows; row++) {
      const REAL *values = (const REAL *)job->values + row * job->step;
      for (int64_t start = first; start < end; start += ABREAST) {
        uint32_t bits = 0;
        if (start + ABREAST <= end)
          bits = NAME(reaching)(values + start, bound + start);
        else
          for (int64_t c = start; c < end; c++) bits |= (uint32_t)(values[c] >= bound[c]) << (c - start);
        for (; bits; bits &= bits - 1) {
          const int64_t c = start + __builtin_ctz(bits), n = job->count[c]++;
          REAL *found = all_found + c * job->room;
          int32_t *place = job->place + c * job->room;
          found[n] = values[c], place[n] = (int32_t)(job->first_row + row);
          if (n + 1 == job->room) job->count[c] = NAME(forget)(found, place, n + 1, job->k, &bound[c], rank);
        }
      }
    }
  }
}

// Writes the places of the k largest of each column in falling order.
void EXPORT(order)(struct column_job *job) {
  INT *rank = (INT *)(job->rank + COUNT(job->next_worker) * job->rank_bytes);
  FOR_RANGES(first, end, job->next_task, job->columns, job->columns_at_once) {
    for (int64_t c = first; c < end; c++) {
      REAL *found = (REAL *)job->found + c * job->room;
      int32_t *place = job->place + c * job->room;
      int64_t n = job->count[c];
      if (n > job->k) n = job->count[c] = NAME(forget)(found, place, n, job->k, (REAL *)job->bound + c, rank);
      NAME(rank_all)(found, n, rank);
      for (int64_t a = 0; a < n; a++)
        if (rank[a] < job->k) job->out[c * job->k + rank[a]] = place[a];
    }
  }
}
