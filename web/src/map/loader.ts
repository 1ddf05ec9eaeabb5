// Loads tiles and caches them; requests for tiles that are no longer needed are aborted.
import { signal } from "@preact/signals";
import { type MapSource, raw } from "../client/requests";
import { Lru } from "../pure/lru";
import { coarsest, cacheKey, parent, requestParts, type Tile, tileAt, tilesIn } from "../pure/tiles";
import type { Extent, Size, View } from "../pure/view";
import { showError } from "../state";

export interface LoadedTile {
  readonly tile: Tile;
  readonly key: string;
  readonly values: Float32Array;
  readonly exact: boolean;
  /** A pixel covers at least so many weights along a side. */
  readonly cell: number;
  /** The greatest size of a value. */
  readonly greatest: number;
  /** The greatest of each row. */
  readonly rows: Float32Array;
}

/** A tile to draw, and whether it is of the level of the view. */
export interface DrawnTile {
  readonly loaded: LoadedTile;
  readonly fine: boolean;
}

const MOST_REQUESTS = 6;

class Loader {
  private readonly cache = new Lru<LoadedTile>(320);
  private readonly inFlight = new Map<string, AbortController>();
  private queue: { source: MapSource; tile: Tile; key: string }[] = [];
  private readonly failed = new Set<string>();
  /** Counts up when tiles arrive. */
  readonly version = signal(0);
  readonly pending = signal(0);

  get(source: MapSource, tile: Tile): LoadedTile | undefined {
    return this.cache.get(cacheKey(source.id, tile));
  }

  /** What to draw now, coarse below fine; missing tiles are requested, other requests aborted. */
  frame(source: MapSource, extent: Extent, view: View, size: Size, level: number): DrawnTile[] {
    const fine: DrawnTile[] = [];
    const coarse = new Map<string, LoadedTile>();
    const missing: Tile[] = [];
    const top = tileAt(extent, coarsest(extent), 0, 0);
    for (const tile of tilesIn(view, extent, size, level)) {
      const loaded = this.get(source, tile);
      if (loaded) {
        fine.push({ loaded, fine: true });
        continue;
      }
      missing.push(tile);
      for (let outer = parent(extent, tile); outer; outer = parent(extent, outer)) {
        const ancestor = this.get(source, outer);
        if (ancestor) {
          coarse.set(ancestor.key, ancestor);
          break;
        }
      }
    }
    if (!this.cache.has(cacheKey(source.id, top)) && !missing.some((t) => t.level === top.level)) missing.unshift(top);
    this.request(source, missing);
    const below = [...coarse.values()].sort((a, b) => b.tile.level - a.tile.level);
    return [...below.map((loaded) => ({ loaded, fine: false })), ...fine];
  }

  private request(source: MapSource, tiles: Tile[]): void {
    const needed = new Map(tiles.map((tile) => [cacheKey(source.id, tile), tile]));
    for (const [key, abort] of this.inFlight)
      if (!needed.has(key)) {
        abort.abort();
        this.inFlight.delete(key);
      }
    this.queue = [...needed].filter(([key]) => !this.inFlight.has(key) && !this.failed.has(key)).map(([key, tile]) => ({ source, tile, key }));
    this.startNext();
  }

  private async fetch(source: MapSource, tile: Tile, key: string, signal?: AbortSignal): Promise<void> {
    const parts = requestParts(tile);
    const results = await Promise.all(parts.map((part) => raw(source.path(part), signal)));
    const exact = results.every((result) => result.exact);
    const values = parts.length > 1 ? new Float32Array(tile.rows * tile.cols) : results[0]!.values;
    if (parts.length > 1)
      parts.forEach(({ top, left: remaining, rows, cols }, i) => {
        for (let r = 0; r < rows; r++) values.set(results[i]!.values.subarray(r * cols, (r + 1) * cols), (top + r) * tile.cols + remaining);
      });
    const rows = new Float32Array(tile.rows);
    let greatest = 0;
    for (let r = 0, i = 0; r < tile.rows; r++) {
      let most = 0;
      for (let c = 0; c < tile.cols; c++, i++) most = Math.max(most, Math.abs(values[i]!));
      rows[r] = most;
      greatest = Math.max(greatest, most);
    }
    this.cache.set(key, { tile, key, values, exact, cell: Math.max(...results.map((result) => result.cell)), greatest, rows });
  }

  /** Loads tiles for an export, independently of the screen's. */
  async loadAll(source: MapSource, tiles: readonly Tile[]): Promise<void> {
    const remaining = tiles.filter((tile) => !this.cache.has(cacheKey(source.id, tile)));
    const next = async (): Promise<void> => {
      for (let tile = remaining.pop(); tile; tile = remaining.pop()) await this.fetch(source, tile, cacheKey(source.id, tile));
    };
    await Promise.all(Array.from({ length: MOST_REQUESTS }, next));
  }

  private startNext(): void {
    while (this.inFlight.size < MOST_REQUESTS && this.queue.length) {
      const { source, tile, key } = this.queue.shift()!;
      const abort = new AbortController();
      this.inFlight.set(key, abort);
      this.fetch(source, tile, key, abort.signal)
        .catch((error: unknown) => {
          if (abort.signal.aborted) return;
          this.failed.add(key);
          setTimeout(() => {
            this.failed.delete(key);
            this.version.value++;
          }, 5000);
          showError(error);
        })
        .finally(() => {
          if (this.inFlight.get(key) === abort) this.inFlight.delete(key);
          if (!abort.signal.aborted) this.version.value++;
          this.startNext();
        });
    }
    const count = this.inFlight.size + this.queue.length;
    if (count !== this.pending.peek()) queueMicrotask(() => (this.pending.value = this.inFlight.size + this.queue.length));
  }
}

export const loader = new Loader();
