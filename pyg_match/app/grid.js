"use strict";
// Small multiples: the attention of one keypoint in all layers and heads.

const PITCH = 1.05; // of cells, whose width is 1
const LABEL = 0.42; // width left of the cells for the names of layers
const CELL = 200; // largest width of a cell in pixels

class Grid {
  constructor(side, models) {
    this.side = side;
    this.models = models;
    this.plot = models(`grid${side}`);
  }

  fill(name, names, rows) {
    this.models(`grid_${name}${this.side}`).data = columns(names, rows);
  }

  // Images and names, and the size of the whole.
  drawPair(pair, setting, element) {
    this.pair = pair;
    this.setting = setting;
    this.layout = new Layout(pair, false);
    const { layout } = this;
    this.aspect = layout.height / layout.width;
    const [width, height] = [LABEL + setting.heads * PITCH, 0.2 + setting.layers * (this.aspect + 0.05)];
    const pixels = Math.min(element.parentElement.clientWidth, width * CELL);
    element.style.width = `${pixels}px`;
    element.style.height = `${(pixels * height) / width}px`;
    this.plot.x_range.setv({ start: -LABEL, end: width - LABEL });
    this.plot.y_range.setv({ start: 0.2 - height, end: 0.2 });
    const [images, texts] = [[], []];
    for (const [layer, head] of this.cells()) {
      const { x, y } = this.corner(layer, head);
      layout.boxes.forEach((box, image) => {
        const [bx, by, w, h] = [box.x, box.y, box.w, box.h].map((value) => value / layout.width);
        const url = pair.images[image].small;
        if (url) images.push({ url, x: x + bx, y: y + by, w, h });
      });
      if (head === 0) texts.push({ x: -LABEL / 2, y: y - this.aspect / 2, text: `layer ${layer}` });
      if (layer === 0) texts.push({ x: x + 0.5, y: 0.1, text: `head ${head}` });
    }
    this.fill("image", ["url", "x", "y", "w", "h"], images);
    this.fill("texts", ["x", "y", "text"], texts);
  }

  *cells() {
    for (let layer = 0; layer < this.setting.layers; layer++) {
      for (let head = 0; head < this.setting.heads; head++) yield [layer, head];
    }
  }

  corner(layer, head) {
    return { x: head * PITCH, y: -layer * (this.aspect + 0.05) };
  }

  // The layer and head of a cell at a point, or null.
  cellAt(x, y) {
    const [head, layer] = [Math.floor(x / PITCH), Math.floor(-y / (this.aspect + 0.05))];
    const inside = head >= 0 && head < this.setting.heads && layer >= 0 && layer < this.setting.layers;
    return inside ? { layer, head } : null;
  }

  drawAttention(node, state, attention, colours) {
    const [lines, ends, frames] = [[], [], []];
    const { layout } = this;
    for (const [layer, head] of node >= 0 ? this.cells() : []) {
      const corner = this.corner(layer, head);
      const place = (of) => [corner.x + layout.x[of] / layout.width, corner.y + layout.y[of] / layout.width];
      const [x0, y0] = place(node);
      for (const kind of ["self", "cross"]) {
        if (!state.show[kind]) continue;
        for (const { node: to, share } of strongest(attention.of(node, layer, kind, head), state.least)) {
          const [x1, y1] = place(to);
          lines.push({ x0, y0, x1, y1, color: colours[kind], alpha: share, width: 1 });
          ends.push({ x: x1, y: y1, color: colours[kind], alpha: share, size: 4 });
        }
      }
      ends.push({ x: x0, y: y0, color: colours.keypoint, alpha: 1, size: 6 });
    }
    for (const [layer, head] of this.cells()) {
      if (layer !== state.layer || (head !== state.head && typeof state.head === "number")) continue;
      const { x, y } = this.corner(layer, head);
      frames.push({ x: x + 0.5, y: y - this.aspect / 2, w: 1.02, h: this.aspect + 0.02 });
    }
    this.fill("lines", ["x0", "y0", "x1", "y1", "color", "alpha", "width"], lines);
    this.fill("ends", ["x", "y", "color", "alpha", "size"], ends);
    this.fill("frame", ["x", "y", "w", "h"], frames);
  }
}
