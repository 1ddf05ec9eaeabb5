// Draws over and around the map: rulers, marginals, the crosshair, the numbers of large cells.
import { short, brief } from "../pure/numbers";
import { textColour } from "../pure/ramps";
import { pixelOf, pooledBy } from "../pure/tiles";
import { toneOf } from "../pure/tone";
import { type Extent, stepFor, xOf, yOf } from "../pure/view";
import type { LoadedTile } from "./loader";
import type { Scene } from "./painter";

/** Margins around the map, in CSS pixels. */
export const EDGE = { left: 92, top: 76, right: 40, bottom: 40 } as const;

export interface Colours {
  ink: string;
  soft: string;
  rule: string;
  paper: string;
  map: string;
  query: string;
  key: string;
  weight: string;
  mono: string;
}

export interface Overlay {
  readonly scene: Scene;
  readonly extent: Extent;
  readonly level: number;
  /** The token of a key, or of a query, whose index may be offset. */
  readonly token: (index: number, query?: boolean) => string | undefined;
  readonly marginals: Float32Array | null;
  readonly hover: { query: number; key: number } | null;
  readonly cell: { query: number; key: number } | null;
  readonly box: { x0: number; y0: number; x1: number; y1: number } | null;
  readonly colours: Colours;
  /** The names of the axes. */
  readonly names: { queries: string; keys: string };
}

/** The pixel of a weight in the finest tile that is drawn there. */
export function pixelAt(scene: Scene, query: number, key: number): { loaded: LoadedTile; row: number; col: number; value: number } | null {
  for (let i = scene.drawn.length - 1; i >= 0; i--) {
    const { loaded } = scene.drawn[i]!;
    const { q0, q1, k0, k1, cols } = loaded.tile;
    if (query < q0 || query >= q1 || key < k0 || key >= k1) continue;
    const { row, col } = pixelOf(loaded.tile, query, key);
    return { loaded, row, col, value: loaded.values[row * cols + col]! };
  }
  return null;
}

export function drawOverlay(context: CanvasRenderingContext2D, overlay: Overlay): void {
  const { scene, colours } = overlay;
  const whole = { width: scene.width + EDGE.left + EDGE.right, height: scene.height + EDGE.top + EDGE.bottom };
  context.setTransform(scene.ratio, 0, 0, scene.ratio, 0, 0);
  context.clearRect(0, 0, whole.width, whole.height);
  context.font = `11px ${colours.mono}`;
  context.textBaseline = "middle";
  drawRuler(context, overlay, "key");
  drawRuler(context, overlay, "query");
  if (overlay.marginals) {
    drawMarginals(context, overlay, "key");
    drawMarginals(context, overlay, "query");
  }
  context.save();
  context.beginPath();
  context.rect(EDGE.left, EDGE.top, scene.width, scene.height);
  context.clip();
  context.translate(EDGE.left, EDGE.top);
  if (scene.view.scale >= 44) drawNumbers(context, overlay);
  if (overlay.hover) drawCrosshair(context, overlay, overlay.hover, false);
  if (overlay.cell) drawCrosshair(context, overlay, overlay.cell, true);
  if (overlay.box) {
    const { x0, y0, x1, y1 } = overlay.box;
    context.strokeStyle = colours.ink;
    context.setLineDash([4, 3]);
    context.strokeRect(Math.min(x0, x1) + 0.5, Math.min(y0, y1) + 0.5, Math.abs(x1 - x0), Math.abs(y1 - y0));
    context.setLineDash([]);
  }
  context.restore();
  context.strokeStyle = colours.rule;
  context.strokeRect(EDGE.left - 0.5, EDGE.top - 0.5, scene.width + 1, scene.height + 1);
}

function drawRuler(context: CanvasRenderingContext2D, overlay: Overlay, axis: "key" | "query"): void {
  const { scene, extent, colours } = overlay;
  const { view } = scene;
  const across = axis === "key";
  const most = across ? extent.keys : extent.queries;
  const [span, at] = across
    ? [scene.width, (i: number) => xOf(view, scene, i)] as const
    : [scene.height, (i: number) => yOf(view, scene, i)] as const;
  const middle = across ? view.k : view.q;
  const first = Math.max(0, Math.floor(middle - span / 2 / view.scale));
  const last = Math.min(most, Math.ceil(middle + span / 2 / view.scale));
  const near = view.scale >= 13;
  const texts = near && overlay.token(first, !across) !== "";
  const step = near ? 1 : stepFor(view.scale, across ? 64 : 34);
  context.save();
  context.beginPath();
  if (across) context.rect(EDGE.left, 0, scene.width + EDGE.right, EDGE.top);
  else context.rect(0, EDGE.top - 6, EDGE.left, scene.height + 12);
  context.clip();
  context.fillStyle = colours[axis];
  context.font = `600 11px ${colours.mono}`;
  context.textAlign = "left";
  if (!near) {
    if (across) context.fillText(overlay.names.keys, EDGE.left, 34);
    else {
      context.save();
      context.translate(16, EDGE.top);
      context.rotate(-Math.PI / 2);
      context.textAlign = "right";
      context.fillText(overlay.names.queries, 0, 0);
      context.restore();
    }
  }
  context.font = `11px ${colours.mono}`;
  for (let i = Math.ceil(first / step) * step; i < last; i += step) {
    const selected = overlay.cell?.[axis] === i || overlay.hover?.[axis] === i;
    const place = at(near ? i + 0.5 : i);
    if (place < 0 || place > span) continue;
    context.fillStyle = selected && near ? colours[axis] : colours.soft;
    context.strokeStyle = colours.rule;
    context.beginPath();
    if (across) {
      context.moveTo(EDGE.left + place, EDGE.top - (near ? 3 : 6));
      context.lineTo(EDGE.left + place, EDGE.top);
    } else {
      context.moveTo(EDGE.left - (near ? 3 : 6), EDGE.top + place);
      context.lineTo(EDGE.left, EDGE.top + place);
    }
    context.stroke();
    const label = (texts && brief(overlay.token(i, !across), 12)) || i.toLocaleString("en-US");
    if (across) {
      context.save();
      context.translate(EDGE.left + place, EDGE.top - 8);
      if (texts) context.rotate(-Math.PI / 3);
      else context.translate(0, -5);
      context.textAlign = texts ? "left" : "center";
      if (selected && near) context.font = `700 11px ${colours.mono}`;
      context.fillText(label, 0, 0);
      context.restore();
    } else {
      context.textAlign = "right";
      context.font = `${selected && near ? "700 " : ""}11px ${colours.mono}`;
      context.fillText(label, EDGE.left - 9, EDGE.top + place);
    }
  }
  context.restore();
}

/** Bars beside the map: the greatest of what lies under each pixel, of the greatest on screen. */
function drawMarginals(context: CanvasRenderingContext2D, overlay: Overlay, axis: "key" | "query"): void {
  const { scene, extent, colours } = overlay;
  const { view } = scene;
  const across = axis === "key";
  const values = overlay.marginals!;
  const shift = across ? 0 : extent.keys;
  const count = across ? extent.keys : extent.queries;
  const span = across ? scene.width : scene.height;
  const start = (across ? view.k : view.q) - span / 2 / view.scale;
  const bars = new Float32Array(Math.ceil(span));
  let most = 0;
  for (let x = 0; x < bars.length; x++) {
    const from = Math.max(0, Math.floor(start + x / view.scale));
    const to = Math.min(count, Math.max(from + 1, Math.floor(start + (x + 1) / view.scale)));
    if (start + x / view.scale < 0) continue;
    for (let i = from; i < to; i++) bars[x] = Math.max(bars[x]!, values[shift + i] ?? 0);
    most = Math.max(most, bars[x]!);
  }
  if (!most) return;
  context.fillStyle = colours[axis];
  context.globalAlpha = 0.75;
  const length = (across ? EDGE.bottom : EDGE.right) - 12;
  for (let x = 0; x < bars.length; x++) {
    const long = (bars[x]! / most) * length;
    if (across) context.fillRect(EDGE.left + x, EDGE.top + scene.height + 4, 1, long);
    else context.fillRect(EDGE.left + scene.width + 4, EDGE.top + x, long, 1);
  }
  context.globalAlpha = 1;
}

/** The numbers of cells that are large enough, where they are exact. */
function drawNumbers(context: CanvasRenderingContext2D, overlay: Overlay): void {
  const { scene, extent, colours } = overlay;
  const { view, width, height } = scene;
  context.font = `${view.scale >= 64 ? 12 : 10}px ${colours.mono}`;
  context.textAlign = "center";
  const q1 = Math.min(extent.queries, Math.ceil(view.q + height / 2 / view.scale));
  const k1 = Math.min(extent.keys, Math.ceil(view.k + width / 2 / view.scale));
  for (let q = Math.max(0, Math.floor(view.q - height / 2 / view.scale)); q < q1; q++)
    for (let k = Math.max(0, Math.floor(view.k - width / 2 / view.scale)); k < k1; k++) {
      const pixel = pixelAt(scene, q, k);
      if (!pixel || pixel.loaded.tile.level > 0) continue;
      const { value } = pixel;
      const tone = toneOf(value, scene.rows ? { ...scene.tone, greatest: pixel.loaded.rows[pixel.row]! || 1 } : scene.tone);
      context.fillStyle = value === 0 && !scene.tone.signed ? colours.soft : textColour(scene.table, tone);
      context.globalAlpha = value === 0 ? 0.6 : 0.95;
      const text = value === 0 ? "·" : Math.abs(value) < 0.001 ? short(value, 3) : value.toFixed(3).replace("-", "−");
      context.fillText(text, xOf(view, scene, k + 0.5), yOf(view, scene, q + 0.5));
    }
  context.globalAlpha = 1;
}

/** The crosshair of a weight, or of the block of weights that one pixel pools. */
function drawCrosshair(context: CanvasRenderingContext2D, overlay: Overlay, at: { query: number; key: number }, selected: boolean): void {
  const { scene, colours } = overlay;
  const { view, width, height } = scene;
  const pixel = selected ? null : pixelAt(scene, at.query, at.key);
  const box = pixel
    ? pooledBy(pixel.loaded.tile, pixel.row, pixel.col)
    : { q0: at.query, q1: at.query + 1, k0: at.key, k1: at.key + 1 };
  const [x0, x1, y0, y1] = [xOf(view, scene, box.k0), xOf(view, scene, box.k1), yOf(view, scene, box.q0), yOf(view, scene, box.q1)];
  context.globalAlpha = selected ? 0.9 : 0.5;
  for (const [name, horizontal] of [["query", true], ["key", false]] as const) {
    context.fillStyle = colours[name];
    // Through the middle of a small cell, along both edges of a large one, whose numbers stay readable.
    const edges = horizontal ? [y0, y1] : [x0, x1];
    const lines = edges[1]! - edges[0]! < 18 ? [(edges[0]! + edges[1]!) / 2] : edges;
    // The lines stop short of the cell, so that its colour stays clean.
    const [low, high] = horizontal ? [x0 - 4, x1 + 4] : [y0 - 4, y1 + 4];
    for (const line of lines.map(Math.round)) {
      if (horizontal) {
        context.fillRect(0, line, Math.max(low, 0), 1);
        context.fillRect(high, line, Math.max(width - high, 0), 1);
      } else {
        context.fillRect(line, 0, 1, Math.max(low, 0));
        context.fillRect(line, high, 1, Math.max(height - high, 0));
      }
    }
  }
  context.globalAlpha = 1;
  const pad = x1 - x0 < 6 ? 3 : 0;
  context.lineWidth = selected ? 2 : 1;
  context.strokeStyle = selected ? colours.paper : colours.ink;
  context.strokeRect(x0 - pad - 1, y0 - pad - 1, x1 - x0 + 2 * pad + 2, y1 - y0 + 2 * pad + 2);
  if (selected) {
    context.strokeStyle = colours.weight;
    context.strokeRect(x0 - pad, y0 - pad, x1 - x0 + 2 * pad, y1 - y0 + 2 * pad);
  }
  context.lineWidth = 1;
}
