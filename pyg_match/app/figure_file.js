"use strict";
// The figure to take away, drawn anew as SVG so that lines stay vectors.

const escapeXml = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const FIGURE_WIDTH = 1200;
const LEGEND = [
  ["keypoint", "ring", "keypoint"],
  ["self", "line", "self-attention"],
  ["cross", "line", "cross-attention"],
  ["match", "line", "match"],
  ["alike", "diamond", "looks alike"],
  ["candidate", "square", "candidate"],
];

class FigureFile {
  // Everything that is seen: the pair, its layout, the state, views with setting and attention, colours.
  constructor(seen) {
    Object.assign(this, seen);
    this.unit = FIGURE_WIDTH / this.layout.width;
  }

  point(node) {
    return [this.layout.x[node] * this.unit, -this.layout.y[node] * this.unit];
  }

  line(from, to, colour, opacity, width, dash = "") {
    const [[x1, y1], [x2, y2]] = [this.point(from), this.point(to)];
    const at = `x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}"`;
    return `<line ${at} stroke="${colour}" stroke-opacity="${opacity.toFixed(3)}" stroke-width="${width}" ${dash}/>`;
  }

  mark(shape, [x, y], colour, size = 8, width = 2.5) {
    const stroke = `fill="none" stroke="${colour}" stroke-width="${width}"`;
    if (shape === "ring") return `<circle cx="${x}" cy="${y}" r="${size}" ${stroke}/>`;
    const turn = shape === "diamond" ? `transform="rotate(45 ${x} ${y})"` : "";
    const [left, top] = [x - size * 0.75, y - size * 0.75];
    return `<rect x="${left}" y="${top}" width="${size * 1.5}" height="${size * 1.5}" ${stroke} ${turn}/>`;
  }

  attention(node, { setting, attention }) {
    const { pair, state, colours } = this;
    const drawn = [];
    const match = pair.matchOf(node, setting);
    if (state.show.match && match >= 0) drawn.push(this.line(node, match, colours.match, 1, 5));
    for (const kind of ["self", "cross"]) {
      if (!state.show[kind]) continue;
      for (const { node: to, share } of strongest(attention.of(node, state.layer, kind, state.head), state.least)) {
        const [cx, cy] = this.point(to);
        drawn.push(this.line(node, to, colours[kind], share, 2));
        drawn.push(`<circle cx="${cx}" cy="${cy}" r="4" fill="${colours[kind]}" fill-opacity="${share.toFixed(3)}"/>`);
      }
    }
    const others = (show, nodes, shape, colour) =>
      show ? nodes.filter((of) => of !== node).map((of) => this.mark(shape, this.point(of), colour)) : [];
    drawn.push(...others(state.show.alike, pair.groupOf(node), "diamond", colours.alike));
    drawn.push(...others(state.show.candidates, pair.candidates[node], "square", colours.candidate));
    if (state.show.match && match >= 0) drawn.push(this.mark("ring", this.point(match), colours.match));
    drawn.push(this.mark("ring", this.point(node), colours.keypoint, 10, 3.5));
    return drawn;
  }

  matches(rows) {
    const dashes = { wrong: 'stroke-dasharray="8 4"', missed: 'stroke-dasharray="2 4"' };
    return rightFirst(rows).map(({ node, other, verdict }) =>
      this.line(node, other, this.colours[verdict], 0.8, verdict === "right" ? 1 : 2, dashes[verdict]),
    );
  }

  legend(y) {
    const { colours, pair, state } = this;
    const shown = { ...state.show, candidate: state.show.candidates, keypoint: true };
    const entries =
      state.pinned >= 0
        ? LEGEND.filter(([name]) => shown[name])
        : ["right", "wrong", "missed", "unjudged"]
            .filter((name) => state.filter[name])
            .map((name) => [name, "line", `match: ${pair.word(name)}`]);
    const drawn = entries.map(([name, shape, text], i) => {
      const x = 10 + i * 195;
      const line = `<line x1="${x}" y1="${y}" x2="${x + 22}" y2="${y}" stroke="${colours[name]}" stroke-width="3"/>`;
      const symbol = shape === "line" ? line : this.mark(shape, [x + 11, y], colours[name], 7);
      return `${symbol}<text x="${x + 28}" y="${y + 5}">${escapeXml(text)}</text>`;
    });
    return drawn.join("");
  }

  text() {
    const { pair, layout, state, views } = this;
    const height = layout.height * this.unit;
    const [title, foot] = [34, 92];
    const rows = views.map((view, i) => {
      const top = i * (height + title);
      const what =
        state.pinned >= 0
          ? `keypoint ${describe(pair, state.pinned)}, layer ${state.layer}, head ${state.head}`
          : `${view.rows.length} of ${view.total} matches, found or missed`;
      const name = [view.setting.name, what].filter(Boolean).join(" · ");
      const images = layout.boxes.map(({ x, y, w, h }, image) => {
        const at = `x="${x * this.unit}" y="${-y * this.unit}" width="${w * this.unit}" height="${h * this.unit}"`;
        const url = pair.images[image].large;
        return url ? `<image ${at} href="${url}" opacity="0.5" preserveAspectRatio="none"/>` : `<rect ${at} fill="none" stroke="#999"/>`;
      });
      const drawn = state.pinned >= 0 ? this.attention(state.pinned, view) : this.matches(view.rows);
      return (
        `<text x="10" y="${top + 23}" font-weight="bold">${escapeXml(name)}</text>` +
        `<g transform="translate(0 ${top + title})">${images.join("")}${drawn.join("")}</g>`
      );
    });
    const bottom = views.length * (height + title);
    const total = Math.ceil(bottom + foot);
    const scale = state.pinned >= 0 ? "opacity = weight / largest weight · " : "";
    const notes = [
      `A: ${pair.names[0]} · B: ${pair.names[1]} · weights: ${weightsOf(views)}`,
      `${scale}judged by: ${pair.truth.name} · pyg_match ${pair.version}`,
    ];
    const lines = notes.map((note, i) => `<text x="10" y="${bottom + 56 + 22 * i}">${escapeXml(note)}</text>`);
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${FIGURE_WIDTH} ${total}" width="${FIGURE_WIDTH}" ` +
      `height="${total}" font-family="sans-serif" font-size="16"><rect width="100%" height="100%" fill="white"/>` +
      `${rows.join("")}${this.legend(bottom + 22)}${lines.join("")}</svg>`
    );
  }

  // The same in pixels.
  async png() {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(this.text())}`;
    await image.decode();
    const canvas = make("canvas", { width: 2 * image.width, height: 2 * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}

function weightsOf(views) {
  return [...new Set(views.map(({ setting }) => setting.weights || "not named"))].join(" and ");
}
