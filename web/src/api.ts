// What the server is asked, or what stands for it (transport.ts). Every refusal comes as a sentence.
import { floats, halves } from "./pure/half";
import type { Pooling } from "./pure/hash";
import type { Box } from "./pure/tiles";
import { type Answer, ask, type Init, progress } from "./transport";

export interface RecordingLine {
  id: string;
  name: string;
  model: string;
  tokens: number;
  bytes: number;
}

export interface Layer {
  index: number;
  name: string;
  heads: number;
  /** The heads that an offline page holds, where those are not all. */
  kept?: number[];
  groups: number;
  queries: number;
  keys: number;
  size: number;
  mask: string | null;
  bias: string | null;
  score: string;
  values: boolean;
  /** Whether what the layer read is there, with its matrices. */
  inputs?: boolean;
}

export const headsOf = (layer: Layer): number[] => layer.kept ?? Array.from({ length: layer.heads }, (_, i) => i);

export interface Recording {
  id: string;
  name: string;
  model: string;
  versions: Record<string, string>;
  tokens: number;
  exact: boolean;
  error: string;
  layers: Layer[];
}

export interface HeadStatistics {
  layer: number;
  head: number;
  entropy: number;
  support: number;
  first: number;
  previous: number;
  distance: number;
  top: number;
  received: number;
  redundancy: { layer: number; head: number; similarity: number } | null;
}

export interface Cell {
  query: { index: number; text: string };
  key: { index: number; text: string };
  allowed: boolean;
  q: number[];
  k: number[];
  products: number[];
  dot: number;
  scale: number;
  scaled: number;
  softcap: { cap: number; score: number } | null;
  bias: number | null;
  score: number | null;
  max: number | null;
  exp: number;
  sum: number;
  sink: number | null;
  weight: number;
  lse: number | null;
  row: { keys: number[]; scores: (number | null)[]; weights: number[] };
  values: { v: number[]; out: number[] } | null;
}

export interface Strongest {
  cells: { query: number; key: number; weight: number }[];
}

export interface LessonNumber {
  value: number | null;
  name: string;
  role: string;
  how: string;
  of: number[];
}

type Grid = number[][];

export interface WordsHead {
  w_q: Grid;
  w_k: Grid;
  w_v: Grid;
  q: Grid;
  k: Grid;
  v: Grid;
  scores: Grid;
  divisor: number;
  scaled: Grid;
  masked: Grid;
  maxima: number[];
  shifted: Grid;
  exps: Grid;
  sums: number[];
  weights: Grid;
  out: Grid;
}

export interface Words {
  words: string[];
  labels: string[];
  chosen: boolean;
  numbers: LessonNumber[];
  x: Grid;
  heads: WordsHead[];
  w_o: Grid;
  concat: Grid;
  out: Grid;
}

/** What an offline page would be. */
export interface PageTold {
  bytes: number;
  dtype: string;
  error: string;
  layers: number[];
}

/** A rectangle of numbers, as it came. */
export interface Values {
  values: Float32Array;
  rows: number;
  cols: number;
  exact: boolean;
  /** Where pixels were moved to cells of so many weights, or are such cells; else 0. */
  cell: number;
}

/** What the server would not do, in its words. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** One answer; a refusal is thrown in its own words. */
export async function answer(path: string, signal?: AbortSignal, init?: Init): Promise<Answer> {
  const told = await ask(path, signal, init);
  if (told.status < 300) return told;
  let message = String(told.status);
  try {
    const { error } = JSON.parse(told.body as string) as { error: Record<string, string> };
    message = `${error.argument}: ${error.given} was given, ${error.allowed} is allowed. ${error.remedy}`;
  } catch {
    // Not ours: the status has to do.
  }
  throw new Refusal(told.status, message);
}

type Told = (part: number, doing: string) => void;

/** Waits until more of what a path is about is built: another layer, all of it, or nobody knows. */
async function built(path: string, signal?: AbortSignal, told?: Told): Promise<void> {
  const waiting = new AbortController();
  const leave = () => waiting.abort();
  signal?.addEventListener("abort", leave);
  let first: string | null = null;
  await new Promise<void>((done) => {
    waiting.signal.addEventListener("abort", () => done());
    progress(waiting.signal, (now) => {
      if (now && !path.includes(now.recording)) return;
      if (now) told?.(now.progress, now.doing);
      if (!now || now.doing !== (first ??= now.doing) || now.progress >= 1) leave();
    });
  });
  signal?.removeEventListener("abort", leave);
  signal?.throwIfAborted();
  await new Promise((resolve) => setTimeout(resolve, 100));
}

/** An answer in JSON; what is still being computed is asked for again, and its progress told. */
export async function json<T>(path: string, signal?: AbortSignal, progress?: Told, init?: Init): Promise<T> {
  for (;;) {
    const { status, body } = await answer(path, signal, init);
    const value: unknown = JSON.parse(body as string);
    if (status !== 202) return value as T;
    const now = value as { progress: number; doing: string };
    progress?.(now.progress, now.doing);
    await built(path, signal, progress);
  }
}

/** An answer to keep as a file. */
export async function file(path: string): Promise<Blob> {
  return new Blob([(await answer(path)).body]);
}

/** An answer in raw numbers. */
export async function raw(path: string, signal?: AbortSignal): Promise<Values> {
  for (let tries = 0; ; tries++) {
    try {
      const { status, headers, body } = await answer(path, signal);
      if (status === 202) {
        await built(path, signal);
        continue;
      }
      const buffer = body as ArrayBuffer;
      const values = headers["x-regard-dtype"] === "float16" ? halves(buffer) : floats(buffer);
      const [rows = 0, cols = 0] = (headers["x-regard-shape"] ?? "").split(",").map(Number);
      if (rows * cols !== values.length) throw new Refusal(0, `${values.length} numbers came where ${rows} × ${cols} were said`);
      return { values, rows, cols, exact: headers["x-regard-exact"] === "1", cell: Number(headers["x-regard-edges"] ?? 0) };
    } catch (error) {
      // The server has too much to do: a little later, a few times.
      if (!(error instanceof Refusal) || error.status !== 429 || tries >= 5) throw error;
      await new Promise((resolve) => setTimeout(resolve, 150 * 2 ** tries));
      signal?.throwIfAborted();
    }
  }
}

const of = (id: string) => `/api/recordings/${encodeURIComponent(id)}`;

export const paths = {
  recordings: "/api/recordings",
  recording: of,
  tokens: (id: string, start: number, stop: number) => `${of(id)}/tokens?start=${start}&stop=${stop}`,
  search: (id: string, text: string) => `${of(id)}/search?text=${encodeURIComponent(text)}&from=0`,
  atlas: (id: string) => `${of(id)}/atlas`,
  thumbnail: (id: string, layer: number, head: number) => `${of(id)}/thumbnail/${layer}/${head}`,
  row: (id: string, layer: number, head: number, query: number) => `${of(id)}/row/${layer}/${head}/${query}`,
  marginals: (id: string, layer: number, head: number) => `${of(id)}/marginals/${layer}/${head}`,
  strongest: (id: string, layer: number, head: number) => `${of(id)}/strongest/${layer}/${head}?count=100&skip=diagonal`,
  cell: (id: string, layer: number, head: number, query: number, key: number) => `${of(id)}/cell/${layer}/${head}/${query}/${key}`,
  page: (id: string, asked: URLSearchParams) => `${of(id)}/page?${asked}`,
  words: (text: string, tied: boolean, causal: boolean, divisor: number | null) =>
    `/api/lesson/words?text=${encodeURIComponent(text)}&tied=${tied ? 1 : 0}&causal=${causal ? 1 : 0}${divisor ? `&divisor=${divisor}` : ""}`,
};

/** Where the numbers of a map come from: one head, or the difference of two. */
export interface Source {
  readonly id: string;
  readonly signed: boolean;
  readonly pooling: Pooling;
  path(box: Box): string;
}

const boxed = (box: Box, how: Pooling) => `q=${box.q0},${box.q1}&k=${box.k0},${box.k1}&rows=${box.rows}&cols=${box.cols}&how=${how}`;

export function oneHead(id: string, layer: number, head: number, pooling: Pooling): Source {
  return {
    id: `${id}/${layer}/${head}/${pooling}`,
    signed: false,
    pooling,
    path: (box) => `${of(id)}/map/${layer}/${head}?${boxed(box, pooling)}`,
  };
}

export function difference(a: string, b: string, pooling: Pooling): Source {
  return {
    id: `${a}-${b}/${pooling}`,
    signed: true,
    pooling,
    path: (box) => `/api/compare?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}&${boxed(box, pooling)}`,
  };
}
