"use strict";
// Both images with what is drawn over them: where things lie, and the columns of the glyphs.

const GAP = 0.02; // between the images, in widths of the first
const NEAR = 16; // pixels of the screen within which a keypoint is hit

// Columns of a data source from rows; Bokeh wants each column by itself.
function columns(names, rows) {
  return Object.fromEntries(names.map((name) => [name, rows.map((row) => row[name])]));
}

// Where the images lie: side by side at one height, or one above the other at one width. Upwards is positive.
class Layout {
  constructor(pair, stacked) {
    const [[w0, h0], [w1, h1]] = pair.sizes;
    this.stacked = stacked;
    this.scale = [1, stacked ? w0 / w1 : h0 / h1];
    const [width1, height1] = [w1 * this.scale[1], h1 * this.scale[1]];
    const gap = GAP * w0;
    this.boxes = [
      { x: 0, y: 0, w: w0, h: h0 },
      { x: stacked ? 0 : w0 + gap, y: stacked ? -h0 - gap : 0, w: width1, h: height1 },
    ];
    this.width = stacked ? Math.max(w0, width1) : w0 + gap + width1;
    this.height = stacked ? h0 + gap + height1 : Math.max(h0, height1);
    this.x = new Float64Array(pair.numNodes);
    this.y = new Float64Array(pair.numNodes);
    for (let node = 0; node < pair.numNodes; node++) {
      const image = pair.imageOf(node);
      // Whole numbers are centres of pixels.
      this.x[node] = this.boxes[image].x + (pair.x[node] + 0.5) * this.scale[image];
      this.y[node] = this.boxes[image].y - (pair.y[node] + 0.5) * this.scale[image];
    }
  }

  nearest(x, y, radius) {
    let [best, found] = [radius * radius, -1];
    for (let node = 0; node < this.x.length; node++) {
      const distance = (this.x[node] - x) ** 2 + (this.y[node] - y) ** 2;
      if (distance < best) [best, found] = [distance, node];
    }
    return found;
  }

  // The nearest keypoint of the same image in a direction, those straight ahead first.
  neighbour(pair, node, dx, dy) {
    let [best, found] = [Infinity, -1];
    for (let other = 0; other < this.x.length; other++) {
      if (other === node || pair.imageOf(other) !== pair.imageOf(node)) continue;
      const [x, y] = [this.x[other] - this.x[node], this.y[other] - this.y[node]];
      const ahead = x * dx + y * dy;
      const aside = Math.abs(x * dy - y * dx);
      const cost = ahead + 2 * aside;
      if (ahead > 0 && aside <= 2 * ahead && cost < best) [best, found] = [cost, other];
    }
    return found;
  }
}

class Picture {
  constructor(side, models) {
    this.side = side;
    this.models = models;
    this.plot = models(`picture${side}`);
  }

  fill(name, names, rows) {
    this.models(name + this.side).data = columns(names, rows);
  }

  // What stays while the mouse moves: images and keypoints.
  drawPair(pair, layout, dots) {
    this.pair = pair;
    this.layout = layout;
    const images = layout.boxes.map((box, image) => ({ url: pair.images[image].large, ...box }));
    this.fill("image", ["url", "x", "y", "w", "h"], images.filter(({ url }) => url));
    this.models(`keypoints${this.side}`).data = dots ? { x: layout.x, y: layout.y } : { x: [], y: [] };
  }

  drawMatches(rows, colours) {
    // Where there are many, each is fainter; the few that are wrong or missed lie on top.
    const faint = Math.min(0.75, 150 / rows.length);
    const lines = rightFirst(rows).map((row) => ({
      ...this.line(row.node, row.other),
      color: colours[row.verdict],
      alpha: isRight(row) ? faint : 0.9,
      width: isRight(row) ? 1 : 1.8,
    }));
    this.fill("matches", ["x0", "y0", "x1", "y1", "color", "alpha", "width"], lines);
  }

  line(from, to) {
    const { x, y } = this.layout;
    return { x0: x[from], y0: y[from], x1: x[to], y1: y[to] };
  }

  // The attention of a keypoint; nothing for -1.
  drawAttention(node, state, attention, setting, colours) {
    const [lines, ends, marks, texts] = [[], [], [], []];
    const { layout, pair } = this;
    const mark = (of, marker, color, size, width) =>
      marks.push({ x: layout.x[of], y: layout.y[of], marker, color, size, width });
    if (node >= 0) {
      const match = pair.matchOf(node, setting);
      if (state.show.match && match >= 0) {
        lines.push({ ...this.line(node, match), color: colours.match, alpha: 1, width: 5 });
      }
      for (const kind of ["self", "cross"]) {
        if (!state.show[kind]) continue;
        // The strongest last, on top.
        for (const { node: to, share } of strongest(attention.of(node, state.layer, kind, state.head), state.least)) {
          lines.push({ ...this.line(node, to), color: colours[kind], alpha: share, width: 2 });
          ends.push({ x: layout.x[to], y: layout.y[to], color: colours[kind], alpha: share, size: 8 });
        }
      }
      if (state.show.alike) {
        for (const other of pair.groupOf(node)) if (other !== node) mark(other, "diamond", colours.alike, 13, 2);
      }
      if (state.show.candidates) {
        pair.candidates[node].forEach((other, rank) => {
          mark(other, "square", colours.candidate, 14, 2);
          texts.push({ x: layout.x[other], y: layout.y[other], text: String(rank + 1) });
        });
      }
      if (state.show.match && match >= 0) mark(match, "circle", colours.match, 16, 3);
      mark(node, "circle", colours.outline, 18, 6);
      mark(node, "circle", colours.keypoint, 18, 3);
    }
    if (state.marked >= 0) {
      mark(state.marked, "circle", colours.outline, 28, 7);
      mark(state.marked, "circle", colours.marked, 28, 4);
    }
    const { width: w, height: h } = layout;
    this.fill("veil", ["x", "y", "w", "h"], node >= 0 ? [{ x: w / 2, y: -h / 2, w: 3 * w, h: 3 * h }] : []);
    this.fill("lines", ["x0", "y0", "x1", "y1", "color", "alpha", "width"], lines);
    this.fill("ends", ["x", "y", "color", "alpha", "size"], ends);
    this.fill("marks", ["x", "y", "color", "marker", "size", "width"], marks);
    this.fill("texts", ["x", "y", "text"], texts);
  }

  // Pixels of the screen for each pixel of the first image.
  get zoom() {
    const { start, end } = this.plot.x_range;
    return this.plot.inner_width / (end - start);
  }

  // Show so much of the plane around a point that both images would fit `factor` times smaller.
  view(x, y, factor) {
    const { inner_width: w, inner_height: h } = this.plot;
    if (!w || !h) return;
    const unit = Math.max(this.layout.width / w, this.layout.height / h) / factor;
    this.plot.x_range.setv({ start: x - (unit * w) / 2, end: x + (unit * w) / 2 });
    this.plot.y_range.setv({ start: y - (unit * h) / 2, end: y + (unit * h) / 2 });
  }

  fit() {
    this.view(this.layout.width / 2, -this.layout.height / 2, 1);
  }

  zoomBy(factor) {
    const [x, y] = [this.plot.x_range, this.plot.y_range].map(({ start, end }) => (start + end) / 2);
    const { inner_width: w, inner_height: h } = this.plot;
    const unit = Math.max(this.layout.width / w, this.layout.height / h);
    this.view(x, y, this.zoom * unit * factor);
  }

  // Move a keypoint into sight.
  reveal(node) {
    const { x_range: xs, y_range: ys } = this.plot;
    const [x, y] = [this.layout.x[node], this.layout.y[node]];
    if (x > xs.start && x < xs.end && y > ys.start && y < ys.end) return;
    const [w, h] = [xs.end - xs.start, ys.end - ys.start];
    xs.setv({ start: x - w / 2, end: x + w / 2 });
    ys.setv({ start: y - h / 2, end: y + h / 2 });
  }
}

const isRight = ({ verdict }) => verdict === "right" || verdict === "unjudged";

// Matches in an order that draws the wrong and missed ones on top.
function rightFirst(rows) {
  return [...rows.filter(isRight), ...rows.filter((row) => !isRight(row))];
}

// What a keypoint attends to with its share of the largest weight, from `least` on, the strongest last.
function strongest(attended, least) {
  const largest = attended.length ? attended[0].weight : 0;
  if (largest <= 0) return [];
  return attended
    .map((source) => ({ ...source, share: source.weight / largest }))
    .filter(({ share }) => share >= Math.max(least, 0.002))
    .reverse();
}
