// The largest numbers of rows and of columns of a matrix; largest.py calls it.
//
// A heap, as ordinary selection keeps it, mispredicts a branch for nearly every number that enters it. Here almost all
// work is comparisons of whole registers. Of equal numbers the first comes first.

#include <math.h>

#include "common.h"

#define BLOCK 32      // numbers of a row that are compared before anyone looks at the result
#define ABREAST 16    // columns that are compared at once
#define HALVINGS 12   // of the range in which a bound is sought

// The fields are those of _RowJob and _ColumnJob in largest.py, in the same order.
struct row_job {
  int64_t next_task, next_worker;  // counters
  const void *values;              // numbers; or positions of points, one coordinate after the other
  int64_t step, rows, length, k, bins;
  int64_t *out;
  int64_t rows_at_once;
  char *scratch;  // of each worker: the largest of each bin, numbers found, their places, and distances
  int64_t scratch_bytes, room, found_at, place_at, distance_at;
  const int64_t *nodes;  // the points whose neighbours are wanted
  int64_t dimensions, axis, half_window;  // points are sorted along the axis
};

struct column_job {
  int64_t next_task, next_worker;  // counters
  const void *values;
  int64_t step, rows, first_row, columns, columns_at_once, k, room;
  void *found;  // [columns, room], as place
  int32_t *place;
  int64_t *count;
  void *bound;
  int64_t *out;
  char *rank;  // of each worker
  int64_t rank_bytes;
};

#define KIND f32
#define REAL float
#define INT int32_t
#include "topk_kinds.h"
#undef KIND
#undef REAL
#undef INT

#define KIND f64
#define REAL double
#define INT int64_t
#include "topk_kinds.h"
