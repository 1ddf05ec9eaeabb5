// Tiles: held, wanted, on their way. What is no longer wanted is aborted.
import { signal } from "@preact/signals";
import { raw, type Source } from "../api";
import { Lru } from "../pure/lru";
import { coarsest, keyOf, parent, partsOf, type Tile, tileAt, tilesIn } from "../pure/tiles";
import type { Extent, Size, View } from "../pure/view";
import { fail } from "../state";

export interface Held {
  readonly tile: Tile;
  readonly key: string;
  readonly values: Float32Array;
  readonly exact: boolean;
  /** A pixel is no finer than so many weights along a side. */
  readonly cell: number;
  /** The greatest size of a value. */
  readonly greatest: number;
  /** The greatest of each row. */
  readonly rows: Float32Array;
}

/** A tile to draw, and whether it is of the level that is wanted. */
export interface Drawn {
  readonly held: Held;
  readonly fine: boolean;
}

const AT_ONCE = 6;

class Loader {
  private readonly cache = new Lru<Held>(320);
  private readonly going = new Map<string, AbortController>();
  private waiting: { source: Source; tile: Tile; key: string }[] = [];
  private readonly failed = new Set<string>();
  /** Counts up when tiles arrive. */
  readonly version = signal(0);
  readonly pending = signal(0);

  get(source: Source, tile: Tile): Held | undefined {
    return this.cache.get(keyOf(source.id, tile));
  }

  /** What to draw now, coarse below fine; what is missing gets fetched, all else is let go. */
  frame(source: Source, extent: Extent, view: View, size: Size, level: number): Drawn[] {
    const fine: Drawn[] = [];
    const coarse = new Map<string, Held>();
    const missing: Tile[] = [];
    const top = tileAt(extent, coarsest(extent), 0, 0);
    for (const tile of tilesIn(view, extent, size, level)) {
      const held = this.get(source, tile);
      if (held) {
        fine.push({ held, fine: true });
        continue;
      }
      missing.push(tile);
      for (let up = parent(extent, tile); up; up = parent(extent, up)) {
        const above = this.get(source, up);
        if (above) {
          coarse.set(above.key, above);
          break;
        }
      }
    }
    if (!this.cache.has(keyOf(source.id, top)) && !missing.some((t) => t.level === top.level)) missing.unshift(top);
    this.want(source, missing);
    const below = [...coarse.values()].sort((a, b) => b.tile.level - a.tile.level);
    return [...below.map((held) => ({ held, fine: false })), ...fine];
  }

  private want(source: Source, tiles: Tile[]): void {
    const wanted = new Map(tiles.map((tile) => [keyOf(source.id, tile), tile]));
    for (const [key, abort] of this.going)
      if (!wanted.has(key)) {
        abort.abort();
        this.going.delete(key);
      }
    this.waiting = [...wanted].filter(([key]) => !this.going.has(key) && !this.failed.has(key)).map(([key, tile]) => ({ source, tile, key }));
    this.pump();
  }

  private async fetch(source: Source, tile: Tile, key: string, signal?: AbortSignal): Promise<void> {
    const parts = partsOf(tile);
    const told = await Promise.all(parts.map((part) => raw(source.path(part), signal)));
    const exact = told.every((one) => one.exact);
    const values = parts.length > 1 ? new Float32Array(tile.rows * tile.cols) : told[0]!.values;
    if (parts.length > 1)
      parts.forEach(({ top, left, rows, cols }, i) => {
        for (let r = 0; r < rows; r++) values.set(told[i]!.values.subarray(r * cols, (r + 1) * cols), (top + r) * tile.cols + left);
      });
    const rows = new Float32Array(tile.rows);
    let greatest = 0;
    for (let r = 0, i = 0; r < tile.rows; r++) {
      let most = 0;
      for (let c = 0; c < tile.cols; c++, i++) most = Math.max(most, Math.abs(values[i]!));
      rows[r] = most;
      greatest = Math.max(greatest, most);
    }
    this.cache.set(key, { tile, key, values, exact, cell: Math.max(...told.map((one) => one.cell)), greatest, rows });
  }

  /** Waits until tiles are here, whatever the screen wants meanwhile: for pictures that are finer than it. */
  async all(source: Source, tiles: readonly Tile[]): Promise<void> {
    const left = tiles.filter((tile) => !this.cache.has(keyOf(source.id, tile)));
    const next = async (): Promise<void> => {
      for (let tile = left.pop(); tile; tile = left.pop()) await this.fetch(source, tile, keyOf(source.id, tile));
    };
    await Promise.all(Array.from({ length: AT_ONCE }, next));
  }

  private pump(): void {
    while (this.going.size < AT_ONCE && this.waiting.length) {
      const { source, tile, key } = this.waiting.shift()!;
      const abort = new AbortController();
      this.going.set(key, abort);
      this.fetch(source, tile, key, abort.signal)
        .catch((error: unknown) => {
          if (abort.signal.aborted) return;
          this.failed.add(key);
          setTimeout(() => {
            this.failed.delete(key);
            this.version.value++;
          }, 5000);
          fail(error);
        })
        .finally(() => {
          if (this.going.get(key) === abort) this.going.delete(key);
          if (!abort.signal.aborted) this.version.value++;
          this.pump();
        });
    }
    const count = this.going.size + this.waiting.length;
    if (count !== this.pending.peek()) queueMicrotask(() => (this.pending.value = this.going.size + this.waiting.length));
  }
}

export const loader = new Loader();
