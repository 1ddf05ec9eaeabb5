// The map on screen: view, scene, drawing and pointer input.
import { computed, effect, signal } from "@preact/signals";
import { raw, type Source } from "../api";
import { colourTable as tableOf } from "../pure/ramps";
import { levelFor, pooledBy } from "../pure/tiles";
import { roundUp, type Tone } from "../pure/tone";
import { bounded, boxed, type Extent, fit, kAt, panned, qAt, showing, type Size, type View, zoomed } from "../pure/view";
import { cell, selectCell, showError, go, marginals, place, tokenOfQuery, ramp, tokenText } from "../state";
import * as SAY from "../strings";
import { WebglPainter } from "./webgl";
import { type DrawnTile, loader } from "./loader";
import { type Colours, drawOverlay, EDGE, type Overlay, pixelAt } from "./overlay";
import type { Painter, Scene } from "./painter";
import { Canvas2dPainter } from "./canvas2d";

export const size = signal<Size>({ width: 600, height: 600 });
export const extent = signal<Extent>({ queries: 1, keys: 1 });
export const source = signal<Source | null>(null);
export const axisNames = signal({ queries: SAY.queries, keys: SAY.keys });
export const hover = signal<{ query: number; key: number; value: number; rows: number; cols: number; exact: boolean } | null>(null);
/** What the legend says of the picture. */
export const picture = signal<{ rows: number; cols: number; exact: boolean; fine: boolean; tone: Tone; kind: string } | null>(null);
const box = signal<Overlay["box"]>(null);

export const view = computed<View>(() => {
  const chosen = place.value.view;
  return chosen ? bounded(chosen, extent.value, size.value) : fit(extent.value, size.value);
});

export const setView = (to: View | null) => go({ view: to });

const dark = matchMedia("(prefers-color-scheme: dark)");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
let animation = 0;

/** Animates to a view, or goes there at once where reduced motion is preferred. */
export function animateTo(to: View): void {
  cancelAnimationFrame(animation);
  if (reducedMotion.matches) return setView(to);
  const from = view.peek();
  const began = performance.now();
  const frame = (now: number) => {
    const part = Math.min((now - began) / 140, 1);
    const eased = 1 - (1 - part) ** 3;
    const scale = from.scale * (to.scale / from.scale) ** eased;
    // The middle is interpolated in 1/scale, so that the fixed point of the zoom does not move.
    const progress = Math.abs(to.scale / from.scale - 1) < 1e-6 ? eased : (1 / scale - 1 / from.scale) / (1 / to.scale - 1 / from.scale);
    setView({ q: from.q + (to.q - from.q) * progress, k: from.k + (to.k - from.k) * progress, scale });
    if (part < 1) animation = requestAnimationFrame(frame);
    else setView(to);
  };
  animation = requestAnimationFrame(frame);
}

/** Zooms about the selected cell if it is on screen, else about the middle. */
export function zoom(factor: number): void {
  const s = size.peek();
  const v = view.peek();
  const at = cell.peek();
  let [x, y] = [s.width / 2, s.height / 2];
  if (at) {
    const cx = (at.key + 0.5 - v.k) * v.scale + x;
    const cy = (at.query + 0.5 - v.q) * v.scale + y;
    if (cx >= 0 && cx <= s.width && cy >= 0 && cy <= s.height) [x, y] = [cx, cy];
  }
  animateTo(zoomed(v, extent.peek(), s, factor, x, y));
}

export const fitAll = () => animateTo(fit(extent.peek(), size.peek()));

/** Brings a cell into view, as near as it was or near enough to see it. */
export function reveal(query: number, key: number, near = 0): void {
  const now = view.peek();
  const moved = showing({ ...now, scale: Math.max(now.scale, near) }, extent.peek(), size.peek(), query, key);
  if (moved.q !== now.q || moved.k !== now.k || moved.scale !== now.scale) setView(moved);
}

export function goToDiagonal(): void {
  const v = view.peek();
  const { queries, keys } = extent.peek();
  animateTo(bounded({ ...v, k: v.q + keys - queries }, extent.peek(), size.peek()));
}

/** The tones of what is drawn: the top of the ramp is the greatest on screen, rounded up. */
function toneFor(drawn: readonly DrawnTile[], signed: boolean): Tone {
  const { log, gamma, rows } = place.value;
  let greatest = 0;
  for (const { loaded } of drawn) greatest = Math.max(greatest, loaded.greatest);
  const wide = Math.max(extent.value.keys, 10);
  return { log, gamma, decades: Math.min(Math.ceil(Math.log10(wide)) + 1, 6), greatest: rows ? 1 : roundUp(greatest), signed };
}

const tables = new Map<string, Uint8Array<ArrayBuffer>>();
export function colourTableNow(signed: boolean): Uint8Array<ArrayBuffer> {
  const name = signed ? (dark.matches ? "signedDark" : "signed") : ramp.value;
  if (!tables.has(name)) tables.set(name, tableOf(name));
  return tables.get(name)!;
}

/** The scene to paint now. */
export function sceneNow(ratio: number): { scene: Scene; level: number } | null {
  const from = source.value;
  if (!from) return null;
  loader.version.value;
  const v = view.value;
  const s = size.value;
  const level = levelFor(v.scale, ratio, extent.value);
  const drawn = loader.frame(from, extent.value, v, s, level);
  const tone = toneFor(drawn, from.signed);
  return { scene: { ...s, ratio, view: v, drawn, tone, table: colourTableNow(from.signed), rows: place.value.rows && !from.signed }, level };
}

export function overlayFor(scene: Scene, level: number, colours: Colours): Overlay {
  const answer = marginals.value;
  const values = !scene.tone.signed && answer && answer.values.length === extent.value.keys + extent.value.queries ? answer.values : null;
  return {
    scene, extent: extent.value, level, token: (i, query) => tokenText(query ? tokenOfQuery(i) : i), colours, names: axisNames.value, marginals: values,
    hover: hover.value, cell: cell.value, box: box.value,
  };
}

export function coloursOf(element: Element): Colours {
  const style = getComputedStyle(element);
  const of = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: of("ink"), soft: of("soft"), rule: of("rule"), paper: of("paper"), map: of("map"), query: of("query"), key: of("key"),
    weight: of("weight"), mono: of("mono"),
  };
}

/** Draws a map on two canvases until the returned function is called. */
export function mount(host: HTMLElement, base: HTMLCanvasElement, over: HTMLCanvasElement): () => void {
  const painter: Painter = WebglPainter.on(base) ?? new Canvas2dPainter(base.getContext("2d")!);
  const context = over.getContext("2d")!;
  const ratio = signal(Math.min(devicePixelRatio, 2));
  const colours = signal(coloursOf(host));
  const undo: (() => void)[] = [];
  const on = <K extends keyof HTMLElementEventMap>(name: K, act: (event: HTMLElementEventMap[K]) => void, options?: AddEventListenerOptions) => {
    over.addEventListener(name, act, options);
    undo.push(() => over.removeEventListener(name, act, options));
  };
  const retheme = () => (colours.value = coloursOf(host));
  dark.addEventListener("change", retheme);
  undo.push(() => dark.removeEventListener("change", retheme));

  const measure = new ResizeObserver(() => {
    const { clientWidth, clientHeight } = host;
    ratio.value = Math.min(devicePixelRatio, 2);
    size.value = { width: Math.max(clientWidth - EDGE.left - EDGE.right, 50), height: Math.max(clientHeight - EDGE.top - EDGE.bottom, 50) };
  });
  measure.observe(host);
  undo.push(() => measure.disconnect());

  let queued = 0;
  const draw = () => {
    queued = 0;
    const now = sceneNow(ratio.peek());
    if (!now) return;
    const { scene, level } = now;
    for (const [canvas, width, height] of [
      [base, scene.width, scene.height],
      [over, scene.width + EDGE.left + EDGE.right, scene.height + EDGE.top + EDGE.bottom],
    ] as const) {
      const [w, h] = [Math.round(width * scene.ratio), Math.round(height * scene.ratio)];
      if (canvas.width !== w || canvas.height !== h) {
        canvas.width = w;
        canvas.height = h;
        canvas.style.width = `${width}px`;
        canvas.style.height = `${height}px`;
      }
    }
    painter.paint(scene);
    drawOverlay(context, overlayFor(scene, level, colours.peek()));
    updatePicture(scene, level, painter.kind);
  };
  // Reads every signal that the picture depends on, so that a change of any requests a frame.
  undo.push(
    effect(() => {
      [place.value, size.value, extent.value, source.value, axisNames.value, hover.value, box.value, marginals.value, loader.version.value, colours.value, ratio.value];
      tokenText(0);
      if (!queued) queued = requestAnimationFrame(draw);
    }),
  );
  undo.push(() => {
    cancelAnimationFrame(queued);
    painter.dispose();
  });
  listenToPointer(on, ratio);
  return () => undo.forEach((act) => act());
}

function updatePicture(scene: Scene, level: number, kind: string): void {
  const coarse = scene.drawn.find((one) => !one.fine) ?? scene.drawn[0];
  const before = picture.peek();
  const block = coarse ? Math.max(2 ** coarse.loaded.tile.level, coarse.loaded.cell) : 2 ** level;
  const { queries, keys } = extent.peek();
  const fine = scene.drawn.length > 0 && scene.drawn.every((one) => one.fine) && loader.pending.peek() === 0;
  const now = {
    rows: Math.min(block, queries), cols: Math.min(block, keys), exact: block === 1 && scene.drawn.length > 0, fine, tone: scene.tone, kind,
  };
  if (JSON.stringify(before) === JSON.stringify(now)) return;
  // The same tone stays the same object, so that cached colours stay valid.
  picture.value = before && JSON.stringify(before.tone) === JSON.stringify(now.tone) ? { ...now, tone: before.tone } : now;
}

type On = <K extends keyof HTMLElementEventMap>(name: K, act: (event: HTMLElementEventMap[K]) => void, options?: AddEventListenerOptions) => void;

/** What is under a pixel of the map. */
function pointedAt(x: number, y: number, ratio: number) {
  const s = size.peek();
  const v = view.peek();
  const { queries, keys } = extent.peek();
  const query = Math.floor(qAt(v, s, y));
  const key = Math.floor(kAt(v, s, x));
  if (x < 0 || y < 0 || x > s.width || y > s.height || query < 0 || key < 0 || query >= queries || key >= keys) return null;
  const now = sceneNow(ratio);
  const pixel = now && pixelAt(now.scene, query, key);
  if (!pixel) return { query, key, value: NaN, rows: 1, cols: 1, exact: false, pooled: null };
  const pooled = pooledBy(pixel.loaded.tile, pixel.row, pixel.col);
  return {
    query, key, value: pixel.value, rows: pooled.q1 - pooled.q0, cols: pooled.k1 - pooled.k0,
    exact: pixel.loaded.tile.level === 0, pooled,
  };
}

/** Selects the cell under a pixel: the weight, or the largest of those that the pixel pools. */
async function selectAt(x: number, y: number, ratio: number): Promise<void> {
  const at = pointedAt(x, y, ratio);
  const from = source.peek();
  if (!at || !from) return;
  if (at.exact || !at.pooled || at.rows * at.cols > 1 << 20 || from.pooling !== "max") return selectCell(at.query, at.key);
  const { q0, k0 } = at.pooled;
  try {
    const { values, cols } = await raw(from.path({ ...at.pooled, rows: at.rows, cols: at.cols }));
    let best = 0;
    values.forEach((value, i) => {
      if (Math.abs(value) > Math.abs(values[best]!)) best = i;
    });
    selectCell(q0 + Math.floor(best / cols), k0 + (best % cols));
  } catch (error) {
    showError(error);
  }
}

function listenToPointer(on: On, ratio: { peek(): number }): void {
  const pointers = new Map<number, { x: number; y: number }>();
  let moved = 0;
  let pinchDistance = 0;
  const at = (event: MouseEvent) => ({ x: event.offsetX - EDGE.left, y: event.offsetY - EDGE.top });
  on("pointerdown", (event) => {
    if (event.button !== 0) return;
    (event.target as HTMLElement).setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    moved = 0;
    if (event.shiftKey && pointers.size === 1) {
      const { x, y } = at(event);
      box.value = { x0: x, y0: y, x1: x, y1: y };
    }
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()] as [{ x: number; y: number }, { x: number; y: number }];
      pinchDistance = Math.hypot(a.x - b.x, a.y - b.y);
    }
  });
  on("pointermove", (event) => {
    const now = at(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      const pixel = pointedAt(now.x, now.y, ratio.peek());
      hover.value = pixel && { query: pixel.query, key: pixel.key, value: pixel.value, rows: pixel.rows, cols: pixel.cols, exact: pixel.exact };
      return;
    }
    pointers.set(event.pointerId, now);
    moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (box.peek()) box.value = { ...box.peek()!, x1: now.x, y1: now.y };
    else if (pointers.size === 2) {
      const [a, b] = [...pointers.values()] as [{ x: number; y: number }, { x: number; y: number }];
      const wide = Math.hypot(a.x - b.x, a.y - b.y);
      const [x, y] = [(a.x + b.x) / 2, (a.y + b.y) / 2];
      const dragged = panned(view.peek(), extent.peek(), size.peek(), (now.x - before.x) / 2, (now.y - before.y) / 2);
      setView(zoomed(dragged, extent.peek(), size.peek(), pinchDistance ? wide / pinchDistance : 1, x, y));
      pinchDistance = wide;
    } else if (moved > 3) setView(panned(view.peek(), extent.peek(), size.peek(), now.x - before.x, now.y - before.y));
  });
  const up = (event: PointerEvent) => {
    const pressed = pointers.delete(event.pointerId);
    const dragBox = box.peek();
    box.value = null;
    if (!pressed || event.type === "pointercancel") return;
    if (dragBox && moved > 6) animateTo(boxed(view.peek(), extent.peek(), size.peek(), dragBox));
    else if (moved <= 3) void selectAt(at(event).x, at(event).y, ratio.peek());
  };
  on("pointerup", up);
  on("pointercancel", up);
  on("pointerleave", () => (hover.value = null));
  on(
    "wheel",
    (event) => {
      event.preventDefault();
      cancelAnimationFrame(animation);
      const lines = event.deltaMode === 1 ? 33 : 1;
      const factor = Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 120 : 400));
      const { x, y } = at(event);
      setView(zoomed(view.peek(), extent.peek(), size.peek(), Math.min(Math.max(factor, 0.2), 5), x, y));
    },
    { passive: false },
  );
}
