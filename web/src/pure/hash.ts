// The state in the URL's hash: which weights are shown and how, never the text.
import { RAMPS, type Ramp } from "./ramps";

export const SCREENS = ["open", "atlas", "map", "row", "lesson", "compare"] as const;
export type Screen = (typeof SCREENS)[number];
export const POOLINGS = ["max", "mean", "sum"] as const;
export type Pooling = (typeof POOLINGS)[number];
/** The topic of the lesson: the selected weight (without one, the example), the small example, or one of the two questions. */
export const LESSON_TOPICS = ["", "words", "why", "context"] as const;
export type LessonTopic = (typeof LESSON_TOPICS)[number];

export interface Place {
  readonly screen: Screen;
  readonly recording: string;
  readonly layer: number;
  readonly head: number;
  /** Query and key at the middle of the map, and pixels per weight; null: everything. */
  readonly view: { readonly q: number; readonly k: number; readonly scale: number } | null;
  readonly cell: { readonly query: number; readonly key: number } | null;
  readonly pooling: Pooling;
  readonly ramp: Ramp;
  readonly log: boolean;
  readonly gamma: number;
  /** Each row divided by its largest weight on screen. */
  readonly rows: boolean;
  readonly step: number;
  readonly topic: LessonTopic;
  /** The vector component that a step of the lesson shows; null: the largest. */
  readonly component: number | null;
  /** What Compare subtracts: recording/layer/head. */
  readonly other: string;
  /** Compare shows both rows over their texts instead of the map. */
  readonly beside: boolean;
  /** The table instead of the picture. */
  readonly table: boolean;
}

export const DEFAULT_PLACE: Place = {
  screen: "open",
  recording: "",
  layer: 0,
  head: 0,
  view: null,
  cell: null,
  pooling: "max",
  ramp: "viridis",
  log: true,
  gamma: 0.5,
  rows: false,
  step: 1,
  topic: "",
  component: null,
  other: "",
  beside: false,
  table: false,
};

const plain = (value: number) => String(Number(value.toPrecision(9)));
const whole = (text: string) => (/^\d{1,9}$/.test(text) ? Number(text) : null);

/** Formats and parses a field; text that is not valid parses to null. */
type Codec<T> = readonly [(value: T) => string, (text: string) => T | null];
const WHOLE_NUMBER: Codec<number> = [String, whole];
const FLAG: Codec<boolean> = [(on) => (on ? "1" : "0"), (text) => (text === "1" || text === "0" ? text === "1" : null)];
const text = (most: number): Codec<string> => [(value) => value, (text) => text.slice(0, most)];
const oneOf = <T extends string>(all: readonly T[]): Codec<T> => [(value) => value, (text) => all.find((name) => name === text) ?? null];
const within = (least: number, most: number, parse: (text: string) => number | null): Codec<number> => [
  plain,
  (text) => {
    const value = parse(text);
    return value !== null && value >= least && value <= most ? value : null;
  },
];
/** A fixed count of non-negative numbers. */
function numberList<T>(count: number, split: (value: T) => number[], join: (numbers: number[]) => T | null): Codec<T | null> {
  return [
    (value) => split(value!).map(plain).join(","),
    (text) => {
      const numbers = text.split(",").map((item) => (item.trim() ? Number(item) : NaN));
      return numbers.length === count && numbers.every((x) => Number.isFinite(x) && x >= 0) ? join(numbers) : null;
    },
  ];
}

/** Every field but the screen: its name in the hash, and its codec. */
const FIELDS: { [K in Exclude<keyof Place, "screen">]: readonly [string, Codec<Place[K]>] } = {
  recording: ["r", text(100)],
  layer: ["layer", WHOLE_NUMBER],
  head: ["head", WHOLE_NUMBER],
  view: ["at", numberList<NonNullable<Place["view"]>>(3, ({ q, k, scale }) => [q, k, scale], ([q, k, scale]) => (scale ? { q: q!, k: k!, scale } : null))],
  cell: ["cell", numberList<NonNullable<Place["cell"]>>(2, ({ query, key }) => [query, key], (both) => (both.every(Number.isInteger) ? { query: both[0]!, key: both[1]! } : null))],
  pooling: ["pool", oneOf(POOLINGS)],
  ramp: ["ramp", oneOf(RAMPS)],
  log: ["log", FLAG],
  gamma: ["gamma", within(0.1, 4, Number)],
  rows: ["rows", FLAG],
  step: ["step", within(1, 9, whole)],
  topic: ["about", oneOf(LESSON_TOPICS)],
  component: ["i", [String, whole]],
  other: ["minus", text(120)],
  beside: ["beside", FLAG],
  table: ["table", FLAG],
};
const FIELD_LIST = Object.entries(FIELDS) as [keyof Place, readonly [string, Codec<unknown>]][];

/** The hash without its #; default values are left out. */
export function formatHash(place: Place): string {
  const params = new URLSearchParams();
  for (const [part, [name, [write]]] of FIELD_LIST) if (place[part] !== DEFAULT_PLACE[part]) params.set(name, write(place[part]));
  const rest = params.toString().replaceAll("%2C", ",").replaceAll("%2F", "/");
  return rest ? `${place.screen}?${rest}` : place.screen;
}

/** The place that a hash names; missing and invalid fields have their default. */
export function parseHash(hash: string): Place {
  const [head = "", rest = ""] = hash.replace(/^#/, "").split("?", 2);
  const params = new URLSearchParams(rest);
  const parts = FIELD_LIST.map(([part, [name, [, parse]]]) => [part, params.has(name) ? (parse(params.get(name)!) ?? DEFAULT_PLACE[part]) : DEFAULT_PLACE[part]]);
  return { ...Object.fromEntries(parts), screen: SCREENS.find((name) => name === head) ?? DEFAULT_PLACE.screen };
}
