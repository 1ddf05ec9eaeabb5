// A − B: two heads of one recording, or of two. As a map of the difference, or as both rows of one query over their texts.
import { headsOf, paths, raw } from "../client/requests";
import { cell, selectCell, go, headIndex, layer, subtracted, place, tokenOfQuery, recordingId, recordingOf, recordings, resource, rowValues, rowAnswer, recording, screen, tokenText } from "../state";
import * as SAY from "../strings";
import { MapView } from "./map";
import { Choice, Section } from "./components";
import { Readout, LargestList } from "./panel";
import { Reading } from "./row";

const otherPath = () => {
  const at = cell.value;
  if (screen.value !== "compare" || !place.value.beside || !at) return null;
  const [id = "", l = "", h = ""] = subtracted.value.split("/");
  const otherLayer = (id === recordingId.value ? recording.value : recordingOf(id))?.layers.find(({ index }) => String(index) === l);
  return otherLayer && at.query < otherLayer.queries ? paths.row(id, Number(l), Number(h), at.query) : null;
};
const otherRow = resource(otherPath, raw, 40);

export function CompareView() {
  const now = recording.value;
  const at = layer.value;
  if (!now || !at) return <p class="empty">{SAY.loading}</p>;
  const [otherId = "", otherLayer = "0", otherHead = "0"] = subtracted.value.split("/");
  const other = otherId === now.id ? now : recordingOf(otherId);
  const names = (recordings.value ?? []).map((entry) => [entry.id, entry.name] as const);
  const layers = (other?.layers ?? []).map((entry) => [String(entry.index), String(entry.index)] as const);
  const subtract = (id: string, l: string, h: string) => go({ other: `${id}/${l}/${h}` });
  const otherLayerInfo = other?.layers.find((entry) => String(entry.index) === otherLayer);
  return (
    <div class="comparing">
      <header class="tools">
        <b class="side">{SAY.compareA}</b>
        <span>
          {now.name} · {SAY.head(at.index, headIndex.value)}
        </span>
        <b class="side">− {SAY.compareB}</b>
        {names.length > 1 && <Choice label={SAY.recording} value={otherId} among={names} onPick={(id) => subtract(id, "0", "0")} />}
        <Choice label={SAY.layer} value={otherLayer} among={layers} onPick={(l) => subtract(otherId, l, otherHead)} />
        <Choice label={SAY.headName} value={otherHead} among={(otherLayerInfo ? headsOf(otherLayerInfo) : []).map((head) => [String(head), String(head)] as const)} onPick={(h) => subtract(otherId, otherLayer, h)} />
        <button
          onClick={() =>
            go({
              recording: otherId, layer: Number(otherLayer), head: Number(otherHead),
              other: `${recordingId.value}/${at.index}/${headIndex.value}`, log: place.value.log,
            })
          }
        >
          {SAY.compareSwap}
        </button>
        <span class="gap" />
        <div class="segmented" role="group" aria-label={SAY.views}>
          {[false, true].map((asRows) => (
            <button key={String(asRows)} aria-pressed={place.value.beside === asRows} onClick={() => go({ beside: asRows })}>
              {asRows ? SAY.compareRows : SAY.compareMap}
            </button>
          ))}
        </div>
      </header>
      {place.value.beside ? <BothRows id={otherId} head={SAY.head(Number(otherLayer), Number(otherHead))} queries={other?.layers.find((entry) => String(entry.index) === otherLayer)?.queries ?? 0} /> : <MapView />}
    </div>
  );
}

/** A's row and B's, each over its own text. */
function BothRows({ id, head, queries }: { id: string; head: string; queries: number }) {
  const selected = cell.value;
  if (!selected) return <p class="empty">{SAY.compareRowsHint}</p>;
  const { query, key } = selected;
  const [a, b] = [rowAnswer.value.value?.values ?? null, otherRow.value.value?.values ?? null];
  // The indices of the queries' own tokens.
  const [tokenA, tokenB] = [tokenOfQuery(query), query + Math.max((b?.length ?? queries) - queries, 0)];
  const pick = (to: number) => selectCell(query, to);
  const title = (side: string, head: string, text: string | undefined) => SAY.compareOf(side, query, text ?? "…", head);
  return (
    <div class="with-panel">
      <div class="row-pair">
        <Reading title={title(SAY.compareA, SAY.head(layer.value!.index, headIndex.value), tokenText(tokenA))} values={a} stale={!rowValues.value} query={tokenA} chosen={key} what={SAY.rowWeight} onPick={pick} />
        {query < queries ? (
          <Reading title={title(SAY.compareB, head, tokenText(tokenB, id))} values={b} stale={otherRow.value.loading} query={tokenB} chosen={key} what={SAY.rowWeight} id={id} onPick={pick} />
        ) : (
          <p class="empty">{SAY.compareShorter(queries)}</p>
        )}
      </div>
      <aside class="panel" aria-label={SAY.compareTitle}>
        <Readout />
        {a && <Section title={`${SAY.compareA}: ${SAY.rowTops}`}><LargestList values={a} current={key} onPick={pick} /></Section>}
        {b && query < queries && <Section title={`${SAY.compareB}: ${SAY.rowTops}`}><LargestList values={b} current={key} id={id} onPick={pick} /></Section>}
      </aside>
    </div>
  );
}
