// What each key does. Keys that are typed into a field stay there.
import { everything, diagonal, look, reveal, view, zoom } from "./map/stage";
import { POOLINGS, SCREENS } from "./pure/hash";
import { cell, choose, dialog, extentOfLayer, go, place, recordingId, screen, shift, stronger } from "./state";

const onMap = () => screen.peek() === "map" || screen.peek() === "compare";

function move(down: number, right: number): void {
  const at = cell.peek();
  if (at) choose(at.query + down, at.key + right);
  else choose(Math.floor(view.peek().q), Math.floor(view.peek().k));
  follow();
}

/** Brings the held cell into view. */
function follow(): void {
  const at = cell.peek();
  if (at && onMap()) reveal(at.query, at.key);
}

function nextPooling(): void {
  const { pooling } = place.peek();
  go({ pooling: POOLINGS[(POOLINGS.indexOf(pooling) + 1) % POOLINGS.length]! });
}

/** The act of a key, or null where it has none here. */
function act(key: string, shifted: boolean): (() => void) | null {
  const by = shifted ? 10 : 1;
  const map = onMap();
  const open = recordingId.peek() !== "";
  const strong = map || screen.peek() === "row";
  const acts: Record<string, false | (() => void)> = {
    ArrowUp: strong && (() => move(-by, 0)),
    ArrowDown: strong && (() => move(by, 0)),
    ArrowLeft: strong && (() => move(0, -by)),
    ArrowRight: strong && (() => move(0, by)),
    "[": open && (() => shift(-1, 0)),
    "]": open && (() => shift(1, 0)),
    ",": open && (() => shift(0, -1)),
    ".": open && (() => shift(0, 1)),
    "+": map && (() => zoom(2)),
    "=": map && (() => zoom(2)),
    "-": map && (() => zoom(0.5)),
    "0": map && everything,
    d: map && diagonal,
    g: open && (() => (dialog.value = "goto")),
    "/": open && (() => document.querySelector<HTMLInputElement>("#search")?.focus()),
    n: strong && (() => (stronger(1), follow())),
    p: strong && (() => (stronger(-1), follow())),
    l: () => go({ log: !place.peek().log }),
    m: map && nextPooling,
    e: open && (() => go({ screen: "lesson", about: "" })),
    t: () => go({ table: !place.peek().table }),
    "?": () => (dialog.value = "help"),
  };
  const screenOf = SCREENS[Number(key) - 1];
  if (/^[1-6]$/.test(key) && screenOf && (open || screenOf === "open" || screenOf === "lesson")) return () => go({ screen: screenOf });
  return acts[key.length === 1 ? key.toLowerCase() : key] || null;
}

export function listen(): () => void {
  const pressed = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target as HTMLElement;
    if (event.key === "Escape") {
      if (dialog.peek()) dialog.value = "";
      else if (/INPUT|SELECT|TEXTAREA/.test(target.tagName)) target.blur();
      else go({ cell: null });
      return;
    }
    if (dialog.peek() || /INPUT|SELECT|TEXTAREA/.test(target.tagName) || target.isContentEditable) return;
    // In a table or a list the arrows scroll.
    if (event.key.startsWith("Arrow") && target.closest(".table-twin")) return;
    const found = act(event.key, event.shiftKey);
    if (!found) return;
    event.preventDefault();
    found();
  };
  addEventListener("keydown", pressed);
  return () => removeEventListener("keydown", pressed);
}

/** Goes to a token: as the query, as the key, or to both at the diagonal. */
export function goTo(index: number, as: "query" | "key" | "both"): void {
  const at = cell.peek() ?? { query: Math.floor(view.peek().q), key: Math.floor(view.peek().k) };
  const { queries, keys } = extentOfLayer();
  const query = as === "key" ? at.query : index - (keys - queries);
  const key = as === "query" ? Math.min(at.key, index) : index;
  choose(query, key);
  if (onMap()) {
    look({ ...view.peek(), scale: Math.max(view.peek().scale, 16) });
    follow();
  }
}
