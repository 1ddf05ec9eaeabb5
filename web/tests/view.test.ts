import { describe, expect, it } from "vitest";
import { fillColours } from "../src/map/canvas2d";
import { coarsest, cacheKey, levelFor, parent, requestParts, pixelOf, pooledBy, SIDE, tileAt, tilesIn } from "../src/pure/tiles";
import { toneOf } from "../src/pure/tone";
import { bounded, boxed, fit, kAt, MAX_SCALE, panned, qAt, showing, stepFor, visible, xOf, yOf, zoomed } from "../src/pure/view";

const size = { width: 800, height: 600 };
const extent = { queries: 100_000, keys: 100_000 };

describe("the view", () => {
  it("fits everything", () => {
    const view = fit(extent, size);
    expect(view.scale).toBeCloseTo(0.006, 9);
    expect(visible(view, extent, size)).toEqual({ q0: 0, q1: 100_000, k0: 0, k1: 100_000 });
    expect(fit({ queries: 2, keys: 2 }, size).scale).toBe(MAX_SCALE);
  });
  it("goes from weights to pixels and back", () => {
    const view = { q: 500, k: 700, scale: 3 };
    expect(kAt(view, size, xOf(view, size, 712.25))).toBeCloseTo(712.25, 9);
    expect(qAt(view, size, yOf(view, size, 33))).toBeCloseTo(33, 9);
  });
  it("keeps what is under the cursor there", () => {
    let view = { q: 50_000, k: 20_000, scale: 0.1 };
    const before = [qAt(view, size, 100), kAt(view, size, 650)];
    for (let i = 0; i < 10; i++) view = zoomed(view, extent, size, 1.5, 650, 100);
    expect(qAt(view, size, 100)).toBeCloseTo(before[0]!, 6);
    expect(kAt(view, size, 650)).toBeCloseTo(before[1]!, 6);
  });
  it("stays within bounds", () => {
    expect(bounded({ q: -5, k: 1e9, scale: 1e9 }, extent, size)).toEqual({ q: 0, k: 100_000, scale: MAX_SCALE });
    expect(bounded({ q: 1, k: 1, scale: 1e-9 }, extent, size).scale).toBeCloseTo(0.8 * 0.006, 9);
  });
  it("marks round places, at least the spacing apart", () => {
    expect([10, 1, 0.5, 0.0061].map((scale) => stepFor(scale, 70))).toEqual([10, 100, 200, 20_000]);
  });
  it("drags, boxes and shows", () => {
    const view = { q: 100, k: 100, scale: 2 };
    expect(panned(view, extent, size, 20, -10)).toEqual({ q: 105, k: 90, scale: 2 });
    const near = boxed(view, extent, size, { x0: 400, y0: 300, x1: 480, y1: 320 });
    expect(near).toEqual({ q: 105, k: 120, scale: 20 });
    expect(showing(view, extent, size, 120, 110)).toEqual(view);
    expect(showing(view, extent, size, 120, 9_000)).toEqual({ q: 100, k: 9_000.5, scale: 2 });
  });
});

describe("tiles", () => {
  it("have the level whose pixels are no smaller than the screen's", () => {
    expect(levelFor(1, 1, extent)).toBe(0);
    expect(levelFor(8, 1, extent)).toBe(0);
    expect(levelFor(0.5, 1, extent)).toBe(1);
    expect(levelFor(0.5, 2, extent)).toBe(0);
    expect(levelFor(0.3, 1, extent)).toBe(2);
    expect(levelFor(1e-6, 1, extent)).toBe(coarsest(extent));
    expect(coarsest(extent)).toBe(9);
    expect(coarsest({ queries: 256, keys: 3 })).toBe(0);
  });
  it("cover what is seen once, the middle first", () => {
    const small = { queries: 1000, keys: 700 };
    const view = fit(small, size);
    for (const level of [0, 1, 2]) {
      const tiles = tilesIn(view, small, size, level);
      const area = tiles.reduce((sum, t) => sum + (t.q1 - t.q0) * (t.k1 - t.k0), 0);
      expect(area).toBe(700_000);
      expect(new Set(tiles.map((t) => cacheKey("s", t))).size).toBe(tiles.length);
    }
    const first = tilesIn({ q: 900, k: 650, scale: 1 }, small, size, 0)[0]!;
    expect([first.row, first.col]).toEqual([3, 2]);
    expect([first.rows, first.cols]).toEqual([1000 - 3 * SIDE, 700 - 2 * SIDE]);
  });
  it("lie in their parents", () => {
    const tile = tileAt(extent, 3, 5, 6);
    const above = parent(extent, tile)!;
    expect(above.level).toBe(4);
    expect(above.q0 <= tile.q0 && tile.q1 <= above.q1 && above.k0 <= tile.k0 && tile.k1 <= above.k1).toBe(true);
    expect(parent(extent, tileAt(extent, 9, 0, 0))).toBeNull();
  });
  it("know which pixel pools a weight, where the map ends too", () => {
    const edge = tileAt({ queries: 1003, keys: 999 }, 2, 0, 0);
    expect([edge.rows, edge.cols]).toEqual([251, 250]);
    for (const [query, key] of [[0, 0], [1002, 998], [500, 3], [3, 777]] as const) {
      const { row, col } = pixelOf(edge, query, key);
      const pooled = pooledBy(edge, row, col);
      expect(pooled.q0 <= query && query < pooled.q1 && pooled.k0 <= key && key < pooled.k1).toBe(true);
    }
    expect(pooledBy(edge, 250, 249)).toEqual({ q0: 1000, q1: 1003, k0: 996, k1: 999 });
  });
  it("are requested in rectangles of equal pixels, each once", () => {
    for (const [queries, keys, count] of [[103, 99, 4], [100, 99, 2], [100, 100, 1], [3, 2, 1]] as const) {
      const tile = tileAt({ queries, keys }, 2, 0, 0);
      const parts = requestParts(tile);
      expect(parts.length).toBe(count);
      const pixels = new Set<string>();
      for (const part of parts)
        for (let r = 0; r < part.rows; r++)
          for (let c = 0; c < part.cols; c++) {
            const own = pooledBy(tile, part.top + r, part.left + c);
            const even = (start: number, stop: number, n: number, i: number) => start + Math.ceil((i * (stop - start)) / n);
            expect([own.q0, own.q1]).toEqual([r, r + 1].map((i) => even(part.q0, part.q1, part.rows, i)));
            expect([own.k0, own.k1]).toEqual([c, c + 1].map((i) => even(part.k0, part.k1, part.cols, i)));
            pixels.add(`${part.top + r}/${part.left + c}`);
          }
      expect(pixels.size).toBe(tile.rows * tile.cols);
    }
  });
});

describe("colours", () => {
  it("are those of the tones", () => {
    const table = new Uint8Array(1024).map((_, i) => (i % 4 === 3 ? 255 : i >> 2));
    const values = Float32Array.from({ length: 4000 }, (_, i) => (i % 3 ? 1 : -1) * 0.7 * Math.exp(-i / 260)).fill(0, 0, 5);
    for (const tone of [
      { log: true, gamma: 1, decades: 5, greatest: 0.5, signed: false },
      { log: false, gamma: 0.5, decades: 5, greatest: 1, signed: false },
      { log: true, gamma: 1, decades: 4, greatest: 1, signed: true },
    ]) {
      const out = new Uint32Array(values.length);
      fillColours(out, values, tone, table);
      values.forEach((value, i) => {
        if (value === 0 && !tone.signed) expect(out[i]).toBe(0);
        else expect(Math.abs((out[i]! & 255) - Math.round(toneOf(value, tone) * 255))).toBeLessThanOrEqual(1);
      });
    }
  });
});
