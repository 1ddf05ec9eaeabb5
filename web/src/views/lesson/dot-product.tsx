// A chart of a vector; and step 2, the dot product, term by term.
import { useSignal } from "@preact/signals";
import type { Cell } from "../../client/requests";
import { short } from "../../pure/numbers";
import * as SAY from "../../strings";
import { SumOfProducts } from "./sum-of-products";
import { NumberButton } from "./number";
import { Drawing } from "../components";
import { Predict, PredictFirst, predicting } from "./prediction";

/** A vector as bars up and down from a line; one may be marked, and be picked with the pointer. */
export function VectorChart({ values, role, label, mark = null, onPick, height = 84 }: {
  values: readonly number[];
  role: string;
  label: string;
  mark?: number | null;
  onPick?: ((i: number) => void) | undefined;
  height?: number;
}) {
  const most = Math.max(...values.map(Math.abs), 1e-12);
  return (
    <figure class="vector">
      <figcaption class={role}>{label}</figcaption>
      <Drawing
        label={`${label}, ${values.length}`}
        height={height}
        deps={[values, mark]}
        {...(onPick ? { onPoint: (x: number, _y: number, width: number) => onPick(Math.min(Math.max(Math.floor((x / width) * values.length), 0), values.length - 1)) } : {})}
        draw={(context, width, height) => {
          const style = getComputedStyle(context.canvas);
          context.clearRect(0, 0, width, height);
          const each = width / values.length;
          if (mark !== null) {
            context.fillStyle = style.getPropertyValue("--sunk");
            context.fillRect(mark * each, 0, each, height);
          }
          context.fillStyle = style.getPropertyValue(`--${role}`);
          values.forEach((value, i) => {
            const long = (value / most) * (height / 2 - 2);
            context.fillRect(i * each + Math.min(1, each / 6), height / 2 - Math.max(long, 0), Math.max(each - Math.min(2, each / 3), 0.5), Math.max(Math.abs(long), 0.5));
          });
          context.fillStyle = style.getPropertyValue("--rule");
          context.fillRect(0, height / 2, width, 1);
        }}
      />
    </figure>
  );
}

export function DotProduct({ now }: { now: Cell }) {
  const revealed = useSignal(false);
  const hiding = predicting.value && !revealed.value;
  const edits = useSignal<Record<string, number>>({});
  const edited = Object.keys(edits.value).length > 0;
  const side = (name: "q" | "k", role: string) => ({
    name,
    role,
    values: now[name].map((x, i) => edits.value[name + i] ?? x),
    edit: (i: number, to: number) => (edits.value = { ...edits.value, [name + i]: to }),
  });
  const [q, k] = [side("q", "query"), side("k", "key")];
  const dot = edited ? q.values.reduce((sum, x, i) => sum + x * k.values[i]!, 0) : now.dot;
  return (
    <>
      <p>{SAY.stepDot}</p>
      <div class="tools">
        <PredictFirst />
        {edited && <button onClick={() => (edits.value = {})}>{SAY.lessonRecorded}</button>}
      </div>
      <SumOfProducts
        a={q}
        b={k}
        sum={dot}
        name="q · k"
        destination={SAY.originDot(now.q.length)[1]!}
        most={12}
        hiding={hiding}
        total={
          <Predict value={dot} name="q · k" onReveal={() => (revealed.value = true)}>
            <NumberButton value={dot} name="q · k" digits={6} origin={SAY.originDot(now.q.length)} />
          </Predict>
        }
      />
      {edited && (
        <p class="note">
          {SAY.stepEdited} {SAY.recordedWas(short(now.dot), short(dot - now.dot))}
        </p>
      )}
    </>
  );
}
