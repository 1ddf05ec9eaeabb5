// The first two steps: the vectors, and their product, term by term.
import { useSignal } from "@preact/signals";
import type { Cell } from "../api";
import { terms } from "../pure/lesson";
import { short } from "../pure/numbers";
import { LESSON } from "../strings.lesson";
import { N } from "./number";
import { Check, Drawing } from "./parts";

const T = LESSON.text;

/** A vector as bars up and down from a line. */
function Vector({ values, role, label }: { values: number[]; role: string; label: string }) {
  const most = Math.max(...values.map(Math.abs), 1e-12);
  return (
    <figure class="vector">
      <figcaption class={role}>{label}</figcaption>
      <Drawing
        label={`${label}, ${values.length}`}
        height={84}
        deps={[values]}
        draw={(context, width, height) => {
          const style = getComputedStyle(context.canvas);
          context.clearRect(0, 0, width, height);
          const each = width / values.length;
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

export function Vectors({ now }: { now: Cell }) {
  return (
    <>
      <p>{T.vectors}</p>
      <Vector values={now.q} role="query" label={`q of ${now.query.index}, ${now.q.length} numbers`} />
      <Vector values={now.k} role="key" label={`k of ${now.key.index}, ${now.k.length} numbers`} />
      {now.values && <Vector values={now.values.v} role="value" label={`v of ${now.key.index}, ${now.values.v.length} numbers`} />}
      <div class="numbers">
        {now.q.slice(0, 8).map((x, i) => <N key={i} value={x} role="query" name={`q${i}`} tell={LESSON.from1.q(i, now.query.index)} />)}
        {now.q.length > 8 && <span class="soft">…</span>}
      </div>
      <div class="numbers">
        {now.k.slice(0, 8).map((x, i) => <N key={i} value={x} role="key" name={`k${i}`} tell={LESSON.from1.k(i, now.key.index)} />)}
        {now.k.length > 8 && <span class="soft">…</span>}
      </div>
      <p class="soft">{T.noX}</p>
    </>
  );
}

export function Products({ now }: { now: Cell }) {
  const all = useSignal(false);
  const predict = useSignal(false);
  const edits = useSignal<Record<string, number>>({});
  const edited = Object.keys(edits.value).length > 0;
  const q = now.q.map((x, i) => edits.value[`q${i}`] ?? x);
  const k = now.k.map((x, i) => edits.value[`k${i}`] ?? x);
  const products = edited ? q.map((x, i) => x * k[i]!) : now.products;
  const dot = edited ? products.reduce((a, b) => a + b, 0) : now.dot;
  const { shown, rest, subtotal } = terms(q, k, products, all.value ? Infinity : 12);
  const most = Math.max(...products.map(Math.abs), 1e-12);
  const field = (side: "q" | "k", i: number, value: number, role: string) => (
    <input
      class={`edit ${role}`}
      type="number"
      step="any"
      aria-label={`${side}${i}`}
      value={Number(value.toPrecision(5))}
      onChange={(event) => (edits.value = { ...edits.value, [`${side}${i}`]: Number(event.currentTarget.value) })}
    />
  );
  return (
    <>
      <p>{T.dot}</p>
      <div class="tools">
        {now.q.length > 12 && <Check label={T.all} on={all.value} onPick={(on) => (all.value = on)} />}
        <Check label={LESSON.predict} on={predict.value} onPick={(on) => (predict.value = on)} />
        {edited && <button onClick={() => (edits.value = {})}>{T.reset}</button>}
        {rest > 0 && <span class="soft">{T.largest(shown.length, rest)}</span>}
      </div>
      <table class="sums">
        <thead>
          <tr>
            <th scope="col">i</th>
            <th scope="col" class="query">q</th>
            <th scope="col" />
            <th scope="col" class="key">k</th>
            <th scope="col" />
            <th scope="col">product</th>
            <th scope="col" aria-hidden="true" />
            <th scope="col">sum so far</th>
          </tr>
        </thead>
        <tbody>
          {shown.map((term, n) => (
            <tr key={term.index}>
              <td class="soft">{term.index}</td>
              <td>{field("q", term.index, term.q, "query")}</td>
              <td class="soft">×</td>
              <td>{field("k", term.index, term.k, "key")}</td>
              <td class="soft">=</td>
              <td>
                <N value={term.product} name={`product ${term.index}`} tell={LESSON.from1.product(short(term.q), short(term.k), term.index)} />
              </td>
              <td class="signed-bar"><Signed part={term.product / most} /></td>
              <td><N value={term.sum} tell={LESSON.from1.running(n + 1)} /></td>
            </tr>
          ))}
          {rest > 0 && (
            <tr>
              <td class="soft" colSpan={5}>{T.rest(rest)}</td>
              <td><N value={dot - subtotal} tell={[`q · k − the ${shown.length} shown = ${short(dot)} − ${short(subtotal)}`, "the dot product"]} /></td>
              <td class="signed-bar"><Signed part={(dot - subtotal) / most} /></td>
              <td />
            </tr>
          )}
          <tr class="total">
            <td colSpan={7}>q · k</td>
            <td>
              {predict.value ? (
                <button class="reveal" onClick={() => (predict.value = false)}>{LESSON.reveal}</button>
              ) : (
                <N value={dot} name="q · k" digits={6} tell={LESSON.from1.dot(now.q.length)} />
              )}
            </td>
          </tr>
        </tbody>
      </table>
      {edited && <p class="note">{T.edited}</p>}
    </>
  );
}

/** A bar to the right for more than nothing, to the left for less. */
export function Signed({ part }: { part: number }) {
  const wide = Math.min(Math.abs(part), 1) * 50;
  return (
    <span class="signed" aria-hidden="true">
      <i class={part < 0 ? "less" : "more"} style={{ width: `${wide}%`, left: part < 0 ? `${50 - wide}%` : "50%" }} />
    </span>
  );
}
