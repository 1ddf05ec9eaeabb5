// The side panel: the selected cell, its largest weights, the legend and the minimap.
import { useMemo } from "preact/hooks";
import { loader } from "../map/loader";
import { hover, source, colourTableNow } from "../map/scene";
import { picture } from "../map/stage";
import { extent, setView, reveal, size, view } from "../map/viewport";
import { colourImage } from "../map/canvas2d";
import { POOLINGS } from "../pure/hash";
import { short } from "../pure/numbers";
import { RAMPS } from "../pure/ramps";
import { largestIndices } from "../pure/text";
import { coarsest, pixelSize, tileAt } from "../pure/tiles";
import { valueAt } from "../pure/tone";
import { bounded, visible } from "../pure/view";
import { cell, cellDetails, cellPath, selectCell, difference, gamma, go, log, tokenOfQuery, pooling, ramp, rowValues, rows, screen, tokenText } from "../state";
import * as SAY from "../strings";
import { Bar, Check, Choice, Drawing, Section, Strip, Token } from "./components";

/** The selected cell, or the one under the cursor. */
export function Readout() {
  const selected = cell.value;
  const details = cellDetails.value;
  const over = hover.value;
  if (!selected) {
    return (
      <Section title={SAY.readoutTitle}>
        {over ? (
          <div class="readout">
            <Pair query={over.query} k={over.key} />
            <p class="big">{Number.isNaN(over.value) ? "…" : short(over.value)}</p>
            <p class="soft">{over.exact ? SAY.exactShort : SAY.readoutPooled(over.rows, over.cols)}</p>
          </div>
        ) : (
          <p class="soft">{SAY.readoutHint}</p>
        )}
      </Section>
    );
  }
  return (
    <Section
      title={SAY.readoutTitle}
      extra={
        <button class="quiet" onClick={() => go({ cell: null })}>
          {SAY.readoutRelease} <kbd>Esc</kbd>
        </button>
      }
    >
      <div class="readout" data-path={cellPath.value ?? ""} data-ready={details ? "1" : "0"}>
        <Pair query={selected.query} k={selected.key} />
        <p class="big weight" data-weight={details?.weight}>
          {details ? (details.allowed ? short(details.weight, 6) : "0") : "…"}
        </p>
        {screen.value === "compare" && details && (
          <p class="facts">
            <span class="soft">{SAY.compareA}</span> <span>{SAY.compareMinus} = <b>{difference.value === null ? "…" : short(difference.value, 5)}</b></span>
          </p>
        )}
        {details && !details.allowed && <p class="soft">{SAY.readoutMasked}</p>}
        {details?.allowed && <Facts />}
        <button class="primary" onClick={() => go({ screen: "lesson", topic: "" })}>
          {SAY.readoutExplain} <kbd>E</kbd>
        </button>
      </div>
    </Section>
  );
}

function Pair({ query, k }: { query: number; k: number }) {
  return (
    <dl class="pair">
      <dt class="query">{SAY.query(query)}</dt>
      <dd>
        <Token index={tokenOfQuery(query)} role="query" />
      </dd>
      <dt class="key">{SAY.key(k)}</dt>
      <dd>
        <Token index={k} role="key" />
      </dd>
    </dl>
  );
}

function Facts() {
  const details = cellDetails.value!;
  const row = rowValues.value?.values;
  const most = details.max !== null ? Math.exp(details.max - (details.lse ?? 0)) : NaN;
  const rank = row && 1 + row.reduce((n, w) => n + (w > row[details.key.index]! ? 1 : 0), 0);
  return (
    <dl class="facts">
      <dt>{SAY.readoutScore}</dt>
      <dd>{short(details.score)}</dd>
      <dt>{SAY.readoutLse}</dt>
      <dd>{short(details.lse)}</dd>
      <dt>{SAY.readoutOfMax}</dt>
      <dd>{((details.weight / most) * 100).toFixed(1)} %</dd>
      <dt>{SAY.readoutRank}</dt>
      <dd>{rank ?? "…"}</dd>
      <dt>{SAY.readoutDistance}</dt>
      <dd>{String(tokenOfQuery(details.query.index) - details.key.index).replace("-", "−")}</dd>
    </dl>
  );
}

export function Legend() {
  const now = picture.value;
  const from = source.value;
  if (!from) return null;
  const signed = from.signed;
  const text = now && (now.exact ? SAY.exact : SAY.pixel(now.rows, now.cols, from.pooling));
  const marks = now ? (signed ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.5, 1]).map((part) => valueAt(part, now.tone)) : [];
  return (
    <Section title={SAY.legendTitle}>
      <p class={`pixel ${now?.exact ? "exact" : ""}`}>{signed && `${SAY.compareMinus}: `}{text ?? SAY.loading}</p>
      <p class="soft" role="status">
        {loader.pending.value > 0 ? SAY.refining(loader.pending.value) : "\u00a0"}
      </p>
      <Strip table={colourTableNow(signed)} label={SAY.legendColours} />
      <div class="marks">
        {marks.map((value, i) => (
          <span key={i}>{i === 0 && !signed && log.value ? `≤ ${short(value, 2)}` : i === 2 && signed ? "0" : short(value, 2)}</span>
        ))}
      </div>
      {signed ? (
        <div class="marks soft">
          <span>{SAY.legendLess}</span>
          <span>{SAY.legendMore}</span>
        </div>
      ) : (
        <p class="swatch soft">
          <i /> {SAY.none}
        </p>
      )}
      <div class="controls">
        <Choice label={SAY.legendPooling} value={pooling.value} among={POOLINGS.map((p) => [p, SAY.POOLED[p]] as const)} onPick={(p) => go({ pooling: p })} />
        {!signed && <Choice label={SAY.legendColours} value={ramp.value} among={RAMPS.map((r) => [r, r] as const)} onPick={(r) => go({ ramp: r })} />}
        <Check label={SAY.legendLog} on={log.value} onPick={(on) => go({ log: on })} />
        {!log.value && (
          <label class="choice">
            <span>{SAY.legendGamma}</span>
            <input type="range" min="0.2" max="2" step="0.1" value={gamma.value} onInput={(event) => go({ gamma: Number(event.currentTarget.value) })} />
          </label>
        )}
        {!signed && <Check label={SAY.legendRows} on={rows.value} onPick={(on) => go({ rows: on })} />}
      </div>
    </Section>
  );
}

/** The whole map, small, with what is on screen framed. */
export function Minimap() {
  const from = source.value;
  const whole = extent.value;
  const topTile = from && (loader.version.value, loader.get(from, tileAt(whole, coarsest(whole), 0, 0)));
  const now = view.value;
  const onScreen = visible(now, whole, size.value);
  const colours = colourTableNow(from?.signed ?? false);
  const tone = picture.value?.tone;
  const wide = whole.keys >= whole.queries ? 1 : whole.keys / whole.queries;
  const high = whole.keys >= whole.queries ? whole.queries / whole.keys : 1;
  const small = useMemo(() => {
    if (!topTile || !tone) return null;
    const { rows, cols } = topTile.tile;
    const canvas = Object.assign(document.createElement("canvas"), { width: cols, height: rows });
    canvas.getContext("2d")!.putImageData(colourImage(topTile.values, rows, cols, tone, colours, null), 0, 0);
    return canvas;
  }, [topTile, tone, colours]);
  if (!small) return <div class="minimap" />;
  return (
    <Drawing
      class="minimap"
      label={`${onScreen.q0}–${onScreen.q1} × ${onScreen.k0}–${onScreen.k1}`}
      height={Math.max(40, Math.round(272 * high))}
      deps={[small, now, size.value]}
      onPoint={(x, y, width, height) =>
        setView(bounded({ ...now, k: (x / (width * wide)) * whole.keys, q: (y / height) * whole.queries }, whole, size.value))
      }
      draw={(context, width, height) => {
        context.clearRect(0, 0, width, height);
        context.imageSmoothingEnabled = true;
        const cut = pixelSize(topTile!.tile);
        context.drawImage(small, 0, 0, cut.wide, cut.high, 0, 0, width * wide, height);
        const box = [
          (onScreen.k0 / whole.keys) * width * wide, (onScreen.q0 / whole.queries) * height,
          Math.max(((onScreen.k1 - onScreen.k0) / whole.keys) * width * wide, 4), Math.max(((onScreen.q1 - onScreen.q0) / whole.queries) * height, 4),
        ] as const;
        context.lineWidth = 3;
        context.strokeStyle = "#000a";
        context.strokeRect(...box);
        context.lineWidth = 1.5;
        context.strokeStyle = "#fff";
        context.strokeRect(...box);
      }}
    />
  );
}

/** A list of the tokens with the largest numbers. */
export function LargestList({ values, count = 8, current, id, onPick }: { values: Float32Array; count?: number; current?: number | undefined; id?: string | undefined; onPick: (index: number) => void }) {
  const best = useMemo(() => largestIndices(values, count), [values, count]);
  const most = values[best[0] ?? 0] || 1;
  return (
    <ol class="tops">
      {best.map((index) => (
        <li key={index}>
          <button aria-current={index === current} onClick={() => onPick(index)}>
            <span class="index">{index}</span>
            <Token index={index} role="plain" text={tokenText(index, id)} />
            <Bar part={values[index]! / most} />
            <span class="number">{short(values[index]!)}</span>
          </button>
        </li>
      ))}
    </ol>
  );
}

export function Panel() {
  const selected = cell.value;
  const row = rowValues.value;
  return (
    <aside class="panel" aria-label={SAY.readoutTitle}>
      <Readout />
      {selected && (
        <Section
          title={SAY.rowTops}
          extra={
            <button class="quiet" onClick={() => go({ screen: "row" })}>
              {SAY.screens.row}
            </button>
          }
        >
          {row && <LargestList values={row.values} current={selected.key} onPick={(key) => (selectCell(selected.query, key), reveal(selected.query, key))} />}
        </Section>
      )}
      <Legend />
      <Minimap />
    </aside>
  );
}
