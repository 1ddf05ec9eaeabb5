// Requests to the server, or to what answers in its place (transport.ts). The types of the responses are in types.ts.
import { floats, halves } from "../pure/half";
import type { Pooling } from "../pure/hash";
import type { Box } from "../pure/tiles";
import { type Answer, ask, type Init, progress } from "./transport";
import type { CellDescription, ErrorBody, LayerDescription, ProgressReport, RecordingDescription } from "./types";

/** A layer; `kept` are the heads that an offline page contains, where those are not all. */
export type Layer = LayerDescription & { kept?: number[] };

export type Recording = Omit<RecordingDescription, "layers"> & { layers: Layer[] };

/** A weight of a dot product: those of other scores are not taken apart. */
export type Cell = CellDescription & { dot: number; scale: number; scaled: number };

export const headsOf = (layer: Layer): number[] => layer.kept ?? Array.from({ length: layer.heads }, (_, i) => i);

/** A rectangle of numbers. */
export interface Values {
  values: Float32Array;
  rows: number;
  cols: number;
  exact: boolean;
  /** The side of the cells to whose edges pixels were moved, in weights; 0 where they were not moved. */
  cell: number;
}

/** A response of status 400 or above, and its message. */
export class RequestFailure extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** A response; those of status 300 and above are thrown as `RequestFailure`. */
export async function answer(path: string, signal?: AbortSignal, init?: Init): Promise<Answer> {
  const response = await ask(path, signal, init);
  if (response.status < 300) return response;
  let message = String(response.status);
  try {
    const { error } = JSON.parse(response.body as string) as ErrorBody;
    message = `${error.argument}: ${error.given} was given, ${error.allowed} is allowed. ${error.remedy}`;
  } catch {
    // The body is not the server's: the status alone is the message.
  }
  throw new RequestFailure(response.status, message);
}

type OnProgress = (fraction: number, doing: string) => void;

/** Waits until another layer of the path's recording is built, or all of it, or progress is no longer reported. */
async function built(path: string, signal?: AbortSignal, onProgress?: OnProgress): Promise<void> {
  const waiting = new AbortController();
  const leave = () => waiting.abort();
  signal?.addEventListener("abort", leave);
  let first: string | null = null;
  await new Promise<void>((done) => {
    waiting.signal.addEventListener("abort", () => done());
    progress(waiting.signal, (now) => {
      if (now && !path.includes(now.recording)) return;
      if (now) onProgress?.(now.progress, now.doing);
      if (!now || now.doing !== (first ??= now.doing) || now.progress >= 1) leave();
    });
  });
  signal?.removeEventListener("abort", leave);
  signal?.throwIfAborted();
  await new Promise((resolve) => setTimeout(resolve, 100));
}

/** A response in JSON. While it is being computed the request is repeated, and its progress reported. */
export async function json<T>(path: string, signal?: AbortSignal, onProgress?: OnProgress, init?: Init): Promise<T> {
  for (;;) {
    const { status, body } = await answer(path, signal, init);
    const value: unknown = JSON.parse(body as string);
    if (status !== 202) return value as T;
    const now = value as ProgressReport;
    onProgress?.(now.progress, now.doing);
    await built(path, signal, onProgress);
  }
}

/** A response as a file. */
export async function file(path: string): Promise<Blob> {
  return new Blob([(await answer(path)).body]);
}

/** A response of numbers. */
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
      if (rows * cols !== values.length) throw new RequestFailure(0, `${values.length} numbers came where ${rows} × ${cols} were said`);
      return { values, rows, cols, exact: headers["x-regard-exact"] === "1", cell: Number(headers["x-regard-edges"] ?? 0) };
    } catch (error) {
      // Too many requests: repeat a few times, at growing intervals.
      if (!(error instanceof RequestFailure) || error.status !== 429 || tries >= 5) throw error;
      await new Promise((resolve) => setTimeout(resolve, 150 * 2 ** tries));
      signal?.throwIfAborted();
    }
  }
}

const of = (id: string) => `/api/recordings/${encodeURIComponent(id)}`;

const withComponent = (path: string, component: number | null) => (component === null ? path : `${path}?component=${component}`);

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
  page: (id: string, options: URLSearchParams) => `${of(id)}/page?${options}`,
  words: (text: string, tied: boolean, causal: boolean, divisor: number | null) =>
    `/api/lesson/words?text=${encodeURIComponent(text)}&tied=${tied ? 1 : 0}&causal=${causal ? 1 : 0}${divisor ? `&divisor=${divisor}` : ""}`,
  component: withComponent,
  heads: (id: string, layer: number, query: number, component: number | null) =>
    withComponent(`/api/recordings/${encodeURIComponent(id)}/heads/${layer}/${query}`, component),
  context: (a: string, b: string) => `/api/lesson/context${a || b ? `?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}` : ""}`,
  models: "/api/models",
  open: "/api/open",
  job: (job: string) => `/api/open/${encodeURIComponent(job)}`,
  arrays: (name: string, causal: boolean, scale: string) =>
    `/api/arrays?causal=${causal ? 1 : 0}&name=${encodeURIComponent(name)}${scale ? `&scale=${encodeURIComponent(scale)}` : ""}`,
};

/** The source of a map: one head, or the difference of two. */
export interface MapSource {
  readonly id: string;
  readonly signed: boolean;
  readonly pooling: Pooling;
  path(box: Box): string;
}

const boxed = (box: Box, how: Pooling) => `q=${box.q0},${box.q1}&k=${box.k0},${box.k1}&rows=${box.rows}&cols=${box.cols}&how=${how}`;

export function oneHead(id: string, layer: number, head: number, pooling: Pooling): MapSource {
  return {
    id: `${id}/${layer}/${head}/${pooling}`,
    signed: false,
    pooling,
    path: (box) => `${of(id)}/map/${layer}/${head}?${boxed(box, pooling)}`,
  };
}

export function difference(a: string, b: string, pooling: Pooling): MapSource {
  return {
    id: `${a}-${b}/${pooling}`,
    signed: true,
    pooling,
    path: (box) => `/api/compare?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}&${boxed(box, pooling)}`,
  };
}
