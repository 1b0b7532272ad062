"use strict";
// Words and tables about a keypoint.

const ROWS = 8; // of a table of weights

const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;

// An element with attributes and children; text is never read as HTML.
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

function describe(pair, node) {
  return `${pair.name(node)} at (${pair.x[node].toFixed(0)}, ${pair.y[node].toFixed(0)}) px`;
}

function summary(pair) {
  const [count0, count1] = pair.counts;
  const parts = pair.settings.map((setting, side) => {
    const matches = pair.rows[side].filter(({ verdict }) => verdict !== "missed");
    const judged = matches.filter(({ verdict }) => verdict !== "unjudged");
    const right = judged.filter(({ verdict }) => verdict === "right").length;
    const word = pair.truth.right === "inlier" ? "inliers" : pair.truth.right;
    const of = judged.length < matches.length ? ` of ${judged.length} judged` : "";
    const share = judged.length ? `, ${right}${of} ${word}` : "";
    return `${matches.length} matches${share}${setting.name ? ` (${setting.name})` : ""}`;
  });
  return `${count0} keypoints in image A, ${count1} in image B; ${parts.join("; ")}. Judged by: ${pair.truth.name}.`;
}

// How much of the attention is on the page.
function kept(pair) {
  const { top } = pair.settings[0];
  return `Of every layer and head the ${top} largest weights of a keypoint are kept, to within 0.4\u00a0% of the largest.`;
}

// The facts of a keypoint in one setting.
function facts(pair, node, setting, attention, state) {
  const match = pair.matchOf(node, setting);
  const verdict = pair.verdict(node, setting);
  const attended = { self: attention.of(node, state.layer, "self", state.head) };
  attended.cross = attention.of(node, state.layer, "cross", state.head);
  // Largest weights over heads do not add up to a whole, so that those of their mean are counted.
  const total = (kind) =>
    attended[kind].reduce((sum, { weight, heads }) => sum + (state.head === "max" ? Attention.over(heads, "mean") : weight), 0);
  const kept = (kind) =>
    attended[kind].length
      ? `${attended[kind].length} weights, ${percent(total(kind))} of all`
      : "none: no edges, or it had stopped or was pruned";
  const onMatch = attended.cross.find((source) => source.node === match);
  const found = {
    Match:
      match >= 0
        ? `${pair.name(match)}, probability ${setting.score[node].toFixed(2)} (${pair.word(verdict)})`
        : verdict === "missed" ? "none (missed)" : "none",
    Difficulty: setting.difficulty[node] === "unknown" ? "unknown (no partner)" : setting.difficulty[node],
    "Looks like": `${pair.repetition[node]} others` + (pair.groupOf(node).length ? `, in a group of ${pair.groupOf(node).length}` : ""),
    "Self-attention kept": kept("self"),
    "Cross-attention kept": kept("cross"),
    "Cross-attention on its match": match < 0 ? "no match" : onMatch ? percent(onMatch.weight) : "not among those kept",
  };
  if (setting.stable[node] > 0) found["Match found"] = `after layer ${setting.stable[node] - 1}, and kept`;
  return found;
}

function drawFacts(pair, node, views, state) {
  const table = element("facts");
  if (node < 0) return table.replaceChildren();
  const all = views.map(({ setting, attention }) => facts(pair, node, setting, attention, state));
  const names = [...new Set(all.flatMap((one) => Object.keys(one)))];
  const head = make("tr", {}, make("td"), ...views.map(({ setting }) => make("th", { scope: "col" }, setting.name)));
  const body = names.map((name) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...all.map((one) => make("td", {}, one[name] ?? "–"))),
  );
  table.replaceChildren(...(views.length > 1 ? [make("thead", {}, head)] : []), make("tbody", {}, ...body));
}

// One table: a caption, names of columns, and rows that begin with a keypoint.
function drawTable(id, heads, rows, pair, marked) {
  const body = rows.map(({ node, cells }) => {
    const button = make("button", { type: "button", "aria-pressed": String(node === marked) }, pair.name(node));
    return make(
      "tr",
      { "data-node": node, class: node === marked ? "marked" : null },
      make("td", {}, button),
      ...cells.map((cell) => make("td", {}, cell)),
    );
  });
  const none = make("tr", {}, make("td", { colspan: heads.length }, "None."));
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)));
  const table = element(id);
  const caption = table.querySelector("caption");
  table.replaceChildren(caption, make("thead", {}, head), make("tbody", {}, ...(body.length ? body : [none])));
}

function drawTables(pair, node, views, state) {
  const where = (of) => `${pair.x[of].toFixed(0)}, ${pair.y[of].toFixed(0)}`;
  for (const kind of ["self", "cross"]) {
    const all = views.map(({ attention }) => (node < 0 ? [] : attention.of(node, state.layer, kind, state.head)));
    // The strongest of either setting, in the order of the first one.
    const nodes = [...new Set(all.flatMap((attended) => attended.slice(0, ROWS).map((source) => source.node)))];
    const rows = nodes.map((of) => {
      const weights = all.map((attended) => attended.find((source) => source.node === of));
      const cells = weights.map((source) => (source ? percent(source.weight) : "–"));
      return { node: of, cells: [where(of), ...cells, pair.marks(of, node, views[0].setting)] };
    });
    const names = views.length > 1 ? views.map(({ setting }) => setting.name || "weight") : ["weight"];
    drawTable(`${kind}_table`, ["keypoint", "x, y", ...names, "is"], rows, pair, state.marked);
  }
  const rows = [];
  if (node >= 0) {
    const alike = pair.groupOf(node).filter((of) => of !== node);
    pair.candidates[node].forEach((of, rank) => rows.push({ node: of, cells: [where(of), `candidate ${rank + 1}`] }));
    alike.slice(0, ROWS).forEach((of) => rows.push({ node: of, cells: [where(of), "looks alike"] }));
  }
  drawTable("alike_table", ["keypoint", "x, y", "is"], rows, pair, state.marked);
}
