// What is on screen, to take away: pictures, numbers, a few lines of Python.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { file, json, type PageTold, paths, raw } from "../api";
import { type Drawn, loader } from "../map/loader";
import { coloursOf, extent, names, overFor, sceneNow, size, source, table, view } from "../map/stage";
import { drawOver, EDGE } from "../map/overlay";
import { PlainPainter } from "../map/plain";
import { csvOf, npyOf, npzOf, pythonOf, rowOf, type Side, startsOf, svgAround, svgOf } from "../pure/exporting";
import { short } from "../pure/numbers";
import { css } from "../pure/ramps";
import { levelFor, tilesIn } from "../pure/tiles";
import { toneOf, valueAt } from "../pure/tone";
import { visible } from "../pure/view";
import { cell, fail, headIndex, layer, minus, placeOf, pooling, recordings, rowNow, run, screen, speak, texts, token } from "../state";
import * as SAY from "../strings";
import { transport } from "../transport";
import { Check, Dialog } from "./components";

const onMap = () => screen.value === "map" || screen.value === "compare";
const own = (): Side => ({ name: run.value?.name ?? "run.safetensors", layer: layer.value?.index ?? 0, head: headIndex.value });
/** What Compare subtracts. */
function subtracted(): Side | null {
  if (screen.value !== "compare") return null;
  const [id = "", l, h] = minus.value.split("/");
  return { name: (id === run.value?.id ? run.value : recordings.value?.find((one) => one.id === id))?.name ?? id, layer: Number(l), head: Number(h) };
}
const whole = (side: Side) => side.name.replace(/\.[^.]*$/, "");
const stem = (side: Side) => `${whole(side)}-L${side.layer}H${side.head}`;
const name = (end: string) => [own(), subtracted()].map((side) => side && stem(side)).filter(Boolean).join("-minus-") + end;

function save(blob: Blob, as: string): void {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = as;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  speak(SAY.exportsSaved(as));
}

const canvas = (w: number, h: number, times: number) =>
  Object.assign(document.createElement("canvas"), { width: Math.round(w * times), height: Math.round(h * times) });

/** The map alone, so many times as fine as the screen, with all its tiles. */
async function fine(times: number) {
  const level = levelFor(view.value.scale, times, extent.value);
  await loader.all(source.value!, tilesIn(view.value, extent.value, size.value, level));
  const { scene } = sceneNow(times)!;
  const base = canvas(scene.width, scene.height, times);
  new PlainPainter(base.getContext("2d")!).paint(scene);
  return { scene, level, base };
}

const pixels = (level: number, drawn: readonly Drawn[]) => {
  const block = Math.max(2 ** level, ...drawn.map((one) => one.held.cell));
  return block === 1 ? SAY.exact : SAY.pixel(Math.min(block, extent.value.queries), Math.min(block, extent.value.keys), pooling.value);
};
function subject(): string {
  const [a, b] = [own(), subtracted()];
  const other = b && ` − ${b.name === a.name ? "" : `${b.name} · `}${SAY.head(b.layer, b.head)}`;
  return `${a.name} · ${run.value?.model} · ${SAY.head(a.layer, a.head)}${other ?? ""}`;
}

/** The map with its rulers, and below it the legend in words and colours. */
async function png(times: number): Promise<void> {
  const { scene, level, base } = await fine(times);
  const colours = coloursOf(document.documentElement);
  const foot = 58;
  const [width, height] = [scene.width + EDGE.left + EDGE.right, scene.height + EDGE.top + EDGE.bottom];
  const [whole, over] = [canvas(width, height + foot, times), canvas(width, height, times)];
  drawOver(over.getContext("2d")!, { ...overFor(scene, level, colours), hover: null });
  const context = whole.getContext("2d")!;
  context.fillStyle = colours.paper;
  context.fillRect(0, 0, whole.width, whole.height);
  context.fillStyle = colours.map;
  context.fillRect(EDGE.left * times, EDGE.top * times, base.width, base.height);
  context.drawImage(base, EDGE.left * times, EDGE.top * times);
  context.drawImage(over, 0, 0);
  context.setTransform(times, 0, 0, times, 0, height * times);
  context.font = `12px ${colours.mono}`;
  context.fillStyle = colours.ink;
  context.fillText(subject(), EDGE.left, 12);
  context.fillStyle = colours.soft;
  context.fillText(pixels(level, scene.drawn), EDGE.left, 32);
  for (let x = 0; x < 200; x++) {
    context.fillStyle = css(scene.table, x / 199);
    context.fillRect(width - EDGE.right - 200 + x, 4, 1, 10);
  }
  context.fillStyle = colours.soft;
  for (const [part, align] of [[0, "left"], [0.5, "center"], [1, "right"]] as const) {
    context.textAlign = align;
    context.fillText(short(scene.tone.signed && part === 0.5 ? 0 : valueAt(part, scene.tone), 2), width - EDGE.right - 200 + 200 * part, 32);
  }
  const blob = await new Promise<Blob | null>((made) => whole.toBlob(made, "image/png"));
  if (blob) save(blob, name(`@${times}x.png`));
}

/** What is visible, and into how many numbers it goes: each weight where they fit into 1024 × 1024. */
function shape() {
  const at = visible(view.value, extent.value, size.value);
  const rows = Math.min(at.q1 - at.q0, 1024);
  const cols = Math.min(at.k1 - at.k0, 1024);
  return { ...at, rows, cols, exact: rows === at.q1 - at.q0 && cols === at.k1 - at.k0 };
}

async function csv(): Promise<void> {
  if (!onMap()) {
    const row = rowNow.value;
    if (!row) return;
    await texts(0, row.values.length);
    return save(new Blob([rowOf(row.values, token)], { type: "text/csv" }), name(`-row${cell.value?.query ?? ""}.csv`));
  }
  const at = shape();
  const told = await raw(source.value!.path(at));
  save(new Blob([csvOf(at, told.values)], { type: "text/csv" }), name(".csv"));
}

/** The weights on screen, and where the first of each row and column is, as NumPy reads them. */
async function npz(): Promise<void> {
  const at = shape();
  const told = await raw(source.value!.path(at));
  const file = npzOf({
    weights: npyOf(told.values, [at.rows, at.cols]),
    queries: npyOf(Int32Array.from(startsOf(at.q0, at.q1, at.rows)), [at.rows]),
    keys: npyOf(Int32Array.from(startsOf(at.k0, at.k1, at.cols)), [at.cols]),
  });
  save(new Blob([file]), name(".npz"));
}

async function svg(): Promise<void> {
  const at = shape();
  const now = sceneNow(1);
  if (!now) return;
  if (!at.exact || at.rows > 200 || at.cols > 200) {
    const { scene, base } = await fine(2);
    const text = svgAround(base.toDataURL("image/png"), { ...scene, ...scene.view }, extent.value, names.value);
    return save(new Blob([text], { type: "image/svg+xml" }), name(".svg"));
  }
  const [told] = await Promise.all([raw(source.value!.path(at)), texts(at.k0, at.k1), texts(placeOf(at.q0), placeOf(at.q1))]);
  const colours = table(source.value!.signed);
  const text = svgOf(at, told.values, (value) => (value === 0 && !now.scene.tone.signed ? null : css(colours, toneOf(value, now.scene.tone))), (i, query) => token(query ? placeOf(i) : i));
  save(new Blob([text], { type: "image/svg+xml" }), name(".svg"));
}

export function ExportDialog() {
  const done = useSignal("");
  const tell = (text: string) => ((done.value = text), speak(text));
  const map = onMap() && source.value !== null;
  const at = shape();
  const small = at.exact && at.rows <= 200 && at.cols <= 200;
  // Elsewhere a row is on screen, or the whole of a head.
  const [queries, keys] = [layer.value?.queries ?? 0, layer.value?.keys ?? 0];
  const [q0, q1] = cell.value ? [cell.value.query, cell.value.query + 1] : [0, queries];
  const area = map ? at : { q0, q1, k0: 0, k1: keys, rows: Math.min(q1 - q0, 1024), cols: cell.value ? keys : Math.min(keys, 1024) };
  const python = pythonOf({ ...area, how: pooling.value, cell: cell.value }, own(), subtracted());
  const copy = (text: string) => navigator.clipboard.writeText(text).then(() => tell(SAY.exportsCopied), fail);
  return (
    <Dialog title={SAY.exportsTitle}>
      <div class="exports">
        {map && (
          <div>
            <span>{SAY.exportsPng}</span>
            {[1, 2, 4].map((times) => (
              <button key={times} data-png={times} onClick={() => void png(times).catch(fail)}>
                {times}×
              </button>
            ))}
          </div>
        )}
        {(map || rowNow.value) && (
          <div>
            <span>{SAY.exportsCsv}</span>
            <button data-csv onClick={() => void csv().catch(fail)}>CSV</button>
            {map && <button data-npz onClick={() => void npz().catch(fail)}>NPZ</button>}
            {map && <span class="soft">{SAY.exportsCsvNote(at.rows, at.cols, at.exact)}</span>}
          </div>
        )}
        {map && (
          <div>
            <span>{SAY.exportsSvg}</span>
            <button data-svg onClick={() => void svg().catch(fail)}>SVG</button>
            <span class="soft">{small ? SAY.exportsSvgVectors : SAY.exportsSvgRaster}</span>
          </div>
        )}
        <div>
          <span>{SAY.exportsPython}</span>
          <button onClick={() => void copy(python)}>{SAY.exportsPython}</button>
        </div>
        <pre>{python}</pre>
        {transport !== "parent" && (
          <div>
            <span>{SAY.exportsLink}</span>
            <button onClick={() => void copy(location.href)}>{SAY.exportsLink}</button>
          </div>
        )}
        {transport === "http" && <OfflinePage />}
        {transport === "worker" && <p class="soft" data-offline>{SAY.offlineAlready(run.value?.error ?? "")}</p>}
        <p role="status">{done.value}</p>
      </div>
    </Dialog>
  );
}

/** One file that needs no server: what is in it is chosen, and its size said, before it is made. */
function OfflinePage() {
  const open = useSignal(false);
  const [one, values] = [useSignal(false), useSignal(false)];
  const told = useSignal<PageTold | null>(null);
  const saving = useSignal(false);
  const at = layer.value!;
  const asked = new URLSearchParams({
    ...(values.value && { values: "1" }), ...(one.value && { layer: String(at.index), head: String(headIndex.value) }),
  });
  const path = paths.page(run.value!.id, asked);
  useEffect(() => {
    told.value = null;
    if (!open.value) return;
    const abort = new AbortController();
    json<PageTold>(`${path}&size=1`, abort.signal).then((size) => (told.value = size), fail);
    return () => abort.abort();
  }, [path, open.value]);
  const write = async () => {
    saving.value = true;
    await file(path).then((blob) => save(blob, `${(one.value ? stem : whole)(own())}.html`), fail);
    saving.value = false;
  };
  return (
    <details data-page open={open.value} onToggle={(event) => (open.value = event.currentTarget.open)}>
      <summary>{SAY.offlineTitle}</summary>
      <div>
        <Check label={SAY.offlineOneHead(at.index, headIndex.value)} on={one.value} onPick={(on) => (one.value = on)} />
        {at.values && <Check label={SAY.offlineValues} on={values.value} onPick={(on) => (values.value = on)} />}
        <button data-save disabled={!told.value || saving.value} onClick={() => void write()}>{SAY.offlineSave}</button>
      </div>
      <p class="soft" role="status">{told.value ? SAY.offlineSize(told.value.bytes, told.value.dtype, told.value.error) : SAY.offlineMeasuring}</p>
    </details>
  );
}
