// The map is cut into tiles of 256 × 256 pixels, at zoom-outs that are powers of two.
import { type Extent, type Size, type View, visible } from "./view";

export const SIDE = 256;

/** A rectangle of weights, stops exclusive, and the pixels into which it goes. */
export interface Box {
  readonly q0: number;
  readonly q1: number;
  readonly k0: number;
  readonly k1: number;
  readonly rows: number;
  readonly cols: number;
}

/** The weights under a tile are cut at the edge of the map. */
export interface Tile extends Box {
  /** A pixel of the tile pools 2^level × 2^level weights; at level 0 it is one weight. */
  readonly level: number;
  readonly row: number;
  readonly col: number;
}

/** The level at which the whole map is one tile. */
export function coarsest(extent: Extent): number {
  return Math.max(0, Math.ceil(Math.log2(Math.max(extent.queries, extent.keys) / SIDE)));
}

/** The level whose pixels are no smaller than the screen's, so that a maximum is never skipped. */
export function levelFor(scale: number, ratio: number, extent: Extent): number {
  const weightsPerPixel = 1 / (scale * ratio);
  const level = Math.ceil(Math.log2(weightsPerPixel) - 1e-9);
  return Math.min(Math.max(level, 0), coarsest(extent));
}

export function tileAt(extent: Extent, level: number, row: number, col: number): Tile {
  const block = 2 ** level;
  const q0 = row * SIDE * block;
  const k0 = col * SIDE * block;
  const q1 = Math.min(q0 + SIDE * block, extent.queries);
  const k1 = Math.min(k0 + SIDE * block, extent.keys);
  return { level, row, col, q0, q1, k0, k1, rows: Math.ceil((q1 - q0) / block), cols: Math.ceil((k1 - k0) / block) };
}

/** The tiles of one level that cover what is on screen, those nearest to its middle first. */
export function tilesIn(view: View, extent: Extent, size: Size, level: number): Tile[] {
  const { q0, q1, k0, k1 } = visible(view, extent, size);
  if (q0 >= q1 || k0 >= k1) return [];
  const span = SIDE * 2 ** level;
  const tiles: Tile[] = [];
  for (let row = Math.floor(q0 / span); row * span < q1; row++)
    for (let col = Math.floor(k0 / span); col * span < k1; col++) tiles.push(tileAt(extent, level, row, col));
  const distance = (t: Tile) => Math.hypot((t.q0 + t.q1) / 2 - view.q, (t.k0 + t.k1) / 2 - view.k);
  return tiles.sort((a, b) => distance(a) - distance(b));
}

/** The tile one level out that this one lies in. */
export function parent(extent: Extent, tile: Tile): Tile | null {
  if (tile.level >= coarsest(extent)) return null;
  return tileAt(extent, tile.level + 1, tile.row >> 1, tile.col >> 1);
}

/** The key of a tile in a cache. */
export const cacheKey = (source: string, tile: Tile) => `${source}|${tile.level}|${tile.row}|${tile.col}`;

/** How many pixels a tile is high and wide: its last ones may be cut by the edge of the map. */
export const pixelSize = ({ level, q0, q1, k0, k1 }: Tile) => ({ high: (q1 - q0) / 2 ** level, wide: (k1 - k0) / 2 ** level });

/** The pixel of a tile in which a weight lies. */
export function pixelOf(tile: Tile, query: number, key: number): { row: number; col: number } {
  const block = 2 ** tile.level;
  return { row: Math.floor((query - tile.q0) / block), col: Math.floor((key - tile.k0) / block) };
}

/** The weights that one pixel of a tile pools, stops exclusive. */
export function pooledBy({ level, q0, q1, k0, k1 }: Tile, row: number, col: number) {
  const block = 2 ** level;
  const cut = (start: number, place: number, stop: number) => Math.min(start + place * block, stop);
  return { q0: cut(q0, row, q1), q1: cut(q0, row + 1, q1), k0: cut(k0, col, k1), k1: cut(k0, col + 1, k1) };
}

/** A rectangle whose pixels all pool equally many weights, and the position of its pixels in a tile. */
export interface TilePart extends Box {
  readonly top: number;
  readonly left: number;
}

/** The rectangles to request for a tile: its whole pixels, and separately those that the edge of the map cuts. */
export function requestParts({ level, q0, q1, k0, k1 }: Tile): TilePart[] {
  const sideParts = (start: number, stop: number) => {
    const whole = Math.floor((stop - start) / 2 ** level);
    const end = start + whole * 2 ** level;
    return [{ start, stop: end, count: whole, at: 0 }, { start: end, stop, count: 1, at: whole }].filter((side) => side.start < side.stop);
  };
  return sideParts(q0, q1).flatMap((q) =>
    sideParts(k0, k1).map((k) => ({ q0: q.start, q1: q.stop, k0: k.start, k1: k.stop, rows: q.count, cols: k.count, top: q.at, left: k.at })),
  );
}
