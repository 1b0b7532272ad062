// Lists of edges: checks, shares, transposes. Sequential; attention_cpu.py and the transforms call them.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

// Whether a pointer rises from 0 to the number of edges (else 1), and all sources exist (else 2); copies them to half
// the memory, as kernels read them twice for each head.
EXPORT int64_t check_edges(const int64_t *rowptr, int64_t rows, const int64_t *col, int64_t edges, int64_t sources,
                           uint32_t *short_col) {
  int64_t falls = 0;
  uint64_t last = 0;
  for (int64_t row = 0; row < rows; row++) falls |= rowptr[row + 1] < rowptr[row];
  if (falls || rowptr[0] != 0 || rowptr[rows] != edges) return 1;
  for (int64_t e = 0; e < edges; e++) {
    const uint64_t source = (uint64_t)col[e];  // a negative one is very large
    last = source > last ? source : last;
    short_col[e] = (uint32_t)source;
  }
  return edges && last >= (uint64_t)sources ? 2 : 0;
}

// Writes where ranges of rows with about as many edges each begin and end; returns the most edges of a range.
EXPORT int64_t share_out(const int64_t *rowptr, int64_t rows, int64_t shares, int64_t *bounds) {
  const int64_t step = (rowptr[rows] + rows) / shares;  // a row costs something even without edges
  int64_t longest = bounds[0] = 0;
  for (int64_t share = 1; share <= shares; share++) {
    int64_t low = bounds[share - 1], high = rows;
    while (low < high && share < shares) {
      const int64_t middle = (low + high) / 2;
      if (rowptr[middle] + middle < share * step)
        low = middle + 1;
      else
        high = middle;
    }
    bounds[share] = share < shares ? low : rows;
    const int64_t edges = rowptr[bounds[share]] - rowptr[bounds[share - 1]];
    longest = edges > longest ? edges : longest;
  }
  return longest;
}

// Groups edges by source: pointer [S + 1], targets, and the position of each edge in the order by target.
EXPORT void transpose(const int64_t *rowptr, int64_t rows, const uint32_t *col, int64_t sources, int64_t *pointer,
                      uint32_t *target, uint32_t *perm) {
  const int64_t edges = rowptr[rows];
  memset(pointer, 0, (sources + 1) * sizeof(int64_t));
  for (int64_t e = 0; e < edges; e++) pointer[(int64_t)col[e] + 1]++;
  for (int64_t source = 0; source < sources; source++) pointer[source + 1] += pointer[source];
  for (int64_t row = 0; row < rows; row++)
    for (int64_t e = rowptr[row]; e < rowptr[row + 1]; e++) {
      const int64_t slot = pointer[col[e]]++;  // moves each start to where the next one was
      target[slot] = (uint32_t)row;
      perm[slot] = (uint32_t)e;
    }
  memmove(pointer + 1, pointer, sources * sizeof(int64_t));
  pointer[0] = 0;
}

// Edges of a graph in both directions, each once, those of a target sorted by source.
//
// Going through nodes in order and writing each to the rows of its neighbours leaves all rows sorted, so that nothing
// has to be compared. A neighbour is marked when it is met, so that it counts once: there are two lists of them, those
// that a node names and those that name it.

struct graph {
  int64_t nodes;
  const int64_t *rowptr, *col;  // whom a node names
  int64_t *start;               // and who names it
  int32_t *named_by, *mark;
};

static void free_graph(struct graph *graph) {
  free(graph->start), free(graph->named_by), free(graph->mark);
}

static int open_graph(struct graph *graph) {
  const int64_t nodes = graph->nodes, edges = graph->rowptr[nodes];
  graph->start = calloc(nodes + 1, sizeof(int64_t));
  graph->named_by = malloc((edges + 1) * sizeof(int32_t));
  graph->mark = malloc((nodes + 1) * sizeof(int32_t));
  if (!graph->start || !graph->named_by || !graph->mark) return 0;
  for (int64_t e = 0; e < edges; e++) graph->start[graph->col[e] + 1]++;
  for (int64_t node = 0; node < nodes; node++) graph->start[node + 1] += graph->start[node];
  for (int64_t node = 0; node < nodes; node++)
    for (int64_t e = graph->rowptr[node]; e < graph->rowptr[node + 1]; e++)
      graph->named_by[graph->start[graph->col[e]]++] = (int32_t)node;
  memmove(graph->start + 1, graph->start, nodes * sizeof(int64_t));
  graph->start[0] = 0;
  return 1;
}

// Counts the neighbours of each node at at[neighbour + 1], or writes the node to both[at[neighbour]++].
static void meet_neighbours(struct graph *graph, int64_t *at, int64_t *both) {
  for (int64_t node = 0; node < graph->nodes; node++) graph->mark[node] = -1;
  for (int64_t node = 0; node < graph->nodes; node++) {
    const int64_t names = graph->rowptr[node + 1] - graph->rowptr[node];
    const int64_t all = names + graph->start[node + 1] - graph->start[node];
    for (int64_t i = 0; i < all; i++) {
      const int64_t other = i < names ? graph->col[graph->rowptr[node] + i]
                                      : graph->named_by[graph->start[node] + i - names];
      if (graph->mark[other] == node) continue;
      graph->mark[other] = (int32_t)node;
      if (both)
        both[at[other]++] = node;
      else
        at[other + 1]++;
    }
  }
}

// Writes where the rows of the graph in both directions start, and their edges, for which there must be room for twice
// those of the graph; returns how many there are, -1 without memory.
EXPORT int64_t undirected(const int64_t *rowptr, int64_t nodes, const int64_t *col, int64_t *start, int64_t *both) {
  struct graph graph = {nodes, rowptr, col, 0, 0, 0};
  const int opened = open_graph(&graph);
  if (opened) {
    memset(start, 0, (nodes + 1) * sizeof(int64_t));
    meet_neighbours(&graph, start, 0);
    for (int64_t node = 0; node < nodes; node++) start[node + 1] += start[node];
    meet_neighbours(&graph, start, both);  // moves each start to where the next one was
    memmove(start + 1, start, nodes * sizeof(int64_t));
    start[0] = 0;
  }
  free_graph(&graph);
  return opened ? start[nodes] : -1;
}
