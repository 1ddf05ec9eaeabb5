// The Canvas2D painter: where there is no WebGL2, and for pictures that are exported.
import { sidesOf } from "../pure/tiles";
import { toneOf, type Tone } from "../pure/tone";
import type { Held } from "./loader";
import { bandOf, bands, boxOf, type Painter, type Scene } from "./painter";

type Context = CanvasRenderingContext2D;

/** The pixels of a tile in colour. */
export function coloured(values: Float32Array, rows: number, cols: number, tone: Tone, table: Uint8Array, band: Float32Array | null): ImageData {
  const image = new ImageData(cols, rows);
  const out = new Uint32Array(image.data.buffer);
  const colours = new Uint32Array(table.buffer, table.byteOffset, 256);
  for (let r = 0, i = 0; r < rows; r++) {
    const own = band ? { ...tone, greatest: Math.max(band[r]!, 1e-38) } : tone;
    for (let c = 0; c < cols; c++, i++) {
      const value = values[i]!;
      if (value !== 0 || tone.signed) out[i] = colours[Math.round(toneOf(value, own) * 255)]!;
    }
  }
  return image;
}

export class PlainPainter implements Painter {
  readonly kind = "canvas2d";
  private readonly made = new WeakMap<Held, { how: string; canvas: HTMLCanvasElement }>();
  private readonly names = new WeakMap<Uint8Array, number>();
  private named = 0;

  constructor(private readonly context: Context) {}

  paint(scene: Scene): void {
    const { context } = this;
    context.setTransform(scene.ratio, 0, 0, scene.ratio, 0, 0);
    context.clearRect(0, 0, scene.width, scene.height);
    context.imageSmoothingEnabled = false;
    const all = scene.rows ? bands(scene) : null;
    if (!this.names.has(scene.table)) this.names.set(scene.table, this.named++);
    const how = JSON.stringify([scene.tone, this.names.get(scene.table)]);
    for (const { held } of scene.drawn) {
      let ready = this.made.get(held);
      if (!ready || ready.how !== how || all) {
        const { rows, cols } = held.tile;
        const canvas = ready?.canvas ?? document.createElement("canvas");
        canvas.width = cols;
        canvas.height = rows;
        const image = coloured(held.values, rows, cols, scene.tone, scene.table, all && bandOf(all, held));
        canvas.getContext("2d")!.putImageData(image, 0, 0);
        this.made.set(held, (ready = { how: all ? "" : how, canvas }));
      }
      const { x0, x1, y0, y1 } = boxOf(scene, held);
      const { high, wide } = sidesOf(held.tile);
      context.drawImage(ready.canvas, 0, 0, wide, high, x0, y0, x1 - x0, y1 - y0);
    }
  }

  dispose(): void {}
}
