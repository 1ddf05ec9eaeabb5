// The export dialog: images, numbers and Python code of what is on screen, and the offline page.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { file, json, paths, raw } from "../client/requests";
import type { OfflinePageSummary } from "../client/types";
import { type DrawnTile, loader } from "../map/loader";
import { coloursOf, axisNames, overlayFor, sceneNow, source, colourTableNow } from "../map/scene";
import { extent, size, view } from "../map/viewport";
import { drawOverlay, EDGE } from "../map/overlay";
import { Canvas2dPainter } from "../map/canvas2d";
import { csvText, npyBytes, npzBytes, pythonCode, csvOfRow, type HeadName, pixelStarts, svgWithImage, svgOfWeights } from "../pure/files";
import { short } from "../pure/numbers";
import { css } from "../pure/ramps";
import { levelFor, tilesIn } from "../pure/tiles";
import { toneOf, valueAt } from "../pure/tone";
import { visible } from "../pure/view";
import { cell, showError, headIndex, layer, subtracted, tokenOfQuery, pooling, recordings, rowValues, recording, screen, announce, loadTokens, tokenText } from "../state";
import * as SAY from "../strings";
import { transport } from "../client/transport";
import { Check, Dialog } from "./components";

const onMap = () => screen.value === "map" || screen.value === "compare";
const shownHead = (): HeadName => ({ name: recording.value?.name ?? "run.safetensors", layer: layer.value?.index ?? 0, head: headIndex.value });
/** What Compare subtracts. */
function subtractedHead(): HeadName | null {
  if (screen.value !== "compare") return null;
  const [id = "", l, h] = subtracted.value.split("/");
  return { name: (id === recording.value?.id ? recording.value : recordings.value?.find((entry) => entry.id === id))?.name ?? id, layer: Number(l), head: Number(h) };
}
const fileStem = (side: HeadName) => side.name.replace(/\.[^.]*$/, "");
const headStem = (side: HeadName) => `${fileStem(side)}-L${side.layer}H${side.head}`;
const name = (end: string) => [shownHead(), subtractedHead()].map((side) => side && headStem(side)).filter(Boolean).join("-minus-") + end;

function save(blob: Blob, as: string): void {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = as;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  announce(SAY.exportsSaved(as));
}

const canvas = (w: number, h: number, times: number) =>
  Object.assign(document.createElement("canvas"), { width: Math.round(w * times), height: Math.round(h * times) });

/** The map alone, so many times as fine as the screen, with all its tiles. */
async function paintMap(times: number) {
  const level = levelFor(view.value.scale, times, extent.value);
  await loader.loadAll(source.value!, tilesIn(view.value, extent.value, size.value, level));
  const { scene } = sceneNow(times)!;
  const base = canvas(scene.width, scene.height, times);
  new Canvas2dPainter(base.getContext("2d")!).paint(scene);
  return { scene, level, base };
}

const pixels = (level: number, drawn: readonly DrawnTile[]) => {
  const block = Math.max(2 ** level, ...drawn.map((tile) => tile.loaded.cell));
  return block === 1 ? SAY.exact : SAY.pixel(Math.min(block, extent.value.queries), Math.min(block, extent.value.keys), pooling.value);
};
function subject(): string {
  const [a, b] = [shownHead(), subtractedHead()];
  const other = b && ` − ${b.name === a.name ? "" : `${b.name} · `}${SAY.head(b.layer, b.head)}`;
  return `${a.name} · ${recording.value?.model} · ${SAY.head(a.layer, a.head)}${other ?? ""}`;
}

/** The map with its rulers, and below it the legend as text and colours. */
async function savePng(times: number): Promise<void> {
  const { scene, level, base } = await paintMap(times);
  const colours = coloursOf(document.documentElement);
  const foot = 58;
  const [width, height] = [scene.width + EDGE.left + EDGE.right, scene.height + EDGE.top + EDGE.bottom];
  const [whole, over] = [canvas(width, height + foot, times), canvas(width, height, times)];
  drawOverlay(over.getContext("2d")!, { ...overlayFor(scene, level, colours), hover: null });
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
  const blob = await new Promise<Blob | null>((done) => whole.toBlob(done, "image/png"));
  if (blob) save(blob, name(`@${times}x.png`));
}

/** What is visible, and into how many numbers it goes: each weight where they fit into 1024 × 1024. */
function shape() {
  const at = visible(view.value, extent.value, size.value);
  const rows = Math.min(at.q1 - at.q0, 1024);
  const cols = Math.min(at.k1 - at.k0, 1024);
  return { ...at, rows, cols, exact: rows === at.q1 - at.q0 && cols === at.k1 - at.k0 };
}

async function saveCsv(): Promise<void> {
  if (!onMap()) {
    const row = rowValues.value;
    if (!row) return;
    await loadTokens(0, row.values.length);
    return save(new Blob([csvOfRow(row.values, tokenText)], { type: "text/csv" }), name(`-row${cell.value?.query ?? ""}.csv`));
  }
  const at = shape();
  const loaded = await raw(source.value!.path(at));
  save(new Blob([csvText(at, loaded.values)], { type: "text/csv" }), name(".csv"));
}

/** The weights on screen, and where the first of each row and column is, as NumPy reads them. */
async function saveNpz(): Promise<void> {
  const at = shape();
  const loaded = await raw(source.value!.path(at));
  const file = npzBytes({
    weights: npyBytes(loaded.values, [at.rows, at.cols]),
    queries: npyBytes(Int32Array.from(pixelStarts(at.q0, at.q1, at.rows)), [at.rows]),
    keys: npyBytes(Int32Array.from(pixelStarts(at.k0, at.k1, at.cols)), [at.cols]),
  });
  save(new Blob([file]), name(".npz"));
}

async function saveSvg(): Promise<void> {
  const at = shape();
  const now = sceneNow(1);
  if (!now) return;
  if (!at.exact || at.rows > 200 || at.cols > 200) {
    const { scene, base } = await paintMap(2);
    const text = svgWithImage(base.toDataURL("image/png"), { ...scene, ...scene.view }, extent.value, axisNames.value);
    return save(new Blob([text], { type: "image/svg+xml" }), name(".svg"));
  }
  const [loaded] = await Promise.all([raw(source.value!.path(at)), loadTokens(at.k0, at.k1), loadTokens(tokenOfQuery(at.q0), tokenOfQuery(at.q1))]);
  const colours = colourTableNow(source.value!.signed);
  const text = svgOfWeights(at, loaded.values, (value) => (value === 0 && !now.scene.tone.signed ? null : css(colours, toneOf(value, now.scene.tone))), (i, query) => tokenText(query ? tokenOfQuery(i) : i));
  save(new Blob([text], { type: "image/svg+xml" }), name(".svg"));
}

export function ExportDialog() {
  const done = useSignal("");
  const report = (text: string) => ((done.value = text), announce(text));
  const map = onMap() && source.value !== null;
  const at = shape();
  const small = at.exact && at.rows <= 200 && at.cols <= 200;
  // On other screens: the row of the selected cell, or the whole head.
  const [queries, keys] = [layer.value?.queries ?? 0, layer.value?.keys ?? 0];
  const [q0, q1] = cell.value ? [cell.value.query, cell.value.query + 1] : [0, queries];
  const area = map ? at : { q0, q1, k0: 0, k1: keys, rows: Math.min(q1 - q0, 1024), cols: cell.value ? keys : Math.min(keys, 1024) };
  const python = pythonCode({ ...area, how: pooling.value, cell: cell.value }, shownHead(), subtractedHead());
  const copy = (text: string) => navigator.clipboard.writeText(text).then(() => report(SAY.exportsCopied), showError);
  return (
    <Dialog title={SAY.exportsTitle}>
      <div class="exports">
        {map && (
          <div>
            <span>{SAY.exportsPng}</span>
            {[1, 2, 4].map((times) => (
              <button key={times} data-png={times} onClick={() => void savePng(times).catch(showError)}>
                {times}×
              </button>
            ))}
          </div>
        )}
        {(map || rowValues.value) && (
          <div>
            <span>{SAY.exportsCsv}</span>
            <button data-csv onClick={() => void saveCsv().catch(showError)}>CSV</button>
            {map && <button data-npz onClick={() => void saveNpz().catch(showError)}>NPZ</button>}
            {map && <span class="soft">{SAY.exportsCsvNote(at.rows, at.cols, at.exact)}</span>}
          </div>
        )}
        {map && (
          <div>
            <span>{SAY.exportsSvg}</span>
            <button data-svg onClick={() => void saveSvg().catch(showError)}>SVG</button>
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
        {transport === "worker" && <p class="soft" data-offline>{SAY.offlineAlready(recording.value?.error ?? "")}</p>}
        <p role="status">{done.value}</p>
      </div>
    </Dialog>
  );
}

/** One file that needs no server: what is in it is chosen, and its size shown, before it is written. */
function OfflinePage() {
  const open = useSignal(false);
  const [onlyHead, values] = [useSignal(false), useSignal(false)];
  const pageSize = useSignal<OfflinePageSummary | null>(null);
  const saving = useSignal(false);
  const at = layer.value!;
  const options = new URLSearchParams({
    ...(values.value && { values: "1" }), ...(onlyHead.value && { layer: String(at.index), head: String(headIndex.value) }),
  });
  const path = paths.page(recording.value!.id, options);
  useEffect(() => {
    pageSize.value = null;
    if (!open.value) return;
    const abort = new AbortController();
    json<OfflinePageSummary>(`${path}&size=1`, abort.signal).then((size) => (pageSize.value = size), showError);
    return () => abort.abort();
  }, [path, open.value]);
  const write = async () => {
    saving.value = true;
    await file(path).then((blob) => save(blob, `${(onlyHead.value ? headStem : fileStem)(shownHead())}.html`), showError);
    saving.value = false;
  };
  return (
    <details data-page open={open.value} onToggle={(event) => (open.value = event.currentTarget.open)}>
      <summary>{SAY.offlineTitle}</summary>
      <div>
        <Check label={SAY.offlineOneHead(at.index, headIndex.value)} on={onlyHead.value} onPick={(on) => (onlyHead.value = on)} />
        {at.values && <Check label={SAY.offlineValues} on={values.value} onPick={(on) => (values.value = on)} />}
        <button data-save disabled={!pageSize.value || saving.value} onClick={() => void write()}>{SAY.offlineSave}</button>
      </div>
      <p class="soft" role="status">{pageSize.value ? SAY.offlineSize(pageSize.value.bytes, pageSize.value.dtype, pageSize.value.error) : SAY.offlineMeasuring}</p>
    </details>
  );
}
