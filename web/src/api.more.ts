// Answers that the lesson and the first screen ask for: where vectors come from, heads side by side, one word in two texts, models.
import type { Cell } from "./api";

/** One component of q, k or v: what the projection read, its row of the matrix, and what came of it. */
export interface Part {
  component: number;
  x: number[];
  w: number[];
  sum: number;
  bias: number | null;
  projected: number;
  recorded: number | null;
  between: string[];
}

export interface Inputs {
  component: number;
  q: Part;
  k: Part;
  v: Part | null;
}

/** A cell with its output, key by key; and its inputs, where the recording has them. */
export interface CellMore extends Cell {
  values: { v: number[]; out: number[]; keys?: number[]; vs?: number[][]; rest?: number[] } | null;
  inputs?: Inputs | null;
}

/** Every head of a layer at one query; `projected`: one component of the layer's output, head by head. */
export interface HeadsTold {
  query: { index: number; text: string };
  heads: number[][] | null;
  projected: { component: number; size: number; w: number[][]; parts: number[]; bias: number | null; out: number } | null;
}

export interface ContextSide {
  text: string;
  tokens: string[];
  at: number;
}

/** One token in two texts: its row of weights in each, by head, and how alike its vectors are after each layer. */
export interface Context {
  model: string;
  token: string;
  a: ContextSide;
  b: ContextSide;
  cosine: number[];
  heads: { layer: number; head: number; a: number[]; b: number[]; apart: number }[];
  chosen: { layer: number; head: number };
}

export interface Telling {
  layer: number;
  head: number;
  title: string;
  why: string;
}

export interface Models {
  models: { name: string; told: string }[];
  default: string;
}

export const more = {
  component: (cell: string, component: number | null) => (component === null ? cell : `${cell}?component=${component}`),
  heads: (id: string, layer: number, query: number, component: number | null) =>
    more.component(`/api/recordings/${encodeURIComponent(id)}/heads/${layer}/${query}`, component),
  context: (a: string, b: string) => `/api/lesson/context${a || b ? `?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}` : ""}`,
  models: "/api/models",
  open: "/api/open",
  job: (job: string) => `/api/open/${encodeURIComponent(job)}`,
  arrays: (name: string, causal: boolean, scale: string) =>
    `/api/arrays?causal=${causal ? 1 : 0}&name=${encodeURIComponent(name)}${scale ? `&scale=${encodeURIComponent(scale)}` : ""}`,
};
