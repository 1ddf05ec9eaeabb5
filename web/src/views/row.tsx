// One query over the text itself; or, without a selected cell, what each token receives from all queries.
import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { cell, selectCell, gamma, go, layer, log, marginals, tokenOfQuery, rowValues, rowAnswer, hasSpaceAfter, table, tokenText } from "../state";
import { colourTableNow } from "../map/scene";
import { brief, short } from "../pure/numbers";
import { css, textColour } from "../pure/ramps";
import { cumulativeMass, entropy, shadedRuns, SHADES, largestIndices } from "../pure/text";
import { roundUp, toneOf, type Tone } from "../pure/tone";
import * as SAY from "../strings";
import { Check, Drawing, Section, Token } from "./components";
import { Readout, LargestList } from "./panel";

const PAGE = 3000;

export function RowView() {
  const selected = cell.value;
  const at = layer.value;
  if (!at) return <p class="empty">{SAY.loading}</p>;
  if (!selected) return <Received />;
  const row = rowAnswer.value.value?.values ?? null;
  return (
    <div class="with-panel">
      <Reading
        title={SAY.rowOf(selected.query, tokenText(tokenOfQuery(selected.query)) ?? "…")}
        values={row}
        stale={!rowValues.value}
        query={tokenOfQuery(selected.query)}
        chosen={selected.key}
        what={SAY.rowWeight}
        onPick={(key) => selectCell(selected.query, key)}
      />
      <RowPanel row={row} />
    </div>
  );
}

/** Without a selected cell: the text coloured by what each token receives from all queries together. */
function Received() {
  const at = layer.value!;
  const all = marginals.value;
  const received = useMemo(() => all?.values.slice(0, at.keys) ?? null, [all, at.keys]);
  // The row of the token that is picked.
  const pick = (key: number) => selectCell(key - tokenOfQuery(0), key);
  return (
    <div class="with-panel">
      <Reading title={SAY.rowReceived} values={received} stale={!received} query={-1} chosen={-1} what={SAY.rowReceives} linear onPick={pick} />
      <aside class="panel" aria-label={SAY.rowReceived}>
        <Section title={SAY.rowReceives}>
          <p class="soft">{SAY.rowReceivedText}</p>
        </Section>
        {received && (
          <>
            <Section title={SAY.rowReceivers}>
              <LargestList values={received} count={20} onPick={pick} />
            </Section>
            <Section title={SAY.rowMass}>
              <MassCurve row={received} />
            </Section>
          </>
        )}
      </aside>
    </div>
  );
}

/** A number for each token over the text itself, or as a table. */
export function Reading({ title, values, stale, query, chosen, what, id, linear, onPick }: {
  title: string;
  values: Float32Array | null;
  stale: boolean;
  /** The query's token, and the selected one; −1: none. */
  query: number;
  chosen: number;
  what: string;
  /** The recording, where it is not the one that is open. */
  id?: string;
  linear?: boolean;
  onPick: (token: number) => void;
}) {
  const shade = useMemo(() => (values ? shadeFor(values, linear) : () => 0), [values, linear, log.value, gamma.value]);
  const from = useSignal<number | null>(null);
  const keys = values?.length ?? 0;
  const middle = from.value ?? Math.max(0, Math.min(chosen, keys - 1) - PAGE / 2);
  const start = Math.max(0, Math.min(middle, Math.max(0, keys - PAGE)));
  const stop = Math.min(start + PAGE, keys);
  const parts = { values: values!, shade, tinted: linear, query, chosen, id, onPick };
  return (
    <div class={stale ? "reading stale" : "reading"} aria-busy={stale} tabIndex={0}>
      <h1>{title}</h1>
      {values ? (
        <>
          <RowStrip row={values} shade={shade} onGo={(at) => (from.value = Math.max(0, Math.round(at - PAGE / 2)))} start={start} stop={stop} />
          {keys > PAGE && (
            <nav class="pages">
              <button disabled={start === 0} onClick={() => (from.value = Math.max(0, start - PAGE))}>
                ← {SAY.rowEarlier}
              </button>
              <span>{SAY.rowTokens(start, stop, keys)}</span>
              <button disabled={stop === keys} onClick={() => (from.value = start + PAGE)}>
                {SAY.rowLater} →
              </button>
            </nav>
          )}
          {table.value ? <RowTable {...parts} what={what} /> : <RowText {...parts} start={start} stop={stop} />}
        </>
      ) : (
        <p class="empty">{SAY.loading}</p>
      )}
    </div>
  );
}

interface ReadingProps {
  values: Float32Array;
  shade: (value: number) => number;
  /** In the colour of weights, which leaves most of a text readable, instead of on the map's ramp. */
  tinted: boolean | undefined;
  query: number;
  chosen: number;
  id: string | undefined;
  onPick: (token: number) => void;
}

/** How far along the ramp a number is. What tokens receive is on a linear scale from the average up. */
function shadeFor(row: Float32Array, linear?: boolean): (value: number) => number {
  const most = row.reduce((a, b) => Math.max(a, b), 0);
  const average = row.reduce((a, b) => a + b, 0) / row.length;
  if (linear) return (value) => (value - average) / (most - average || 1);
  const tone: Tone = { log: log.value, gamma: gamma.value, decades: 3, greatest: roundUp(most), signed: false };
  return (value) => toneOf(value, tone);
}

/** Scrolls to the selected key when it, or the page of the text, changes. */
function useScrollToCell(chosen: number, start: number) {
  const ref = useRef<HTMLParagraphElement>(null);
  useEffect(() => {
    const mark = ref.current?.querySelector(".is-key") ?? ref.current?.querySelector(".is-query");
    mark?.scrollIntoView({ block: "nearest" });
  }, [chosen, start]);
  return ref;
}

function RowText({ values: row, shade, tinted, start, stop, query, chosen, id, onPick }: ReadingProps & { start: number; stop: number }) {
  const colours = colourTableNow(false);
  const textRef = useScrollToCell(chosen, start);
  // The query's token and the selected key get runs of their own, so that they are visible whatever their weight.
  const parts = shadedRuns(row, start, stop, shade).flatMap((run) => {
    const cuts = [query, chosen].filter((i) => run.length > 1 && i >= run.start && i < run.start + run.length).sort((a, b) => a - b);
    const out = [];
    let at = run.start;
    for (const cut of new Set(cuts)) {
      if (cut > at) out.push({ ...run, start: at, length: cut - at });
      out.push({ ...run, start: cut, length: 1 });
      at = cut + 1;
    }
    if (at < run.start + run.length) out.push({ ...run, start: at, length: run.start + run.length - at });
    return out;
  });
  const pick = (event: Event) => {
    const key = (event.target as HTMLElement).dataset.key;
    if (key) onPick(Number(key));
  };
  return (
    <p class="text" ref={textRef} onClick={pick}>
      {parts.map((run) => {
        // Arrays have no text: their tokens are numbers.
        const last = run.start + run.length - 1;
        const gap = (i: number) => (hasSpaceAfter(i, id) ? " " : "");
        const text = Array.from({ length: run.length }, (_, i) => ((tokenText(run.start + i, id) ?? " ") || `${run.start + i} `) + (run.start + i < last ? gap(run.start + i) : "")).join("");
        const marked = run.length === 1 && (run.start === query || run.start === chosen);
        if (!run.shade && !marked) return text + gap(last);
        const part = run.shade / SHADES;
        const style = !run.shade ? {} : tinted ? { "--part": `${Math.round(part * 55)}%` } : { backgroundColor: css(colours, part), color: textColour(colours, part) };
        const mark = (
          <mark
            key={run.start}
            data-key={run.start}
            class={run.start === query ? "is-query" : run.start === chosen ? "is-key" : tinted && run.shade ? "shaded" : ""}
            style={style}
            title={`${run.start} ${brief(text)} ${short(row[run.start]!)}`}
          >
            {text}
          </mark>
        );
        return gap(last) ? [mark, " "] : mark;
      })}
    </p>
  );
}

function RowStrip({ row, shade, onGo, start, stop }: { row: Float32Array; shade: (value: number) => number; onGo: (at: number) => void; start: number; stop: number }) {
  const colours = colourTableNow(false);
  return (
    <Drawing
      class="row-strip"
      label={SAY.rowStrip}
      height={34}
      deps={[row, colours, shade, start, stop]}
      onPoint={(x, _y, width) => onGo((x / width) * row.length)}
      draw={(context, width, height) => {
        context.clearRect(0, 0, width, height);
        for (let x = 0; x < width; x++) {
          let most = 0;
          const to = Math.max(((x + 1) / width) * row.length, (x / width) * row.length + 1);
          for (let i = Math.floor((x / width) * row.length); i < to && i < row.length; i++) most = Math.max(most, row[i]!);
          if (!most) continue;
          const part = Math.max(shade(most), 0);
          context.fillStyle = css(colours, part);
          context.fillRect(x, (height - 6) * (1 - part), 1, (height - 6) * part + 2);
        }
        if (stop - start < row.length) {
          context.fillStyle = "#8888";
          context.fillRect((start / row.length) * width, height - 3, ((stop - start) / row.length) * width, 3);
        }
      }}
    />
  );
}

function RowTable({ values: row, chosen, id, onPick, what }: ReadingProps & { what: string }) {
  let sum = 0;
  return (
    <div class="table-twin" tabIndex={0} role="region" aria-label={SAY.table}>
      <table>
        <thead>
          <tr>
            <th scope="col">{SAY.rowKey}</th>
            <th scope="col">{SAY.rowToken}</th>
            <th scope="col">{what}</th>
            <th scope="col">{SAY.rowSum}</th>
          </tr>
        </thead>
        <tbody>
          {largestIndices(row, 200).map((key) => (
            <tr key={key} class={key === chosen ? "selected" : ""}>
              <td>
                <button class="quiet" onClick={() => onPick(key)}>{key}</button>
              </td>
              <td class="left">
                <Token index={key} role="key" text={tokenText(key, id)} />
              </td>
              <td>{short(row[key]!)}</td>
              <td>{short((sum += row[key]!))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function RowPanel({ row }: { row: Float32Array | null }) {
  const h = row ? entropy(row) : 0;
  const selected = cell.value!;
  return (
    <aside class="panel" aria-label={SAY.rowTitle}>
      <Readout />
      {row && (
        <Section title={SAY.rowMass}>
          <MassCurve row={row} />
          <dl class="facts">
            <dt>{SAY.rowEntropy}</dt>
            <dd>{SAY.nats(short(h))}</dd>
            <dt>{SAY.rowSupport}</dt>
            <dd>{short(Math.exp(h))}</dd>
          </dl>
        </Section>
      )}
      {row && (
        <Section title={SAY.rowTops}>
          <LargestList values={row} count={20} current={selected.key} onPick={(key) => selectCell(selected.query, key)} />
        </Section>
      )}
      <Section title={SAY.legendTitle}>
        <div class="controls">
          <Check label={SAY.legendLog} on={log.value} onPick={(on) => go({ log: on })} />
        </div>
      </Section>
    </aside>
  );
}

function MassCurve({ row }: { row: Float32Array }) {
  const mass = cumulativeMass(row);
  const total = mass[mass.length - 1] || 1;
  const keysForMass = (part: number) => {
    const at = mass.findIndex((m) => m >= part * total);
    return at < 0 ? mass.length : at + 1;
  };
  const last = Math.max(keysForMass(0.999), 4);
  return (
    <>
      <Drawing
        class="curve"
        label={[0.5, 0.9, 0.99].map((p) => SAY.rowMassOf(keysForMass(p), p)).join(", ")}
        height={72}
        deps={[row]}
        draw={(context, width, height) => {
          context.clearRect(0, 0, width, height);
          const style = getComputedStyle(context.canvas);
          context.strokeStyle = style.getPropertyValue("--rule");
          for (const part of [0.5, 0.9]) context.strokeRect(0, Math.round(height * (1 - part)) + 0.5, width, 0);
          context.strokeStyle = style.getPropertyValue("--weight");
          context.lineWidth = 2;
          context.beginPath();
          context.moveTo(0, height);
          for (let i = 0; i < last; i++) context.lineTo(((i + 1) / last) * width, height * (1 - mass[i]! / total) + 1);
          context.stroke();
        }}
      />
      <ul class="plain">
        {[0.5, 0.9, 0.99].map((part) => (
          <li key={part}>{SAY.rowMassOf(keysForMass(part), part)}</li>
        ))}
      </ul>
    </>
  );
}

