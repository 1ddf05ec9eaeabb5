// The JSON of the server's requests and responses. Generated from the table of routes, regard.explorer.routes:
//   python -m regard.explorer.typescript > web/src/client/types.ts
// A number may be null, too, where it is not finite: that is declared where masks make it so.

/** A recording in the list of those that are open. */
export interface RecordingLine {
  id: string;
  name: string;
  model: string;
  tokens: number;
  bytes: number;
}

/** A recording and its layers. */
export interface RecordingDescription {
  id: string;
  name: string;
  model: string;
  versions: Record<string, string>;
  tokens: number;
  batch: number;
  exact: boolean;
  error: string;
  layers: LayerDescription[];
}

/** A layer: its sizes and, as text, its mask, bias and score; None is no mask or bias. */
export interface LayerDescription {
  index: number;
  name: string;
  heads: number;
  groups: number;
  queries: number;
  keys: number;
  size: number;
  mask: string | null;
  bias: string | null;
  score: string;
  values: boolean;
  inputs: boolean;
}

/** The texts of some tokens, and where each begins in the whole text. */
export interface Tokens {
  start: number;
  texts: string[];
  starts: number[];
}

/** The tokens in which a text begins. */
export interface SearchMatches {
  tokens: number[];
}

/** Statistics of every head, and the heads that are worth showing. */
export interface Atlas {
  heads: HeadSummary[];
  highlights: Highlight[];
}

/** One head, as the explorer's atlas shows it. */
export interface HeadSummary {
  layer: number;
  head: number;
  entropy: number;
  support: number;
  first: number;
  previous: number;
  distance: number;
  top: number;
  received: number;
  redundancy: Redundancy | null;
}

/** The head whose weights are most like those of a given head, and their cosine similarity. */
export interface Redundancy {
  layer: number;
  head: number;
  similarity: number;
}

/** A head that is worth showing, and why. */
export interface Highlight {
  layer: number;
  head: number;
  title: string;
  why: string;
}

/** The progress of what is being computed, from 0 to 1, and the current step. */
export interface ProgressReport {
  progress: number;
  doing: string;
}

/** The strongest weights of a head, strongest first. */
export interface StrongestLinks {
  cells: StrongLink[];
}

/** A query and key, and their weight. */
export interface StrongLink {
  query: number;
  key: number;
  weight: number;
}

/** One weight, and how it is computed. */
export interface CellDescription {
  q: number[];
  k: number[];
  products: number[];
  dot: number | null;
  scale: number | null;
  scaled: number | null;
  softcap: Softcap | null;
  max: number | null;
  exp: number;
  sum: number;
  sink: number | null;
  allowed: boolean;
  bias: number | null;
  score: number | null;
  weight: number;
  lse: number | null;
  row: RowExcerpt;
  values: ValueSum | null;
  inputs: InputProducts | null;
  query: TokenDescription;
  key: TokenDescription;
}

/** The soft-cap c, and c · tanh(score / c). */
export interface Softcap {
  cap: number;
  score: number;
}

/** Some keys of a row, with their scores and weights. */
export interface RowExcerpt {
  keys: number[];
  scores: (number | null)[];
  weights: number[];
}

/** A head's output at a query: the weighted sum of the values `vs` of some keys, and of all others (`rest`). */
export interface ValueSum {
  v: number[];
  out: number[];
  keys: number[];
  vs: number[][];
  rest: number[];
}

/** One component of q, of k and of v. */
export interface InputProducts {
  component: number;
  q: InputProduct;
  k: InputProduct;
  v: InputProduct;
}

/** One component of q, k or v as x · w + bias, of what the layer read; `between` are modules that follow. */
export interface InputProduct {
  component: number;
  x: number[];
  w: number[];
  sum: number;
  bias: number | null;
  projected: number;
  recorded: number | null;
  between: string[];
}

/** The index of a query or key, and the text of its token. */
export interface TokenDescription {
  index: number;
  text: string;
}

/** The outputs of all heads at a query. */
export interface HeadOutputsAtQuery {
  heads: number[][] | null;
  projected: ProjectedComponent | null;
  query: TokenDescription;
}

/** One component of a layer's output: Σ over heads of o · w, plus the bias. */
export interface ProjectedComponent {
  component: number;
  size: number;
  w: number[][];
  parts: number[];
  bias: number | null;
  out: number;
}

/** An offline page: its size in bytes, dtype and error of its numbers, and its layers. */
export interface OfflinePageSummary {
  bytes: number;
  dtype: string;
  error: string;
  layers: number[];
}

/** The worked example of `regard learn`: a table of numbers, and matrices of indices into it. */
export interface WorkedExample {
  words: string[];
  labels: string[];
  chosen: boolean;
  numbers: ExampleNumber[];
  x: number[][];
  heads: ExampleHead[];
  w_o: number[][];
  concat: number[][];
  out: number[][];
}

/** A number of the worked example, and the indices of the numbers of which it was computed. */
export interface ExampleNumber {
  value: number | null;
  name: string;
  role: string;
  how: string;
  of: number[];
}

/** One head of the worked example, as indices into its numbers. */
export interface ExampleHead {
  w_q: number[][];
  w_k: number[][];
  w_v: number[][];
  q: number[][];
  k: number[][];
  v: number[][];
  scores: number[][];
  divisor: number;
  scaled: number[][];
  masked: number[][];
  maxima: number[];
  shifted: number[][];
  exps: number[][];
  sums: number[];
  weights: number[][];
  out: number[][];
}

/** One token in two texts; `cosine` is the similarity of its vectors before the first layer and after each. */
export interface ContextExample {
  model: string;
  token: string;
  a: ContextText;
  b: ContextText;
  cosine: number[];
  heads: ContextHead[];
  chosen: ChosenHead;
}

/** A text, its tokens, and the index of the token that both texts share. */
export interface ContextText {
  text: string;
  tokens: string[];
  at: number;
}

/** The weights of the shared token in both texts, and the share of them that is on different tokens. */
export interface ContextHead {
  layer: number;
  head: number;
  a: number[];
  b: number[];
  apart: number;
}

/** The head to show first. */
export interface ChosenHead {
  layer: number;
  head: number;
}

/** The models that may record texts. */
export interface Models {
  models: ModelLine[];
  default: string;
}

/** A model that may record texts, and where it comes from. */
export interface ModelLine {
  name: string;
  description: string;
}

/** A job that is done, and the ID of its recording. */
export interface JobResult {
  job: string;
  id: string;
}

/** A job that runs. */
export interface JobProgress {
  progress: number;
  doing: string;
  job: string;
}

/** A text to record, and the name of one of /api/models. */
export interface TextUpload {
  text: string;
  model?: string;
}

/** A job, and whether it still ran when it was cancelled. */
export interface JobCancelled {
  job: string;
  cancelled: boolean;
}

/** The ID of a recording that was opened. */
export interface NewRecording {
  id: string;
}

/** The body of every response of status 400 and above. */
export interface ErrorBody {
  error: ErrorParts;
}

/** What was wrong, what was given, what is allowed, and what to do. */
export interface ErrorParts {
  argument: string;
  given: string;
  allowed: string;
  remedy: string;
}
