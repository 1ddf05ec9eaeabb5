// The Canvas2D painter: where no graphics processor runs WebGL2, and for pictures that are exported.
import { pixelSize } from "../pure/tiles";
import { toneOf, type Tone } from "../pure/tone";
import type { LoadedTile } from "./loader";
import { bandOf, bands, boxOf, type Painter, type Scene } from "./painter";

type Context = CanvasRenderingContext2D;

// The leading bits of a number, its sign, exponent and ten bits of its fraction, distinguish more tones than there are colours.
const DROPPED_BITS = 13;
const colourCache = { how: "", table: null as Uint8Array | null, colours: new Uint32Array(2 ** (32 - DROPPED_BITS)) };
const middle = new Uint32Array(1);
const asNumber = new Float32Array(middle.buffer);

/** Colours of values, looked up by their leading bits; 0 stays transparent. */
export function fillColours(out: Uint32Array, values: Float32Array, tone: Tone, table: Uint8Array): void {
  const how = JSON.stringify(tone);
  const { colours } = colourCache;
  if (colourCache.how !== how || colourCache.table !== table) {
    colours.fill(0);
    Object.assign(colourCache, { how, table });
  }
  const palette = new Uint32Array(table.buffer, table.byteOffset, 256);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!;
    if (word << 1 === 0 && !tone.signed) continue;
    const at = word >>> DROPPED_BITS;
    let colour = colours[at]!;
    if (!colour) {
      middle[0] = word << 1 === 0 ? 0 : (at << DROPPED_BITS) | (1 << (DROPPED_BITS - 1));
      colours[at] = colour = palette[Math.round(toneOf(asNumber[0]!, tone) * 255)]!;
    }
    out[i] = colour;
  }
}

/** The pixels of a tile in colour. */
export function colourImage(values: Float32Array, rows: number, cols: number, tone: Tone, table: Uint8Array, band: Float32Array | null): ImageData {
  const image = new ImageData(cols, rows);
  const scaled = band ? values.map((value, i) => value / Math.max(band[Math.floor(i / cols)]!, 1e-38)) : values;
  fillColours(new Uint32Array(image.data.buffer), scaled, band ? { ...tone, greatest: 1 } : tone, table);
  return image;
}

const same = (a: Float32Array | null, b: Float32Array | null) => a === b || (a !== null && b !== null && a.every((value, i) => value === b[i]));

export class Canvas2dPainter implements Painter {
  readonly kind = "canvas2d";
  private readonly painted = new WeakMap<LoadedTile, { how: string; band: Float32Array | null; canvas: HTMLCanvasElement }>();
  private readonly names = new WeakMap<Uint8Array, number>();
  private named = 0;

  constructor(private readonly context: Context) {}

  paint(scene: Scene): void {
    const { context } = this;
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    context.imageSmoothingEnabled = false;
    const all = scene.rows ? bands(scene) : null;
    if (!this.names.has(scene.table)) this.names.set(scene.table, this.named++);
    const how = JSON.stringify([scene.tone, this.names.get(scene.table)]);
    for (const { loaded } of scene.drawn) {
      let cached = this.painted.get(loaded);
      const band = all && bandOf(all, loaded);
      if (cached?.how !== how || !same(cached.band, band)) {
        const { rows, cols } = loaded.tile;
        const canvas = cached?.canvas ?? Object.assign(document.createElement("canvas"), { width: cols, height: rows });
        canvas.getContext("2d")!.putImageData(colourImage(loaded.values, rows, cols, scene.tone, scene.table, band), 0, 0);
        this.painted.set(loaded, (cached = { how, band, canvas }));
      }
      // On whole pixels, so that there is no gap between two tiles.
      const { x0, x1, y0, y1 } = boxOf(scene, loaded);
      const [left, right, top, bottom] = [x0, x1, y0, y1].map((at) => Math.round(at * scene.ratio)) as [number, number, number, number];
      const { high, wide } = pixelSize(loaded.tile);
      context.drawImage(cached.canvas, 0, 0, wide, high, left, top, right - left, bottom - top);
    }
  }

  dispose(): void {}
}
