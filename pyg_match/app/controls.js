"use strict";
// The fields and buttons of the page.

const FILTERS = [...VERDICT_FILTERS, "hard", "repeated"];

// Set every control to the state.
function fillControls(pair, state) {
  const most = (field) => Math.max(...pair.settings.map((setting) => setting[field]));
  const layer = element("layer");
  layer.max = Math.max(0, most("layers") - 1);
  layer.value = state.layer;
  element("layer_number").textContent = `${state.layer} of 0–${layer.max}`;
  const heads = ["mean", "max", ...Array(most("heads")).keys()].map(String);
  const head = element("head");
  if (head.options.length !== heads.length) head.replaceChildren(...heads.map((name) => make("option", {}, name)));
  head.value = String(state.head);
  const views = pair.settings.map(({ name }, side) => [String(side), name || "setting"]);
  if (views.length > 1) views.push(["both", "both, side by side"]);
  element("view").replaceChildren(...views.map(([value, name]) => make("option", { value }, name)));
  element("view").value = state.view;
  element("view_field").hidden = views.length < 2;
  element("least").value = state.least;
  for (const name of Object.keys(state.show)) element(`show_${name}`).checked = state.show[name];
  for (const name of FILTERS) {
    const passes = ({ verdict, hard, repeated }) => ({ ...{ hard, repeated } })[name] ?? verdict === name;
    const count = pair.rows.map((rows) => rows.filter(passes).length).join(" / ");
    element(`filter_${name}`).checked = state.filter[name];
    const word = VERDICT_FILTERS.includes(name) ? pair.word(name) : `only ${name}`;
    element(`filter_${name}_text`).textContent = `${word} (${count})`;
  }
  element("low").value = state.filter.low;
  element("high").value = state.filter.high;
  element("score_range").textContent = `${state.filter.low.toFixed(2)} to ${state.filter.high.toFixed(2)}`;
}

function listenToControls(explorer) {
  const { state } = explorer;
  const on = (id, event, act) => element(id).addEventListener(event, act);
  on("layer", "input", () => explorer.change({ layer: Number(element("layer").value) }));
  on("head", "change", () => {
    const { value } = element("head");
    explorer.change({ head: /^\d+$/.test(value) ? Number(value) : value });
  });
  on("least", "input", () => explorer.change({ least: Number(element("least").value) }));
  on("view", "change", () => {
    state.view = element("view").value;
    explorer.arrange();
  });
  for (const name of Object.keys(state.show)) {
    on(`show_${name}`, "change", () => {
      state.show[name] = element(`show_${name}`).checked;
      if (name === "dots") explorer.arrange();
      else explorer.change({});
    });
  }
  const filtered = () => {
    explorer.drawMatches();
    explorer.change({});
  };
  for (const name of FILTERS) {
    on(`filter_${name}`, "change", () => {
      state.filter[name] = element(`filter_${name}`).checked;
      filtered();
    });
  }
  for (const name of ["low", "high"]) {
    on(name, "input", () => {
      state.filter[name] = Number(element(name).value);
      // The other end gives way.
      if (state.filter.low > state.filter.high) state.filter[name === "low" ? "high" : "low"] = state.filter[name];
      filtered();
    });
  }
  on("unpin", "click", () => explorer.pin(-1));
  on("zoom_in", "click", () => explorer.picture.zoomBy(1.5));
  on("zoom_out", "click", () => explorer.picture.zoomBy(1 / 1.5));
  on("zoom_fit", "click", () => explorer.picture.fit());
  on("previous", "click", () => explorer.nextMatch(-1));
  on("next", "click", () => explorer.nextMatch(1));
  on("goto", "submit", (event) => {
    event.preventDefault();
    const node = explorer.pair.node(element("goto_name").value);
    element("goto_problem").textContent =
      node < 0 ? `There is no such keypoint; A has ${explorer.pair.counts[0]}, B has ${explorer.pair.counts[1]}, from 0.` : "";
    if (node >= 0) explorer.pin(node);
  });
  on("tables", "click", (event) => {
    const row = event.target.closest("tr[data-node]");
    if (!row) return;
    const table = row.closest("table").id;
    const node = Number(row.dataset.node);
    explorer.mark(node);
    // The table has been drawn anew; the focus stays where it was.
    document.querySelector(`#${table} tr[data-node="${node}"] button`)?.focus({ preventScroll: true });
  });
  for (const [name, saver] of Object.entries(SAVERS)) {
    on(`save_${name}`, "click", () => {
      const { pair, views } = explorer;
      // A figure is on white paper, with both images side by side.
      saver({ pair, layout: new Layout(pair, false), views, state, colours: paperColours() });
    });
  }
  element("copy").hidden = location.protocol === "about:"; // a cell of a notebook has no address
  on("copy", "click", async () => {
    explorer.keepLink();
    try {
      await navigator.clipboard.writeText(location.href);
      element("copied").textContent = "Copied.";
    } catch {
      element("copied").textContent = "The address of this page leads back to this view.";
    }
  });
}

// The colours of the light page, whatever the visitor sees.
function paperColours() {
  const root = document.documentElement;
  root.dataset.theme = "light";
  const { colours } = explorer;
  delete root.dataset.theme;
  return colours;
}
