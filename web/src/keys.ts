// Keyboard shortcuts; keys typed into a field are left alone.
import { fitAll, goToDiagonal, setView, reveal, view, zoom } from "./map/viewport";
import { POOLINGS, SCREENS } from "./pure/hash";
import { cell, selectCell, dialog, extentOfLayer, go, place, recordingId, screen, stepHead, stepStrongest } from "./state";

const onMap = () => screen.peek() === "map" || screen.peek() === "compare";

function move(down: number, right: number): void {
  const at = cell.peek();
  if (at) selectCell(at.query + down, at.key + right);
  else selectCell(Math.floor(view.peek().q), Math.floor(view.peek().k));
  revealCell();
}

/** Scrolls the map to the selected cell. */
function revealCell(): void {
  const at = cell.peek();
  if (at && onMap()) reveal(at.query, at.key);
}

function nextPooling(): void {
  const { pooling } = place.peek();
  go({ pooling: POOLINGS[(POOLINGS.indexOf(pooling) + 1) % POOLINGS.length]! });
}

/** The action of a key on this screen, or null. */
function actionOf(key: string, shifted: boolean): (() => void) | null {
  const by = shifted ? 10 : 1;
  const map = onMap();
  const open = recordingId.peek() !== "";
  const showsStrongest = map || screen.peek() === "row";
  const actions: Record<string, false | (() => void)> = {
    ArrowUp: showsStrongest && (() => move(-by, 0)),
    ArrowDown: showsStrongest && (() => move(by, 0)),
    ArrowLeft: showsStrongest && (() => move(0, -by)),
    ArrowRight: showsStrongest && (() => move(0, by)),
    "[": open && (() => stepHead(-1, 0)),
    "]": open && (() => stepHead(1, 0)),
    ",": open && (() => stepHead(0, -1)),
    ".": open && (() => stepHead(0, 1)),
    "+": map && (() => zoom(2)),
    "=": map && (() => zoom(2)),
    "-": map && (() => zoom(0.5)),
    "0": map && fitAll,
    d: map && goToDiagonal,
    g: open && (() => (dialog.value = "goto")),
    "/": open && (() => document.querySelector<HTMLInputElement>("#search")?.focus()),
    n: showsStrongest && (() => (stepStrongest(1), revealCell())),
    p: showsStrongest && (() => (stepStrongest(-1), revealCell())),
    l: () => go({ log: !place.peek().log }),
    m: map && nextPooling,
    e: open && (() => go({ screen: "lesson", topic: "" })),
    t: () => go({ table: !place.peek().table }),
    "?": () => (dialog.value = "help"),
  };
  const screenOf = SCREENS[Number(key) - 1];
  if (/^[1-6]$/.test(key) && screenOf && (open || screenOf === "open" || screenOf === "lesson")) return () => go({ screen: screenOf });
  return actions[key.length === 1 ? key.toLowerCase() : key] || null;
}

export function listenToKeys(): () => void {
  const onKeyDown = (event: KeyboardEvent) => {
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
    const action = actionOf(event.key, event.shiftKey);
    if (!action) return;
    event.preventDefault();
    action();
  };
  addEventListener("keydown", onKeyDown);
  return () => removeEventListener("keydown", onKeyDown);
}

/** Goes to a token: as the query, as the key, or to both at the diagonal. */
export function goToToken(index: number, as: "query" | "key" | "both"): void {
  const at = cell.peek() ?? { query: Math.floor(view.peek().q), key: Math.floor(view.peek().k) };
  const { queries, keys } = extentOfLayer();
  const query = as === "key" ? at.query : index - (keys - queries);
  const key = as === "query" ? Math.min(at.key, index) : index;
  selectCell(query, key);
  if (onMap()) {
    setView({ ...view.peek(), scale: Math.max(view.peek().scale, 16) });
    revealCell();
  }
}
