// Attention along edges on the CPU, forward and backward; attention_cpu.py calls it.
//
// A row is a target with its incoming edges (or a source with its outgoing ones). Threads take tasks, a range of rows
// of one head each, until none is left. Within a task one table of nodes is read for all rows before the next one is:
// first all keys, then all values, so that only one of them has to stay in a core's cache. A score is all that is
// stored per edge.

#include <math.h>

#include "common.h"

// Places of pairs of vectors of single precision.
#if WIDTH == 64
#define EVEN_PLACES 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_PLACES 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LOW_PLACES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_PLACES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif WIDTH == 32
#define EVEN_PLACES 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_PLACES 1, 3, 5, 7, 9, 11, 13, 15
#define LOW_PLACES 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_PLACES 4, 12, 5, 13, 6, 14, 7, 15
#else
#define EVEN_PLACES 0, 2, 4, 6
#define ODD_PLACES 1, 3, 5, 7
#define LOW_PLACES 0, 4, 1, 5
#define HIGH_PLACES 2, 6, 3, 7
#endif

#define BLOCK_ROWS 64  // whose scores are made coefficients at a time
#define MOST_AHEAD 64  // edges of a row whose sources are fetched
#define FAR 1024  // a log-sum-exp beyond which the logarithm of the sum is imprecise
#define RESULTS_AHEAD 8  // rows from the one at hand to the one whose result is fetched

// The same code for the widths that most networks have, of which the compiler then knows the number.
#define FOR_WIDTHS(body, channels) \
  if (channels == 32) {            \
    body(32)                       \
  } else if (channels == 64) {     \
    body(64)                       \
  } else if (channels == 128) {    \
    body(128)                      \
  } else {                         \
    body(channels)                 \
  }

// Nodes [N, H, C] whose channels lie side by side.
typedef struct {
  void *at;
  int64_t step, head;  // from node to node, and from head to head
} table;

// One call for all rows of all heads. The fields are those of Job in attention_cpu.py, in the same order.
struct job {
  int64_t next_task, next_worker;  // counters
  int64_t heads, heads_at_once, chunks, num_rows, edges, ahead, channels, value_channels, bias_head, removes;
  int64_t alone;  // whether targets have no other edges
  int64_t scratch_bytes;  // of a worker
  double scale;
  const int64_t *bounds;  // rows where chunks begin, and their end
  char *scratch;
  const int64_t *rowptr;
  const uint32_t *col, *perm;
  const void *bias;
  const uint8_t *keep;
  void *lse, *grad_lse, *alpha, *slope;
  table query, key, value, grad, out, grad_query;
};

typedef struct {
  int64_t head, start, stop;
} rows_of_head;

INLINE void *scratch_of(struct job *job) {
  return job->scratch + COUNT(job->next_worker) * job->scratch_bytes;
}

// Takes the next task, if there is one. Heads alternate, so that a thread finds the nodes of its last one in its cache.
INLINE int take(struct job *job, rows_of_head *task) {
  int64_t number = COUNT(job->next_task);
  if (number >= job->heads * job->chunks) return 0;
  const int64_t first = number / (job->heads_at_once * job->chunks) * job->heads_at_once, left = job->heads - first;
  const int64_t heads = left < job->heads_at_once ? left : job->heads_at_once;
  number -= first * job->chunks;
  task->head = first + number % heads;
  task->start = job->bounds[number / heads];
  task->stop = job->bounds[number / heads + 1];
  return 1;
}

#define FOR_TASKS(job) for (rows_of_head task; take(job, &task);)

#define KIND f32
#define REAL float
#define REAL_BYTES 4
#define INT int32_t
#define TABLE float
#define TABLE_IS_HALF 0
#define LOG logf
#include "attention_rows.h"
#include "attention_passes.h"
#undef KIND
#undef TABLE
#undef TABLE_IS_HALF

#define KIND bf16
#define TABLE uint16_t
#define TABLE_IS_HALF 1
#include "attention_rows.h"
#include "attention_passes.h"
#undef KIND
#undef REAL
#undef REAL_BYTES
#undef INT
#undef TABLE
#undef TABLE_IS_HALF
#undef LOG

#define KIND f64
#define REAL double
#define REAL_BYTES 8
#define INT int64_t
#define TABLE double
#define TABLE_IS_HALF 0
#define LOG log
#include "attention_rows.h"
#include "attention_passes.h"
