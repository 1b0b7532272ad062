// Lists of edges: checks, shares, transposes. Sequential; attention_cpu.py and the transforms call them.

#include <stdint.h>
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

// Edges of a graph in both directions, each once, those of a target sorted by source: writes where the rows start, and
// their edges, for which there must be room for twice those of the graph; returns how many there are.
//
// Whom a node names is in `col`, and who names it in `row`, which `transpose` makes. Going through nodes in order and
// writing each to the rows of its neighbours leaves all rows sorted, so that nothing has to be compared. A neighbour is
// marked when it is met, so that it counts once.
EXPORT int64_t undirected(const int64_t *rowptr, int64_t nodes, const uint32_t *col, const int64_t *colptr,
                          const uint32_t *row, int32_t *mark, int64_t *start, int64_t *both) {
  for (int64_t node = 0; node < nodes; node++) mark[node] = -1, start[node] = rowptr[node] + colptr[node];
  for (int64_t node = 0; node < nodes; node++) {
    const int64_t names = rowptr[node + 1] - rowptr[node], all = names + colptr[node + 1] - colptr[node];
    for (int64_t i = 0; i < all; i++) {
      const int64_t other = i < names ? col[rowptr[node] + i] : row[colptr[node] + i - names];
      if (mark[other] == node) continue;
      mark[other] = (int32_t)node;
      both[start[other]++] = node;
    }
  }
  int64_t count = 0;
  for (int64_t node = 0; node < nodes; node++) {  // without the room that was left
    const int64_t first = rowptr[node] + colptr[node], size = start[node] - first;
    if (size > 0) memmove(both + count, both + first, size * sizeof(int64_t));
    start[node] = count;
    count += size;
  }
  start[nodes] = count;
  return count;
}
