// A made-up offline page, and what its numbers mean by the plain formula in float64.
import { gzipSync } from "node:zlib";
import type { Manifest, LayerFacts, ArrayEntry } from "../src/offline/manifest";
import { half } from "../src/pure/half";

/** Numbers that look random and never change: mulberry32. */
export function random(seed: number) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export interface LayerOptions {
  q: number;
  k: number;
  /** By default causal, by spans. */
  allowed?: (query: number, key: number, head: number) => boolean;
  /** How the mask is written down. */
  mask?: "spans" | "tiles" | "both" | "none";
  heads?: number;
  group?: number[];
  kept?: number[];
  size?: number;
  dtype?: "float32" | "float16" | "bfloat16";
  softcap?: number | null;
  table?: boolean;
  pairs?: [number, number, number] | null;
  sink?: boolean;
  values?: number;
  cell?: number;
  gzip?: boolean;
}

type Grid = number[][];

/** One layer, by the formula: what each head has stored, its scores and its weights. */
export interface Reference {
  q: Grid[];
  k: Grid[];
  v: Grid[];
  scores: Grid[];
  lse: Grid;
  weights: Grid[];
  sink: number[];
}

const toHalf = (value: number): number => {
  const size = Math.abs(value);
  const exponent = Math.max(Math.floor(Math.log2(size || 1e-30)), -14);
  const steps = Math.round(size / 2 ** (exponent - 10));
  const bits = exponent === -14 && steps < 1024 ? steps : ((exponent + 15) << 10) + (steps - 1024);
  return bits | (value < 0 ? 0x8000 : 0);
};
const toBfloat16 = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16;
const fromBfloat16 = (bits: number): number => new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!;

/** Numbers as they are stored, and as they are read back. */
function encode(values: number[], dtype: ArrayEntry["dtype"]): { bytes: Uint8Array; back: number[] } {
  if (dtype === "float16" || dtype === "bfloat16") {
    const bits = Uint16Array.from(values, dtype === "float16" ? toHalf : toBfloat16);
    return { bytes: new Uint8Array(bits.buffer), back: Array.from(bits, dtype === "float16" ? half : fromBfloat16) };
  }
  const array = dtype === "int32" ? Int32Array.from(values) : Float32Array.from(values);
  return { bytes: new Uint8Array(array.buffer), back: Array.from(array) };
}

export class OfflineFixture {
  readonly about: Manifest;
  readonly texts = new Map<string, string>();
  readonly reference: Reference[] = [];
  fetched: string[] = [];

  constructor(layers: LayerOptions[], tokens: { texts: string[]; starts: number[] }, id = "a1") {
    const arrays: Record<string, ArrayEntry> = {};
    this.about = {
      format: 1,
      recordings: [{ id, name: "made.safetensors", model: "made", tokens: tokens.texts.length, bytes: 1 }],
      runs: {
        [id]: {
          recording: {
            id, name: "made.safetensors", model: "made", versions: {}, batch: 1, tokens: tokens.texts.length, exact: true, error: "",
            layers: layers.map((options, index) => ({
              index, name: `layer ${index}`, heads: Math.max(...(options.kept ?? [(options.heads ?? 2) - 1])) + 1, groups: 1, queries: options.q, keys: options.k,
              size: options.size ?? 8, mask: null, bias: null, score: "Dot()", values: !!options.values, inputs: false,
            })),
          },
          tokens,
          heads: [{ layer: 0, head: 0, entropy: 0.5, support: 1, first: 0, previous: 0, distance: 0, top: 0, received: 0, redundancy: null }],
          layers: layers.map((options, index) => this.layer(options, index, `${id}/${index}`, arrays)),
        },
      },
      lesson: { "the river bank|0|1|": { words: ["the", "river", "bank"] } },
      context: null,
      arrays,
    };
  }

  readonly fetch = async (name: string): Promise<string> => {
    this.fetched.push(name);
    return this.texts.get(name)!;
  };

  private layer(options: LayerOptions, index: number, prefix: string, arrays: Record<string, ArrayEntry>): LayerFacts {
    const next = random(100 + index);
    const { q: n, k: m } = options;
    const [h, d, dtype] = [options.heads ?? 2, options.size ?? 8, options.dtype ?? "float32"];
    const group = options.group ?? Array.from({ length: h }, (_, i) => i);
    const g = Math.max(...group) + 1;
    const put = (name: string, values: number[], shape: number[], type: ArrayEntry["dtype"], given?: Uint8Array): number[] => {
      const { bytes, back } = given ? { bytes: given, back: [] } : encode(values, type);
      arrays[`${prefix}/${name}`] = { dtype: type, shape, gzip: !!options.gzip };
      this.texts.set(`${prefix}/${name}`, Buffer.from(options.gzip ? gzipSync(bytes) : bytes).toString("base64"));
      return back;
    };
    const numbers = (count: number, size: number) => Array.from({ length: count }, () => (2 * next() - 1) * size);
    const grids = (flat: number[], rows: number, cols: number): Grid[] =>
      Array.from({ length: flat.length / rows / cols }, (_, i) =>
        Array.from({ length: rows }, (_, r) => flat.slice((i * rows + r) * cols, (i * rows + r + 1) * cols)));
    const q = grids(put("q", numbers(h * n * d, 2), [h, n, d], dtype), n, d);
    const k = grids(put("k", numbers(g * m * d, 2), [g, m, d], dtype), m, d);
    const v = options.values ? grids(put("v", numbers(g * m * options.values, 1), [g, m, options.values], dtype), m, options.values) : [];
    const table = options.table ? grids(put("table", numbers(h * (n + m - 1), 1), [h, n + m - 1], "float32"), 1, n + m - 1) : null;
    const shape = options.pairs;
    const pairs = shape ? grids(put("pairs", numbers(shape[0] * shape[1] * shape[2], 1), shape, "float32"), shape[1], shape[2]) : null;
    const sink = options.sink ? put("sink", numbers(h, 1), [h], "float32") : [];
    const scale = d ** -0.5;
    const softcap = options.softcap ?? null;
    const allowed = options.allowed ?? ((query: number, key: number) => key <= query + m - n);
    const scores = q.map((rows, head) =>
      rows.map((x, query) =>
        k[group[head]!]!.map((y, key) => {
          if (options.mask !== "none" && !allowed(query, key, head)) return -Infinity;
          const raw = x.reduce((sum, a, i) => sum + a * y[i]!, 0) * scale;
          const of = <T>(list: T[], at: number) => list[list.length > 1 ? at : 0]!;
          return (
            (softcap === null ? raw : softcap * Math.tanh(raw / softcap)) +
            (table ? table[head]![0]![query - key + m - 1]! : 0) +
            (pairs ? of(of(of(pairs, head), query), key) : 0)
          );
        })));
    const exact = scores.map((rows, head) =>
      rows.map((row) => {
        const all = sink.length ? [...row, sink[head]!] : row;
        const most = Math.max(...all);
        return most === -Infinity ? -Infinity : most + Math.log(all.reduce((sum, s) => sum + Math.exp(s - most), 0));
      }));
    const back = put("lse", exact.flat(), [h, n], "float32");
    const lse = exact.map((row, head) => row.map((_, i) => back[head * n + i]!));
    const weights = scores.map((rows, head) => rows.map((row, i) => row.map((s) => (s === -Infinity ? 0 : Math.exp(s - lse[head]![i]!)))));
    this.writeMask(options, h, n, m, allowed, put);
    put("received", weights.flatMap((rows) => rows[0]!.map((_, key) => rows.reduce((sum, row) => sum + row[key]!, 0))), [h, m], "float32");
    put("entropy", weights.flatMap((rows) => rows.map((row) => -row.reduce((sum, w) => sum + (w > 0 ? w * Math.log(w) : 0), 0))), [h, n], "float32");
    const cell = options.cell ?? 0;
    if (cell) {
      const [rows, cols] = [Math.ceil(n / cell), Math.ceil(m / cell)];
      const cells = weights.map((w) => pool(w, Array.from({ length: rows + 1 }, (_, i) => Math.min(i * cell, n)), Array.from({ length: cols + 1 }, (_, i) => Math.min(i * cell, m))));
      put("coarse_max", cells.flatMap((c) => c.max), [h, rows, cols], "float16");
      put("coarse_sum", cells.flatMap((c) => c.sum), [h, rows, cols], "float32");
    }
    this.reference.push({ q, k, v, scores, lse, weights, sink });
    return { index, kept: options.kept ?? group.map((_, i) => i), group, scale, softcap, shift: m - n, cell };
  }

  private writeMask(options: LayerOptions, h: number, n: number, m: number, allowed: NonNullable<LayerOptions["allowed"]>, put: (name: string, values: number[], shape: number[], type: ArrayEntry["dtype"], given?: Uint8Array) => number[]): void {
    const mask = options.mask ?? "spans";
    if (mask === "none") return;
    // Where both are, the spans are those of a causal mask around it.
    const spanned = mask === "both" ? (query: number, key: number) => key <= query + m - n : allowed;
    if (mask !== "tiles") {
      const rows: [number, number][][] = [];
      for (let head = 0; head < h; head++)
        for (let query = 0; query < n; query++) {
          const spans: [number, number][] = [];
          for (let key = 0; key < m; key++) {
            if (!spanned(query, key, head)) continue;
            const last = spans.at(-1);
            if (last && last[1] === key) last[1]++;
            else spans.push([key, key + 1]);
          }
          rows.push(spans);
        }
      const most = Math.max(1, ...rows.map((spans) => spans.length));
      put("runs", rows.flatMap((spans) => Array.from({ length: most }, (_, i) => spans[i] ?? [0, 0]).flat()), [h, n, most, 2], "int32");
    }
    if (mask === "spans") return;
    const [rows, cols] = [Math.ceil(n / 64), Math.ceil(m / 64)];
    const kinds: number[] = [];
    const words: bigint[] = [];
    for (let head = 0; head < h; head++)
      for (let r = 0; r < rows; r++)
        for (let c = 0; c < cols; c++) {
          const tile = Array.from({ length: 64 }, (_, key) => {
            let word = 0n;
            for (let i = 0; i < 64; i++) {
              const [query, at] = [64 * r + i, 64 * c + key];
              if (query < n && at < m && allowed(query, at, head)) word |= 1n << BigInt(i);
            }
            return word;
          });
          const inside = (i: number) => 64 * c + i < m;
          const full = tile.every((word, i) => !inside(i) || word === (1n << BigInt(Math.min(64, n - 64 * r))) - 1n);
          kinds.push(full ? 1 : tile.some((word) => word) ? words.push(...tile) / 64 + 1 : 0);
        }
    put("kinds", kinds, [h, rows, cols], "int32");
    put("words", [], [words.length / 64, 64], "uint64", new Uint8Array(BigUint64Array.from(words).buffer));
  }
}

/** The maximum and the sum of each pixel between edges, row by row. */
export function pool(weights: Grid, rows: number[], cols: number[]): { max: number[]; sum: number[] } {
  const [max, sum]: [number[], number[]] = [[], []];
  for (let r = 0; r + 1 < rows.length; r++)
    for (let c = 0; c + 1 < cols.length; c++) {
      const cells = weights.slice(rows[r], rows[r + 1]).flatMap((row) => row.slice(cols[c], cols[c + 1]));
      max.push(Math.max(...cells));
      sum.push(cells.reduce((a, b) => a + b, 0));
    }
  return { max, sum };
}

/** Where pixels begin if the i-th of a span falls into pixel ⌊i · count / span⌋. */
export function pixelEdges(start: number, stop: number, count: number): number[] {
  const out = [start];
  for (let i = start; i < stop; i++) while (Math.floor(((i - start) * count) / (stop - start)) >= out.length) out.push(i);
  return [...out, stop];
}
