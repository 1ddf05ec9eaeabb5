// The interface of the painters, and the row maxima for row normalisation.
import type { Tone } from "../pure/tone";
import { type Size, type View, xOf, yOf } from "../pure/view";
import type { DrawnTile, LoadedTile } from "./loader";

export interface Scene extends Size {
  /** Device pixels for one CSS pixel. */
  readonly ratio: number;
  readonly view: View;
  readonly drawn: readonly DrawnTile[];
  readonly tone: Tone;
  /** 256 colours. */
  readonly table: Uint8Array<ArrayBuffer>;
  /** Whether each row is divided by its greatest on screen. */
  readonly rows: boolean;
}

export interface Painter {
  readonly kind: "webgl2" | "canvas2d";
  paint(scene: Scene): void;
  dispose(): void;
}

const bandKey = (loaded: LoadedTile) => `${loaded.tile.level}/${loaded.tile.row}`;

/** For each band of tiles side by side, the greatest of each row. */
export function bands(scene: Scene): Map<string, Float32Array<ArrayBuffer>> {
  const out = new Map<string, Float32Array<ArrayBuffer>>();
  for (const { loaded } of scene.drawn) {
    const name = bandKey(loaded);
    const most = out.get(name) ?? new Float32Array(loaded.tile.rows);
    loaded.rows.forEach((value, r) => (most[r] = Math.max(most[r]!, value)));
    out.set(name, most);
  }
  return out;
}

export const bandOf = (all: Map<string, Float32Array<ArrayBuffer>>, loaded: LoadedTile) => all.get(bandKey(loaded))!;

/** Where a tile lies, in CSS pixels. */
export function boxOf(scene: Scene, loaded: LoadedTile) {
  const { q0, q1, k0, k1 } = loaded.tile;
  const [x0, x1] = [xOf(scene.view, scene, k0), xOf(scene.view, scene, k1)];
  const [y0, y1] = [yOf(scene.view, scene, q0), yOf(scene.view, scene, q1)];
  return { x0, x1, y0, y1 };
}
