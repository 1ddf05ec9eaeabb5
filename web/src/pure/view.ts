// The part of the map that is on screen. Queries run down, keys run right; a weight is a square of `scale` pixels.

export interface View {
  /** The query and the key at the middle, in weights: 412.5 is the middle of query 412. */
  readonly q: number;
  readonly k: number;
  /** CSS pixels for one weight. */
  readonly scale: number;
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

/** How many queries and keys there are. */
export interface Extent {
  readonly queries: number;
  readonly keys: number;
}

/** The largest zoom: closer, a weight only becomes a larger square. */
export const MAX_SCALE = 96;

/** The view that shows everything. */
export function fit(extent: Extent, size: Size): View {
  const scale = Math.min(size.width / extent.keys, size.height / extent.queries, MAX_SCALE);
  return { q: extent.queries / 2, k: extent.keys / 2, scale };
}

/** The view with its zoom and its middle clamped, so that some of the map stays visible. */
export function bounded(view: View, extent: Extent, size: Size): View {
  const least = fit(extent, size).scale * 0.8;
  const scale = Math.min(Math.max(view.scale, least), MAX_SCALE);
  const clamp = (x: number, most: number) => Math.min(Math.max(x, 0), most);
  return { q: clamp(view.q, extent.queries), k: clamp(view.k, extent.keys), scale };
}

export const xOf = (view: View, size: Size, k: number) => (k - view.k) * view.scale + size.width / 2;
export const yOf = (view: View, size: Size, q: number) => (q - view.q) * view.scale + size.height / 2;
export const kAt = (view: View, size: Size, x: number) => (x - size.width / 2) / view.scale + view.k;
export const qAt = (view: View, size: Size, y: number) => (y - size.height / 2) / view.scale + view.q;

/** Zoomed by a factor about the point (x, y), which does not move. */
export function zoomed(view: View, extent: Extent, size: Size, factor: number, x: number, y: number): View {
  const { scale } = bounded({ ...view, scale: view.scale * factor }, extent, size);
  const k = kAt(view, size, x) - (x - size.width / 2) / scale;
  const q = qAt(view, size, y) - (y - size.height / 2) / scale;
  return bounded({ q, k, scale }, extent, size);
}

/** Dragged by so many pixels. */
export function panned(view: View, extent: Extent, size: Size, dx: number, dy: number): View {
  return bounded({ ...view, k: view.k - dx / view.scale, q: view.q - dy / view.scale }, extent, size);
}

/** The view in which a box of pixels fills the canvas. */
export function boxed(view: View, extent: Extent, size: Size, box: { x0: number; y0: number; x1: number; y1: number }): View {
  const wide = Math.max(Math.abs(box.x1 - box.x0), 4);
  const high = Math.max(Math.abs(box.y1 - box.y0), 4);
  const k = kAt(view, size, (box.x0 + box.x1) / 2);
  const q = qAt(view, size, (box.y0 + box.y1) / 2);
  return bounded({ q, k, scale: view.scale * Math.min(size.width / wide, size.height / high) }, extent, size);
}

/** The view, moved if a cell is outside it. */
export function showing(view: View, extent: Extent, size: Size, query: number, key: number): View {
  const inside = (middle: number, at: number, span: number) => {
    const reach = Math.max(span / view.scale / 2 - 1, 0.5);
    return Math.abs(at + 0.5 - middle) <= reach ? middle : at + 0.5;
  };
  return bounded({ ...view, q: inside(view.q, query, size.height), k: inside(view.k, key, size.width) }, extent, size);
}

/** The rectangle of weights that is on screen: whole queries and keys, stops exclusive. */
export function visible(view: View, extent: Extent, size: Size) {
  const within = (x: number, most: number) => Math.min(Math.max(x, 0), most);
  return {
    q0: within(Math.floor(qAt(view, size, 0)), extent.queries),
    q1: within(Math.ceil(qAt(view, size, size.height)), extent.queries),
    k0: within(Math.floor(kAt(view, size, 0)), extent.keys),
    k1: within(Math.ceil(kAt(view, size, size.width)), extent.keys),
  };
}

/** The step of 1, 2, 5, 10, … weights between marks that are at least `spacing` pixels apart. */
export function stepFor(scale: number, spacing: number): number {
  let step = 1;
  for (let i = 0; step * scale < spacing; i++) step *= [2, 2.5, 2][i % 3]!;
  return step;
}
