// Layers × heads, as thumbnails, sorted and filtered by what was measured.
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Telling } from "../api.more";
import { type HeadStatistics, json, paths, raw, type Values } from "../api";
import { coloured } from "../map/plain";
import { table as tableOf } from "../map/stage";
import { Lru } from "../pure/lru";
import { short } from "../pure/numbers";
import { chosen, type Filter, NAMES, statistic } from "../pure/sorting";
import { doing, fail, go, recordingId, resource, run, screen, table } from "../state";
import * as SAY from "../strings";
import { Bar, Choice } from "./components";

const filter = signal<Filter>({ by: "", descending: true, least: "", most: "", layer: "" });
const change = (part: Partial<Filter>) => (filter.value = { ...filter.value, ...part });

const atlas = resource<{ heads: HeadStatistics[]; telling?: Telling[] }>(
  () => (screen.value === "atlas" && recordingId.value ? paths.atlas(recordingId.value) : null),
  (path, signal) =>
    json<{ heads: HeadStatistics[]; telling?: Telling[] }>(path, signal, (part, what) => (doing.value = { part, what })).finally(() => (doing.value = null)),
);

const thumbnails = new Lru<Values>(400);

/** A head as 128 × 128 pixels, fetched when it comes into sight. */
function Thumbnail({ layer, head }: { layer: number; head: number }) {
  const path = paths.thumbnail(recordingId.value, layer, head);
  const ref = useRef<HTMLCanvasElement>(null);
  const [values, setValues] = useState(thumbnails.get(path));
  const colours = tableOf(false);
  useEffect(() => {
    setValues(thumbnails.get(path));
    if (thumbnails.has(path)) return;
    const abort = new AbortController();
    const watch = new IntersectionObserver(
      (seen) => {
        if (!seen.some((one) => one.isIntersecting)) return;
        watch.disconnect();
        raw(path, abort.signal).then((got) => {
          thumbnails.set(path, got);
          setValues(got);
        }, fail);
      },
      { rootMargin: "200px" },
    );
    watch.observe(ref.current!);
    return () => {
      watch.disconnect();
      abort.abort();
    };
  }, [path]);
  useEffect(() => {
    if (!values) return;
    const canvas = ref.current!;
    canvas.width = values.cols;
    canvas.height = values.rows;
    const tone = { log: true, gamma: 1, decades: 4, greatest: 1, signed: false };
    canvas.getContext("2d")!.putImageData(coloured(values.values, values.rows, values.cols, tone, colours, null), 0, 0);
  }, [values, colours]);
  return <canvas ref={ref} width={128} height={128} aria-hidden="true" />;
}

const enter = (layer: number, head: number) => go({ screen: "map", layer, head, view: null });

export function AtlasView() {
  const told = run.value;
  if (!told) return <p class="empty">{SAY.loading}</p>;
  const measured = atlas.value.path === paths.atlas(told.id) ? atlas.value.value?.heads : undefined;
  const telling = (measured && atlas.value.value?.telling) || [];
  const every: HeadStatistics[] | { layer: number; head: number }[] =
    measured ?? told.layers.flatMap((layer) => Array.from({ length: layer.heads }, (_, head) => ({ layer: layer.index, head })));
  const asked = filter.value;
  const heads = measured ? chosen(measured, asked) : (every as HeadStatistics[]);
  const grid = asked.by === "" && heads.length === every.length;
  const most = asked.by && measured ? Math.max(...measured.map((one) => statistic(one, asked.by)), 1e-12) : 1;
  const columns = grid ? Math.max(...told.layers.map((layer) => layer.heads)) : 0;
  const names = [["", SAY.atlasPlace] as const, ...NAMES.map((name) => [name, SAY.statistics[name]![0]] as const)];
  return (
    <div class="atlas">
      <header class="tools">
        <h1>{told.name}</h1>
        <span class="soft">{SAY.atlasIntro}</span>
        <span class="gap" />
        <Choice label={SAY.atlasSort} value={asked.by} among={names} onPick={(by) => change({ by, descending: true, least: "", most: "" })} />
        {asked.by && (
          <>
            <button onClick={() => change({ descending: !asked.descending })}>{asked.descending ? SAY.atlasDescending : SAY.atlasAscending}</button>
            {(["least", "most"] as const).map((end) => (
              <label class="choice" key={end}>
                <span>{end === "least" ? SAY.atlasAtLeast : SAY.atlasAtMost}</span>
                <input type="number" step="any" value={asked[end]} onInput={(event) => change({ [end]: event.currentTarget.value })} />
              </label>
            ))}
          </>
        )}
        <Choice
          label={SAY.atlasLayer}
          value={asked.layer}
          among={[["", SAY.atlasEvery] as const, ...told.layers.map((layer) => [String(layer.index), String(layer.index)] as const)]}
          onPick={(layer) => change({ layer })}
        />
        <span class="soft">{SAY.atlasShown(heads.length, every.length)}</span>
      </header>
      {grid && !table.value && telling.length > 0 && (
        <section class="telling">
          <h2>{SAY.atlasTelling}</h2>
          <ul>
            {telling.map((one) => (
              <li key={`${one.layer}/${one.head}`}>
                <button data-telling={`${one.layer}/${one.head}`} onClick={() => enter(one.layer, one.head)}>
                  <Thumbnail layer={one.layer} head={one.head} />
                  <span>
                    <b>{one.title}</b> <span class="soft">{SAY.atlasHead(one.layer, one.head)}</span>
                    <span class="why">{one.why}</span>
                  </span>
                </button>
              </li>
            ))}
          </ul>
        </section>
      )}
      {asked.by && <p class="soft">{SAY.statistics[asked.by]![1]}</p>}
      {table.value && measured ? (
        <HeadTable heads={heads} />
      ) : (
        <ul class={grid ? "heads grid" : "heads"} style={grid ? { "--columns": String(columns) } : {}}>
          {heads.map((one) => (
            <li key={`${one.layer}/${one.head}`}>
              <button data-head={`${one.layer}/${one.head}`} onClick={() => enter(one.layer, one.head)}>
                <Thumbnail layer={one.layer} head={one.head} />
                <span class="unseen">{SAY.head(one.layer, one.head)}</span>
                <span class="caption">
                  <b aria-hidden="true">{SAY.atlasHead(one.layer, one.head)}</b>
                  {measured && <span class="number">{asked.by ? short(statistic(one, asked.by), 3) : `${(one.entropy * 100).toFixed(0)} %`}</span>}
                </span>
                {measured && <Bar part={asked.by ? statistic(one, asked.by) / most : one.entropy} />}
                {measured && !asked.by && <span class="caption soft">{SAY.statistics.entropy![0]}</span>}
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function HeadTable({ heads }: { heads: HeadStatistics[] }) {
  return (
    <div class="table-twin" tabIndex={0} role="region" aria-label={SAY.table}>
      <table>
        <thead>
          <tr>
            <th scope="col">{SAY.layer}</th>
            <th scope="col">{SAY.headName}</th>
            {NAMES.map((name) => (
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
          {heads.map((one) => (
            <tr key={`${one.layer}/${one.head}`} onClick={() => enter(one.layer, one.head)}>
              <td>{one.layer}</td>
              <td>{one.head}</td>
              {NAMES.map((name) => (
                <td key={name}>{short(statistic(one, name))}</td>
              ))}
              <td>{one.redundancy ? SAY.atlasHead(one.redundancy.layer, one.redundancy.head) : "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
