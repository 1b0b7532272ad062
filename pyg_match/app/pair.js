"use strict";
// The keypoints and matches of a pair.

const VERDICTS = ["none", "right", "wrong", "unjudged", "missed"]; // in the order of truth.py

class Pair {
  constructor(content) {
    Object.assign(this, content);
    this.numNodes = this.x.length;
    this.rows = this.settings.map((setting) => this.matchesOf(setting));
    this.members = new Map();
    this.groups.forEach((group, node) => {
      if (group >= 0) this.members.set(group, [...(this.members.get(group) ?? []), node]);
    });
  }

  imageOf(node) {
    return node < this.counts[0] ? 0 : 1;
  }

  // The name of a keypoint: its image and its number in it.
  name(node) {
    const image = this.imageOf(node);
    return `${"AB"[image]} ${node - image * this.counts[0]}`;
  }

  // The keypoint of a name, -1 if there is none.
  node(name) {
    const parts = /^([AB])\s?(\d+)$/i.exec(name.trim());
    if (!parts) return -1;
    const image = parts[1].toUpperCase() === "A" ? 0 : 1;
    const index = Number(parts[2]);
    return index < this.counts[image] ? index + image * this.counts[0] : -1;
  }

  matchOf(node, setting) {
    const index = setting.match[node];
    return index < 0 ? -1 : index + (1 - this.imageOf(node)) * this.counts[0];
  }

  groupOf(node) {
    return this.groups[node] < 0 ? [] : this.members.get(this.groups[node]);
  }

  // The verdict on the match of a keypoint, of either image.
  verdict(node, setting) {
    const match = this.matchOf(node, setting);
    if (this.imageOf(node) === 0) return VERDICTS[setting.judged[node]];
    if (match >= 0) return VERDICTS[setting.judged[match]];
    return (this.truth.partner[node] ?? -1) >= 0 ? "missed" : "none";
  }

  word(verdict) {
    return { right: this.truth.right, wrong: this.truth.wrong, unjudged: "not judged" }[verdict] ?? verdict;
  }

  // A row for each match, and for each true one that is missed.
  matchesOf(setting) {
    const rows = [];
    for (let node = 0; node < this.counts[0]; node++) {
      const verdict = VERDICTS[setting.judged[node]];
      if (verdict === "none") continue;
      const index = verdict === "missed" ? this.truth.partner[node] : setting.match[node];
      const other = index + this.counts[0];
      rows.push({
        node,
        other,
        verdict,
        score: verdict === "missed" ? null : setting.score[node],
        hard: setting.difficulty[node] === "hard",
        repeated: this.groups[node] >= 0 || this.groups[other] >= 0,
      });
    }
    return rows;
  }

  // Those rows of a setting that pass a filter. A missed match has no score, which is no reason to hide it.
  shown(side, filter) {
    return this.rows[side].filter(
      (row) =>
        filter[row.verdict] &&
        (!filter.hard || row.hard) &&
        (!filter.repeated || row.repeated) &&
        (row.score === null || (row.score >= filter.low && row.score <= filter.high)),
    );
  }

  // What else a keypoint is to another one.
  marks(node, of, setting) {
    const marks = [];
    if (node === of) marks.push("itself");
    if (node === this.matchOf(of, setting)) marks.push("match");
    if (this.candidates[of].includes(node)) marks.push("candidate");
    if (node !== of && this.groupOf(of).includes(node)) marks.push("looks alike");
    return marks.join(", ");
  }
}
