// A stand-in for `regard explore`, for work on the page and for its tests: the same interface, from made-up q and k.
// node mock.mjs [PORT] serves the built page, too. What it computes, it computes plainly, in float64.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const SIZE = 16;
const LAYERS = 4;
const HEADS = 6;
const TOKEN = "mock";
const WORDS = "the river bank was quiet , and the money in the bank by the river was safe . she sat on the bank and counted".split(" ");

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

const RECORDINGS = [new Recording("a1b2", "river.safetensors", 1500, 0), new Recording("c3d4", "long.safetensors", 20000, 96)];

class Refused extends Error {
  constructor(status, argument, given, allowed) {
    super(argument);
    this.status = status;
    this.told = { error: { argument, given, allowed, remedy: "Ask for something that is there." } };
  }
}

const toHalf = (value) => {
  if (value < 2 ** -24) return 0;
  const exponent = Math.max(Math.floor(Math.log2(value)), -14);
  const steps = Math.round(value / 2 ** (exponent - 10));
  return exponent === -14 && steps < 1024 ? steps : ((exponent + 15) << 10) + (steps - 1024);
};

function described(recording) {
  const { id, name, n, window } = recording;
  return {
    id, name, model: "mock", versions: { regard: "0", torch: "0" }, tokens: n, exact: true, error: "float32: nothing was lost",
    layers: Array.from({ length: LAYERS }, (_, index) => ({
      index, name: `blocks.${index}.attention`, heads: HEADS, groups: HEADS, queries: n, keys: n, size: SIZE,
      mask: window ? `Causal() & Window(${window})` : "Causal()", bias: null, score: "Dot()", values: index > 0,
    })),
  };
}

function statistics(recording) {
  const heads = [];
  for (let layer = 0; layer < LAYERS; layer++)
    for (let head = 0; head < HEADS; head++) {
      const told = { layer, head, entropy: 0, support: 0, first: 0, previous: 0, distance: 0, top: 0, received: 0 };
      const step = Math.ceil(recording.n / 300);
      let count = 0;
      for (let query = 1; query < recording.n; query += step, count++) {
        const { first, weights } = recording.row(layer, head, query);
        const h = -weights.reduce((sum, w) => sum + (w > 0 ? w * Math.log(w) : 0), 0);
        told.entropy += weights.length > 1 ? h / Math.log(weights.length) : 0;
        told.support += Math.exp(h);
        told.first += first === 0 ? weights[0] : 0;
        told.previous += weights[weights.length - 2] ?? 0;
        told.distance += weights.reduce((sum, w, i) => sum + w * (query - first - i), 0);
        told.top += [...weights].sort((a, b) => b - a).slice(0, 8).reduce((a, b) => a + b, 0);
        told.received = Math.max(told.received, ...weights);
      }
      for (const name of ["entropy", "support", "first", "previous", "distance", "top"]) told[name] /= count;
      heads.push({ ...told, redundancy: { layer, head: (head + 1) % HEADS, similarity: 0.9 - 0.05 * head } });
    }
  return heads;
}

function cell(recording, layer, head, query, key) {
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
    values: layer > 0 ? { v: v[key], out } : null,
  };
}

/** The three words of `regard learn`, one head, as the flat table of numbers. */
function words(text, tied, causal, divisor) {
  const chosen = { the: [-0.5, -0.5], river: [2, 0], money: [0, 2], bank: [0.5, 0.5] };
  const list = (text || "the river bank").split(/\s+/).filter(Boolean);
  if (list.length < 2 || list.length > 6) throw new Refused(400, "text", `${list.length} words`, "2 to 6 words");
  const numbers = [];
  const put = (value, name, role, how = "given", of = []) => numbers.push({ value, name, role, how, of }) - 1;
  const dot = (name, role, a, b) =>
    put(a.reduce((s, x, i) => s + numbers[x].value * numbers[b[i]].value, 0), name, role, "sum of products", a.flatMap((x, i) => [x, b[i]]));
  const grid = (name, rows) => rows.map((row, i) => row.map((x, j) => put(x, `${name}[${i + 1},${j + 1}]`, "map")));
  const times = (name, rows, by, role) =>
    rows.map((row, i) => by[0].map((_, j) => dot(`${name}${"₁₂₃₄"[j]}(${list[i]})`, role, row, by.map((r) => r[j]))));
  const x = list.map((w) => (chosen[w] ?? [1, 0.5]).map((value, i) => put(value, `x${"₁₂"[i]}(${w})`, "embedding")));
  const maps = [[[[1, 0], [1, 2]], [[0.5, 1], [-0.5, 2]], [[1.5, -0.5], [-0.5, 1.5]]], [[[1, 1], [1, 1]], [[-1, 0], [0, -3]], [[1, 0], [0, 1]]]];
  const heads = maps.map(([mq, mk, mv]) => {
    const [w_q, w_k, w_v] = [grid("W_q", tied ? mk : mq), grid("W_k", mk), grid("W_v", mv)];
    const [q, k, v] = [times("q", x, w_q, "query"), times("k", x, w_k, "key"), times("v", x, w_v, "value")];
    const by = divisor ? put(divisor, "divisor", "score") : put(Math.SQRT2, "√d", "score", "square root", [put(2, "d", "score")]);
    const each = (name, how, cells, of, value, role = "score") =>
      cells.map((row, i) => row.map((c, j) => put(value(numbers[c].value, i, j), `${name}(${list[i]} → ${list[j]})`, role, how(i, j), [c, ...of(i)])));
    const scores = q.map((a, i) => k.map((b, j) => dot(`score(${list[i]} → ${list[j]})`, "score", a, b)));
    const scaled = each("scaled", () => "divide", scores, () => [by], (s) => s / numbers[by].value);
    const masked = scaled.map((row, i) => row.map((c, j) => (causal && j > i ? put(null, `masked(${list[i]} → ${list[j]})`, "score", "mask", [c]) : c)));
    const maxima = masked.map((row, i) => put(Math.max(...row.map((c) => numbers[c].value ?? -Infinity)), `maximum(${list[i]})`, "score", "maximum", row));
    const shifted = each("shifted", () => "subtract", masked, (i) => [maxima[i]], (s, i) => (s === null ? null : s - numbers[maxima[i]].value));
    const exps = each("exp", () => "exp", shifted, () => [], (s) => (s === null ? 0 : Math.exp(s)));
    const sums = exps.map((row, i) => put(row.reduce((s, c) => s + numbers[c].value, 0), `sum(${list[i]})`, "score", "sum", row));
    const weights = each("weight", () => "divide", exps, (i) => [sums[i]], (e, i) => e / numbers[sums[i]].value, "weight");
    return { w_q, w_k, w_v, q, k, v, scores, divisor: by, scaled, masked, maxima, shifted, exps, sums, weights, out: times("o", weights, v, "output") };
  });
  const w_o = grid("W_o", [[1, 0], [0, 1], [0.5, 0], [0, 0.5]]);
  const concat = list.map((_, i) => heads.flatMap((h) => h.out[i]));
  return { words: list, labels: list, chosen: list.every((w) => w in chosen), numbers, x, heads, w_o, concat, out: times("out", concat, w_o, "output") };
}

let asked = 0;

/** What /api/… answers: a value for JSON, or an array with its shape. */
function answer(url) {
  const parts = url.pathname.split("/").slice(2).map(decodeURIComponent);
  const said = url.searchParams;
  if (parts[0] === "lesson")
    return words(said.get("text"), said.get("tied") === "1", said.get("causal") !== "0", Number(said.get("divisor")) || 0);
  const number = (text, most) => {
    if (!/^\d+$/.test(text ?? "") || Number(text) >= most) throw new Refused(404, "place", text, `0 to ${most - 1}`);
    return Number(text);
  };
  const span = (name, most) => {
    const [a, b] = (said.get(name) ?? `0,${most}`).split(",").map(Number);
    if (!(0 <= a && a < b && b <= most)) throw new Refused(400, name, said.get(name), `0,${most}`);
    return [a, b];
  };
  const find = (id) => {
    const found = RECORDINGS.find((one) => one.id === id);
    if (!found) throw new Refused(404, "recording", id, RECORDINGS.map((one) => one.id).join(", "));
    return found;
  };
  const pooled = (n, make) => {
    const [[q0, q1], [k0, k1]] = [span("q", n), span("k", n)];
    const [rows, cols] = [number(said.get("rows") ?? "256", 1025), number(said.get("cols") ?? "256", 1025)];
    if (!rows || !cols || rows > q1 - q0 || cols > k1 - k0) throw new Refused(400, "rows", rows, "at most the span");
    const exact = rows === q1 - q0 && cols === k1 - k0;
    return { raw: make(q0, q1, k0, k1, rows, cols), shape: [rows, cols], exact };
  };
  if (parts[0] === "compare") {
    const side = (name) => {
      const [id, layer, head] = said.get(name).split("/");
      return [find(id), number(layer, LAYERS), number(head, HEADS)];
    };
    const [a, b] = [side("a"), side("b")];
    const how = said.get("how") ?? "max";
    return pooled(Math.min(a[0].n, b[0].n), (...box) => {
      const [x, y] = [a, b].map(([r, l, h]) => r.map(l, h, ...box, how));
      return x.map((value, i) => value - y[i]);
    });
  }
  if (parts.length === 1)
    return RECORDINGS.map(({ id, name, n }) => ({ id, name, model: "mock", tokens: n, bytes: n * LAYERS * HEADS * SIZE * 8 }));
  const recording = find(parts[1]);
  const { n } = recording;
  if (parts.length === 2) return described(recording);
  if (parts[2] === "tokens") {
    const start = Number(said.get("start") ?? 0);
    const stop = Math.min(Number(said.get("stop") ?? n), n, start + 20000);
    return { start, texts: recording.texts.slice(start, stop), starts: [] };
  }
  if (parts[2] === "search") {
    const tokens = [];
    const text = (said.get("text") ?? "").toLowerCase();
    for (let i = Number(said.get("from") ?? 0); i < n && tokens.length < 1000; i++)
      if (recording.texts.slice(i, i + 8).join("").toLowerCase().trimStart().startsWith(text.trim())) tokens.push(i);
    return { tokens };
  }
  if (parts[2] === "atlas") {
    if (asked++ < 1) return { status: 202, json: { progress: 0.4, doing: "layer 2 of 4" } };
    return { heads: (recording.atlas ??= statistics(recording)) };
  }
  const [layer, head] = [number(parts[3], LAYERS), number(parts[4], HEADS)];
  if (parts[2] === "thumbnail") {
    const side = Math.min(128, n);
    const values = recording.map(layer, head, 0, n, 0, n, side, side, "max");
    return { raw: Uint16Array.from(values, toHalf), shape: [side, side], exact: false };
  }
  if (parts[2] === "map") return pooled(n, (...box) => recording.map(layer, head, ...box, said.get("how") ?? "max"));
  if (parts[2] === "row") {
    const out = new Float32Array(n);
    const { first, weights } = recording.row(layer, head, number(parts[5], n));
    out.set(weights, first);
    return { raw: out, shape: [1, n], exact: true };
  }
  if (parts[2] === "marginals") {
    const out = new Float32Array(2 * n);
    recording.all(layer, head).forEach(({ first, weights }, query) => {
      weights.forEach((w, i) => {
        out[first + i] += w;
        if (w > 0) out[n + query] -= w * Math.log(w);
      });
    });
    return { raw: out, shape: [2, n], exact: true };
  }
  if (parts[2] === "strongest") {
    const cells = [];
    recording.all(layer, head).forEach(({ first, weights }, query) =>
      weights.forEach((weight, i) => {
        if (weight > 0.05 && !(said.get("skip") === "diagonal" && first + i === query)) cells.push({ query, key: first + i, weight });
      }),
    );
    return { cells: cells.sort((a, b) => b.weight - a.weight).slice(0, Number(said.get("count") ?? 100)) };
  }
  if (parts[2] === "cell") return cell(recording, layer, head, number(parts[5], n), number(parts[6], n));
  throw new Refused(404, "path", url.pathname, "the paths of /api/openapi.json");
}

const STATIC = fileURLToPath(new URL("../src/regard/explorer/static/", import.meta.url));
const KINDS = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

export function serve(port) {
  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://127.0.0.1");
    const send = (status, body, headers) => {
      response.writeHead(status, { "Cache-Control": "no-store", ...headers });
      response.end(body);
    };
    const json = (status, value) => send(status, JSON.stringify(value), { "Content-Type": "application/json" });
    if (!url.pathname.startsWith("/api/")) {
      const name = normalize(url.pathname === "/" ? "index.html" : url.pathname).replace(/^(\.\.[/\\])+/, "");
      try {
        send(200, await readFile(join(STATIC, name)), {
          "Content-Type": KINDS[extname(name)] ?? "application/octet-stream",
          "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'",
        });
      } catch {
        send(404, "not here");
      }
      return;
    }
    if (request.headers["x-regard-token"] !== TOKEN)
      return json(401, { error: { argument: "token", given: "another", allowed: "the one that was printed", remedy: "Open the printed URL." } });
    if (url.pathname === "/api/progress") {
      const told = (progress, doing) => `data: ${JSON.stringify({ recording: "a1b2", doing, progress })}\n\n`;
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.write(told(0.4, "layer 2 of 4"));
      setTimeout(() => response.end(told(1, "")), 300);
      return;
    }
    try {
      const told = answer(url);
      if (told.raw)
        send(200, Buffer.from(told.raw.buffer), {
          "Content-Type": "application/octet-stream",
          "X-Regard-Shape": told.shape.join(","),
          "X-Regard-Dtype": told.raw.BYTES_PER_ELEMENT === 2 ? "float16" : "float32",
          "X-Regard-Exact": told.exact ? "1" : "0",
          "X-Regard-Pixel": "",
        });
      else json(told.status ?? 200, told.json ?? told);
    } catch (error) {
      if (!(error instanceof Refused)) console.error(error);
      json(error.status ?? 500, error.told ?? { error: { argument: "?", given: String(error), allowed: "?", remedy: "?" } });
    }
  });
  return new Promise((ready) => server.listen(port, "127.0.0.1", () => ready(server)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = await serve(Number(process.argv[2] ?? 8765));
  console.log(`http://127.0.0.1:${server.address().port}/#token=${TOKEN}`);
}
