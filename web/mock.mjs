// A stand-in for `regard explore`, for work on the page and for its tests: the same interface, from made-up q and k.
// node mock.mjs [PORT] serves the built page, too. What it computes, it computes plainly, in float64.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { cell, context, heads, HEADS, LAYERS, Recording, Refused, SIZE } from "./mock.recording.mjs";

export { Recording };

const TOKEN = "mock";

const RECORDINGS = [new Recording("a1b2", "river.safetensors", 1500, 0), new Recording("c3d4", "long.safetensors", 20000, 96)];

const toHalf = (value) => {
  if (value < 2 ** -24) return 0;
  const exponent = Math.max(Math.floor(Math.log2(value)), -14);
  const steps = Math.round(value / 2 ** (exponent - 10));
  return exponent === -14 && steps < 1024 ? steps : ((exponent + 15) << 10) + (steps - 1024);
};

const TELLING = [
  { layer: 0, head: 1, title: "previous token", why: "gives most of its weight to the token just before" },
  { layer: 1, head: 2, title: "like words", why: "looks at earlier copies of its own word" },
];

function described(recording) {
  const { id, name, n, window } = recording;
  return {
    id, name, model: "mock", versions: { regard: "0", torch: "0" }, tokens: n, exact: true, error: "float32: nothing was lost",
    layers: Array.from({ length: LAYERS }, (_, index) => ({
      index, name: `blocks.${index}.attention`, heads: HEADS, groups: HEADS, queries: n, keys: n, size: SIZE,
      mask: window ? `Causal() & Window(${window})` : "Causal()", bias: null, score: "Dot()", values: index > 0, inputs: index > 1,
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

/** What POST asks for: a text is read in a few steps, arrays at once; both become a small recording. */
const jobs = new Map();
let posts = 0;
function posted(path, said, body) {
  const [, , kind, job, act] = path.split("/");
  if (kind === "arrays") {
    if (!body.length) throw new Refused(400, "body", "nothing", "an .npz or .safetensors file");
    return { id: opened(said.get("name") || "arrays") };
  }
  if (act === "cancel") {
    const found = jobs.get(job);
    if (!found) throw new Refused(404, "job", job, "one that was started");
    return { job, cancelled: (found.cancelled = true) };
  }
  const { text } = JSON.parse(body);
  if (!text.trim()) throw new Refused(400, "text", "nothing", "some words");
  const id = `job${++posts}`;
  jobs.set(id, { steps: 0, text });
  return { status: 202, json: { job: id, progress: 0, doing: "layer 1 of 4" } };
}

function opened(name) {
  const id = `new${RECORDINGS.length}`;
  RECORDINGS.push(new Recording(id, name, 120, 0));
  return id;
}

function told(job) {
  const found = jobs.get(job);
  if (!found) throw new Refused(404, "job", job, "one that was started");
  if (found.cancelled) throw new Refused(409, "job", "cancelled", "one that goes on");
  const progress = Math.min(++found.steps / 6, 1);
  if (progress < 1) return { status: 202, json: { job, progress, doing: `layer ${1 + Math.floor(progress * 4)} of 4` } };
  return { job, id: (found.id ??= opened(`${found.text.slice(0, 12)}.safetensors`)) };
}

let asked = 0;

/** What /api/… answers: a value for JSON, or an array with its shape. */
function answer(url) {
  const parts = url.pathname.split("/").slice(2).map(decodeURIComponent);
  const said = url.searchParams;
  if (parts[0] === "open") return told(parts[1]);
  if (parts[0] === "models") return { models: [{ name: "mock", told: "made-up numbers" }], default: "mock" };
  if (parts[0] === "lesson" && parts[1] === "context") return context(said.get("a"), said.get("b"));
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
    return { heads: (recording.atlas ??= statistics(recording)), telling: TELLING };
  }
  const component = said.has("component") ? Number(said.get("component")) : undefined;
  if (parts[2] === "heads") return heads(recording, number(parts[3], LAYERS), number(parts[4], n), component);
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
  if (parts[2] === "cell") return cell(recording, layer, head, number(parts[5], n), number(parts[6], n), component);
  throw new Refused(404, "path", url.pathname, "the paths of /api/openapi.json");
}

const STATIC = fileURLToPath(new URL("../src/regard/export/static/", import.meta.url));
const KINDS = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

async function bodyOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}

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
      const told = request.method === "POST" ? posted(url.pathname, url.searchParams, await bodyOf(request)) : answer(url);
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
