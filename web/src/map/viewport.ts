// The viewport of the map: which part of it is on screen, and how that moves.
import { computed, signal } from "@preact/signals";
import { bounded, type Extent, fit, showing, type Size, type View, zoomed } from "../pure/view";
import { cell, go, place } from "../state";

export const size = signal<Size>({ width: 600, height: 600 });
export const extent = signal<Extent>({ queries: 1, keys: 1 });

export const view = computed<View>(() => {
  const chosen = place.value.view;
  return chosen ? bounded(chosen, extent.value, size.value) : fit(extent.value, size.value);
});

export const setView = (to: View | null) => go({ view: to });

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
let animation = 0;

export const stopAnimation = () => cancelAnimationFrame(animation);

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
