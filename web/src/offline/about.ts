// What an offline page says of itself, in #regard-about: see regard/explorer/offline.py, which writes it.
import type { HeadStatistics, Recording, RecordingLine } from "../api";

export interface About {
  readonly format: number;
  readonly recordings: RecordingLine[];
  readonly runs: Readonly<Record<string, Run>>;
  /** Worked examples by "text|tied|causal|divisor". */
  readonly lesson?: Readonly<Record<string, object>>;
  readonly context?: Context | null;
  readonly arrays: Readonly<Record<string, Stored>>;
}

export interface Context {
  readonly a: { text: string };
  readonly b: { text: string };
  readonly heads: { layer: number; head: number }[];
}

export interface Run {
  readonly recording: Recording;
  readonly tokens: { texts: string[]; starts: number[] };
  readonly heads: HeadStatistics[];
  readonly telling?: unknown;
  /** As many as the recording's, in its order. */
  readonly layers: LayerFacts[];
}

/** A layer's call in its normal form, so far as it is not arrays. */
export interface LayerFacts {
  readonly index: number;
  /** The heads that the arrays hold, in their order, and the row of k and v that each reads. */
  readonly kept: number[];
  readonly group: number[];
  readonly scale: number;
  readonly softcap: number | null;
  /** The key at the place of query 0. */
  readonly shift: number;
  /** Weights along a cell of the coarse maps; 0: there are none. */
  readonly cell: number;
}

export interface Stored {
  readonly dtype: "float32" | "float16" | "bfloat16" | "int32" | "uint64";
  readonly shape: number[];
  readonly gzip: boolean;
}

export const FORMAT = 1;
