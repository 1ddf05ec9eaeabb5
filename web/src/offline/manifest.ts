// The manifest of an offline page, in #regard-about; regard.export.offline_page writes it.
import type { Recording } from "../client/requests";
import type { HeadSummary, RecordingLine } from "../client/types";

export interface Manifest {
  readonly format: number;
  readonly recordings: RecordingLine[];
  readonly runs: Readonly<Record<string, OfflineRecording>>;
  /** Worked examples by "text|tied|causal|divisor". */
  readonly lesson?: Readonly<Record<string, object>>;
  readonly context?: ContextExample | null;
  readonly arrays: Readonly<Record<string, ArrayEntry>>;
}

export interface ContextExample {
  readonly a: { text: string };
  readonly b: { text: string };
  readonly heads: { layer: number; head: number }[];
}

export interface OfflineRecording {
  readonly recording: Recording;
  readonly tokens: { texts: string[]; starts: number[] };
  readonly heads: HeadSummary[];
  readonly highlights?: unknown;
  /** As many as the recording's, in its order. */
  readonly layers: LayerFacts[];
}

/** A layer's call in canonical form, without its arrays. */
export interface LayerFacts {
  readonly index: number;
  /** The heads that the file holds, in the order of its arrays, and the row of k and v of each. */
  readonly kept: number[];
  readonly group: number[];
  readonly scale: number;
  readonly softcap: number | null;
  /** The key at the position of query 0. */
  readonly shift: number;
  /** Weights along a cell of the coarse maps; 0: there are none. */
  readonly cell: number;
}

export interface ArrayEntry {
  readonly dtype: "float32" | "float16" | "bfloat16" | "int32" | "uint64";
  readonly shape: number[];
  readonly gzip: boolean;
}

export const FORMAT = 1;
