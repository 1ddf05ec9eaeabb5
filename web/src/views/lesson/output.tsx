// Step 8: the output as a weighted sum of values, key by key.
import { useSignal } from "@preact/signals";
import type { Cell } from "../../client/requests";
import { short, brief } from "../../pure/numbers";
import { go, place, announce, tokenText } from "../../state";
import * as SAY from "../../strings";
import { ComponentField, SumOfProducts } from "./sum-of-products";
import { NumberButton } from "./number";
import { Check, Token } from "../components";

const ROWS = 16;
const KEYS = 12;

export function Output({ now }: { now: Cell }) {
  return now.values ? <Mixture now={now} values={now.values} key={`${now.query.index}/${now.key.index}`} /> : <p>{SAY.stepNoValues}</p>;
}

/** A key of the row and its part of every component; key −1: all keys that are not listed. */
interface Slice {
  readonly key: number;
  readonly weight: number;
  readonly v: readonly number[] | null;
  readonly parts: readonly number[];
}

function Mixture({ now, values }: { now: Cell; values: NonNullable<Cell["values"]> }) {
  const all = useSignal(false);
  const pointed = useSignal<number | null>(null);
  const edits = useSignal<Record<string, number>>({});
  const edited = Object.keys(edits.value).length > 0;
  const size = values.out.length;
  const keys = values.keys ?? [now.key.index];
  const vs = values.vs ?? [values.v];
  const slices: Slice[] = keys.map((key, n) => {
    const weight = now.row.weights[now.row.keys.indexOf(key)] ?? 0;
    const v = vs[n]!.map((x, i) => edits.value[`${key}/${i}`] ?? x);
    return { key, weight, v, parts: v.map((x) => x * weight) };
  });
  const rest = values.rest ?? values.out.map((x, i) => x - now.weight * values.v[i]!);
  const unsorted = slices.slice();
  slices.sort((a, b) => b.weight - a.weight || a.key - b.key);
  slices.push({ key: -1, weight: 1 - slices.reduce((sum, slice) => sum + slice.weight, 0), v: null, parts: rest });
  const out = values.out.map((x, i) => keys.reduce((sum, key, n) => {
    const to = edits.value[`${key}/${i}`];
    return to === undefined ? sum : sum + (to - vs[n]![i]!) * (now.row.weights[now.row.keys.indexOf(key)] ?? 0);
  }, x));
  // The component with the largest part of this key, unless one was chosen.
  const value = values.v;
  const largest = value.reduce((best, x, i) => (Math.abs(x) > Math.abs(value[best]!) ? i : best), 0);
  const component = Math.min(place.value.component ?? largest, size - 1);
  const rows = Array.from({ length: all.value ? size : Math.min(size, ROWS) }, (_, i) => i);
  if (!rows.includes(component)) rows.push(component);
  const reach = (i: number, sign: number) => slices.reduce((sum, { parts }) => sum + Math.max(sign * parts[i]!, 0), 0);
  const most = Math.max(...rows.map((i) => Math.max(reach(i, 1), reach(i, -1))), 1e-12);
  const name = (key: number) => (key < 0 ? SAY.outputOtherKeys : `${key} ${brief(tokenText(key), 24)}`.trim());
  const point = (i: number, at: number | null) => {
    pointed.value = at;
    if (at !== null) announce(SAY.outputSegment(i, name(slices[at]!.key), short(slices[at]!.parts[i]!)));
  };
  const pointedSlice = pointed.value === null ? null : slices[pointed.value]!;
  return (
    <>
      <p>
        {SAY.stepOutput} {SAY.outputParts}
      </p>
      <div class="tools">
        {size > ROWS && <Check label={SAY.outputEvery(size)} on={all.value} onPick={(on) => (all.value = on)} />}
        <span class="soft" data-pointed={pointedSlice?.key}>
          {pointedSlice ? SAY.outputKey(name(pointedSlice.key), short(pointedSlice.weight)) : SAY.outputPoint}
        </span>
      </div>
      <ul class="stack">
        {rows.map((i) => (
          <li key={i}>
            <button
              aria-pressed={i === component}
              onClick={() => go({ component: i })}
              onPointerMove={(event) => {
                const at = (event.target as HTMLElement).dataset.at;
                pointed.value = at === undefined ? null : Number(at);
              }}
              onPointerLeave={() => (pointed.value = null)}
              onBlur={() => (pointed.value = null)}
              onKeyDown={(event) => {
                const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
                if (!by) return;
                event.preventDefault();
                point(i, ((pointed.value ?? (by > 0 ? -1 : 0)) + by + slices.length) % slices.length);
              }}
            >
              <span class="index"><span class="visually-hidden">{SAY.outputRow}</span>{i}</span>
              <span class="stacked-bar" aria-hidden="true">
                <Segments slices={slices} i={i} most={most} selected={now.key.index} pointed={pointed.value} name={name} />
                <i class="tick" style={{ left: `${50 + (out[i]! / most) * 50}%` }} />
              </span>
              <span class="number output">{short(out[i]!)}</span>
            </button>
          </li>
        ))}
      </ul>
      <ComponentField bars vector={SAY.outputName} now={component} most={size} />
      <SumOfProducts
        a={{ name: SAY.lessonWeight, role: "weight", values: unsorted.map((slice) => slice.weight), origin: (n) => SAY.originOutputWeight(unsorted[n]!.key) }}
        b={{
          name: `v${component}`, role: "value", values: unsorted.map((slice) => slice.v![component]!),
          edit: (n, to) => (edits.value = { ...edits.value, [`${unsorted[n]!.key}/${component}`]: to }),
        }}
        sum={out[component]!}
        name={SAY.outputComponent(component)}
        destination={SAY.outputGoes}
        most={KEYS}
        selected={unsorted.findIndex((slice) => slice.key === now.key.index)}
        label={(n) => <>{unsorted[n]!.key} <Token index={unsorted[n]!.key} role="plain" /></>}
        rest={SAY.outputOtherKeys}
        total={<NumberButton value={out[component]!} role="output" name={SAY.outputComponent(component)} digits={6} origin={[SAY.originOut(component)[0], SAY.outputGoes]} />}
      />
      {edited && (
        <p class="note">
          {SAY.outputEdited} {SAY.recordedWas(short(values.out[component]!), short(out[component]! - values.out[component]!))}{" "}
          <button onClick={() => (edits.value = {})}>{SAY.lessonRecorded}</button>
        </p>
      )}
    </>
  );
}

/** Parts above zero to the right, below zero to the left, in the order of their weights. */
function Segments({ slices, i, most, selected, pointed, name }: {
  slices: readonly Slice[];
  i: number;
  most: number;
  selected: number;
  pointed: number | null;
  name: (key: number) => string;
}) {
  let [less, more] = [50, 50];
  return (
    <>
      {slices.map(({ key, parts }, n) => {
        const wide = (Math.abs(parts[i]!) / most) * 50;
        const left = parts[i]! < 0 ? (less -= wide) : more;
        if (parts[i]! >= 0) more += wide;
        return wide < 0.1 ? null : (
          <i
            key={key}
            data-at={n}
            class={`${key === selected ? "this" : key < 0 ? "rest" : n % 2 ? "odd" : ""}${pointed === n ? " pointed" : ""}`}
            style={{ left: `${left}%`, width: `${wide}%` }}
            title={`${name(key)}: ${short(parts[i]!)}`}
          />
        );
      })}
    </>
  );
}
