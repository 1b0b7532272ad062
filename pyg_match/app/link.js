"use strict";
// A view as the end of an address, so that a link leads back to it.

const VERDICT_FILTERS = ["right", "wrong", "missed", "unjudged"];

function toHash(state, pair) {
  const chosen = (from) => Object.keys(from).filter((name) => from[name] === true);
  const words = {
    at: state.pinned >= 0 ? pair.name(state.pinned).replace(" ", "") : "none",
    layer: state.layer,
    head: state.head,
    view: state.view,
    show: chosen(state.show).join(","),
    least: state.least,
    matches: VERDICT_FILTERS.filter((name) => state.filter[name]).join(","),
    only: ["hard", "repeated"].filter((name) => state.filter[name]).join(","),
    score: `${state.filter.low}-${state.filter.high}`,
  };
  return `#${Object.entries(words).map(([name, value]) => `${name}=${value}`).join("&")}`;
}

// Change a state to what an address says; what it does not say, or says wrongly, stays.
function fromHash(hash, state, pair) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (text, least, most) => {
    const value = Number(text);
    return text !== null && text !== "" && value >= least && value <= most ? value : null;
  };
  const layers = Math.max(...pair.settings.map((setting) => setting.layers));
  const heads = Math.max(...pair.settings.map((setting) => setting.heads));
  if (words.has("at")) state.pinned = pair.node(words.get("at"));
  const layer = number(words.get("layer"), 0, layers - 1);
  if (layer !== null) state.layer = Math.round(layer);
  if (["mean", "max"].includes(words.get("head"))) state.head = words.get("head");
  const head = number(words.get("head"), 0, heads - 1);
  if (head !== null) state.head = Math.round(head);
  if (["0", "1", "both"].includes(words.get("view")) && pair.settings.length > 1) state.view = words.get("view");
  state.least = number(words.get("least"), 0, 1) ?? state.least;
  for (const [name, into] of [["show", state.show], ["matches", state.filter], ["only", state.filter]]) {
    if (!words.has(name)) continue;
    const known = { show: Object.keys(state.show), matches: VERDICT_FILTERS, only: ["hard", "repeated"] }[name];
    for (const word of known) into[word] = words.get(name).split(",").includes(word);
  }
  const [low, high] = (words.get("score") ?? "").split("-").map((text) => number(text, 0, 1));
  if (low !== null && high !== null && low !== undefined && high !== undefined && low <= high) {
    Object.assign(state.filter, { low, high });
  }
  return state;
}
