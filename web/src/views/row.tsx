// One query over the text itself.
import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { cell, choose, gamma, go, layer, log, rowNow, rowTold, table, token } from "../state";
import { table as tableOf } from "../map/stage";
import { short, shown } from "../pure/numbers";
import { css, inkOn } from "../pure/ramps";
import { cumulative, entropy, runs, SHADES, top } from "../pure/text";
import { roundUp, toneOf, type Tone } from "../pure/tone";
import { SAY } from "../strings";
import { Bar, Check, Drawing, Section, Token } from "./parts";
import { Readout } from "./panel";

const PAGE = 3000;

export function RowView() {
  const held = cell.value;
  const row = rowTold.value.value?.values;
  const from = useSignal<number | null>(null);
  if (!held || !layer.value) return <p class="empty">{SAY.row.none}</p>;
  const keys = layer.value.keys;
  const middle = from.value ?? Math.max(0, Math.min(held.key, keys - 1) - PAGE / 2);
  const start = Math.max(0, Math.min(middle, Math.max(0, keys - PAGE)));
  const stop = Math.min(start + PAGE, keys);
  return (
    <div class="with-panel">
      <div class={rowNow.value ? "reading" : "reading stale"} aria-busy={!rowNow.value} tabIndex={0}>
        <h1>{SAY.row.of(held.query, token(held.query) ?? "…")}</h1>
        {row && <RowStrip row={row} onGo={(at) => (from.value = Math.max(0, Math.round(at - PAGE / 2)))} start={start} stop={stop} />}
        {keys > PAGE && (
          <nav class="pages">
            <button disabled={start === 0} onClick={() => (from.value = Math.max(0, start - PAGE))}>
              ← {SAY.row.earlier}
            </button>
            <span>{SAY.row.tokens(start, stop, keys)}</span>
            <button disabled={stop === keys} onClick={() => (from.value = start + PAGE)}>
              {SAY.row.later} →
            </button>
          </nav>
        )}
        {row && (table.value ? <RowTable row={row} query={held.query} /> : <RowText row={row} start={start} stop={stop} query={held.query} chosen={held.key} />)}
      </div>
      <RowPanel row={row ?? null} />
    </div>
  );
}

function toneFor(row: Float32Array): Tone {
  const most = row.reduce((a, b) => Math.max(a, b), 0);
  return { log: log.value, gamma: gamma.value, decades: 3, greatest: roundUp(most), signed: false };
}

/** Brings the held key into sight when another one is held, or another page is turned to. */
function useSight(chosen: number, start: number) {
  const ref = useRef<HTMLParagraphElement>(null);
  useEffect(() => {
    const mark = ref.current?.querySelector(".is-key") ?? ref.current?.querySelector(".is-query");
    mark?.scrollIntoView({ block: "center" });
  }, [chosen, start]);
  return ref;
}

function RowText({ row, start, stop, query, chosen }: { row: Float32Array; start: number; stop: number; query: number; chosen: number }) {
  const tone = toneFor(row);
  const colours = tableOf(false);
  const sight = useSight(chosen, start);
  // A shade apart stand the query itself and the held key, so that both can be seen whatever their weight.
  const parts = runs(row, start, stop, (w) => toneOf(w, tone)).flatMap((run) => {
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
    if (key) choose(query, Number(key));
  };
  return (
    <p class="text" ref={sight} onClick={pick}>
      {parts.map((run) => {
        const words = Array.from({ length: run.length }, (_, i) => token(run.start + i) ?? " ").join("");
        const marked = run.length === 1 && (run.start === query || run.start === chosen);
        if (!run.shade && !marked) return words;
        const part = run.shade / SHADES;
        const style = run.shade ? { backgroundColor: css(colours, part), color: inkOn(colours, part) } : {};
        return (
          <mark
            key={run.start}
            data-key={run.start}
            class={run.start === query ? "is-query" : run.start === chosen ? "is-key" : ""}
            style={style}
            title={`${run.start} ${shown(words)} ${short(row[run.start]!)}`}
          >
            {words}
          </mark>
        );
      })}
    </p>
  );
}

function RowStrip({ row, onGo, start, stop }: { row: Float32Array; onGo: (at: number) => void; start: number; stop: number }) {
  const tone = toneFor(row);
  const colours = tableOf(false);
  return (
    <Drawing
      class="row-strip"
      label={SAY.row.strip}
      height={34}
      deps={[row, colours, tone.log, tone.gamma, start, stop]}
      onPoint={(x, _y, width) => onGo((x / width) * row.length)}
      draw={(context, width, height) => {
        context.clearRect(0, 0, width, height);
        for (let x = 0; x < width; x++) {
          let most = 0;
          const to = Math.max(((x + 1) / width) * row.length, (x / width) * row.length + 1);
          for (let i = Math.floor((x / width) * row.length); i < to && i < row.length; i++) most = Math.max(most, row[i]!);
          if (!most) continue;
          const part = toneOf(most, tone);
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

function RowTable({ row, query }: { row: Float32Array; query: number }) {
  let sum = 0;
  return (
    <div class="table-twin" tabIndex={0} role="region" aria-label={SAY.table}>
      <table>
        <thead>
          <tr>
            <th scope="col">{SAY.row.key}</th>
            <th scope="col">{SAY.row.token}</th>
            <th scope="col">{SAY.row.weight}</th>
            <th scope="col">{SAY.row.sum}</th>
          </tr>
        </thead>
        <tbody>
          {top(row, 200).map((key) => (
            <tr key={key} onClick={() => choose(query, key)}>
              <td>{key}</td>
              <td class="left">
                <Token index={key} role="key" />
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
  const best = useComputed(() => (rowTold.value.value ? top(rowTold.value.value.values, 20) : []));
  const held = cell.value!;
  return (
    <aside class="panel" aria-label={SAY.row.title}>
      <Readout />
      {row && (
        <Section title={SAY.row.mass}>
          <MassCurve row={row} />
          <dl class="facts">
            <dt>{SAY.row.entropy}</dt>
            <dd>{short(h)} nats</dd>
            <dt>{SAY.row.support}</dt>
            <dd>{short(Math.exp(h))}</dd>
          </dl>
        </Section>
      )}
      {row && (
        <Section title={SAY.row.tops}>
          <ol class="tops">
            {best.value.map((key) => (
              <li key={key}>
                <button aria-current={key === held.key} onClick={() => choose(held.query, key)}>
                  <span class="index">{key}</span>
                  <Token index={key} role="plain" />
                  <Bar part={row[key]! / (row[best.value[0]!] || 1)} />
                  <span class="number">{short(row[key]!)}</span>
                </button>
              </li>
            ))}
          </ol>
        </Section>
      )}
      <Section title={SAY.legend.title}>
        <div class="controls">
          <Check label={SAY.legend.log} on={log.value} onPick={(on) => go({ log: on })} />
        </div>
      </Section>
    </aside>
  );
}

function MassCurve({ row }: { row: Float32Array }) {
  const mass = cumulative(row);
  const needed = (part: number) => {
    const at = mass.findIndex((m) => m >= part * (mass[mass.length - 1] ?? 1));
    return at < 0 ? mass.length : at + 1;
  };
  const last = Math.max(needed(0.999), 4);
  return (
    <>
      <Drawing
        class="curve"
        label={[0.5, 0.9, 0.99].map((p) => SAY.row.massOf(needed(p), p)).join(", ")}
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
          for (let i = 0; i < last; i++) context.lineTo(((i + 1) / last) * width, height * (1 - mass[i]!) + 1);
          context.stroke();
        }}
      />
      <ul class="plain">
        {[0.5, 0.9, 0.99].map((part) => (
          <li key={part}>{SAY.row.massOf(needed(part), part)}</li>
        ))}
      </ul>
    </>
  );
}

