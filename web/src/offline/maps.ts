// Maps, rows and the strongest weights of a head, computed from q and k or from its coarse maps.
import type { MapRequest } from "./request";
import { type Head, SIDE } from "./head";
import type { Checkpoint } from "./scheduler";

/** A map that takes more multiplications than this is made from the coarse map, if there is one. */
export const MOST_PRODUCTS = 2 ** 31;

/** Coarse maps of a head: maxima and sums of cell × cell weights. */
export interface CoarseMap {
  readonly cell: number;
  readonly max: Float32Array;
  readonly sum: Float32Array;
}

/** The values of a map; `snapped`: pixel edges were moved to multiples of so many weights; 0: they were not. */
export interface MapValues {
  readonly values: Float32Array;
  readonly snapped: number;
}

/** Where pixels begin, and the last one ends: index i is in pixel ⌊i · count / span⌋. */
export const edges = (start: number, stop: number, count: number): number[] =>
  Array.from({ length: count + 1 }, (_, i) => start + Math.ceil((i * (stop - start)) / count));

/** Calls back with the weights of a rectangle, all but those that are 0 together. */
async function blocks(head: Head, box: Pick<MapRequest, "q0" | "q1" | "k0" | "k1">, checkpoint: Checkpoint, each: (query: number, key: number, weight: number) => void): Promise<void> {
  const scores = new Float64Array(SIDE * SIDE);
  const end = (at: number, stop: number) => Math.min((Math.floor(at / SIDE) + 1) * SIDE, stop);
  for (let q = box.q0; q < box.q1; q = end(q, box.q1)) {
    const qn = end(q, box.q1);
    const [first, last] = head.reach(q, qn);
    const stop = Math.min(last, box.k1);
    for (let k = Math.max(first, box.k0); k < stop; k = end(k, stop)) {
      const kn = end(k, stop);
      await checkpoint();
      if (!head.block(q, qn, k, kn, scores)) continue;
      for (let query = q, at = 0; query < qn; query++)
        for (let key = k; key < kn; key++, at++) each(query, key, head.weight(scores[at]!, query));
    }
  }
}

async function mapFromWeights(head: Head, request: MapRequest, checkpoint: Checkpoint): Promise<Float32Array> {
  const { q0, q1, k0, k1, rows, cols, how } = request;
  const out = new Float64Array(rows * cols);
  const pixelIndex = (span: number, count: number) => Int32Array.from({ length: span }, (_, i) => Math.floor((i * count) / span));
  const [down, across] = [pixelIndex(q1 - q0, rows), pixelIndex(k1 - k0, cols)];
  await blocks(head, request, checkpoint, (query, key, weight) => {
    const pixel = down[query - q0]! * cols + across[key - k0]!;
    if (how !== "max") out[pixel]! += weight;
    else if (weight > out[pixel]!) out[pixel] = weight;
  });
  if (how === "mean") {
    const [top, left] = [edges(q0, q1, rows), edges(k0, k1, cols)];
    for (let r = 0, at = 0; r < rows; r++)
      for (let c = 0; c < cols; c++, at++) out[at]! /= (top[r + 1]! - top[r]!) * (left[c + 1]! - left[c]!);
  }
  return Float32Array.from(out);
}

/** The cells of each pixel along one side, and how many weights they cover.
 *  A pixel that is finer than cells takes the cell of its middle. */
function sides(whole: number, start: number, stop: number, count: number, cell: number, finerThanCells: boolean) {
  const at = edges(start, stop, count);
  const last = Math.ceil(whole / cell);
  const nearestCell = (edge: number) => (edge === whole ? last : Math.floor((edge + cell / 2) / cell));
  return Array.from({ length: count }, (_, i) => {
    const [a, b] = [at[i]!, at[i + 1]!];
    const from = finerThanCells ? Math.floor((a + b) / 2 / cell) : nearestCell(a);
    const to = finerThanCells ? from + 1 : nearestCell(b);
    return { from, to, covered: Math.min(to * cell, whole) - from * cell };
  });
}

/** The shape of a head, which is known before its arrays are decoded. */
export interface HeadShape {
  readonly queries: number;
  readonly keys: number;
  readonly size: number;
}

/** A map made of the cells of a coarse map. */
export function mapFromCells(head: HeadShape, request: MapRequest, coarse: CoarseMap, finerThanCells: boolean): Float32Array {
  const { cell, max, sum } = coarse;
  const cells = request.how === "max" ? max : sum;
  const wide = Math.ceil(head.keys / cell);
  const across = sides(head.keys, request.k0, request.k1, request.cols, cell, finerThanCells);
  const out = new Float32Array(request.rows * request.cols);
  let at = 0;
  for (const q of sides(head.queries, request.q0, request.q1, request.rows, cell, finerThanCells))
    for (const k of across) {
      let value = 0;
      for (let r = q.from; r < q.to; r++)
        for (let c = k.from; c < k.to; c++) {
          const cellValue = cells[r * wide + c]!;
          value = request.how === "max" ? Math.max(value, cellValue) : value + cellValue;
        }
      out[at++] = request.how === "mean" ? value / (q.covered * k.covered) : value;
    }
  return out;
}

/** The values of a map; the head's arrays are decoded only where its weights have to be computed. */
export async function mapValues(head: HeadShape, open: () => Promise<Head>, request: MapRequest, coarse: CoarseMap | null, checkpoint: Checkpoint, most = MOST_PRODUCTS): Promise<MapValues> {
  if (coarse) {
    const { cell } = coarse;
    const [high, wide] = [request.q1 - request.q0, request.k1 - request.k0];
    const exact = request.rows === high && request.cols === wide;
    const edgesOnCells = (start: number, stop: number, count: number, whole: number) =>
      edges(start, stop, count).every((edge) => edge % cell === 0 || edge === whole);
    const aligned = !exact && edgesOnCells(request.q0, request.q1, request.rows, head.queries) && edgesOnCells(request.k0, request.k1, request.cols, head.keys);
    const finerThanCells = !aligned && (request.rows * cell > high || request.cols * cell > wide);
    if (aligned || high * wide * head.size > most) return { values: mapFromCells(head, request, coarse, finerThanCells), snapped: aligned ? 0 : cell };
  }
  return { values: await mapFromWeights(await open(), request, checkpoint), snapped: 0 };
}

export interface StrongWeight {
  query: number;
  key: number;
  weight: number;
}

/** Half of what float16 may have taken from a maximum, relative to it. */
const ROUNDED = 1 + 2 ** -10;

/** The `count` strongest weights above 0, strongest first; of equal ones the lower query, then key.
 *  Where there is a coarse map, cells are searched from the greatest maximum down, and no further than needed. */
export async function strongest(head: Head, count: number, skip: number | null, coarse: CoarseMap | null, checkpoint: Checkpoint): Promise<StrongWeight[]> {
  const strong: StrongWeight[] = [];
  const order = (a: StrongWeight, b: StrongWeight) => b.weight - a.weight || a.query - b.query || a.key - b.key;
  let least = 0;
  const prune = () => {
    strong.sort(order).splice(count);
    if (strong.length === count) least = strong[count - 1]!.weight;
  };
  // Without a coarse map the head is one cell of unknown maximum.
  const { cell, max } = coarse ?? { cell: Math.max(head.queries, head.keys), max: [Infinity] };
  const wide = Math.ceil(head.keys / cell);
  for (const place of Uint32Array.from(max.keys()).sort((a, b) => max[b]! - max[a]!)) {
    if (!max[place] || max[place]! * ROUNDED < least) break;
    const [q0, k0] = [Math.floor(place / wide) * cell, (place % wide) * cell];
    const box = { q0, q1: Math.min(q0 + cell, head.queries), k0, k1: Math.min(k0 + cell, head.keys) };
    await blocks(head, box, checkpoint, (query, key, exact) => {
      const weight = Math.fround(exact);
      if (weight <= 0 || weight < least || (skip !== null && key === query + skip)) return;
      strong.push({ query, key, weight });
      if (strong.length > 4 * count + SIDE * SIDE) prune();
    });
    prune();
  }
  return strong;
}
