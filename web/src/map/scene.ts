// What is painted: tiles, tones and colours of the map, and what is drawn over them.
import { signal } from "@preact/signals";
import type { MapSource } from "../client/requests";
import { colourTable } from "../pure/ramps";
import { levelFor } from "../pure/tiles";
import { roundUp, type Tone } from "../pure/tone";
import { cell, marginals, place, ramp, tokenOfQuery, tokenText } from "../state";
import * as SAY from "../strings";
import { type DrawnTile, loader } from "./loader";
import type { Colours, Overlay } from "./overlay";
import type { Scene } from "./painter";
import { extent, size, view } from "./viewport";

export const source = signal<MapSource | null>(null);
export const axisNames = signal({ queries: SAY.queries, keys: SAY.keys });
export const hover = signal<{ query: number; key: number; value: number; rows: number; cols: number; exact: boolean } | null>(null);
/** The box that is being dragged, to zoom into. */
export const box = signal<Overlay["box"]>(null);

export const dark = matchMedia("(prefers-color-scheme: dark)");

/** The tones of what is drawn: the top of the ramp is the greatest on screen, rounded up. */
function toneFor(drawn: readonly DrawnTile[], signed: boolean): Tone {
  const { log, gamma, rows } = place.value;
  let greatest = 0;
  for (const { loaded } of drawn) greatest = Math.max(greatest, loaded.greatest);
  const wide = Math.max(extent.value.keys, 10);
  return { log, gamma, decades: Math.min(Math.ceil(Math.log10(wide)) + 1, 6), greatest: rows ? 1 : roundUp(greatest), signed };
}

const tables = new Map<string, Uint8Array<ArrayBuffer>>();
export function colourTableNow(signed: boolean): Uint8Array<ArrayBuffer> {
  const name = signed ? (dark.matches ? "signedDark" : "signed") : ramp.value;
  if (!tables.has(name)) tables.set(name, colourTable(name));
  return tables.get(name)!;
}

/** The scene to paint now. */
export function sceneNow(ratio: number): { scene: Scene; level: number } | null {
  const from = source.value;
  if (!from) return null;
  loader.version.value;
  const v = view.value;
  const s = size.value;
  const level = levelFor(v.scale, ratio, extent.value);
  const drawn = loader.frame(from, extent.value, v, s, level);
  const tone = toneFor(drawn, from.signed);
  return { scene: { ...s, ratio, view: v, drawn, tone, table: colourTableNow(from.signed), rows: place.value.rows && !from.signed }, level };
}

export function overlayFor(scene: Scene, level: number, colours: Colours): Overlay {
  const answer = marginals.value;
  const values = !scene.tone.signed && answer && answer.values.length === extent.value.keys + extent.value.queries ? answer.values : null;
  return {
    scene, extent: extent.value, level, token: (i, query) => tokenText(query ? tokenOfQuery(i) : i), colours, names: axisNames.value, marginals: values,
    hover: hover.value, cell: cell.value, box: box.value,
  };
}

export function coloursOf(element: Element): Colours {
  const style = getComputedStyle(element);
  const property = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: property("ink"), soft: property("soft"), rule: property("rule"), paper: property("paper"), map: property("map"), query: property("query"), key: property("key"),
    weight: property("weight"), mono: property("mono"),
  };
}
