// What the page knows. The place is the one thing a person changes; everything else follows from it.
import { batch, computed, effect, signal, type ReadonlySignal } from "@preact/signals";
import { difference as compared, headsOf, json, paths, raw, type Layer, type Recording, type RecordingLine, type Strongest, type Values } from "./api";
import type { CellMore } from "./api.more";
import { type Place, read, START, written } from "./pure/hash";
import { apart } from "./pure/text";
import * as SAY from "./strings";
import { onPlace, progress, readPlace, writePlace } from "./transport";

export const place = signal<Place>(START);

const of = <K extends keyof Place>(name: K): ReadonlySignal<Place[K]> => computed(() => place.value[name]);
export const screen = of("screen");
export const recordingId = of("recording");
export const layerIndex = of("layer");
export const headIndex = computed(() => {
  const { head } = place.value;
  const kept = layer.value?.kept;
  return kept && !kept.includes(head) ? kept[0]! : head;
});
export const cell = of("cell");
export const step = of("step");
export const table = of("table");
export const pooling = of("pooling");
export const ramp = of("ramp");
export const log = of("log");
export const gamma = of("gamma");
export const rows = of("rows");

/** A part of the place changes. */
export function go(change: Partial<Place>): void {
  place.value = { ...place.peek(), ...change };
}

export const trouble = signal("");
export const live = signal("");
export const dialog = signal<"" | "help" | "goto" | "export">("");
export const doing = signal<{ part: number; what: string } | null>(null);

/** Says something to those who listen instead of looking. */
export function speak(text: string): void {
  live.value = text;
}

export function fail(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  trouble.value = error instanceof TypeError ? SAY.lost : error instanceof Error ? error.message : String(error);
}

export interface Loaded<T> {
  readonly path: string | null;
  readonly value: T | null;
  readonly loading: boolean;
}

/** Keeps the answer to a path that changes. What is no longer wanted is aborted. */
export function resource<T>(path: () => string | null, fetcher: (path: string, signal: AbortSignal) => Promise<T>, wait = 0): ReadonlySignal<Loaded<T>> {
  const out = signal<Loaded<T>>({ path: null, value: null, loading: false });
  const wanted = computed(path);
  effect(() => {
    const asked = wanted.value;
    const abort = new AbortController();
    if (asked === null) {
      out.value = { path: null, value: null, loading: false };
      return;
    }
    const before = out.peek();
    out.value = { ...before, loading: true };
    const timer = setTimeout(() => {
      fetcher(asked, abort.signal).then(
        (value) => {
          if (!abort.signal.aborted) out.value = { path: asked, value, loading: false };
        },
        (error: unknown) => {
          if (abort.signal.aborted) return;
          out.value = { path: asked, value: null, loading: false };
          fail(error);
        },
      );
    }, wait);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  });
  return out;
}

export const recordings = signal<RecordingLine[] | null>(null);
/** Asks which recordings are open. */
export const listed = async () => (recordings.value = await json<RecordingLine[]>(paths.recordings));

const asked = resource<Recording>(() => (recordingId.value ? paths.recording(recordingId.value) : null), json);
/** The recording that is open; null until it is known. */
export const run = computed(() => (asked.value.value?.id === recordingId.value ? asked.value.value : null));
// What is being built of it, until all is.
effect(() => {
  const id = recordingId.value;
  const left = new AbortController();
  if (id)
    progress(left.signal, (told) => {
      if (told && told.recording !== id) return;
      doing.value = told && told.progress < 1 ? { part: told.progress, what: told.doing } : null;
      if (!told) left.abort();
    });
  return () => {
    left.abort();
    doing.value = null;
  };
});
/** Descriptions of recordings other than the one that is open; null: on its way. */
const known = signal<Record<string, Recording | null>>({});

/** A recording's description, once it has come. */
export function recordingOf(id: string): Recording | null {
  const recording = known.value[id];
  if (recording === undefined && id)
    queueMicrotask(() => {
      if (id in known.peek()) return;
      known.value = { ...known.peek(), [id]: null };
      json<Recording>(paths.recording(id)).then((answer) => (known.value = { ...known.peek(), [id]: answer }), fail);
    });
  return recording ?? null;
}

export const layer = computed<Layer | null>(() => {
  const layers = run.value?.layers;
  return layers?.find((one) => one.index === layerIndex.value) ?? layers?.[0] ?? null;
});

/** The path of something of the head that is shown. */
const ofHead = (make: (id: string, layer: number, head: number) => string) => (): string | null =>
  run.value && layer.value ? make(run.value.id, layer.value.index, headIndex.value) : null;

const onCell = computed(() => screen.value !== "open" && screen.value !== "atlas");
export const cellPath = computed(() => {
  const at = cell.value;
  return at && onCell.value ? ofHead((id, l, h) => paths.cell(id, l, h, at.query, at.key))() : null;
});
export const cellTold = resource<CellMore>(() => cellPath.value, json, 40);
/** What the server says about the cell that is chosen, once it has said it. */
export const cellNow = computed(() => (cellTold.value.path === cellPath.value ? cellTold.value.value : null));

/** What Compare subtracts: by default the next head of the layer. */
export const minus = computed(() => {
  const at = layer.value;
  const heads = at ? headsOf(at) : [0];
  return place.value.other || `${recordingId.value}/${at?.index ?? 0}/${heads[(heads.indexOf(headIndex.value) + 1) % heads.length]}`;
});
const differencePath = computed(() => {
  const at = cell.value;
  if (!at || screen.value !== "compare" || !run.value || !layer.value) return null;
  const of = compared(`${recordingId.value}/${layer.value.index}/${headIndex.value}`, minus.value, "max");
  return of.path({ q0: at.query, q1: at.query + 1, k0: at.key, k1: at.key + 1, rows: 1, cols: 1 });
});
const differenceTold = resource<Values>(() => differencePath.value, raw, 40);
/** A − B at the cell that is held, where Compare is open. */
export const difference = computed(() => (differenceTold.value.path === differencePath.value ? (differenceTold.value.value?.values[0] ?? null) : null));

const rowPath = computed(() => {
  const at = cell.value;
  return at && onCell.value ? ofHead((id, l, h) => paths.row(id, l, h, at.query))() : null;
});
/** The row of the held query, or the one before while it is on its way: `rowNow` is never another's. */
export const rowTold = resource<Values>(() => rowPath.value, raw, 40);
export const rowNow = computed(() => (rowTold.value.path === rowPath.value ? rowTold.value.value : null));
const marginalsPath = computed(() => (screen.value === "map" || (screen.value === "row" && !cell.value) ? ofHead(paths.marginals)() : null));
const marginalsTold = resource<Values>(() => marginalsPath.value, raw, 80);
export const marginals = computed(() => (marginalsTold.value.path === marginalsPath.value ? marginalsTold.value.value : null));
export const strongest = resource<Strongest>(() => (screen.value === "map" || screen.value === "row" ? ofHead(paths.strongest)() : null), json, 120);

/** The texts of tokens and where they begin, fetched in blocks when they are first looked at. */
const BLOCK = 2000;
interface Block {
  texts: string[];
  starts: number[];
}
const blocks = new Map<string, Block | Promise<void>>();
const arrived = signal(0);

/** The text of a token of the recording that is open, or of another; undefined until it has come. */
export function token(index: number, id = recordingId.value): string | undefined {
  arrived.value;
  const at = Math.floor(index / BLOCK);
  const held = blocks.get(`${id}/${at}`);
  const count = (run.peek()?.id === id ? run.peek()! : recordings.peek()?.find((one) => one.id === id))?.tokens ?? 0;
  if (held === undefined && index >= 0 && index < count) {
    const stop = Math.min((at + 1) * BLOCK, count);
    const asked = json<Block>(paths.tokens(id, at * BLOCK, stop)).then(
      (told) => {
        blocks.set(`${id}/${at}`, told);
        arrived.value++;
      },
      (error: unknown) => {
        blocks.delete(`${id}/${at}`);
        fail(error);
      },
    );
    blocks.set(`${id}/${at}`, asked);
  }
  return held && "texts" in held ? held.texts[index - at * BLOCK] : undefined;
}

/** Has the texts of tokens start … stop of the recording that is open there. */
export async function texts(start: number, stop: number): Promise<void> {
  for (let i = start; i < stop; i += BLOCK) token(i);
  token(stop - 1);
  await Promise.all([...blocks.values()]);
}

/** The token that a query stands at: the last query at the last key, where a cache held the keys before. */
export const placeOf = (query: number) => query + Math.max((layer.value?.keys ?? 0) - (layer.value?.queries ?? 0), 0);

/** Whether the text has white space behind a token that belongs to none: what many encoders leave out. */
export function spaced(index: number, id = recordingId.value): boolean {
  const text = token(index, id);
  const [start, next] = [index, index + 1].map((i) => {
    const held = blocks.get(`${id}/${Math.floor(i / BLOCK)}`);
    return held && "texts" in held ? held.starts[i % BLOCK] : undefined;
  });
  return text !== undefined && start !== undefined && next !== undefined && apart(text, start, next);
}

/** Opens a recording at a screen, or another head of the one that is open. */
export function open(id: string, change: Partial<Place> = {}): void {
  const same = id === place.peek().recording;
  go({ ...(same ? {} : { layer: 0, head: 0, view: null, cell: null }), screen: "atlas", ...change, recording: id });
}

/** Chooses a cell, bounded by the map, and says it once its weight is known. */
export function choose(query: number, key: number): void {
  const at = layer.peek();
  if (!at) return;
  const bound = (x: number, most: number) => Math.min(Math.max(Math.round(x), 0), most - 1);
  go({ cell: { query: bound(query, at.queries), key: bound(key, at.keys) } });
}

effect(() => {
  const told = cellNow.value;
  if (told) speak(SAY.cell(told.query.index, told.query.text, told.key.index, told.key.text, told.weight, told.allowed));
});

/** The next layer or head: the head stays within the layer. */
export function shift(layers: number, heads: number): void {
  const all = run.peek()?.layers;
  const now = layer.peek();
  if (!all || !now) return;
  const next = all[Math.min(Math.max(all.indexOf(now) + layers, 0), all.length - 1)]!;
  const among = headsOf(next);
  const at = among.findIndex((one) => one >= headIndex.peek());
  const head = among[Math.min(Math.max((at < 0 ? among.length - 1 : at) + heads, 0), among.length - 1)]!;
  go({ layer: next.index, head });
  speak(SAY.head(next.index, head));
}

let stepping = -1;
let steppingPath: string | null = null;
/** The next strongest weight, or the one before. */
export function stronger(by: number): void {
  const { path, value, loading } = strongest.peek();
  if (!value?.cells.length || loading) return;
  if (path !== steppingPath) {
    steppingPath = path;
    stepping = -1;
  }
  stepping = Math.min(Math.max(stepping + by, 0), value.cells.length - 1);
  const found = value.cells[stepping]!;
  choose(found.query, found.key);
}

let writing = 0;

/** Follows the hash that names the place, and writes it. */
export function start(): void {
  const follow = () => {
    const named = read(readPlace());
    if (written(named) !== written(place.peek())) place.value = named;
  };
  batch(follow);
  onPlace(follow);
  let before = place.peek();
  effect(() => {
    const now = place.value;
    clearTimeout(writing);
    writing = window.setTimeout(() => {
      const far = now.screen !== before.screen || now.recording !== before.recording || now.layer !== before.layer || now.head !== before.head;
      writePlace(written(now), far);
      before = now;
    }, 180);
  });
  listed().then((list) => {
    const now = place.peek();
    if (now.recording && !list.some((one) => one.id === now.recording)) go({ ...START });
    else if (!now.recording && list.length === 1 && now.screen !== "open") go({ recording: list[0]!.id });
    else if (!now.recording && now.screen !== "open" && now.screen !== "lesson") go({ screen: "open" });
  }, fail);
}

export const extentOfLayer = () => ({ queries: layer.peek()?.queries ?? 1, keys: layer.peek()?.keys ?? 1 });
