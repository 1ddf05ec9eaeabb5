// The state of the page. The place is what the user changes, and is kept in the URL's hash; everything else is derived from it.
import { batch, computed, effect, signal, type ReadonlySignal } from "@preact/signals";
import { type Cell, type Layer, type Recording, type Values, difference as compared, headsOf, json, paths, raw } from "./client/requests";
import type { RecordingLine, StrongestLinks } from "./client/types";
import { type Place, parseHash, DEFAULT_PLACE, formatHash } from "./pure/hash";
import { hasSpaceBetween } from "./pure/text";
import * as SAY from "./strings";
import { onPlace, progress, readPlace, writePlace } from "./client/transport";

export const place = signal<Place>(DEFAULT_PLACE);

const placeSignal = <K extends keyof Place>(name: K): ReadonlySignal<Place[K]> => computed(() => place.value[name]);
export const screen = placeSignal("screen");
export const recordingId = placeSignal("recording");
export const layerIndex = placeSignal("layer");
export const headIndex = computed(() => {
  const { head } = place.value;
  const kept = layer.value?.kept;
  return kept && !kept.includes(head) ? kept[0]! : head;
});
export const cell = placeSignal("cell");
export const step = placeSignal("step");
export const table = placeSignal("table");
export const pooling = placeSignal("pooling");
export const ramp = placeSignal("ramp");
export const log = placeSignal("log");
export const gamma = placeSignal("gamma");
export const rows = placeSignal("rows");

/** Changes fields of the place. */
export function go(change: Partial<Place>): void {
  place.value = { ...place.peek(), ...change };
}

export const errorMessage = signal("");
export const announcement = signal("");
export const dialog = signal<"" | "help" | "goto" | "export">("");
export const buildProgress = signal<{ part: number; what: string } | null>(null);

/** Announces something to screen readers. */
export function announce(text: string): void {
  announcement.value = text;
}

export function showError(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  errorMessage.value = error instanceof TypeError ? SAY.serverLost : error instanceof Error ? error.message : String(error);
}

export interface Loaded<T> {
  readonly path: string | null;
  readonly value: T | null;
  readonly loading: boolean;
}

/** The answer to a path that changes; a request for an earlier path is aborted. */
export function resource<T>(path: () => string | null, fetcher: (path: string, signal: AbortSignal) => Promise<T>, wait = 0): ReadonlySignal<Loaded<T>> {
  const out = signal<Loaded<T>>({ path: null, value: null, loading: false });
  const currentPath = computed(path);
  effect(() => {
    const requested = currentPath.value;
    const abort = new AbortController();
    if (requested === null) {
      out.value = { path: null, value: null, loading: false };
      return;
    }
    const before = out.peek();
    out.value = { ...before, loading: true };
    const timer = setTimeout(() => {
      fetcher(requested, abort.signal).then(
        (value) => {
          if (!abort.signal.aborted) out.value = { path: requested, value, loading: false };
        },
        (error: unknown) => {
          if (abort.signal.aborted) return;
          out.value = { path: requested, value: null, loading: false };
          showError(error);
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
/** Loads the list of open recordings. */
export const loadRecordings = async () => (recordings.value = await json<RecordingLine[]>(paths.recordings));

const recordingAnswer = resource<Recording>(() => (recordingId.value ? paths.recording(recordingId.value) : null), json);
/** The recording that is open; null until it is known. */
export const recording = computed(() => (recordingAnswer.value.value?.id === recordingId.value ? recordingAnswer.value.value : null));
// The progress of its pyramids, until they are complete.
effect(() => {
  const id = recordingId.value;
  const abort = new AbortController();
  if (id)
    progress(abort.signal, (block) => {
      if (block && block.recording !== id) return;
      buildProgress.value = block && block.progress < 1 ? { part: block.progress, what: block.doing } : null;
      if (!block) abort.abort();
    });
  return () => {
    abort.abort();
    buildProgress.value = null;
  };
});
/** Descriptions of recordings other than the one that is open; null: requested. */
const otherRecordings = signal<Record<string, Recording | null>>({});

/** A recording's description, once it has come. */
export function recordingOf(id: string): Recording | null {
  const recording = otherRecordings.value[id];
  if (recording === undefined && id)
    queueMicrotask(() => {
      if (id in otherRecordings.peek()) return;
      otherRecordings.value = { ...otherRecordings.peek(), [id]: null };
      json<Recording>(paths.recording(id)).then((answer) => (otherRecordings.value = { ...otherRecordings.peek(), [id]: answer }), showError);
    });
  return recording ?? null;
}

export const layer = computed<Layer | null>(() => {
  const layers = recording.value?.layers;
  return layers?.find((layerInfo) => layerInfo.index === layerIndex.value) ?? layers?.[0] ?? null;
});

/** A path for the head that is shown. */
const ofHead = (make: (id: string, layer: number, head: number) => string) => (): string | null =>
  recording.value && layer.value ? make(recording.value.id, layer.value.index, headIndex.value) : null;

const showsCell = computed(() => screen.value !== "open" && screen.value !== "atlas");
export const cellPath = computed(() => {
  const at = cell.value;
  return at && showsCell.value ? ofHead((id, l, h) => paths.cell(id, l, h, at.query, at.key))() : null;
});
export const cellAnswer = resource<Cell>(() => cellPath.value, json, 40);
/** The arithmetic of the selected cell, once loaded. */
export const cellDetails = computed(() => (cellAnswer.value.path === cellPath.value ? cellAnswer.value.value : null));

/** The head that Compare subtracts: by default the next head of the layer. */
export const subtracted = computed(() => {
  const at = layer.value;
  const heads = at ? headsOf(at) : [0];
  return place.value.other || `${recordingId.value}/${at?.index ?? 0}/${heads[(heads.indexOf(headIndex.value) + 1) % heads.length]}`;
});
const differencePath = computed(() => {
  const at = cell.value;
  if (!at || screen.value !== "compare" || !recording.value || !layer.value) return null;
  const source = compared(`${recordingId.value}/${layer.value.index}/${headIndex.value}`, subtracted.value, "max");
  return source.path({ q0: at.query, q1: at.query + 1, k0: at.key, k1: at.key + 1, rows: 1, cols: 1 });
});
const differenceAnswer = resource<Values>(() => differencePath.value, raw, 40);
/** A − B at the selected cell, where Compare is open. */
export const difference = computed(() => (differenceAnswer.value.path === differencePath.value ? (differenceAnswer.value.value?.values[0] ?? null) : null));

const rowPath = computed(() => {
  const at = cell.value;
  return at && showsCell.value ? ofHead((id, l, h) => paths.row(id, l, h, at.query))() : null;
});
/** The row of the selected query, or the previous one while it loads; `rowValues` is never the previous one. */
export const rowAnswer = resource<Values>(() => rowPath.value, raw, 40);
export const rowValues = computed(() => (rowAnswer.value.path === rowPath.value ? rowAnswer.value.value : null));
const marginalsPath = computed(() => (screen.value === "map" || (screen.value === "row" && !cell.value) ? ofHead(paths.marginals)() : null));
const marginalsAnswer = resource<Values>(() => marginalsPath.value, raw, 80);
export const marginals = computed(() => (marginalsAnswer.value.path === marginalsPath.value ? marginalsAnswer.value.value : null));
export const strongest = resource<StrongestLinks>(() => (screen.value === "map" || screen.value === "row" ? ofHead(paths.strongest)() : null), json, 120);

/** The texts of tokens and where they begin, fetched in blocks when they are first looked at. */
const BLOCK = 2000;
interface Block {
  texts: string[];
  starts: number[];
}
const blocks = new Map<string, Block | Promise<void>>();
const blocksLoaded = signal(0);

/** The text of a token of the recording that is open, or of another; undefined until loaded. */
export function tokenText(index: number, id = recordingId.value): string | undefined {
  blocksLoaded.value;
  const at = Math.floor(index / BLOCK);
  const cached = blocks.get(`${id}/${at}`);
  const count = (recording.peek()?.id === id ? recording.peek()! : recordings.peek()?.find((entry) => entry.id === id))?.tokens ?? 0;
  if (cached === undefined && index >= 0 && index < count) {
    const stop = Math.min((at + 1) * BLOCK, count);
    const loading = json<Block>(paths.tokens(id, at * BLOCK, stop)).then(
      (block) => {
        blocks.set(`${id}/${at}`, block);
        blocksLoaded.value++;
      },
      (error: unknown) => {
        blocks.delete(`${id}/${at}`);
        showError(error);
      },
    );
    blocks.set(`${id}/${at}`, loading);
  }
  return cached && "texts" in cached ? cached.texts[index - at * BLOCK] : undefined;
}

/** Loads the texts of tokens start … stop of the open recording. */
export async function loadTokens(start: number, stop: number): Promise<void> {
  for (let i = start; i < stop; i += BLOCK) tokenText(i);
  tokenText(stop - 1);
  await Promise.all([...blocks.values()]);
}

/** The index of a query's own token: the last query is aligned with the last key. */
export const tokenOfQuery = (query: number) => query + Math.max((layer.value?.keys ?? 0) - (layer.value?.queries ?? 0), 0);

/** Whether the text has white space after a token that belongs to no token, as many tokenizers drop it. */
export function hasSpaceAfter(index: number, id = recordingId.value): boolean {
  const text = tokenText(index, id);
  const [start, next] = [index, index + 1].map((i) => {
    const cached = blocks.get(`${id}/${Math.floor(i / BLOCK)}`);
    return cached && "texts" in cached ? cached.starts[i % BLOCK] : undefined;
  });
  return text !== undefined && start !== undefined && next !== undefined && hasSpaceBetween(text, start, next);
}

/** Opens a recording at a screen, or another head of the one that is open. */
export function open(id: string, change: Partial<Place> = {}): void {
  const same = id === place.peek().recording;
  go({ ...(same ? {} : { layer: 0, head: 0, view: null, cell: null }), screen: "atlas", ...change, recording: id });
}

/** Selects a cell, clamped to the map; it is announced once its weight is known. */
export function selectCell(query: number, key: number): void {
  const at = layer.peek();
  if (!at) return;
  const bound = (x: number, most: number) => Math.min(Math.max(Math.round(x), 0), most - 1);
  go({ cell: { query: bound(query, at.queries), key: bound(key, at.keys) } });
}

effect(() => {
  const details = cellDetails.value;
  if (details) announce(SAY.cell(details.query.index, details.query.text, details.key.index, details.key.text, details.weight, details.allowed));
});

/** The next layer or head: the head stays within the layer. */
export function stepHead(layers: number, heads: number): void {
  const all = recording.peek()?.layers;
  const current = layer.peek();
  if (!all || !current) return;
  const next = all[Math.min(Math.max(all.indexOf(current) + layers, 0), all.length - 1)]!;
  const kept = headsOf(next);
  const at = kept.findIndex((index) => index >= headIndex.peek());
  const head = kept[Math.min(Math.max((at < 0 ? kept.length - 1 : at) + heads, 0), kept.length - 1)]!;
  go({ layer: next.index, head });
  announce(SAY.head(next.index, head));
}

let strongestIndex = -1;
let strongestPath: string | null = null;
/** The next strongest weight, or the one before. */
export function stepStrongest(by: number): void {
  const { path, value, loading } = strongest.peek();
  if (!value?.cells.length || loading) return;
  if (path !== strongestPath) {
    strongestPath = path;
    strongestIndex = -1;
  }
  strongestIndex = Math.min(Math.max(strongestIndex + by, 0), value.cells.length - 1);
  const strong = value.cells[strongestIndex]!;
  selectCell(strong.query, strong.key);
}

let writeTimer = 0;

/** Follows the hash that names the place, and writes it. */
export function start(): void {
  const follow = () => {
    const named = parseHash(readPlace());
    if (formatHash(named) !== formatHash(place.peek())) place.value = named;
  };
  batch(follow);
  onPlace(follow);
  let before = place.peek();
  effect(() => {
    const now = place.value;
    clearTimeout(writeTimer);
    writeTimer = window.setTimeout(() => {
      const addToHistory = now.screen !== before.screen || now.recording !== before.recording || now.layer !== before.layer || now.head !== before.head;
      writePlace(formatHash(now), addToHistory);
      before = now;
    }, 180);
  });
  loadRecordings().then((list) => {
    const now = place.peek();
    if (now.recording && !list.some((entry) => entry.id === now.recording)) go({ ...DEFAULT_PLACE });
    else if (!now.recording && list.length === 1 && now.screen !== "open") go({ recording: list[0]!.id });
    else if (!now.recording && now.screen !== "open" && now.screen !== "lesson") go({ screen: "open" });
  }, showError);
}

export const extentOfLayer = () => ({ queries: layer.peek()?.queries ?? 1, keys: layer.peek()?.keys ?? 1 });
