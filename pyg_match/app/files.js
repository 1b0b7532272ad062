"use strict";
// Numbers to take away, made in the browser.

const KINDS = ["self", "cross"];

function save(content, type, name) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Tells pairs, keypoints and settings apart.
function fileName({ pair, state, views }, ending) {
  const plain = (text) => text.replace(/\.\w+$/, "").replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "") || "image";
  const names = pair.names.map(plain).join("_");
  const what =
    state.pinned >= 0
      ? `${pair.name(state.pinned).replace(" ", "")}_layer${state.layer}_${typeof state.head === "number" ? "head" : ""}${state.head}`
      : "matches";
  const settings = views.map(({ setting }) => [setting.weights, setting.slug].filter(Boolean).map(plain).join("-"));
  return `${names}_${what}_${settings.join("_vs_")}.${ending}`;
}

function numbers({ pair, state, views }) {
  const place = (node) => ({
    image: "AB"[pair.imageOf(node)],
    keypoint: node - pair.imageOf(node) * pair.counts[0],
    x: pair.x[node],
    y: pair.y[node],
  });
  const ofKeypoint = ({ setting, attention }) => {
    const node = state.pinned;
    const match = pair.matchOf(node, setting);
    const attended = (kind) =>
      attention.of(node, state.layer, kind, state.head).map((source) => ({
        ...place(source.node),
        weight: source.weight,
        weight_by_head: source.heads,
      }));
    return {
      layer: state.layer,
      head: state.head,
      keypoint: place(node),
      match: match >= 0 ? place(match) : null,
      probability: setting.score[node],
      verdict: pair.word(pair.verdict(node, setting)),
      difficulty: setting.difficulty[node],
      look_alikes: pair.repetition[node],
      group: pair.groupOf(node).map(place),
      candidates: pair.candidates[node].map(place),
      attention: { self: attended("self"), cross: attended("cross") },
    };
  };
  const ofMatches = ({ rows }) => ({
    matches: rows.map(({ node, other, verdict, score, hard, repeated }) => ({
      from: place(node),
      to: place(other),
      verdict: pair.word(verdict),
      probability: score,
      hard,
      repeated,
    })),
  });
  return {
    version: pair.version,
    images: pair.names,
    judged_by: pair.truth.name,
    settings: views.map((view) => ({
      setting: view.setting.name,
      weights: view.setting.weights,
      largest_kept: view.setting.top,
      ...(state.pinned >= 0 ? ofKeypoint(view) : ofMatches(view)),
    })),
  };
}

function csv(seen) {
  const all = numbers(seen);
  const heads = Math.max(...seen.views.map(({ setting }) => setting.heads));
  const pinned = seen.state.pinned >= 0;
  const start = ["version", "image_a", "image_b", "weights", "setting"];
  const rows = [
    pinned
      ? [...start, "layer", "head", "kind", "target_image", "target", "rank", "source_image", "source", "x", "y", "weight",
         ...Array.from({ length: heads }, (_, head) => `weight_head_${head}`)]
      : [...start, "a", "x_a", "y_a", "b", "x_b", "y_b", "probability", "verdict", "hard", "repeated"],
  ];
  for (const one of all.settings) {
    const own = [all.version, ...all.images, one.weights, one.setting];
    for (const kind of pinned ? KINDS : []) {
      one.attention[kind].forEach((source, i) =>
        rows.push([...own, one.layer, one.head, kind, one.keypoint.image, one.keypoint.keypoint, i + 1,
          source.image, source.keypoint, source.x, source.y, source.weight, ...source.weight_by_head]),
      );
    }
    for (const { from, to, probability, verdict, hard, repeated } of one.matches ?? []) {
      rows.push([...own, from.keypoint, from.x, from.y, to.keypoint, to.x, to.y, probability, verdict, hard, repeated]);
    }
  }
  const cell = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

// What each button saves.
const SAVERS = {
  svg: (seen) => save(new FigureFile(seen).text(), "image/svg+xml", fileName(seen, "svg")),
  png: async (seen) => save(await new FigureFile(seen).png(), "image/png", fileName(seen, "png")),
  csv: (seen) => save(csv(seen), "text/csv", fileName(seen, "csv")),
  json: (seen) => save(JSON.stringify(numbers(seen), null, 1), "application/json", fileName(seen, "json")),
};
