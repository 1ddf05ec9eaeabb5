// Tables of the lesson: a sum of products, and bars of signed numbers.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { productTerms } from "../../pure/lesson";
import { short } from "../../pure/numbers";
import { place, go } from "../../state";
import * as SAY from "../../strings";
import { NumberButton } from "./number";
import { Check } from "../components";

/** A bar to the right for positive numbers, to the left for negative ones. */
export function SignedBar({ part }: { part: number }) {
  const wide = Math.min(Math.abs(part), 1) * 50;
  return (
    <span class="signed" aria-hidden="true">
      <i style={{ width: `${wide}%`, left: part < 0 ? `${50 - wide}%` : "50%" }} />
    </span>
  );
}

/** A table of the lesson: the headings of its columns, [text, class], and its rows. */
export function LessonTable({ head, children, ...rest }: { head: readonly (readonly [string, string?])[]; children: ComponentChildren; [data: `data-${string}`]: unknown }) {
  return (
    <div class="scroll">
      <table class="sums" {...rest}>
        <thead>
          <tr>{head.map(([text, role], i) => (text ? <th scope="col" class={role} key={i}>{text}</th> : <td key={i} />))}</tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

export interface Factor {
  readonly name: string;
  readonly role: string;
  readonly values: readonly number[];
  /** Where component i came from, and where it goes. */
  origin?(i: number): readonly ComponentChildren[];
  /** If given, components can be edited. */
  edit?(i: number, value: number): void;
}

/** Σ a × b: the largest products with a running sum, the exact remainder, and the whole as the library has it. */
export function SumOfProducts({ a, b, sum, name, destination, most = 10, label, selected, rest, hiding, total, children }: {
  a: Factor;
  b: Factor;
  /** The sum of all products, including those that are not in `a` and `b`. */
  sum: number;
  name: string;
  destination: string;
  most?: number;
  label?: (i: number) => ComponentChildren;
  selected?: number;
  /** The label of the products that are not shown. */
  rest?: string;
  hiding?: boolean;
  total?: ComponentChildren;
  children?: ComponentChildren;
}) {
  const all = useSignal(false);
  const products = a.values.map((x, i) => x * b.values[i]!);
  const { shown, rest: remaining, subtotal } = productTerms(a.values, b.values, products, all.value ? Infinity : most, selected);
  const other = sum - subtotal;
  const largest = Math.max(...shown.map((term) => Math.abs(term.product)), 1e-12);
  const number = (side: Factor, i: number, value: number) => (
    <td>
      {side.edit ? (
        <input
          class={`edit ${side.role}`}
          type="number"
          step="any"
          aria-label={`${side.name}, ${i}`}
          value={Number(value.toPrecision(5))}
          onChange={(event) => event.currentTarget.value !== "" && side.edit!(i, Number(event.currentTarget.value))}
        />
      ) : (
        <NumberButton value={value} role={side.role} name={`${side.name}, ${i}`} origin={side.origin!(i)} />
      )}
    </td>
  );
  return (
    <>
      {products.length > most && (
        <div class="tools">
          <Check label={SAY.stepAllProducts} on={all.value} onPick={(on) => (all.value = on)} />
          {remaining > 0 && <span class="soft">{SAY.stepLargest(shown.length, remaining)}</span>}
        </div>
      )}
      <LessonTable head={[["i", "left soft"], [a.name, a.role], [""], [b.name, b.role], [""], [SAY.sumProduct], [""], [SAY.sumSoFar]]}>
        {shown.map((term, n) => (
          <tr key={term.index} class={term.index === selected ? "this" : ""}>
            <td class="soft left">{label ? label(term.index) : term.index}</td>
            {number(a, term.index, term.q)}
            <td class="soft">×</td>
            {number(b, term.index, term.k)}
            <td class="soft">=</td>
            <td><NumberButton value={term.product} origin={[`${short(term.q)} × ${short(term.k)}`, name]} /></td>
            <td class="signed-bar"><SignedBar part={term.product / largest} /></td>
            <td>{hiding ? "?" : <NumberButton value={term.sum} origin={SAY.originRunning(n + 1)} />}</td>
          </tr>
        ))}
        {(remaining > 0 || rest) && (
          <tr>
            <td class="soft left" colSpan={5}>{rest ?? SAY.stepOthers(remaining)}</td>
            <td><NumberButton value={other} origin={[SAY.originRemainder(short(sum), short(subtotal), shown.length), name]} /></td>
            <td class="signed-bar"><SignedBar part={other / largest} /></td>
            <td />
          </tr>
        )}
        <tr class="total">
          <td colSpan={7}>{name}</td>
          <td>{total ?? <NumberButton value={sum} name={name} digits={6} origin={[SAY.originTotal, destination]} />}</td>
        </tr>
        {children}
      </LessonTable>
    </>
  );
}

/** The field that chooses the component of a step. */
export function ComponentField({ vector: vector, now, most, bars }: { vector: string; now: number; most: number; bars?: boolean }) {
  return (
    <div class="tools">
      <label class="choice">
        <span>{SAY.sumComponent(vector)}</span>
        <input
          type="number"
          min="0"
          max={most - 1}
          data-component={now}
          value={now}
          onChange={(event) => {
            const to = Number(event.currentTarget.value);
            if (Number.isInteger(to) && to >= 0 && to < most) go({ component: to });
            else event.currentTarget.value = String(now);
          }}
        />
      </label>
      <span class="soft">{SAY.sumComponentRange(most)}{bars && SAY.sumOrBar}</span>
      {place.value.component !== null && <button onClick={() => go({ component: null })}>{SAY.sumLargest}</button>}
    </div>
  );
}
