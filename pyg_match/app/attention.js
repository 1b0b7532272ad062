"use strict";
// The attention of a setting, unpacked; see packing.py for the order of the bytes.

class Attention {
  static async unpack(text, setting, numNodes) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Attention(await new Response(stream).arrayBuffer(), setting, numNodes);
  }

  constructor(bytes, { layers, heads }, numNodes) {
    const rows = 2 * layers * numNodes;
    this.layers = layers;
    this.heads = heads;
    this.numNodes = numNodes;
    this.largest = new Float32Array(bytes, 0, rows);
    const counts = new Uint16Array(bytes, 4 * rows, rows);
    // Where the edges of each row begin, one more at the end.
    this.first = new Uint32Array(rows + 1);
    for (let row = 0; row < rows; row++) this.first[row + 1] = this.first[row] + counts[row];
    const edges = this.first[rows];
    const wide = numNodes >= 65536;
    const sources = bytes.slice(6 * rows, 6 * rows + edges * (wide ? 4 : 2));
    this.source = wide ? new Uint32Array(sources) : new Uint16Array(sources);
    this.weight = new Uint8Array(bytes, 6 * rows + sources.byteLength, edges * heads);
  }

  // What a keypoint attends to in one step: a list of { node, weight, heads }, the largest weight first.
  of(node, layer, kind, head) {
    if (node < 0 || layer >= this.layers || head >= this.heads) return [];
    const row = (2 * layer + (kind === "cross" ? 1 : 0)) * this.numNodes + node;
    const attended = [];
    for (let edge = this.first[row]; edge < this.first[row + 1]; edge++) {
      const heads = Array.from(
        this.weight.subarray(edge * this.heads, (edge + 1) * this.heads),
        (value) => this.largest[row] * (value / 255) ** 2,
      );
      attended.push({ node: this.source[edge], weight: Attention.over(heads, head), heads });
    }
    return attended.sort((one, other) => other.weight - one.weight);
  }

  // One weight of those of all heads.
  static over(heads, head) {
    if (head === "max") return Math.max(...heads);
    if (head === "mean") return heads.reduce((sum, weight) => sum + weight, 0) / heads.length;
    return heads[head];
  }
}
