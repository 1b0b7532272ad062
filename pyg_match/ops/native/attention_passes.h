// What a thread does for its tasks: attention forward and backward, sums and scores, for one pair of types. Included by
// attention.c after attention_rows.h.

// Adds biases to the scores of a row, and makes those of removed edges minus infinity.
INLINE void NAME(adjust)(const struct job *job, int64_t head, int64_t first, int64_t count, REAL *score) {
  const uint8_t *keep = job->keep ? job->keep + first : 0;
  if (job->bias) {
    const REAL *bias = (const REAL *)job->bias + head * job->bias_head + first;
    for (int64_t e = 0; e < count; e++) score[e] += bias[e];
  }
  if (job->removes)
    for (int64_t e = 0; e < count; e++) score[e] = keep[e] ? score[e] : -INFINITY;
}

// Makes coefficients of the scores of a row; returns the logarithm of the sum of the exponentials.
INLINE REAL NAME(softmax)(const struct job *job, int64_t head, int64_t first, int64_t count, REAL *score) {
  const uint8_t *keep = job->keep ? job->keep + first : 0;
  NAME(adjust)(job, head, first, count, score);
  REAL top = NAME(largest)(score, count);
  if (top == -INFINITY && !NAME(any_nan)(score, count)) {  // no edges that matter
    for (int64_t e = 0; e < count; e++) score[e] = 0;
    return top;
  }
  REAL total = NAME(exponentials)(score, count, top);
  if (job->removes) {  // the exponential of minus infinity is not quite 0
    total = 0;
    for (int64_t e = 0; e < count; e++) total += score[e] *= keep[e];
  }
  const REAL share = 1 / total;
  if (job->keep && !job->removes)
    for (int64_t e = 0; e < count; e++) score[e] *= share * keep[e];
  else
    for (int64_t e = 0; e < count; e++) score[e] *= share;
  return top + LOG(total);
}

// Attention, and the logarithm of the sum of the exponentials of the scores.
void EXPORT(forward)(struct job *job) {
  REAL *score = scratch_of(job), *lse = job->lse;
  FOR_TASKS(job) {
    for (int64_t block = task.start; block < task.stop; block += BLOCK_ROWS) {
      const int64_t end = block + BLOCK_ROWS < task.stop ? block + BLOCK_ROWS : task.stop;
      REAL *of_block = score + (job->rowptr[block] - job->rowptr[task.start]);
      NAME(score_rows)(job, &job->query, &job->key, job->channels, task.head, block, end, job->scale, of_block);
      for (int64_t row = block; row < end; row++) {  // while the scores are at hand
        const int64_t first = job->rowptr[row], count = job->rowptr[row + 1] - first;
        REAL *of_row = of_block + (first - job->rowptr[block]);
        lse[row * job->heads + task.head] = NAME(softmax)(job, task.head, first, count, of_row);
      }
    }
    NAME(sum_rows)(job, score, &job->value, &job->out, job->value_channels, task.head, task.start, task.stop);
  }
}

#if !TABLE_IS_HALF

// Coefficients, gradients of the scores (both [H, E]) and of the queries.
// With coefficients p and their gradients <g, v>, the gradient of a score is p (<g, v> - <g, out> + gradient of lse).
void EXPORT(backward_targets)(struct job *job) {
  REAL *weight = scratch_of(job);
  const REAL *lse = job->lse, *grad_lse = job->grad_lse;
  FOR_TASKS(job) {
    const int64_t base = job->rowptr[task.start];
    REAL *alpha = (REAL *)job->alpha + task.head * job->edges, *slope = (REAL *)job->slope + task.head * job->edges;
    NAME(score_rows)(job, &job->query, &job->key, job->channels, task.head, task.start, task.stop, job->scale, weight);
    NAME(score_rows)(job, &job->grad, &job->value, job->value_channels, task.head, task.start, task.stop, 1,
                     slope + base);
    for (int64_t row = task.start; row < task.stop; row++) {
      const int64_t first = job->rowptr[row], count = job->rowptr[row + 1] - first;
      REAL *w = weight + (first - base), *a = alpha + first, *s = slope + first;
      const REAL total = lse[row * job->heads + task.head];
      if (total == -INFINITY) {
        for (int64_t e = 0; e < count; e++) a[e] = s[e] = w[e] = 0;
        continue;
      }
      NAME(adjust)(job, task.head, first, count, w);
      REAL sum = NAME(exponentials)(w, count, total);
      const uint8_t *keep = job->keep ? job->keep + first : 0;
      if (job->removes) {
        sum = 0;
        for (int64_t e = 0; e < count; e++) sum += w[e] *= keep[e];
      }
      if (job->alone && (total > FAR || total < -FAR))
        for (int64_t e = 0; e < count; e++) w[e] /= sum;
      const REAL *g = (const REAL *)job->grad.at + row * job->grad.step + task.head * job->grad.head;
      const REAL *o = (const REAL *)job->out.at + row * job->out.step + task.head * job->out.head;
      REAL common = grad_lse ? -grad_lse[row * job->heads + task.head] : 0;
      for (int64_t c = 0; c < job->value_channels; c++) common += g[c] * o[c];
      if (job->keep)
        for (int64_t e = 0; e < count; e++) a[e] = w[e] * keep[e], s[e] *= keep[e];
      else
        for (int64_t e = 0; e < count; e++) a[e] = w[e];
      for (int64_t e = 0; e < count; e++) s[e] = w[e] * (s[e] - common), w[e] = s[e] * (REAL)job->scale;
    }
    NAME(sum_rows)(job, weight, &job->key, &job->grad_query, job->channels, task.head, task.start, task.stop);
  }
}

// out[row] = scale * sum of weight[perm[e]] value[col[e]] over the edges of a row; without perm, of weight[e].
void EXPORT(gather)(struct job *job) {
  REAL *factor = scratch_of(job);
  const REAL scale = job->scale;
  FOR_TASKS(job) {
    const int64_t base = job->rowptr[task.start], count = job->rowptr[task.stop] - base;
    const REAL *weight = (const REAL *)job->alpha + task.head * job->edges;
    if (job->perm)
      for (int64_t e = 0; e < count; e++) factor[e] = scale * weight[job->perm[base + e]];
    else
      for (int64_t e = 0; e < count; e++) factor[e] = scale * weight[base + e];
    NAME(sum_rows)(job, factor, &job->value, &job->out, job->value_channels, task.head, task.start, task.stop);
  }
}

// alpha[head, e] = scale <query[row], key[col[e]]>
void EXPORT(scores)(struct job *job) {
  FOR_TASKS(job) {
    REAL *out = (REAL *)job->alpha + task.head * job->edges + job->rowptr[task.start];
    NAME(score_rows)(job, &job->query, &job->key, job->channels, task.head, task.start, task.stop, job->scale, out);
  }
}

#endif

#undef LANES
#undef VEC
#undef INTS
#undef EIGHT
