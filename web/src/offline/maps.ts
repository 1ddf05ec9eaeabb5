// Maps, rows and the strongest weights of a head: worked out from q and k, or put together from its coarse maps.
import type { View } from "./asking";
import { type Head, SIDE } from "./head";
import type { Turn } from "./turns";

/** Sums of products that are worked out for one map before its coarse map, if there is one, is asked instead. */
export const DIRECT = 2 ** 31;

/** The coarse maps of a head: maxima and sums of cell × cell weights. */
export interface Coarse {
  readonly cell: number;
  readonly max: Float32Array;
  readonly sum: Float32Array;
}

/** Numbers of a view; where edges of pixels were moved to multiples of so many weights, that number, else 0. */
export interface Tile {
  readonly values: Float32Array;
  readonly snapped: number;
}

/** Where pixels begin, and the last one ends: place i falls into pixel ⌊i · count / span⌋. */
export const edges = (start: number, stop: number, count: number): number[] =>
  Array.from({ length: count + 1 }, (_, i) => start + Math.ceil((i * (stop - start)) / count));

/** Calls back with the weights of a rectangle, all but those that are 0 together. */
async function blocks(head: Head, box: Pick<View, "q0" | "q1" | "k0" | "k1">, turn: Turn, each: (query: number, key: number, weight: number) => void): Promise<void> {
  const scores = new Float64Array(SIDE * SIDE);
  const end = (at: number, stop: number) => Math.min((Math.floor(at / SIDE) + 1) * SIDE, stop);
  for (let q = box.q0; q < box.q1; q = end(q, box.q1)) {
    const qn = end(q, box.q1);
    const [first, last] = head.reach(q, qn);
    const stop = Math.min(last, box.k1);
    for (let k = Math.max(first, box.k0); k < stop; k = end(k, stop)) {
      const kn = end(k, stop);
      await turn();
      if (!head.block(q, qn, k, kn, scores)) continue;
      for (let query = q, at = 0; query < qn; query++)
        for (let key = k; key < kn; key++, at++) each(query, key, head.weight(scores[at]!, query));
    }
  }
}

async function direct(head: Head, view: View, turn: Turn): Promise<Float32Array> {
  const { q0, q1, k0, k1, rows, cols, how } = view;
  const out = new Float64Array(rows * cols);
  const place = (span: number, count: number) => Int32Array.from({ length: span }, (_, i) => Math.floor((i * count) / span));
  const [down, across] = [place(q1 - q0, rows), place(k1 - k0, cols)];
  await blocks(head, view, turn, (query, key, weight) => {
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

/** The cells from which each pixel along one side is put together, and how many weights they hold.
 *  A pixel that is finer than cells is the one in which its middle lies. */
function sides(whole: number, start: number, stop: number, count: number, cell: number, fine: boolean) {
  const at = edges(start, stop, count);
  const last = Math.ceil(whole / cell);
  const near = (edge: number) => (edge === whole ? last : Math.floor((edge + cell / 2) / cell));
  return Array.from({ length: count }, (_, i) => {
    const [a, b] = [at[i]!, at[i + 1]!];
    const from = fine ? Math.floor((a + b) / 2 / cell) : near(a);
    const to = fine ? from + 1 : near(b);
    return { from, to, covered: Math.min(to * cell, whole) - from * cell };
  });
}

/** What is known of a head before its arrays are. */
export interface Extent {
  readonly queries: number;
  readonly keys: number;
  readonly size: number;
}

/** A map put together from cells. */
export function coarsely(head: Extent, view: View, coarse: Coarse, fine: boolean): Float32Array {
  const { cell, max, sum } = coarse;
  const cells = view.how === "max" ? max : sum;
  const wide = Math.ceil(head.keys / cell);
  const across = sides(head.keys, view.k0, view.k1, view.cols, cell, fine);
  const out = new Float32Array(view.rows * view.cols);
  let at = 0;
  for (const q of sides(head.queries, view.q0, view.q1, view.rows, cell, fine))
    for (const k of across) {
      let value = 0;
      for (let r = q.from; r < q.to; r++)
        for (let c = k.from; c < k.to; c++) {
          const one = cells[r * wide + c]!;
          value = view.how === "max" ? Math.max(value, one) : value + one;
        }
      out[at++] = view.how === "mean" ? value / (q.covered * k.covered) : value;
    }
  return out;
}

/** The numbers of a map; the head is opened where its weights are worked out. */
export async function tile(head: Extent, open: () => Promise<Head>, view: View, coarse: Coarse | null, turn: Turn, most = DIRECT): Promise<Tile> {
  if (coarse) {
    const { cell } = coarse;
    const [high, wide] = [view.q1 - view.q0, view.k1 - view.k0];
    const exact = view.rows === high && view.cols === wide;
    const on = (start: number, stop: number, count: number, whole: number) =>
      edges(start, stop, count).every((edge) => edge % cell === 0 || edge === whole);
    const aligned = !exact && on(view.q0, view.q1, view.rows, head.queries) && on(view.k0, view.k1, view.cols, head.keys);
    const fine = !aligned && (view.rows * cell > high || view.cols * cell > wide);
    if (aligned || high * wide * head.size > most) return { values: coarsely(head, view, coarse, fine), snapped: aligned ? 0 : cell };
  }
  return { values: await direct(await open(), view, turn), snapped: 0 };
}

export interface Found {
  query: number;
  key: number;
  weight: number;
}

/** Half of what float16 may have taken from a maximum, relative to it. */
const ROUNDED = 1 + 2 ** -10;

/** The `count` strongest weights above 0, strongest first; of equal ones the lower query, then key.
 *  Where there is a coarse map, cells are looked into from the greatest maximum down, and no further than needed. */
export async function strongest(head: Head, count: number, skip: number | null, coarse: Coarse | null, turn: Turn): Promise<Found[]> {
  const kept: Found[] = [];
  const order = (a: Found, b: Found) => b.weight - a.weight || a.query - b.query || a.key - b.key;
  let least = 0;
  const prune = () => {
    kept.sort(order).splice(count);
    if (kept.length === count) least = kept[count - 1]!.weight;
  };
  // Without a coarse map the head is one cell, of which nothing is known.
  const { cell, max } = coarse ?? { cell: Math.max(head.queries, head.keys), max: [Infinity] };
  const wide = Math.ceil(head.keys / cell);
  for (const place of Uint32Array.from(max.keys()).sort((a, b) => max[b]! - max[a]!)) {
    if (!max[place] || max[place]! * ROUNDED < least) break;
    const [q0, k0] = [Math.floor(place / wide) * cell, (place % wide) * cell];
    const box = { q0, q1: Math.min(q0 + cell, head.queries), k0, k1: Math.min(k0 + cell, head.keys) };
    await blocks(head, box, turn, (query, key, exact) => {
      const weight = Math.fround(exact);
      if (weight <= 0 || weight < least || (skip !== null && key === query + skip)) return;
      kept.push({ query, key, weight });
      if (kept.length > 4 * count + SIDE * SIDE) prune();
    });
    prune();
  }
  return kept;
}
