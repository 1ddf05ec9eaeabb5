// What the server answers (regard/explorer/routes.py), from the arrays of this file.
import type { HeadStatistics } from "../api";
import { type About, FORMAT, type LayerFacts, type Run } from "./about";
import { type Arrays, row as rowOf } from "./arrays";
import { isExact, MOST_CELLS, pixelOf, Query, quoted, Refused, type View, whole } from "./asking";
import { cell, outOf } from "./cell";
import { headOf } from "./head";
import { type Coarse, strongest, type Tile, tile } from "./maps";
import { searched } from "./searching";
import type { Turn } from "./turns";

export interface Answer {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: ArrayBuffer | string;
}

export const json = (value: unknown, status = 200): Answer => ({
  status,
  headers: { "content-type": "application/json" },
  body: JSON.stringify(value),
});

function raw({ values, snapped = 0 }: { values: Float32Array; snapped?: number }, rows: number, exact: boolean, pixel: string): Answer {
  const headers: Record<string, string> = {
    "content-type": "application/octet-stream", "x-regard-shape": `${rows},${values.length / rows}`, "x-regard-dtype": "float32",
    "x-regard-exact": exact ? "1" : "0", "x-regard-pixel": pixel,
  };
  if (snapped) headers["x-regard-edges"] = String(snapped);
  return { status: 200, headers, body: values.buffer as ArrayBuffer };
}

const mapped = (told: Tile, view: View) => raw(told, view.rows, isExact(view), pixelOf(view));

/** A head of the file, and where its arrays are. */
interface Found {
  readonly run: Run;
  readonly prefix: string;
  readonly facts: LayerFacts;
  /** Its place among the heads that are kept. */
  readonly at: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  /** Numbers in a query. */
  readonly size: number;
}

/** A request whose path and parameters are known. */
interface Request {
  readonly parts: readonly string[];
  readonly query: Query;
  readonly turn: Turn;
}

const ELSEWHERE = "Open the recording: regard explore.";

export class Answers {
  constructor(
    readonly about: About,
    readonly arrays: Arrays,
  ) {}

  /** The answer to a path, or a refusal. */
  async to(path: string, method: string, turn: Turn): Promise<Answer> {
    try {
      const [name = "", said = ""] = path.split("?");
      const parts = name.split("/").slice(2).map(decodeURIComponent);
      const [first, id, of] = parts;
      const what = first !== "recordings" ? parts.join("/") : (of ?? (id ? "recording" : first));
      const [length, route] = ROUTES[what] ?? [];
      if (this.about.format !== FORMAT) throw new Refused(500, "file", `format ${this.about.format}`, `format ${FORMAT}`, ELSEWHERE);
      if (method !== "GET" || !route || parts.length !== length) throw new Refused(404, "path", quoted(name), "what an offline page holds", ELSEWHERE);
      const query = new Query(new URLSearchParams(said));
      const told = (await route(this, { parts, query, turn })) as Answer;
      return told.body === undefined ? json(told) : told;
    } catch (error) {
      if (error instanceof Refused) return json(error.told, error.status);
      throw error;
    }
  }

  run(id: string): Run {
    const found = this.about.runs[id];
    if (found) return found;
    throw new Refused(404, "recording", quoted(id), Object.keys(this.about.runs).join(", "), "GET /api/recordings lists them.");
  }

  /** Without a head, the first that is kept. */
  head([, id, , layer, head]: readonly string[]): Found {
    const run = this.run(id!);
    const { layers } = run.recording;
    const among = (name: string, given: string, all: number[]): number => {
      const place = all.findIndex((one) => String(one) === given);
      if (place >= 0) return place;
      throw new Refused(404, name, quoted(given), `the ${name}s in this file: ${all.join(", ")}`, ELSEWHERE);
    };
    const place = among("layer", layer!, layers.map((one) => one.index));
    const { index, heads, queries, keys } = layers[place]!;
    const facts = run.layers[place]!;
    const prefix = `${id}/${index}`;
    const size = this.about.arrays[`${prefix}/q`]!.shape[2]!;
    return { run, prefix, facts, size, at: head === undefined ? 0 : among("head", head, facts.kept), heads, queries, keys };
  }

  async open({ prefix, facts, at }: Found) {
    return headOf(this.arrays, prefix, facts, at);
  }

  async part({ prefix, facts, at }: Found, name: string): Promise<Float32Array | null> {
    const found = await this.arrays.get(`${prefix}/${name}`);
    return found && rowOf(found, name === "v" ? facts.group[at]! : at);
  }

  async coarse(found: Found): Promise<Coarse | null> {
    const { cell } = found.facts;
    return cell ? { cell, max: (await this.part(found, "coarse_max"))!, sum: (await this.part(found, "coarse_sum"))! } : null;
  }

  async map(found: Found, view: View, turn: Turn): Promise<Tile> {
    return tile(found, () => this.open(found), view, await this.coarse(found), turn);
  }
}

const queryOf = (given: string, { queries }: Found) => whole("query", given, 0, queries - 1);
const named = ({ run, facts }: Found, query: number) => ({ index: query, text: run.tokens.texts[query + Math.max(facts.shift, 0)] ?? "" });

const drawn = async (page: Answers, { turn }: Request, found: Found, view: View) => mapped(await page.map(found, view, turn), view);

type Route = (page: Answers, request: Request) => unknown;

/** By what is asked for: how many parts its path has, and what answers it. */
const ROUTES: Record<string, [number, Route]> = {
  recordings: [1, (page) => page.about.recordings],
  recording: [2, (page, { parts }) => {
    const { recording, layers } = page.run(parts[1]!);
    return { ...recording, layers: recording.layers.map((one, i) => (layers[i]!.kept.length < one.heads ? { ...one, kept: layers[i]!.kept } : one)) };
  }],
  models: [1, () => ({ models: [], default: "" })],
  tokens: [3, (page, { parts, query }) => {
    const { texts, starts } = page.run(parts[1]!).tokens;
    const start = query.number("start", 0, 0, Math.max(texts.length - 1, 0));
    const stop = query.number("stop", Math.min(start + 2000, texts.length), start, texts.length);
    return { start, texts: texts.slice(start, stop), starts: starts.slice(start, stop) };
  }],
  search: [3, (page, { parts, query }) => {
    const { texts, starts } = page.run(parts[1]!).tokens;
    return { tokens: searched(texts, starts, query.text("text"), query.number("from", 0, 0, Math.max(texts.length - 1, 0))) };
  }],
  atlas: [3, (page, { parts }): { heads: HeadStatistics[]; telling?: unknown } => {
    const { heads, telling } = page.run(parts[1]!);
    return { heads, telling };
  }],
  thumbnail: [5, (page, request) => {
    const found = page.head(request.parts);
    const { queries, keys } = found;
    return drawn(page, request, found, { q0: 0, q1: queries, k0: 0, k1: keys, rows: Math.min(queries, 128), cols: Math.min(keys, 128), how: "max" });
  }],
  map: [5, (page, request) => {
    const found = page.head(request.parts);
    return drawn(page, request, found, request.query.view(found));
  }],
  row: [6, (page, request) => {
    const found = page.head(request.parts);
    const query = queryOf(request.parts[5]!, found);
    return drawn(page, request, found, { q0: query, q1: query + 1, k0: 0, k1: found.keys, rows: 1, cols: found.keys, how: "max" });
  }],
  compare: [1, async (page, { query, turn }) => {
    const [a, b] = ["a", "b"].map((name) => {
      const given = query.get(name) ?? "";
      const [id, ...rest] = given.split("/");
      if (rest.length !== 2) throw new Refused(400, name, quoted(given), "ID/LAYER/HEAD", "GET /api/recordings lists the IDs.");
      return page.head(["", id!, "", ...rest]);
    }) as [Found, Found];
    const view = query.view(a);
    const other = query.view(b);
    if (view.q1 !== other.q1 || view.k1 !== other.k1)
      throw new Refused(400, "q, k", "two recordings of other lengths", "spans that both have", "Give q and k.");
    const [first, second] = [await page.map(a, view, turn), await page.map(b, view, turn)];
    return mapped({ values: first.values.map((value, i) => value - second.values[i]!), snapped: Math.max(first.snapped, second.snapped) }, view);
  }],
  marginals: [5, async (page, { parts }) => {
    const found = page.head(parts);
    const wide = Math.max(found.queries, found.keys);
    const values = new Float32Array(2 * wide);
    values.set((await page.part(found, "received"))!);
    values.set((await page.part(found, "entropy"))!, wide);
    return raw({ values }, 2, true, "1 token");
  }],
  strongest: [5, async (page, { parts, query, turn }) => {
    const found = page.head(parts);
    const count = query.number("count", 100, 1, MOST_CELLS);
    const skip = query.chosen("skip", "nothing", "diagonal") === "diagonal" ? found.facts.shift : null;
    return { cells: await strongest(await page.open(found), count, skip, await page.coarse(found), turn) };
  }],
  cell: [7, async (page, { parts }) => {
    const found = page.head(parts);
    const query = queryOf(parts[5]!, found);
    const key = whole("key", parts[6]!, 0, found.keys - 1);
    const texts = { query: named(found, query), key: { index: key, text: found.run.tokens.texts[key] ?? "" } };
    return { ...texts, ...cell(await page.open(found), query, key, await page.part(found, "v")) };
  }],
  heads: [5, async (page, { parts, turn }) => {
    const found = page.head(parts.slice(0, 4));
    const query = queryOf(parts[4]!, found);
    const heads: number[][] = [];
    for (let at = 0; at < found.facts.kept.length; at++) {
      const one = { ...found, at };
      const v = await page.part(one, "v");
      if (v) heads.push(outOf(await page.open(one), query, v));
      await turn();
    }
    // Their sum is the layer's only if none is missing.
    return { query: named(found, query), heads: heads.length === found.heads ? heads : null, projected: null };
  }],
  "lesson/words": [2, ({ about }, { query }) => {
    const text = query.text("text");
    const lessons = about.lesson ?? {};
    const found = lessons[[text, query.get("tied") ?? 0, query.get("causal") ?? 1, query.get("divisor") ?? ""].join("|")];
    if (found) return found;
    const held = [...new Set(Object.keys(lessons).map((name) => quoted(name.split("|")[0]!)))];
    throw new Refused(404, "text", quoted(text), `what this file works through: ${held.join(", ")}`, ELSEWHERE);
  }],
  "lesson/context": [2, ({ about: { context } }, { query }) => {
    // One word in two sentences, of which the file holds one pair, with every head.
    const [layer, head] = [query.get("layer"), query.get("head")];
    const chosen = context?.heads.find((one) => String(one.layer) === layer && String(one.head) === head);
    const same = (name: "a" | "b") => (query.get(name) ?? context?.[name].text) === context?.[name].text;
    if (context && same("a") && same("b") && (chosen || (layer ?? head) === null))
      return chosen ? { ...context, chosen: { layer: chosen.layer, head: chosen.head } } : context;
    throw new Refused(404, "a, b", "others", context ? `${quoted(context.a.text)} and ${quoted(context.b.text)}` : "nothing", ELSEWHERE);
  }],
};
