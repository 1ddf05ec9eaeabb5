// The map of one head, or of the difference of two; or the same as a table.
import { useEffect, useRef } from "preact/hooks";
import { difference, oneHead, raw } from "../client/requests";
import { axisNames, source } from "../map/scene";
import { mount } from "../map/stage";
import { extent, size, view } from "../map/viewport";
import { short } from "../pure/numbers";
import { visible } from "../pure/view";
import { cell, selectCell, headIndex, layer, subtracted, tokenOfQuery, pooling, recordingId, recordingOf, resource, recording, screen, table, tokenText } from "../state";
import * as SAY from "../strings";
import { Token } from "./components";
import { Panel } from "./panel";

/** Sets the source of the map's numbers. */
export function useSource(): void {
  const at = layer.value;
  const now = recording.value;
  const head = headIndex.value;
  const other = screen.value === "compare" ? subtracted.value : "";
  const id = recordingId.value;
  // Two texts of different lengths are compared over the shorter extent.
  const [otherId = "", otherLayer = ""] = other.split("/");
  const otherRecording = otherId && (otherId === id ? now : recordingOf(otherId));
  const limit = otherRecording ? otherRecording.layers.find((layerInfo) => String(layerInfo.index) === otherLayer) : undefined;
  const ready = !other || limit !== undefined;
  const mapSource = !at || !now || !ready ? null : other ? difference(`${id}/${at.index}/${head}`, other, pooling.value) : oneHead(id, at.index, head, pooling.value);
  useEffect(() => {
    if (at) {
      const to = { queries: Math.min(at.queries, limit?.queries ?? Infinity), keys: Math.min(at.keys, limit?.keys ?? Infinity) };
      if (extent.peek().queries !== to.queries || extent.peek().keys !== to.keys) extent.value = to;
    }
    if (source.peek()?.id !== mapSource?.id) source.value = mapSource;
    axisNames.value = { queries: SAY.queries, keys: SAY.keys };
  });
}

export function MapView() {
  useSource();
  const host = useRef<HTMLDivElement>(null);
  const base = useRef<HTMLCanvasElement>(null);
  const over = useRef<HTMLCanvasElement>(null);
  const asTable = table.value;
  useEffect(() => (asTable ? undefined : mount(host.current!, base.current!, over.current!)), [asTable]);
  const at = layer.value;
  return (
    <div class="with-panel">
      {asTable ? (
        <WeightsTable />
      ) : (
        <div
          class="stage"
          ref={host}
          tabIndex={0}
          role="application"
          aria-roledescription="map"
          aria-label={SAY.mapLabel(at?.index ?? 0, headIndex.value, at?.queries ?? 0, at?.keys ?? 0)}
        >
          <canvas class="base" ref={base} aria-hidden="true" />
          <canvas class="over" ref={over} aria-hidden="true" />
        </div>
      )}
      <Panel />
    </div>
  );
}

const MOST = 24;

/** The queries and keys that the table shows: around the selected cell, else around the middle of the view. */
function tableArea() {
  const onScreen = visible(view.value, extent.value, size.value);
  const around = (at: number, most: number) => {
    const start = Math.min(Math.max(at - MOST / 2, 0), Math.max(most - MOST, 0));
    return [start, Math.min(start + MOST, most)] as const;
  };
  const selected = cell.value;
  const [q0, q1] = around(selected?.query ?? (onScreen.q0 + onScreen.q1) >> 1, extent.value.queries);
  const [k0, k1] = around(selected?.key ?? (onScreen.k0 + onScreen.k1) >> 1, extent.value.keys);
  return { q0, q1, k0, k1 };
}

const tableValues = resource(
  () => {
    const from = source.value;
    if (!from || !table.value || (screen.value !== "map" && screen.value !== "compare")) return null;
    const at = tableArea();
    return from.path({ ...at, rows: at.q1 - at.q0, cols: at.k1 - at.k0 });
  },
  raw,
  60,
);

export function WeightsTable() {
  const { q0, q1, k0, k1 } = tableArea();
  const loaded = tableValues.value.loading ? null : tableValues.value.value;
  const selected = cell.value;
  const list = (a: number, b: number) => Array.from({ length: b - a }, (_, i) => a + i);
  return (
    <div class="table-twin" tabIndex={0} role="region" aria-label={SAY.table}>
      <table>
        <caption>{SAY.exact}</caption>
        <thead>
          <tr>
            <td />
            {list(k0, k1).map((k) => (
              <th scope="col" key={k}>
                <span class="index">{k}</span>
                <Token index={k} role="key" text={tokenText(k)} />
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {list(q0, q1).map((q) => (
            <tr key={q}>
              <th scope="row">
                <span class="index">{q}</span>
                <Token index={q} role="query" text={tokenText(tokenOfQuery(q))} />
              </th>
              {list(k0, k1).map((k) => (
                <td key={k} class={selected?.query === q && selected.key === k ? "selected" : ""} onClick={() => selectCell(q, k)}>
                  {loaded ? short(loaded.values[(q - q0) * loaded.cols + (k - k0)] ?? 0) : "…"}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
