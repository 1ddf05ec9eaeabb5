import { describe, expect, it } from "vitest";
import { OfflineServer } from "../src/offline/server";
import { Arrays, decode } from "../src/offline/arrays";
import { headOf } from "../src/offline/head";
import { mapFromCells, mapValues } from "../src/offline/maps";
import { findText } from "../src/offline/search";
import { half } from "../src/pure/half";
import { pixelEdges, OfflineFixture, pool, type LayerOptions } from "./offline.fixture";

const WORDS = ["<s>", "the", " river", " bank", " and", " the", " bank"];
const STARTS = [0, 0, 3, 9, 14, 18, 22];
const tokens = (n: number) => ({ texts: Array.from({ length: n }, (_, i) => WORDS[i % 7]!), starts: Array.from({ length: n }, () => 0) });

function page(...layers: LayerOptions[]) {
  const fixture = new OfflineFixture(layers, tokens(layers[0]!.k));
  const server = new OfflineServer(fixture.about, new Arrays(fixture.about.arrays, fixture.fetch));
  const request = (path: string) => server.answer(`/api/recordings/a1/${path}`, "GET", () => undefined);
  return {
    fixture,
    server,
    json: async (path: string) => JSON.parse((await request(path)).body as string),
    status: async (path: string) => (await request(path)).status,
    raw: async (path: string) => {
      const { status, body, headers } = await request(path);
      expect(status, typeof body === "string" ? body : path).toBe(200);
      return { values: Array.from(new Float32Array(body as ArrayBuffer)), headers };
    },
  };
}

/** Each number within 1e−6 of what it should be, relatively. */
function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, by = 1e-6) {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++)
    if (Math.abs(actual[i]! - expected[i]!) > by * Math.max(Math.abs(expected[i]!), 1e-30)) expect(actual[i], `at ${i}`).toBe(expected[i]);
}

const window = (query: number, key: number) => key <= query && (query - key < 20 || key < 3);
const spotted = (query: number, key: number, head: number) => key <= query && (query * 7 + key * 13 + head) % 5 < 2 && query % 50 !== 7;
const KINDS: Record<string, LayerOptions> = {
  causal: { q: 150, k: 150 },
  "more keys than queries": { q: 70, k: 200, table: true },
  "no mask": { q: 60, k: 90, mask: "none", pairs: [1, 1, 90] },
  "two spans, groups, softcap, sink": { q: 150, k: 150, allowed: window, heads: 4, group: [0, 0, 1, 1], softcap: 2, sink: true, table: true },
  "bits": { q: 150, k: 130, allowed: spotted, mask: "tiles", pairs: [2, 150, 130] },
  "spans and bits": { q: 200, k: 200, allowed: spotted, mask: "both", pairs: [1, 200, 1] },
  float16: { q: 90, k: 90, dtype: "float16", gzip: true },
  bfloat16: { q: 90, k: 90, dtype: "bfloat16", size: 7 },
};

describe.each(Object.entries(KINDS))("%s", (_, options) => {
  const { fixture, raw, json } = page({ ...options, values: 5 });
  const { q: n, k: m } = options;
  const reference = fixture.reference[0]!;
  const head = (options.heads ?? 2) - 1;
  const weights = reference.weights[head]!;

  it("weights, and maps of uneven pixels, are those of the formula", async () => {
    const exact = await raw(`map/0/${head}?q=0,${n}&k=0,${m}&rows=${n}&cols=${m}`);
    expectClose(exact.values, weights.flat());
    expect(exact.headers["x-regard-exact"]).toBe("1");
    const [q0, q1, k0, k1, rows, cols] = [3, n - 2, 5, m - 1, 7, 11];
    const [down, across] = [pixelEdges(q0, q1, rows), pixelEdges(k0, k1, cols)];
    const { max, sum } = pool(weights, down, across);
    const at = `map/0/${head}?q=${q0},${q1}&k=${k0},${k1}&rows=${rows}&cols=${cols}`;
    const response = await raw(`${at}&how=max`);
    expectClose(response.values, max);
    expect([response.headers["x-regard-exact"], response.headers["x-regard-shape"]]).toEqual(["0", "7,11"]);
    expect(response.headers["x-regard-pixel"]).toBe(`${Math.ceil((q1 - q0) / rows)}x${Math.ceil((k1 - k0) / cols)} max`);
    expectClose((await raw(`${at}&how=sum`)).values, sum);
    expectClose((await raw(`${at}&how=mean`)).values, sum.map((s, i) => {
      const [r, c] = [Math.floor(i / cols), i % cols];
      return s / ((down[r + 1]! - down[r]!) * (across[c + 1]! - across[c]!));
    }));
  });

  it("rows, thumbnails and marginals are those of the formula", async () => {
    expectClose((await raw(`row/0/${head}/33`)).values, weights[33]!);
    expectClose((await raw(`thumbnail/0/${head}`)).values, pool(weights, pixelEdges(0, n, Math.min(n, 128)), pixelEdges(0, m, Math.min(m, 128))).max);
    const { values, headers } = await raw(`marginals/0/${head}`);
    const wide = Math.max(n, m);
    expect(headers["x-regard-shape"]).toBe(`2,${wide}`);
    expectClose(values.slice(0, m), weights[0]!.map((_, key) => weights.reduce((sum, row) => sum + row[key]!, 0)));
    expectClose(values.slice(wide, wide + n), weights.map((row) => -row.reduce((sum, w) => sum + (w > 0 ? w * Math.log(w) : 0), 0)), 1e-5);
  });

  it("the strongest are the strongest", async () => {
    const all = weights.flatMap((row, query) => row.map((weight, key) => ({ query, key, weight: Math.fround(weight) }))).filter((one) => one.weight > 0);
    const best = (list: typeof all) => list.sort((a, b) => b.weight - a.weight || a.query - b.query || a.key - b.key).slice(0, 40);
    expect((await json(`strongest/0/${head}?count=40`)).cells).toEqual(best(all));
    const off = all.filter((one) => one.key !== one.query + m - n);
    expect((await json(`strongest/0/${head}?count=40&skip=diagonal`)).cells).toEqual(best(off));
  });

  it("a cell tells how its weight comes about", async () => {
    const query = 41;
    const key = weights[query]!.findIndex((w) => w > 0.001);
    const answer = await json(`cell/0/${head}/${query}/${key}`);
    const group = (options.group ?? [0, 1, 2, 3])[head]!;
    const [q, k] = [reference.q[head]![query]!, reference.k[group]![key]!];
    expectClose(answer.q, q);
    expectClose(answer.k, k);
    expectClose(answer.products, q.map((x, i) => x * k[i]!), 1e-12);
    const scores = reference.scores[head]![query]!;
    expectClose([answer.dot, answer.scaled, answer.score, answer.weight, answer.lse], [
      q.reduce((sum, x, i) => sum + x * k[i]!, 0), answer.dot * q.length ** -0.5, scores[key]!, weights[query]![key]!, reference.lse[head]![query]!,
    ], 1e-12);
    expectClose([answer.bias], [scores[key]! - (answer.softcap ? answer.softcap.score : answer.scaled)], 1e-6);
    const sink = reference.sink[head] ?? -Infinity;
    expectClose([answer.max, answer.exp, answer.sum], [
      Math.max(...scores, sink), Math.exp(scores[key]! - answer.max), [...scores, sink].reduce((sum, s) => sum + Math.exp(s - answer.max), 0),
    ], 1e-12);
    expect(answer.sink).toBe(reference.sink.length ? Math.exp(sink - answer.max) : null);
    expectClose([answer.exp / answer.sum], [answer.weight], 1e-5);
    expect([answer.allowed, answer.query.index, answer.key]).toEqual([true, query, { index: key, text: WORDS[key % 7] }]);
    // The neighbours and the strongest keys are listed, each with its value; the remainder of the others is exact.
    const keys: number[] = answer.row.keys;
    expect(keys).toEqual([...keys].sort((a, b) => a - b));
    expect(keys).toContain(Math.max(key - 8, 0));
    expect(keys).toContain(weights[query]!.indexOf(Math.max(...weights[query]!)));
    expectClose(answer.row.weights, keys.map((at) => weights[query]![at]!), 1e-12);
    expectClose(answer.row.scores.map((s: number | null) => s ?? 1e9), keys.map((at) => (scores[at] === -Infinity ? 1e9 : scores[at]!)), 1e-12);
    const v = reference.v[group]!;
    const out = v[0]!.map((_, c) => weights[query]!.reduce((sum, w, at) => sum + w * v[at]![c]!, 0));
    expectClose(answer.values.out, out, 1e-9);
    expectClose(answer.values.v, v[key]!);
    expect(answer.values.keys).toEqual(keys);
    const parts = out.map((_, c) => keys.reduce((sum, _, i) => sum + answer.row.weights[i] * answer.values.vs[i][c], answer.values.rest[c]));
    expectClose(parts, out, 1e-9);
    const { heads, projected } = await json(`heads/0/${query}`);
    expectClose(heads[head], out, 1e-9);
    expect([heads.length, projected]).toEqual([reference.q.length, null]);
  });
});

describe("a row that may see nothing", () => {
  it("is 0, and its cell says so", async () => {
    const { raw, json } = page({ q: 70, k: 70, allowed: (query, key) => query > 3 && key <= query });
    expect((await raw("row/0/0/2")).values.every((w) => w === 0)).toBe(true);
    const answer = await json("cell/0/0/2/1");
    expect([answer.allowed, answer.score, answer.max, answer.exp, answer.sum, answer.weight, answer.lse]).toEqual([false, null, null, 0, 0, 0, null]);
  });
});

describe("coarse maps", () => {
  // As if the head were so large that it must not be worked out: DIRECT is in sums of products.
  const options: LayerOptions = { q: 150, k: 130, allowed: window, cell: 16, heads: 1 };
  const { fixture, raw, json, server } = page(options);
  const weights = fixture.reference[0]!.weights[0]!;
  const q = new Arrays(fixture.about.arrays, fixture.fetch);

  it("serve what lies on their cells, and say nothing of edges", async () => {
    fixture.fetched = [];
    const response = await raw("map/0/0?q=0,128&k=0,128&rows=4&cols=2&how=sum");
    expectClose(response.values, pool(weights, pixelEdges(0, 128, 4), pixelEdges(0, 128, 2)).sum, 2e-6);
    expect(response.headers["x-regard-edges"]).toBeUndefined();
    const max = (await raw("map/0/0?q=0,128&k=64,130&rows=8&cols=1")).values;
    expectClose(max, pool(weights, pixelEdges(0, 128, 8), [64, 130]).max, 1e-3);
  });
  it("what does not lie on them is worked out", async () => {
    expectClose((await raw("map/0/0?q=1,129&k=0,128&rows=4&cols=2&how=sum")).values, pool(weights, pixelEdges(1, 129, 4), pixelEdges(0, 128, 2)).sum);
    expectClose((await raw("map/0/0?q=0,150&k=0,130&rows=150&cols=130")).values, weights.flat());
  });
  it("unless it were too much work: then edges snap, or a pixel is its cell", async () => {
    const head = await headOf(q, "a1/0", fixture.about.runs.a1!.layers[0]!, 0);
    const coarse = (await server.coarse(server.head(["", "a1", "", "0", "0"])))!;
    const view = { q0: 5, q1: 150, k0: 9, k1: 130, rows: 3, cols: 2, how: "max" };
    const drawn = async (of: object, most: number) => mapValues(head, async () => head, { ...view, ...of }, coarse, () => undefined, most);
    const products = 145 * 121 * head.size;
    expect([(await drawn({}, products)).snapped, (await drawn({}, products - 1)).snapped]).toEqual([0, 16]);
    expect((await drawn({ q0: 0, q1: 128, k0: 0, k1: 128, rows: 8, cols: 8 }, 0)).snapped).toBe(0);
    // What the end of the text cuts is a cell too, however small.
    const cut = await drawn({ q0: 144, q1: 150, k0: 0, k1: 128, rows: 1, cols: 4 }, 0);
    expect(cut.snapped).toBe(0);
    expectClose(cut.values, pool(weights, [144, 150], pixelEdges(0, 128, 4)).max, 1e-3);
    expectClose((await drawn({}, products - 1)).values, mapFromCells(head, view, coarse, false));
    const cells = (edges: number[], whole: number) => edges.map((edge) => (edge === whole ? whole : Math.floor((edge + 8) / 16) * 16));
    const [rows, cols] = [cells(pixelEdges(5, 150, 3), 150), cells(pixelEdges(9, 130, 2), 130)];
    expectClose(mapFromCells(head, view, coarse, false), pool(weights, rows, cols).max, 1e-3);
    expectClose(mapFromCells(head, { ...view, how: "mean" }, coarse, false), pool(weights, rows, cols).sum.map((s, i) => s / ((rows[(i >> 1) + 1]! - rows[i >> 1]!) * (cols[(i & 1) + 1]! - cols[i & 1]!))), 1e-5);
    // Four pixels within one cell: each is that cell.
    const inside = { q0: 32, q1: 48, k0: 16, k1: 32, rows: 2, cols: 2, how: "max" };
    const own = pool(weights, [32, 48], [16, 32]);
    expectClose(mapFromCells(head, inside, coarse, true), [0, 0, 0, 0].map(() => own.max[0]!), 1e-3);
    expectClose(mapFromCells(head, { ...inside, how: "sum" }, coarse, true), [0, 0, 0, 0].map(() => own.sum[0]!), 1e-5);
    expectClose(mapFromCells(head, { ...inside, how: "mean" }, coarse, true), [0, 0, 0, 0].map(() => own.sum[0]! / 256), 1e-5);
  });
  it("lead to the strongest, which are exact", async () => {
    const all = weights.flatMap((row, query) => row.map((weight, key) => ({ query, key, weight: Math.fround(weight) }))).filter((one) => one.weight > 0);
    all.sort((a, b) => b.weight - a.weight || a.query - b.query || a.key - b.key);
    expect((await json("strongest/0/0?count=30")).cells).toEqual(all.slice(0, 30));
  });
});

describe("comparing", () => {
  const { fixture, server } = page({ q: 80, k: 80 }, { q: 80, k: 80, allowed: window }, { q: 60, k: 60 });
  const ask = async (query: string) => server.answer(`/api/compare?${query}`, "GET", () => undefined);
  it("is the difference of two maps", async () => {
    const response = await ask("a=a1/0/1&b=a1/1/0&rows=80&cols=80");
    const [a, b] = [fixture.reference[0]!.weights[1]!.flat(), fixture.reference[1]!.weights[0]!.flat()];
    const actual = new Float32Array(response.body as ArrayBuffer);
    a.forEach((w, i) => expect(Math.abs(actual[i]! - (w - b[i]!))).toBeLessThan(1e-7));
    expect(response.headers["x-regard-exact"]).toBe("1");
  });
  it("two lengths are refused, unless the spans are given", async () => {
    expect((await ask("a=a1/0/0&b=a1/2/0&rows=8&cols=8")).status).toBe(400);
    expect((await ask("a=a1/0/0&b=a1/2/0&rows=8&cols=8&q=0,60&k=0,60")).status).toBe(200);
    expect(JSON.parse((await ask("a=a1/0&b=a1/2/0")).body as string).error.allowed).toBe("ID/LAYER/HEAD");
  });
});

describe("JSON responses", () => {
  const { fixture, json, raw, status, server } = page({ q: 70, k: 70, kept: [2, 5] });
  const ask = async (path: string, method = "GET") => {
    const response = await server.answer(path, method, () => undefined);
    return { status: response.status, value: JSON.parse(response.body as string) };
  };
  it("recordings, one of them, its tokens and heads", async () => {
    expect((await ask("/api/recordings")).value).toEqual(fixture.about.recordings);
    const { layers, ...rest } = JSON.parse(JSON.stringify(fixture.about.runs.a1!.recording));
    expect((await ask("/api/recordings/a1")).value).toEqual({ ...rest, layers: [{ ...layers[0], kept: [2, 5] }] });
    expect(await json("tokens?start=1&stop=4")).toEqual({ start: 1, texts: WORDS.slice(1, 4), starts: [0, 0, 0] });
    expect(await json("atlas")).toEqual({ heads: fixture.about.runs.a1!.heads });
    expect(await json("search?text=river&from=3")).toEqual({ tokens: [9, 16, 23, 30, 37, 44, 51, 58, 65] });
    expect((await ask("/api/models")).value).toEqual({ models: [], default: "" });
  });
  it("lessons that the file holds, and no others", async () => {
    expect((await ask("/api/lesson/words?text=the%20river%20bank&tied=0&causal=1")).value).toEqual({ words: ["the", "river", "bank"] });
    const { status, value } = await ask("/api/lesson/words?text=the%20money&causal=1");
    expect([status, value.error.given, value.error.allowed]).toEqual([404, "'the money'", "what this file works through: 'the river bank'"]);
    expect(value.error.remedy).toContain("regard explore");
    expect((await ask("/api/lesson/context")).status).toBe(404);
  });
  it("another head of the stored context", async () => {
    const context = { a: { text: "A" }, b: { text: "B" }, heads: [{ layer: 1, head: 2 }], chosen: null };
    const other = new OfflineServer({ ...fixture.about, context: context }, new Arrays({}, fixture.fetch));
    const request = async (query: string) => JSON.parse((await other.answer(`/api/lesson/context${query}`, "GET", () => undefined)).body as string);
    expect(await request("")).toEqual(context);
    expect(await request("?a=A&b=B&layer=1&head=2")).toEqual({ ...context, chosen: { layer: 1, head: 2 } });
    expect((await request("?a=A&b=C")).error).toMatchObject({ argument: "a, b", allowed: "'A' and 'B'" });
    expect((await request("?layer=1&head=3")).error).toBeDefined();
  });
  it("heads are those that are kept", async () => {
    expectClose((await raw("map/0/5?rows=70&cols=70")).values, fixture.reference[0]!.weights[1]!.flat());
    expect((await json("map/0/1")).error).toMatchObject({ argument: "head", given: "'1'", allowed: "the heads in this file: 2, 5" });
  });
  it.each([
    ["map/0/6", 404, "head", "the heads in this file: 2, 5"],
    ["map/1/2", 404, "layer", "the layers in this file: 0"],
    ["map/0/2?q=5,5", 400, "q", "START,STOP with 0 ≤ START < STOP ≤ 70"],
    ["map/0/2?k=0,71", 400, "k", "START,STOP with 0 ≤ START < STOP ≤ 70"],
    ["map/0/2?k=0,9,3", 400, "k", "START,STOP with 0 ≤ START < STOP ≤ 70"],
    ["map/0/2?q=0,9&rows=10", 400, "rows", "at most the 9 of the span"],
    ["map/0/2?rows=2000", 413, "rows", "a whole number from 1 to 1024"],
    ["map/0/2?rows=0", 400, "rows", "a whole number from 1 to 1024"],
    ["map/0/2?how=median", 400, "how", "max or mean or sum"],
    ["row/0/2/70", 404, "query", "a whole number from 0 to 69"],
    ["cell/0/2/1/-1", 404, "key", "a whole number from 0 to 69"],
    ["strongest/0/2?count=0", 400, "count", "a whole number from 1 to 1000"],
    ["strongest/0/2?skip=all", 400, "skip", "nothing or diagonal"],
    ["search", 400, "text", "a text"],
    ["tokens?start=70", 413, "start", "a whole number from 0 to 69"],
    ["page?size=1", 404, "path", "what an offline page holds"],
  ])("%s is refused", async (path, code, argument, allowed) => {
    expect(await status(path)).toBe(code);
    const { error } = await json(path);
    expect([error.argument, error.allowed]).toEqual([argument, allowed]);
    expect(error.remedy).toMatch(/\.$/);
  });
  it("nothing can be opened here", async () => {
    expect((await ask("/api/open", "POST")).value.error.remedy).toContain("regard explore");
    expect((await ask("/api/recordings/zz")).value.error).toMatchObject({ argument: "recording", allowed: "a1" });
  });
  it("another format is refused by name", async () => {
    const other = new OfflineServer({ ...fixture.about, format: 2 }, new Arrays({}, fixture.fetch));
    expect(JSON.parse((await other.answer("/api/recordings", "GET", () => undefined)).body as string).error.given).toBe("format 2");
  });
});

describe("arrays", () => {
  it("all 65,536 halves and brain floats are decoded exactly", () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const halves = decode(new Uint8Array(bits.slice().buffer), "float16");
    const brains = decode(new Uint8Array(bits.slice().buffer), "bfloat16");
    const view = new DataView(new ArrayBuffer(4));
    for (let i = 0; i < 65536; i++) {
      view.setUint16(0, i);
      if (!Object.is(halves[i], Math.fround(half(i))) || !Object.is(brains[i], view.getFloat32(0))) expect([i, halves[i], brains[i]]).toBe(null);
    }
  });
  it("are fetched once, let go when there are too many, and refused when they are not whole", async () => {
    const fixture = new OfflineFixture([{ q: 64, k: 64, gzip: true }], tokens(64));
    const arrays = new Arrays(fixture.about.arrays, fixture.fetch, 2 * (2 * 64 * 8 * 4));
    const [a, b] = await Promise.all([arrays.get("a1/0/q"), arrays.get("a1/0/q")]);
    expect(a).toBe(b);
    await arrays.get("a1/0/k");
    await arrays.get("a1/0/q");
    expect(fixture.fetched).toEqual(["a1/0/q", "a1/0/k"]);
    // What was used last stays.
    await arrays.get("a1/0/lse");
    await arrays.get("a1/0/q");
    await arrays.get("a1/0/k");
    expect(fixture.fetched).toEqual(["a1/0/q", "a1/0/k", "a1/0/lse", "a1/0/k"]);
    expect(await arrays.get("a1/0/none")).toBeNull();
    fixture.texts.set("a1/0/lse", fixture.texts.get("a1/0/q")!);
    await expect(new Arrays(fixture.about.arrays, fixture.fetch).get("a1/0/lse")).rejects.toMatchObject({ status: 500, body: { error: { argument: "a1/0/lse" } } });
  });
});

describe("searching", () => {
  it("finds what spans tokens, as the server does; tokens that are put before stand nowhere", () => {
    expect(findText(WORDS, STARTS, "river bank", 0)).toEqual([2]);
    expect(findText(WORDS, STARTS, "bank", 0)).toEqual([3, 6]);
    expect(findText(WORDS, STARTS, "bank", 4)).toEqual([6]);
    expect(findText(WORDS, STARTS, "<s>", 0)).toEqual([]);
    expect(findText(["[CLS]", "the", "bank", "[SEP]"], [0, 0, 4, 0], "the bank", 0)).toEqual([1]);
    expect(findText(["a", "𝒳𝒴", "b"], [0, 1, 3], "b", 0)).toEqual([2]);
  });
});
