// The lesson on a few words, from nothing. Every number is the library's (regard.lesson) and knows what it was made of.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { json, paths, type Words } from "../api";
import { tidy } from "../pure/numbers";
import { resource, screen, step } from "../state";
import { LESSON } from "../strings.lesson";
import { SAY } from "../strings";
import { told } from "./number";
import { Check } from "./parts";
import { predicting, PredictFirst } from "./predict";

const T = LESSON.text;
export const words = signal("the river bank");
const causal = signal(true);
const scaled = signal(true);
const temperature = signal(1);
/** Numbers that are hidden until they are worked out: those of one grid, by what has been revealed. */
const revealed = signal<ReadonlySet<number>>(new Set());

/** What scores are divided by; null: √d. */
const divisor = () => (scaled.value ? (temperature.value === 1 ? null : Math.SQRT2 * temperature.value) : temperature.value);
const lesson = resource<Words>(() => (screen.value === "lesson" ? paths.words(words.value, false, causal.value, divisor()) : null), json, 80);
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

function Grid({ made, of, name, rows, cols, hide }: {
  made: Words;
  of: number[][];
  name: string;
  rows?: readonly string[] | undefined;
  cols?: readonly string[] | undefined;
  hide?: boolean | undefined;
}) {
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
                if (hide && predicting.value && !revealed.value.has(at))
                  return (
                    <td key={j}>
                      <button class="n reveal" aria-label={LESSON.unseen} title={LESSON.unseen} onClick={() => ((revealed.value = new Set(revealed.value).add(at)), say(made, at))}>?</button>
                    </td>
                  );
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

/** Where the words are typed, with what else the lesson lets one choose. */
export function WordsField({ children }: { children: ComponentChildren }) {
  return (
    <form class="tools" onSubmit={(event) => (event.preventDefault(), (words.value = new FormData(event.currentTarget).get("words") as string))}>
      <label class="choice">
        <span>{LESSON.wordsLabel}</span>
        <input name="words" value={words.value} spellcheck={false} />
      </label>
      {children}
    </form>
  );
}

export function WordsLesson() {
  const made = lesson.value.value;
  const now = step.value;
  useEffect(() => {
    revealed.value = new Set();
  }, [now, made, predicting.value]);
  return (
    <>
      <header class="subject">
        <WordsField>
          <Check label={LESSON.causal} on={causal.value} onPick={(on) => (causal.value = on)} />
          {(now === 2 || now === 7) && <PredictFirst />}
        </WordsField>
        <h1>
          {now}. {LESSON.steps[now - 1]![1]}
        </h1>
      </header>
      {made ? <Step made={made} /> : <p class="empty">{SAY.loading}</p>}
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
  const grid = (of: number[][], name: string, cols: readonly string[] | null = names, rows: readonly string[] | null = names, hide = false) => (
    <Grid made={made} of={of} name={name} rows={rows ?? undefined} cols={cols ?? undefined} hide={hide} />
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
      return <><p>{T.dot}</p>{each((head) => <>{grid(head.q, "q", null)}{grid(head.k, "k", null)}{grid(head.scores, "q · k", names, names, true)}</>)}</>;
    case 3:
      return <><p>{T.scale}</p>{heat}{each((head) => <>{grid(head.scores, "q · k")}{grid([[head.divisor]], "√d", null, null)}{grid(head.scaled, "÷ √d")}{grid(head.weights, "weights")}</>)}</>;
    case 4:
      return <><p>{LESSON.causal}.</p>{each((head) => <>{grid(head.scaled, "scaled")}{grid(head.masked, "masked")}</>)}</>;
    case 5:
      return <><p>{T.max}</p>{each((head) => <>{grid(head.masked, "masked")}{grid(head.maxima.map((m) => [m]), "largest", null)}{grid(head.shifted, "− largest")}</>)}</>;
    case 6:
      return <><p>{T.exp}</p>{each((head) => <>{grid(head.shifted, "− largest")}{grid(head.exps, "exp")}</>)}</>;
    case 7:
      return <><p>{T.sum}</p>{heat}{each((head) => <>{grid(head.exps, "exp")}{grid(head.sums.map((m) => [m]), "sum", null)}{grid(head.weights, "weights", names, names, true)}</>)}</>;
    case 8:
      return <><p>{T.out}</p>{each((head) => <>{grid(head.weights, "weights")}{grid(head.v, "v", null)}{grid(head.out, "weights · v", null)}</>)}</>;
    default:
      return (
        <>
          <p>{T.heads}</p>
          <div class="matrices">
            {grid(made.concat, "heads, side by side", null)}
            {grid(made.w_o, "W_o", null, null)}
            {grid(made.out, "out", null)}
          </div>
        </>
      );
  }
}
