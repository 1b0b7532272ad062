// The choice of DiverseKNN: neighbours that are near, and whose descriptors or directions are as orthogonal as can be.
// diverse.py calls it.
//
// Comparing descriptors takes nearly all of the time, so it is put off: the worst cosine of a candidate with some of
// those chosen is a lower bound of its worst with all of them. A candidate whose cost is too high already by this bound
// is not looked at, nor is anybody whose distance alone costs too much. The choice is that of comparing everything.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define FOUR 4  // candidates in a row, which are compared with others at once

// The fields are those of _Job in diverse.py, in the same order.
struct choice {
  int64_t next_task;                                               // counter
  int64_t rows, rows_at_once, dimensions, channels, size, k, first;  // `first` is the node of row 0
  double distance_weight, orthogonality_weight;
  const double *pos;
  const void *descriptors;    // unit vectors; without channels, directions are compared
  const int64_t *candidates;  // [rows, size], the nearest first
  uint8_t *chosen;            // [rows, size], all 0; becomes 1 at the chosen candidates
  int64_t failed;             // without memory
};

#define KIND f32
#define REAL float
#define REAL_BYTES 4
#define INT int32_t
#include "diverse_kinds.h"
#undef KIND
#undef REAL
#undef REAL_BYTES
#undef INT

#define KIND f64
#define REAL double
#define REAL_BYTES 8
#define INT int64_t
#include "diverse_kinds.h"
