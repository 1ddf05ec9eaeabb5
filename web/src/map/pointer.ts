// Pointer input on the map: hover, select, drag, pinch, wheel, and a box to zoom into.
import { raw } from "../client/requests";
import { pooledBy } from "../pure/tiles";
import { boxed, kAt, panned, qAt, zoomed } from "../pure/view";
import { selectCell, showError } from "../state";
import { EDGE, pixelAt } from "./overlay";
import { box, hover, sceneNow, source } from "./scene";
import { animateTo, extent, setView, size, stopAnimation, view } from "./viewport";

/** Adds a listener to the map's canvas. */
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

export function listenToPointer(on: On, ratio: { peek(): number }): void {
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
      stopAnimation();
      const lines = event.deltaMode === 1 ? 33 : 1;
      const factor = Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 120 : 400));
      const { x, y } = at(event);
      setView(zoomed(view.peek(), extent.peek(), size.peek(), Math.min(Math.max(factor, 0.2), 5), x, y));
    },
    { passive: false },
  );
}
