// The lesson on a few words, from nothing. Every number is the library's (regard.lesson) and knows what it was made of.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { json, paths, type Words } from "../api";
import { tidy } from "../pure/numbers";
import { go, resource, screen, step } from "../state";
import { LESSON } from "../strings.lesson";
import { SAY } from "../strings";
import { told } from "./number";
import { Check } from "./parts";

const T = LESSON.text;
const words = signal("the river bank");
const tied = signal(false);
const causal = signal(true);
const scaled = signal(true);
const temperature = signal(1);
const contrast = signal(false);

/** What scores are divided by; null: √d. */
const divisor = () => (scaled.value ? (temperature.value === 1 ? null : Math.SQRT2 * temperature.value) : temperature.value);
const asked = (text: string) => () => (screen.value === "lesson" ? paths.words(text || words.value, tied.value, causal.value, divisor()) : null);
const lesson = resource<Words>(asked(""), json, 80);
const money = resource<Words>(() => (contrast.value ? asked("the money bank")() : null), json);
const ROLE: Record<string, string> = { embedding: "plain", map: "plain", score: "score" };
const SIGN: Record<string, string> = { divide: "÷", subtract: "−", sum: "+" };

function say(made: Words, at: number): void {
  const one = made.numbers[at]!;
  const used = made.numbers.flatMap((other, i) => (other.of.includes(at) ? [i] : []));
  const link = (i: number) => (
    <button class={`n ${ROLE[made.numbers[i]!.role] ?? made.numbers[i]!.role}`} title={made.numbers[i]!.name} onClick={() => say(made, i)}>
      {tidy(made.numbers[i]!.value)}
    </button>
  );
  const joined = (sign: string) => one.of.flatMap((i, n) => (n ? [` ${sign} `, link(i)] : [link(i)]));
  let from: ComponentChildren = LESSON.given;
  if (one.how === "sum of products") from = one.of.flatMap((i, n) => [n ? (n % 2 ? " × " : " + ") : "", link(i)]);
  else if (one.how in SIGN) from = joined(SIGN[one.how]!);
  else if (one.how !== "given") from = [`${one.how} of `, ...joined(",")];
  told.value = {
    name: `${one.name} = ${tidy(one.value)}`,
    from,
    to: used.length ? used.slice(0, 6).map((i, n) => [n ? ", " : "", <button class="n" onClick={() => say(made, i)}>{made.numbers[i]!.name}</button>]) : "the next layer",
  };
}

function Grid({ made, of, name, rows, cols }: { made: Words; of: number[][]; name: string; rows?: readonly string[] | undefined; cols?: readonly string[] | undefined }) {
  return (
    <figure class="matrix">
      <figcaption>{name}</figcaption>
      <table>
        {cols && (
          <thead>
            <tr>
              {rows && <td />}
              {cols.map((col, i) => (
                <th scope="col" key={i}>{col}</th>
              ))}
            </tr>
          </thead>
        )}
        <tbody>
          {of.map((row, i) => (
            <tr key={i}>
              {rows && <th scope="row">{rows[i]}</th>}
              {row.map((at, j) => {
                const { value, role } = made.numbers[at]!;
                const shade = role === "weight" && value ? { "--part": `${Math.round(value * 70)}%` } : {};
                return (
                  <td key={j} class={role === "weight" ? "shaded" : ""} style={shade}>
                    <button class={`n ${ROLE[role] ?? role}`} onClick={() => say(made, at)}>{tidy(value)}</button>
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </figure>
  );
}

export function WordsLesson() {
  const made = lesson.value.value;
  return (
    <>
      <header class="subject">
        <form class="tools" onSubmit={(event) => (event.preventDefault(), (words.value = new FormData(event.currentTarget).get("words") as string))}>
          <label class="choice">
            <span>{LESSON.wordsLabel}</span>
            <input name="words" value={words.value} spellcheck={false} />
          </label>
          <Check label={LESSON.causal} on={causal.value} onPick={(on) => (causal.value = on)} />
          <Check label={LESSON.tied} on={tied.value} onPick={(on) => (tied.value = on)} />
        </form>
        <h1>
          {step.value}. {LESSON.steps[step.value - 1]![1]}
        </h1>
      </header>
      {made ? <Step made={made} /> : <p class="empty">{SAY.loading}</p>}
      {tied.value && <p class="note">{LESSON.tiedText}</p>}
      <div class="questions">
        <button onClick={() => ((tied.value = true), (causal.value = false), go({ step: 2 }))}>{LESSON.askWhy}</button>
        <button onClick={() => ((words.value = "the river bank"), (tied.value = false), (contrast.value = true), go({ step: 9 }))}>{LESSON.askContext}</button>
        <button onClick={() => ((words.value = "the river bank"), (tied.value = false), (causal.value = true), go({ step: 1 }))}>{LESSON.askSimple}</button>
      </div>
    </>
  );
}

function Step({ made }: { made: Words }) {
  const names = made.labels;
  const now = step.value;
  const each = (draw: (head: Words["heads"][number], title: string) => ComponentChildren) =>
    made.heads.map((head, i) => (
      <section class="head" key={i}>
        <h2>
          {LESSON.head} {i + 1}
        </h2>
        <div class="matrices">{draw(head, ` (${i + 1})`)}</div>
      </section>
    ));
  const heat = (
    <div class="tools">
      <Check label={T.without} on={!scaled.value} onPick={(on) => (scaled.value = !on)} />
      <label class="choice wide">
        <span>{LESSON.temperature}</span>
        <input type="range" min="-2" max="2" step="0.25" value={Math.log2(temperature.value)} onInput={(event) => (temperature.value = 2 ** Number(event.currentTarget.value))} />
        <output>{temperature.value.toFixed(2)}</output>
      </label>
    </div>
  );
  const grid = (of: number[][], name: string, cols: readonly string[] | null = names, rows: readonly string[] | null = names) => (
    <Grid made={made} of={of} name={name} rows={rows ?? undefined} cols={cols ?? undefined} />
  );
  switch (now) {
    case 1:
      return (
        <>
          <p>{T.vectors.split(". ").slice(0, 2).join(". ")}. {made.chosen ? LESSON.features : LESSON.madeUp}</p>
          <div class="matrices">{grid(made.x, "x", null)}</div>
          {each((head) => (
            <>
              {grid(head.w_q, "W_q", null, null)} {grid(head.q, "q = x · W_q", null)}
              {grid(head.w_k, "W_k", null, null)} {grid(head.k, "k = x · W_k", null)}
              {grid(head.w_v, "W_v", null, null)} {grid(head.v, "v = x · W_v", null)}
            </>
          ))}
        </>
      );
    case 2:
      return <><p>{T.dot}</p>{each((head) => <>{grid(head.q, "q", null)}{grid(head.k, "k", null)}{grid(head.scores, "q · k")}</>)}</>;
    case 3:
      return <><p>{T.scale}</p>{heat}{each((head) => <>{grid(head.scores, "q · k")}{grid([[head.divisor]], "√d", null, null)}{grid(head.scaled, "÷ √d")}{grid(head.weights, "weights")}</>)}</>;
    case 4:
      return <><p>{LESSON.causal}.</p>{each((head) => <>{grid(head.scaled, "scaled")}{grid(head.masked, "masked")}</>)}</>;
    case 5:
      return <><p>{T.max}</p>{each((head) => <>{grid(head.masked, "masked")}{grid(head.maxima.map((m) => [m]), "largest", null)}{grid(head.shifted, "− largest")}</>)}</>;
    case 6:
      return <><p>{T.exp}</p>{each((head) => <>{grid(head.shifted, "− largest")}{grid(head.exps, "exp")}</>)}</>;
    case 7:
      return <><p>{T.sum}</p>{heat}{each((head) => <>{grid(head.exps, "exp")}{grid(head.sums.map((m) => [m]), "sum", null)}{grid(head.weights, "weights")}</>)}</>;
    case 8:
      return <><p>{T.out}</p>{each((head) => <>{grid(head.weights, "weights")}{grid(head.v, "v", null)}{grid(head.out, "weights · v", null)}</>)}</>;
    default: {
      const other = contrast.value ? money.value.value : null;
      return (
        <>
          <p>{T.heads}</p>
          <div class="matrices">
            {grid(made.concat, "heads, side by side", null)}
            {grid(made.w_o, "W_o", null, null)}
            {grid(made.out, "out", null)}
          </div>
          {other && (
            <>
              <p class="note">{LESSON.contextText}</p>
              <div class="matrices">
                <Grid made={made} of={made.x} name={`x · ${made.words.join(" ")}`} rows={made.labels} />
                <Grid made={made} of={made.out} name="out" rows={made.labels} />
                <Grid made={other} of={other.x} name={`x · ${other.words.join(" ")}`} rows={other.labels} />
                <Grid made={other} of={other.out} name="out" rows={other.labels} />
              </div>
            </>
          )}
        </>
      );
    }
  }
}
