// The place in the URL's hash: what is looked at and how, never the text.
import { RAMPS, type Ramp } from "./ramps";

export const SCREENS = ["open", "atlas", "map", "row", "lesson", "compare"] as const;
export type Screen = (typeof SCREENS)[number];
export const POOLINGS = ["max", "mean", "sum"] as const;
export type Pooling = (typeof POOLINGS)[number];
/** What the lesson is about: the held weight (or the words, where none is held), the words, or one of the questions. */
export const ABOUT = ["", "words", "why", "context"] as const;
export type About = (typeof ABOUT)[number];

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
  readonly about: About;
  /** The component that a step of the lesson looks into; null: the largest. */
  readonly component: number | null;
  /** What Compare subtracts: recording/layer/head. */
  readonly other: string;
  /** Compare shows both rows over their texts instead of the map. */
  readonly beside: boolean;
  /** The table twin instead of the picture. */
  readonly table: boolean;
}

export const START: Place = {
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
  about: "",
  component: null,
  other: "",
  beside: false,
  table: false,
};

const plain = (value: number) => String(Number(value.toPrecision(9)));

/** The hash without its #; what is as at the start is left out. */
export function written(place: Place): string {
  const said = new URLSearchParams();
  const put = (name: string, value: string, usual: string) => value !== usual && said.set(name, value);
  put("r", place.recording, "");
  put("layer", String(place.layer), "0");
  put("head", String(place.head), "0");
  if (place.view) said.set("at", [place.view.q, place.view.k, place.view.scale].map(plain).join(","));
  if (place.cell) said.set("cell", `${place.cell.query},${place.cell.key}`);
  put("pool", place.pooling, START.pooling);
  put("ramp", place.ramp, START.ramp);
  put("log", place.log ? "1" : "0", "1");
  put("gamma", plain(place.gamma), plain(START.gamma));
  put("rows", place.rows ? "1" : "0", "0");
  put("step", String(place.step), "1");
  put("about", place.about, "");
  if (place.component !== null) said.set("i", String(place.component));
  put("minus", place.other, "");
  put("beside", place.beside ? "1" : "0", "0");
  put("table", place.table ? "1" : "0", "0");
  const rest = said.toString().replaceAll("%2C", ",").replaceAll("%2F", "/");
  return rest ? `${place.screen}?${rest}` : place.screen;
}

/** The place that a hash names. What it does not name, or names wrongly, is as at the start. */
export function read(hash: string): Place {
  const [head = "", rest = ""] = hash.replace(/^#/, "").split("?", 2);
  const said = new URLSearchParams(rest);
  const among = <T extends string>(all: readonly T[], given: string | null, usual: T): T =>
    all.find((one) => one === given) ?? usual;
  const whole = (text: string | null, usual: number): number => (text && /^\d{1,9}$/.test(text) ? Number(text) : usual);
  const list = (name: string, count: number): number[] | null => {
    const numbers = (said.get(name) ?? "").split(",").map((text) => (text.trim() ? Number(text) : NaN));
    return numbers.length === count && numbers.every((x) => Number.isFinite(x) && x >= 0) ? numbers : null;
  };
  const view = list("at", 3);
  const cell = list("cell", 2);
  const gamma = Number(said.get("gamma") ?? START.gamma);
  return {
    screen: among(SCREENS, head, START.screen),
    recording: (said.get("r") ?? "").slice(0, 100),
    layer: whole(said.get("layer"), 0),
    head: whole(said.get("head"), 0),
    view: view && view[2]! > 0 ? { q: view[0]!, k: view[1]!, scale: view[2]! } : null,
    cell: cell?.every(Number.isInteger) ? { query: cell[0]!, key: cell[1]! } : null,
    pooling: among(POOLINGS, said.get("pool"), START.pooling),
    ramp: among(RAMPS, said.get("ramp"), START.ramp),
    log: said.get("log") !== "0",
    gamma: gamma >= 0.1 && gamma <= 4 ? gamma : START.gamma,
    rows: said.get("rows") === "1",
    step: Math.min(Math.max(whole(said.get("step"), 1), 1), 9),
    about: among(ABOUT, said.get("about"), ""),
    component: /^\d{1,9}$/.test(said.get("i") ?? "") ? Number(said.get("i")) : null,
    beside: said.get("beside") === "1",
    other: (said.get("minus") ?? "").slice(0, 120),
    table: said.get("table") === "1",
  };
}
