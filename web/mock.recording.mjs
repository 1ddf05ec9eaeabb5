// Made-up recordings: q, k and v that look like words, and what the stand-in server (mock.mjs) tells of one weight.
export const SIZE = 16;
export const LAYERS = 4;
export const HEADS = 6;
const WORDS = "the river bank was quiet , and the money in the bank by the river was safe . she sat on the bank and counted".split(" ");

export class Refused extends Error {
  constructor(status, argument, given, allowed) {
    super(argument);
    this.status = status;
    this.told = { error: { argument, given, allowed, remedy: "Ask for something that is there." } };
  }
}

/** Numbers that look random and never change: mulberry32. */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export class Recording {
  constructor(id, name, tokens, window) {
    Object.assign(this, { id, name, n: tokens, window });
    const next = random(7);
    this.kinds = Array.from({ length: tokens }, (_, i) => (i < WORDS.length ? i : Math.floor(next() * WORDS.length)));
    this.texts = this.kinds.map((kind, i) => (i % 23 === 22 ? "\n" : (i % 23 ? " " : "") + WORDS[kind]));
    this.heads = new Map();
  }

  /** q, k and v of a head: some heads look at like words, some one back, some everywhere, some at the first. */
  head(layer, head) {
    const name = `${layer}/${head}`;
    if (!this.heads.has(name)) {
      const next = random(1000 * layer + 10 * head + 3);
      const style = (layer * 7 + head) % 5;
      const table = WORDS.map(() => Array.from({ length: SIZE }, () => 2 * next() - 1));
      const make = (shift) =>
        Array.from({ length: this.n }, (_, i) => {
          const word = table[this.kinds[Math.min(Math.max(i + shift, 0), this.n - 1)]];
          return word.map((x) => Math.fround(x * [2.6, 2.2, 0.6, 1.4, 3.4][style] + (next() - 0.5) * 0.4));
        });
      const q = make(style === 1 ? -1 : 0);
      const k = make(0);
      if (style === 3) k[0] = k[0].map(() => 1.5);
      if (style === 3) for (const row of q) for (let c = 0; c < SIZE; c++) row[c] = Math.fround(Math.abs(row[c]));
      this.heads.set(name, { q, k, v: make(0) });
    }
    return this.heads.get(name);
  }

  first(query) {
    return this.window ? Math.max(0, query - this.window) : 0;
  }

  /** Scores and weights of a query over the keys that it may see: first(query) … query. */
  row(layer, head, query) {
    const { q, k } = this.head(layer, head);
    const scores = [];
    let most = -Infinity;
    for (let key = this.first(query); key <= query; key++) {
      let dot = 0;
      for (let c = 0; c < SIZE; c++) dot += q[query][c] * k[key][c];
      scores.push(dot / Math.sqrt(SIZE));
      most = Math.max(most, scores[scores.length - 1]);
    }
    const exps = scores.map((s) => Math.exp(s - most));
    const sum = exps.reduce((a, b) => a + b, 0);
    return { first: this.first(query), scores, most, sum, weights: exps.map((e) => e / sum) };
  }

  /** Every row, kept: the mock is for small recordings and narrow windows. */
  all(layer, head) {
    const made = this.head(layer, head);
    made.rows ??= Array.from({ length: this.n }, (_, query) => this.row(layer, head, query));
    return made.rows;
  }

  weight(layer, head, query, key) {
    const { first, weights } = this.all(layer, head)[query];
    return weights[key - first] ?? 0;
  }

  map(layer, head, q0, q1, k0, k1, rows, cols, how) {
    const out = new Float32Array(rows * cols);
    const all = this.all(layer, head);
    const cuts = (start, stop, count) => Array.from({ length: count + 1 }, (_, i) => Math.floor((i * (stop - start)) / count));
    const down = cuts(q0, q1, rows);
    const across = cuts(k0, k1, cols);
    const place = new Int32Array(k1 - k0);
    for (let c = 0; c < cols; c++) place.fill(c, across[c], across[c + 1]);
    for (let r = 0; r < rows; r++) {
      for (let query = q0 + down[r]; query < q0 + down[r + 1]; query++) {
        const { first, weights } = all[query];
        for (let key = Math.max(first, k0); key < Math.min(first + weights.length, k1); key++) {
          const at = r * cols + place[key - k0];
          const weight = weights[key - first];
          out[at] = how === "max" ? Math.max(out[at], weight) : out[at] + weight;
        }
      }
      if (how === "mean")
        for (let c = 0; c < cols; c++) out[r * cols + c] /= (down[r + 1] - down[r]) * (across[c + 1] - across[c]);
    }
    return out;
  }
}

export function cell(recording, layer, head, query, key, component) {
  const { q, k, v } = recording.head(layer, head);
  const { first, scores, most, sum, weights } = recording.row(layer, head, query);
  const products = q[query].map((x, c) => x * k[key][c]);
  const dot = products.reduce((a, b) => a + b, 0);
  const allowed = key >= first && key <= query;
  const strongest = weights.map((w, i) => [w, first + i]).sort((a, b) => b[0] - a[0]).slice(0, 24).map(([, i]) => i);
  const keys = [...new Set([key, ...strongest, key - 2, key - 1, key + 1, key + 2])]
    .filter((i) => i >= 0 && i < recording.n).sort((a, b) => a - b);
  const scaled = dot / Math.sqrt(SIZE);
  const out = Array.from({ length: SIZE }, (_, c) => weights.reduce((total, w, i) => total + w * v[first + i][c], 0));
  const seen = (i) => i >= first && i <= query;
  return {
    query: { index: query, text: recording.texts[query] }, key: { index: key, text: recording.texts[key] }, allowed,
    q: q[query], k: k[key], products, dot, scale: 1 / Math.sqrt(SIZE), scaled, softcap: null, bias: 0, score: allowed ? scaled : null,
    max: most, exp: allowed ? Math.exp(scaled - most) : 0, sum, sink: null, weight: allowed ? Math.exp(scaled - most) / sum : 0,
    lse: most + Math.log(sum),
    row: { keys, scores: keys.map((i) => (seen(i) ? scores[i - first] : null)), weights: keys.map((i) => (seen(i) ? weights[i - first] : 0)) },
    values: layer > 0 ? mixed(v, out, keys, keys.map((i) => (seen(i) ? weights[i - first] : 0)), key) : null,
    inputs: layer > 1 ? inputs(q[query], k[key], v[key], products, component, layer * HEADS + head) : null,
  };
}

const mixed = (v, out, keys, weights, key) => ({
  v: v[key], out, keys, vs: keys.map((i) => v[i]), rest: out.map((x, c) => x - keys.reduce((sum, i, n) => sum + weights[n] * v[i][c], 0)),
});

const MODEL = 24;
const numbers = (seed, count) => {
  const next = random(seed);
  return Array.from({ length: count }, () => 2 * next() - 1);
};
const dotted = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

/** What a layer could have read: x and a row of W are made up, and the bias is what makes the sum right. */
function inputs(q, k, v, products, component, seed) {
  const i = component ?? products.reduce((best, x, at) => (Math.abs(x) > Math.abs(products[best]) ? at : best), 0);
  if (i >= SIZE) throw new Refused(400, "component", i, `0 to ${SIZE - 1}`);
  const part = (vector, n) => {
    const [x, w] = [numbers(seed + 31 * n, MODEL), numbers(seed + 97 * (n + 5 * i), MODEL)];
    const sum = dotted(x, w);
    return { component: i, x, w, sum, bias: vector[i] - sum, projected: vector[i], recorded: vector[i], between: [] };
  };
  return { component: i, q: part(q, 1), k: part(k, 2), v: part(v, 3) };
}

export function heads(recording, layer, query, component) {
  const outs = Array.from({ length: HEADS }, (_, head) => cell(recording, layer, head, query, query).values?.out);
  const told = { query: { index: query, text: recording.texts[query] }, heads: layer > 0 ? outs : null, projected: null };
  if (layer < 2) return told;
  const w = outs.map((out, head) => numbers(7 * head + 1000 * (component ?? 5) + layer, SIZE));
  const parts = outs.map((out, head) => dotted(out, w[head]));
  return { ...told, projected: { component: component ?? 5, size: MODEL, w, parts, bias: 0.25, out: parts.reduce((a, b) => a + b, 0.25) } };
}

/** One word in two lines: rows fall off from the shared word back, the second line's more slowly. */
export function context(a, b) {
  const [left, right] = [(a || "open the file and read").split(" "), (b || "it kept the keys on file").split(" ")];
  const token = [...left].sort((x, y) => y.length - x.length).find((word) => right.includes(word));
  if (!token) throw new Refused(400, "b", right.join(" "), "a line that shares a word with the first");
  const side = (words) => ({ text: words.join(" "), tokens: ["<|file|>", ...words.map((word, i) => (i ? " " : "") + word)], at: 1 + words.lastIndexOf(token) });
  const [one, other] = [side(left), side(right)];
  const row = ({ at }, by) => {
    const raw = Array.from({ length: at + 1 }, (_, i) => Math.exp(-by * (at - i)));
    const sum = raw.reduce((x, y) => x + y, 0);
    return raw.map((x) => x / sum);
  };
  const list = Array.from({ length: LAYERS * HEADS }, (_, i) => ({
    layer: Math.floor(i / HEADS), head: i % HEADS, a: row(one, 0.2 + 0.1 * i), b: row(other, 0.1 + 0.05 * i), apart: (i % 7) / 8,
  }));
  return {
    model: "mock", token: ` ${token}`, a: one, b: other, cosine: Array.from({ length: LAYERS + 1 }, (_, i) => 1 - 0.12 * i), heads: list,
    chosen: list.reduce((best, each) => (each.apart > best.apart ? each : best)),
  };
}
