// Layers × heads, as thumbnails, sorted and filtered by statistics.
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Values, json, paths, raw } from "../client/requests";
import type { HeadSummary, Highlight } from "../client/types";
import { colourImage } from "../map/canvas2d";
import { colourTableNow } from "../map/scene";
import { Lru } from "../pure/lru";
import { short } from "../pure/numbers";
import { filterHeads, type Filter, STATISTICS, statisticOf } from "../pure/sorting";
import { buildProgress, showError, go, recordingId, resource, recording, screen, table } from "../state";
import * as SAY from "../strings";
import { Bar, Choice } from "./components";

const filter = signal<Filter>({ by: "", descending: true, least: "", most: "", layer: "" });
const change = (part: Partial<Filter>) => (filter.value = { ...filter.value, ...part });

const atlas = resource<{ heads: HeadSummary[]; highlights?: Highlight[] }>(
  () => (screen.value === "atlas" && recordingId.value ? paths.atlas(recordingId.value) : null),
  (path, signal) =>
    json<{ heads: HeadSummary[]; highlights?: Highlight[] }>(path, signal, (part, what) => (buildProgress.value = { part, what })).finally(() => (buildProgress.value = null)),
);

const thumbnails = new Lru<Values>(400);

/** A head as 128 × 128 pixels, fetched when it is scrolled into view. */
function Thumbnail({ layer, head }: { layer: number; head: number }) {
  const path = paths.thumbnail(recordingId.value, layer, head);
  const ref = useRef<HTMLCanvasElement>(null);
  const [values, setValues] = useState(thumbnails.get(path));
  const colours = colourTableNow(false);
  useEffect(() => {
    setValues(thumbnails.get(path));
    if (thumbnails.has(path)) return;
    const abort = new AbortController();
    const observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        observer.disconnect();
        raw(path, abort.signal).then((loaded) => {
          thumbnails.set(path, loaded);
          setValues(loaded);
        }, showError);
      },
      { rootMargin: "200px" },
    );
    observer.observe(ref.current!);
    return () => {
      observer.disconnect();
      abort.abort();
    };
  }, [path]);
  useEffect(() => {
    if (!values) return;
    const canvas = ref.current!;
    canvas.width = values.cols;
    canvas.height = values.rows;
    const tone = { log: true, gamma: 1, decades: 4, greatest: 1, signed: false };
    canvas.getContext("2d")!.putImageData(colourImage(values.values, values.rows, values.cols, tone, colours, null), 0, 0);
  }, [values, colours]);
  return <canvas ref={ref} width={128} height={128} aria-hidden="true" />;
}

const openHead = (layer: number, head: number) => go({ screen: "map", layer, head, view: null });

export function AtlasView() {
  const now = recording.value;
  if (!now) return <p class="empty">{SAY.loading}</p>;
  const statistics = atlas.value.path === paths.atlas(now.id) ? atlas.value.value?.heads : undefined;
  const ranked = (statistics && atlas.value.value?.highlights) || [];
  const all: HeadSummary[] | { layer: number; head: number }[] =
    statistics ?? now.layers.flatMap((layer) => Array.from({ length: layer.heads }, (_, head) => ({ layer: layer.index, head })));
  const current = filter.value;
  const heads = statistics ? filterHeads(statistics, current) : (all as HeadSummary[]);
  const grid = current.by === "" && heads.length === all.length;
  const most = current.by && statistics ? Math.max(...statistics.map((entry) => statisticOf(entry, current.by)), 1e-12) : 1;
  const columns = grid ? Math.max(...now.layers.map((layer) => layer.heads)) : 0;
  const names = [["", SAY.atlasPlace] as const, ...STATISTICS.map((name) => [name, SAY.statistics[name]![0]] as const)];
  return (
    <div class="atlas">
      <header class="tools">
        <h1>{now.name}</h1>
        <span class="soft">{SAY.atlasIntro}</span>
        <span class="gap" />
        <Choice label={SAY.atlasSort} value={current.by} among={names} onPick={(by) => change({ by, descending: true, least: "", most: "" })} />
        {current.by && (
          <>
            <button onClick={() => change({ descending: !current.descending })}>{current.descending ? SAY.atlasDescending : SAY.atlasAscending}</button>
            {(["least", "most"] as const).map((end) => (
              <label class="choice" key={end}>
                <span>{end === "least" ? SAY.atlasAtLeast : SAY.atlasAtMost}</span>
                <input type="number" step="any" value={current[end]} onInput={(event) => change({ [end]: event.currentTarget.value })} />
              </label>
            ))}
          </>
        )}
        <Choice
          label={SAY.atlasLayer}
          value={current.layer}
          among={[["", SAY.atlasEvery] as const, ...now.layers.map((layer) => [String(layer.index), String(layer.index)] as const)]}
          onPick={(layer) => change({ layer })}
        />
        <span class="soft">{SAY.atlasShown(heads.length, all.length)}</span>
      </header>
      {grid && !table.value && ranked.length > 0 && (
        <section class="ranked-heads">
          <h2>{SAY.atlasRanked}</h2>
          <ul>
            {ranked.map((entry) => (
              <li key={`${entry.layer}/${entry.head}`}>
                <button data-ranked={`${entry.layer}/${entry.head}`} onClick={() => openHead(entry.layer, entry.head)}>
                  <Thumbnail layer={entry.layer} head={entry.head} />
                  <span>
                    <b>{entry.title}</b> <span class="soft">{SAY.atlasHead(entry.layer, entry.head)}</span>
                    <span class="reason">{entry.why}</span>
                  </span>
                </button>
              </li>
            ))}
          </ul>
        </section>
      )}
      {current.by && <p class="soft">{SAY.statistics[current.by]![1]}</p>}
      {table.value && statistics ? (
        <HeadTable heads={heads} />
      ) : (
        <ul class={grid ? "heads grid" : "heads"} style={grid ? { "--columns": String(columns) } : {}}>
          {heads.map((entry) => (
            <li key={`${entry.layer}/${entry.head}`}>
              <button data-head={`${entry.layer}/${entry.head}`} onClick={() => openHead(entry.layer, entry.head)}>
                <Thumbnail layer={entry.layer} head={entry.head} />
                <span class="visually-hidden">{SAY.head(entry.layer, entry.head)}</span>
                <span class="caption">
                  <b aria-hidden="true">{SAY.atlasHead(entry.layer, entry.head)}</b>
                  {statistics && <span class="number">{current.by ? short(statisticOf(entry, current.by), 3) : `${(entry.entropy * 100).toFixed(0)} %`}</span>}
                </span>
                {statistics && <Bar part={current.by ? statisticOf(entry, current.by) / most : entry.entropy} />}
                {statistics && !current.by && <span class="caption soft">{SAY.statistics.entropy![0]}</span>}
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function HeadTable({ heads }: { heads: HeadSummary[] }) {
  return (
    <div class="table-twin" tabIndex={0} role="region" aria-label={SAY.table}>
      <table>
        <thead>
          <tr>
            <th scope="col">{SAY.layer}</th>
            <th scope="col">{SAY.headName}</th>
            {STATISTICS.map((name) => (
              <th scope="col" key={name} title={SAY.statistics[name]![1]} aria-sort={filter.value.by === name ? (filter.value.descending ? "descending" : "ascending") : "none"}>
                <button class="quiet" onClick={() => change({ by: name, descending: filter.value.by === name ? !filter.value.descending : true })}>
                  {SAY.statistics[name]![0]}
                </button>
              </th>
            ))}
            <th scope="col">{SAY.atlasNearest}</th>
          </tr>
        </thead>
        <tbody>
          {heads.map((entry) => (
            <tr key={`${entry.layer}/${entry.head}`} onClick={() => openHead(entry.layer, entry.head)}>
              <td>{entry.layer}</td>
              <td>{entry.head}</td>
              {STATISTICS.map((name) => (
                <td key={name}>{short(statisticOf(entry, name))}</td>
              ))}
              <td>{entry.redundancy ? SAY.atlasHead(entry.redundancy.layer, entry.redundancy.head) : "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
