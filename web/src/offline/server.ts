// Answers the requests of regard/explorer's routes from the arrays of this file.
import type { HeadSummary } from "../client/types";
import { type Manifest, FORMAT, type LayerFacts, type OfflineRecording } from "./manifest";
import { type Arrays, row as rowOf } from "./arrays";
import { isExact, MOST_CELLS, pixelLabel, Parameters, quoted, RequestError, type MapRequest, wholeNumber } from "./request";
import { cell, outOf } from "./cell";
import { headOf } from "./head";
import { type CoarseMap, strongest, type MapValues, mapValues } from "./maps";
import { findText } from "./search";
import type { Checkpoint } from "./scheduler";

export interface Response {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: ArrayBuffer | string;
}

export const jsonResponse = (value: unknown, status = 200): Response => ({
  status,
  headers: { "content-type": "application/json" },
  body: JSON.stringify(value),
});

function rawResponse({ values, snapped = 0 }: { values: Float32Array; snapped?: number }, rows: number, exact: boolean, pixel: string): Response {
  const headers: Record<string, string> = {
    "content-type": "application/octet-stream", "x-regard-shape": `${rows},${values.length / rows}`, "x-regard-dtype": "float32",
    "x-regard-exact": exact ? "1" : "0", "x-regard-pixel": pixel,
  };
  if (snapped) headers["x-regard-edges"] = String(snapped);
  return { status: 200, headers, body: values.buffer as ArrayBuffer };
}

const mapResponse = (map: MapValues, request: MapRequest) => rawResponse(map, request.rows, isExact(request), pixelLabel(request));

/** A head of the file, and the prefix of its arrays. */
interface HeadLocation {
  readonly run: OfflineRecording;
  readonly prefix: string;
  readonly facts: LayerFacts;
  /** Its index among the heads that the file holds. */
  readonly slot: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  /** Numbers in a query. */
  readonly size: number;
}

/** A request whose path and parameters are known. */
interface Request {
  readonly parts: readonly string[];
  readonly query: Parameters;
  readonly checkpoint: Checkpoint;
}

const ELSEWHERE = "Open the recording: regard explore.";

export class OfflineServer {
  constructor(
    readonly about: Manifest,
    readonly arrays: Arrays,
  ) {}

  /** The response to a path: an error where the request is wrong. */
  async answer(path: string, method: string, checkpoint: Checkpoint): Promise<Response> {
    try {
      const [name = "", search = ""] = path.split("?");
      const parts = name.split("/").slice(2).map(decodeURIComponent);
      const [first, id, of] = parts;
      const what = first !== "recordings" ? parts.join("/") : (of ?? (id ? "recording" : first));
      const [length, route] = ROUTES[what] ?? [];
      if (this.about.format !== FORMAT) throw new RequestError(500, "file", `format ${this.about.format}`, `format ${FORMAT}`, ELSEWHERE);
      if (method !== "GET" || !route || parts.length !== length) throw new RequestError(404, "path", quoted(name), "what an offline page holds", ELSEWHERE);
      const query = new Parameters(new URLSearchParams(search));
      const result = (await route(this, { parts, query, checkpoint })) as Response;
      return result.body === undefined ? jsonResponse(result) : result;
    } catch (error) {
      if (error instanceof RequestError) return jsonResponse(error.body, error.status);
      throw error;
    }
  }

  run(id: string): OfflineRecording {
    const recording = this.about.runs[id];
    if (recording) return recording;
    throw new RequestError(404, "recording", quoted(id), Object.keys(this.about.runs).join(", "), "GET /api/recordings lists them.");
  }

  /** The head that a path names; without one, the first that the file holds. */
  head([, id, , layer, head]: readonly string[]): HeadLocation {
    const run = this.run(id!);
    const { layers } = run.recording;
    const indexIn = (name: string, given: string, all: number[]): number => {
      const index = all.findIndex((item) => String(item) === given);
      if (index >= 0) return index;
      throw new RequestError(404, name, quoted(given), `the ${name}s in this file: ${all.join(", ")}`, ELSEWHERE);
    };
    const place = indexIn("layer", layer!, layers.map((entry) => entry.index));
    const { index, heads, queries, keys } = layers[place]!;
    const facts = run.layers[place]!;
    const prefix = `${id}/${index}`;
    const size = this.about.arrays[`${prefix}/q`]!.shape[2]!;
    return { run, prefix, facts, size, slot: head === undefined ? 0 : indexIn("head", head, facts.kept), heads, queries, keys };
  }

  async open({ prefix, facts, slot }: HeadLocation) {
    return headOf(this.arrays, prefix, facts, slot);
  }

  async array({ prefix, facts, slot }: HeadLocation, name: string): Promise<Float32Array | null> {
    const array = await this.arrays.get(`${prefix}/${name}`);
    return array && rowOf(array, name === "v" ? facts.group[slot]! : slot);
  }

  async coarse(head: HeadLocation): Promise<CoarseMap | null> {
    const { cell } = head.facts;
    return cell ? { cell, max: (await this.array(head, "coarse_max"))!, sum: (await this.array(head, "coarse_sum"))! } : null;
  }

  async map(head: HeadLocation, request: MapRequest, checkpoint: Checkpoint): Promise<MapValues> {
    return mapValues(head, () => this.open(head), request, await this.coarse(head), checkpoint);
  }
}

const queryOf = (given: string, { queries }: HeadLocation) => wholeNumber("query", given, 0, queries - 1);
const tokenOf = ({ run, facts }: HeadLocation, query: number) => ({ index: query, text: run.tokens.texts[query + Math.max(facts.shift, 0)] ?? "" });

const answerMap = async (server: OfflineServer, { checkpoint }: Request, head: HeadLocation, request: MapRequest) => mapResponse(await server.map(head, request, checkpoint), request);

type Route = (server: OfflineServer, request: Request) => unknown;

/** By resource: the number of parts of its path, and its handler. */
const ROUTES: Record<string, [number, Route]> = {
  recordings: [1, (server) => server.about.recordings],
  recording: [2, (server, { parts }) => {
    const { recording, layers } = server.run(parts[1]!);
    return { ...recording, layers: recording.layers.map((layer, i) => (layers[i]!.kept.length < layer.heads ? { ...layer, kept: layers[i]!.kept } : layer)) };
  }],
  models: [1, () => ({ models: [], default: "" })],
  tokens: [3, (server, { parts, query }) => {
    const { texts, starts } = server.run(parts[1]!).tokens;
    const start = query.number("start", 0, 0, Math.max(texts.length - 1, 0));
    const stop = query.number("stop", Math.min(start + 2000, texts.length), start, texts.length);
    return { start, texts: texts.slice(start, stop), starts: starts.slice(start, stop) };
  }],
  search: [3, (server, { parts, query }) => {
    const { texts, starts } = server.run(parts[1]!).tokens;
    return { tokens: findText(texts, starts, query.text("text"), query.number("from", 0, 0, Math.max(texts.length - 1, 0))) };
  }],
  atlas: [3, (server, { parts }): { heads: HeadSummary[]; highlights?: unknown } => {
    const { heads, highlights } = server.run(parts[1]!);
    return { heads, highlights };
  }],
  thumbnail: [5, (server, request) => {
    const head = server.head(request.parts);
    const { queries, keys } = head;
    return answerMap(server, request, head, { q0: 0, q1: queries, k0: 0, k1: keys, rows: Math.min(queries, 128), cols: Math.min(keys, 128), how: "max" });
  }],
  map: [5, (server, request) => {
    const head = server.head(request.parts);
    return answerMap(server, request, head, request.query.mapRequest(head));
  }],
  row: [6, (server, request) => {
    const head = server.head(request.parts);
    const query = queryOf(request.parts[5]!, head);
    return answerMap(server, request, head, { q0: query, q1: query + 1, k0: 0, k1: head.keys, rows: 1, cols: head.keys, how: "max" });
  }],
  compare: [1, async (server, { query, checkpoint }) => {
    const [a, b] = ["a", "b"].map((name) => {
      const given = query.get(name) ?? "";
      const [id, ...rest] = given.split("/");
      if (rest.length !== 2) throw new RequestError(400, name, quoted(given), "ID/LAYER/HEAD", "GET /api/recordings lists the IDs.");
      return server.head(["", id!, "", ...rest]);
    }) as [HeadLocation, HeadLocation];
    const request = query.mapRequest(a);
    const other = query.mapRequest(b);
    if (request.q1 !== other.q1 || request.k1 !== other.k1)
      throw new RequestError(400, "q, k", "two recordings of other lengths", "spans that both have", "Give q and k.");
    const [first, second] = [await server.map(a, request, checkpoint), await server.map(b, request, checkpoint)];
    return mapResponse({ values: first.values.map((value, i) => value - second.values[i]!), snapped: Math.max(first.snapped, second.snapped) }, request);
  }],
  marginals: [5, async (server, { parts }) => {
    const head = server.head(parts);
    const wide = Math.max(head.queries, head.keys);
    const values = new Float32Array(2 * wide);
    values.set((await server.array(head, "received"))!);
    values.set((await server.array(head, "entropy"))!, wide);
    return rawResponse({ values }, 2, true, "1 token");
  }],
  strongest: [5, async (server, { parts, query, checkpoint }) => {
    const head = server.head(parts);
    const count = query.number("count", 100, 1, MOST_CELLS);
    const skip = query.choice("skip", "nothing", "diagonal") === "diagonal" ? head.facts.shift : null;
    return { cells: await strongest(await server.open(head), count, skip, await server.coarse(head), checkpoint) };
  }],
  cell: [7, async (server, { parts }) => {
    const head = server.head(parts);
    const query = queryOf(parts[5]!, head);
    const key = wholeNumber("key", parts[6]!, 0, head.keys - 1);
    const texts = { query: tokenOf(head, query), key: { index: key, text: head.run.tokens.texts[key] ?? "" } };
    return { ...texts, ...cell(await server.open(head), query, key, await server.array(head, "v")) };
  }],
  heads: [5, async (server, { parts, checkpoint }) => {
    const head = server.head(parts.slice(0, 4));
    const query = queryOf(parts[4]!, head);
    const heads: number[][] = [];
    for (let slot = 0; slot < head.facts.kept.length; slot++) {
      const location: HeadLocation = { ...head, slot };
      const v = await server.array(location, "v");
      if (v) heads.push(outOf(await server.open(location), query, v));
      await checkpoint();
    }
    // Their sum is the layer's output only if no head is missing.
    return { query: tokenOf(head, query), heads: heads.length === head.heads ? heads : null, projected: null };
  }],
  "lesson/words": [2, ({ about }, { query }) => {
    const text = query.text("text");
    const lessons = about.lesson ?? {};
    const example = lessons[[text, query.get("tied") ?? 0, query.get("causal") ?? 1, query.get("divisor") ?? ""].join("|")];
    if (example) return example;
    const available = [...new Set(Object.keys(lessons).map((name) => quoted(name.split("|")[0]!)))];
    throw new RequestError(404, "text", quoted(text), `what this file works through: ${available.join(", ")}`, ELSEWHERE);
  }],
  "lesson/context": [2, ({ about: { context } }, { query }) => {
    // One word in two sentences, of which the file holds one pair, with every head.
    const [layer, head] = [query.get("layer"), query.get("head")];
    const chosen = context?.heads.find((entry) => String(entry.layer) === layer && String(entry.head) === head);
    const same = (name: "a" | "b") => (query.get(name) ?? context?.[name].text) === context?.[name].text;
    if (context && same("a") && same("b") && (chosen || (layer ?? head) === null))
      return chosen ? { ...context, chosen: { layer: chosen.layer, head: chosen.head } } : context;
    throw new RequestError(404, "a, b", "others", context ? `${quoted(context.a.text)} and ${quoted(context.b.text)}` : "nothing", ELSEWHERE);
  }],
};
