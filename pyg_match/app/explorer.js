"use strict";
// The explorer: what a visitor looks at, which controls change it, and what is drawn then.

const HOVERED_FRAME = 16; // milliseconds; faster movements of the mouse are drawn together
const NARROW = 700; // pixels of the window below which images lie one above the other
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

class Explorer {
  // Called once the document is there.
  start(payload, wish, status) {
    this.models = (name) => payload.document.get_model_by_name(name);
    this.pictures = [0, 1].map((side) => new Picture(side, this.models));
    this.grids = [0, 1].map((side) => new Grid(side, this.models));
    this.server = new ServerForm(wish, (text, error) => this.say(text, error));
    this.state = {
      pinned: -1,
      hovered: -1,
      marked: -1,
      layer: 0,
      head: "mean",
      view: "0",
      least: 0.05,
      show: { self: true, cross: true, match: true, alike: true, candidates: false, dots: true },
      filter: { right: true, wrong: true, missed: false, unjudged: true, hard: false, repeated: false, low: 0, high: 1 },
    };
    this.listen();
    this.report(status);
    return this.load(payload);
  }

  // Called when the server says something.
  report(status) {
    const [text] = status.get_column("text");
    const [error] = status.get_column("error");
    if (text) this.say(error && this.pair ? `${text} The picture below is still the one before.` : text, error);
  }

  // Called when there are new numbers.
  async load(payload) {
    const text = payload.get_column("content")[0];
    if (!text || !this.state) return;
    const number = (this.loads = (this.loads ?? 0) + 1);
    const pair = new Pair(JSON.parse(text));
    const packed = payload.get_column("attention")[0];
    const attention = await Promise.all(
      pair.settings.map((setting, side) => Attention.unpack(packed[side], setting, pair.numNodes)),
    );
    // Newer numbers have come while these were unpacked.
    if (number !== this.loads) return;
    const first = !this.pair;
    const another = !first && `${this.pair.names} ${this.pair.x}` !== `${pair.names} ${pair.x}`;
    Object.assign(this, { pair, attention });
    const most = (field) => Math.max(...pair.settings.map((setting) => setting[field]));
    if (first || another) Object.assign(this.state, { pinned: pair.start.node, marked: -1 });
    if (first) this.state.layer = pair.start.layer;
    this.state.hovered = -1;
    this.state.view = pair.settings.length > 1 ? "both" : "0";
    if (first) fromHash(location.hash, this.state, pair);
    this.state.layer = Math.max(0, Math.min(this.state.layer, most("layers") - 1));
    if (this.state.head >= most("heads")) this.state.head = "mean";
    this.server.fill(pair.form);
    this.say(summary(pair));
    element("kept").textContent = kept(pair);
    element("explorer").hidden = false;
    fillControls(pair, this.state);
    this.arrange();
    document.body.dataset.ready = "true";
  }

  say(text, error = false) {
    const message = element("message");
    message.textContent = text;
    message.className = error ? "error" : "";
    message.setAttribute("role", error ? "alert" : "status");
  }

  // The settings that are seen, with all that is drawn of them.
  get views() {
    const sides = this.state.view === "both" ? [0, 1] : [Number(this.state.view)];
    return sides.map((side) => ({
      side,
      setting: this.pair.settings[side],
      attention: this.attention[side],
      rows: this.pair.shown(side, this.state.filter),
      total: this.pair.rows[side].length,
    }));
  }

  // The picture that the mouse and the keys act on.
  get picture() {
    return this.pictures[this.views[0].side];
  }

  // The keypoint whose attention is drawn.
  get active() {
    return this.state.hovered >= 0 ? this.state.hovered : this.state.pinned;
  }

  get colours() {
    const style = getComputedStyle(document.documentElement);
    const names = ["self", "cross", "match", "alike", "candidate", "keypoint", "outline", "marked", "dots", "veil", "text"];
    return Object.fromEntries([...names, ...VERDICT_FILTERS].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  // Lay out pictures for the size of the window, and draw everything.
  arrange() {
    if (!this.pair) return;
    const { pair } = this;
    const colours = this.colours;
    this.stacked = window.innerWidth < NARROW;
    this.layout = new Layout(pair, this.stacked);
    const seen = this.views.map(({ side }) => side);
    for (const side of [0, 1]) {
      const shown = seen.includes(side);
      element(`side${side}`).hidden = element(`grid_side${side}`).hidden = !shown;
      if (!shown) continue;
      element(`title${side}`).textContent = element(`grid_title${side}`).textContent = pair.settings[side].name;
    }
    for (const id of ["stage", "pictures", "grids"]) element(id).classList.toggle("two", seen.length > 1);
    for (const side of seen) {
      const box = element(`box${side}`);
      // A narrow page needs room beside the picture to be scrolled by.
      const most = Math.max(260, (this.stacked ? 0.7 : 0.82) * window.innerHeight);
      box.style.height = `${Math.min(most, (box.clientWidth * this.layout.height) / this.layout.width)}px`;
      this.models(`dots${side}`).glyph.fill_color = colours.dots;
      this.models(`veil_glyph${side}`).glyph.fill_color = colours.veil;
      this.models(`numbers${side}`).glyph.text_color = colours.text;
      this.models(`frame${side}`).glyph.line_color = colours.marked;
      this.models(`grid_labels${side}`).glyph.text_color = colours.text;
      this.pictures[side].drawPair(pair, this.layout, this.state.show.dots);
      this.grids[side].drawPair(pair, pair.settings[side], element(`grid_box${side}`));
    }
    this.resized();
    this.drawMatches();
    this.draw();
    this.drawPinned();
  }

  // Called by pictures whose size has become known or another one.
  resized() {
    if (!this.pair) return;
    const { plot } = this.picture;
    const size = `${plot.inner_width} x ${plot.inner_height} ${this.stacked} ${this.pair.names} ${this.pair.sizes}`;
    if (size === this.size) return;
    this.size = size;
    this.picture.fit();
  }

  drawMatches() {
    const { views, colours } = this;
    for (const { side, rows } of views) this.pictures[side].drawMatches(rows, colours);
    element("count").textContent = views
      .map(({ rows, total, setting }) => `${rows.length} of ${total}${views.length > 1 ? ` (${setting.name})` : ""}`)
      .join(", ");
  }

  draw() {
    const { views, colours, active, state } = this;
    for (const { side, setting, attention } of views) {
      this.pictures[side].drawAttention(active, state, attention, setting, colours);
    }
    const text = active < 0 ? "no keypoint" : `${state.hovered >= 0 ? "hovered" : "pinned"}: ${describe(this.pair, active)}`;
    element("where").textContent = `${text}; layer ${state.layer}, head ${state.head}`;
    element("unpin").disabled = state.pinned < 0;
    if (state.pinned < 0) this.drawTables();
  }

  // What follows the pinned keypoint, and not the mouse.
  drawPinned() {
    const { colours, state } = this;
    for (const { side, attention } of this.views) this.grids[side].drawAttention(state.pinned, state, attention, colours);
    element("no_grid").hidden = state.pinned >= 0;
    this.drawTables();
    this.keepLink();
  }

  drawTables() {
    const node = this.state.pinned >= 0 ? this.state.pinned : this.state.hovered;
    element("keypoint_title").textContent = node < 0 ? "No keypoint" : `Keypoint ${describe(this.pair, node)}`;
    drawFacts(this.pair, node, this.views, this.state);
    drawTables(this.pair, node, this.views, this.state);
  }

  keepLink() {
    const query = this.pair.query ? `?${this.pair.query}` : location.search;
    try {
      history.replaceState(null, "", `${location.pathname}${query}${toHash(this.state, this.pair)}`);
    } catch {
      // A page inside a notebook has no address of its own.
    }
  }

  change(changes) {
    Object.assign(this.state, changes);
    fillControls(this.pair, this.state);
    this.draw();
    this.drawPinned();
  }

  hover(x, y) {
    if (!this.pair) return;
    this.moved = [x, y];
    this.waiting ??= setTimeout(() => {
      this.waiting = null;
      if (this.moved) this.show(this.hit(...this.moved));
    }, HOVERED_FRAME);
  }

  leave() {
    this.moved = null;
    if (this.pair) this.show(-1);
  }

  show(node) {
    if (node === this.state.hovered) return;
    this.state.hovered = node;
    this.draw();
  }

  hit(x, y) {
    return this.layout.nearest(x, y, NEAR / this.picture.zoom);
  }

  click(x, y) {
    if (!this.pair) return;
    const node = this.hit(x, y);
    if (node >= 0) this.pin(node);
  }

  pin(node) {
    this.change({ pinned: node, hovered: -1, marked: -1 });
    if (node >= 0) this.picture.reveal(node);
  }

  chooseCell(x, y) {
    const cell = this.pair && this.grids[this.views[0].side].cellAt(x, y);
    if (cell) this.change(cell);
  }

  mark(node) {
    this.change({ marked: node === this.state.marked ? -1 : node });
    if (this.state.marked >= 0) this.picture.reveal(node);
  }

  // The next match that the filters let through, from the pinned keypoint on.
  nextMatch(step) {
    const { rows } = this.views[0];
    if (!rows.length) return;
    const now = rows.findIndex(({ node, other }) => [node, other].includes(this.state.pinned));
    this.pin(rows[now < 0 ? 0 : (now + step + rows.length) % rows.length].node);
  }

  listen() {
    listenToControls(this);
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("resize", () => this.arrange());
    window.addEventListener("hashchange", () => {
      if (!this.pair) return;
      fromHash(location.hash, this.state, this.pair);
      fillControls(this.pair, this.state);
      this.arrange();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.arrange());
  }

  key(event) {
    const { target, key } = event;
    if (!this.pair || event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === "Escape") return this.pin(-1);
    if (target.matches?.("input, select, textarea, [contenteditable]")) return;
    const { picture } = this;
    const arrow = target.closest?.(".box") && ARROWS[key];
    if (arrow) {
      event.preventDefault();
      const from = this.active >= 0 ? this.active : 0;
      const next = this.active < 0 ? from : this.layout.neighbour(this.pair, from, ...arrow);
      if (next >= 0 && next < this.pair.numNodes) this.pin(next);
      return;
    }
    const { state, pair } = this;
    const { setting } = this.views[0];
    const most = (name) => Math.max(...this.views.map((view) => view.setting[name]));
    const heads = ["mean", "max", ...Array(most("heads")).keys()];
    const keys = {
      ",": () => this.change({ layer: Math.max(0, state.layer - 1) }),
      ".": () => this.change({ layer: Math.max(0, Math.min(most("layers") - 1, state.layer + 1)) }),
      h: () => this.change({ head: heads[(heads.indexOf(state.head) + 1) % heads.length] }),
      H: () => this.change({ head: heads[(heads.indexOf(state.head) + heads.length - 1) % heads.length] }),
      m: () => state.pinned >= 0 && pair.matchOf(state.pinned, setting) >= 0 && this.pin(pair.matchOf(state.pinned, setting)),
      n: () => this.nextMatch(1),
      N: () => this.nextMatch(-1),
      "+": () => picture.zoomBy(1.5),
      "-": () => picture.zoomBy(1 / 1.5),
      0: () => picture.fit(),
    };
    if (keys[key]) {
      event.preventDefault();
      keys[key]();
    }
  }
}

const explorer = new Explorer();
