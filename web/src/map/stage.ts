// Draws the map on its canvases, and says what the picture shows.
import { effect, signal } from "@preact/signals";
import type { Tone } from "../pure/tone";
import { marginals, place, tokenText } from "../state";
import { Canvas2dPainter } from "./canvas2d";
import { loader } from "./loader";
import { drawOverlay, EDGE } from "./overlay";
import type { Painter, Scene } from "./painter";
import { listenToPointer } from "./pointer";
import { axisNames, box, coloursOf, dark, hover, overlayFor, sceneNow, source } from "./scene";
import { extent, size } from "./viewport";
import { WebglPainter } from "./webgl";

/** What the legend says of the picture. */
export const picture = signal<{ rows: number; cols: number; exact: boolean; fine: boolean; tone: Tone; kind: string } | null>(null);

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
  const coarse = scene.drawn.find((tile) => !tile.fine) ?? scene.drawn[0];
  const before = picture.peek();
  const block = coarse ? Math.max(2 ** coarse.loaded.tile.level, coarse.loaded.cell) : 2 ** level;
  const { queries, keys } = extent.peek();
  const fine = scene.drawn.length > 0 && scene.drawn.every((tile) => tile.fine) && loader.pending.peek() === 0;
  const now = {
    rows: Math.min(block, queries), cols: Math.min(block, keys), exact: block === 1 && scene.drawn.length > 0, fine, tone: scene.tone, kind,
  };
  if (JSON.stringify(before) === JSON.stringify(now)) return;
  // The same tone stays the same object, so that cached colours stay valid.
  picture.value = before && JSON.stringify(before.tone) === JSON.stringify(now.tone) ? { ...now, tone: before.tone } : now;
}
