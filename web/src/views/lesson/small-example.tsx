// The lesson on a few words, without a recording. Every number is from regard.analysis.worked_example, with the numbers that it was computed from.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { json, paths } from "../../client/requests";
import type { WorkedExample } from "../../client/types";
import { shortest } from "../../pure/numbers";
import { entropy } from "../../pure/text";
import { resource, screen, step } from "../../state";
import * as SAY from "../../strings";
import { NumberButton, shownOrigin } from "./number";
import { Check } from "../components";
import { predicting, PredictFirst } from "./prediction";

export const exampleText = signal("the river bank");
const causal = signal(true);
const scaled = signal(true);
const temperature = signal(1);
/** The hidden numbers of a grid that were revealed. */
const revealed = signal<ReadonlySet<number>>(new Set());

/** What scores are divided by; null: √d. */
const divisor = () => (scaled.value ? (temperature.value === 1 ? null : Math.SQRT2 * temperature.value) : temperature.value);
const lesson = resource<WorkedExample>(() => (screen.value === "lesson" ? paths.words(exampleText.value, false, causal.value, divisor()) : null), json, 80);
const ROLE: Record<string, string> = { embedding: "plain", map: "plain", score: "score" };
const SIGN: Record<string, string> = { divide: "÷", subtract: "−", sum: "+" };

function showOrigin(example: WorkedExample, at: number): void {
  const number = example.numbers[at]!;
  const used = example.numbers.flatMap((other, i) => (other.of.includes(at) ? [i] : []));
  const link = (i: number) => (
    <button class={`n ${ROLE[example.numbers[i]!.role] ?? example.numbers[i]!.role}`} title={example.numbers[i]!.name} onClick={() => showOrigin(example, i)}>
      {shortest(example.numbers[i]!.value)}
    </button>
  );
  const joined = (sign: string) => number.of.flatMap((i, n) => (n ? [` ${sign} `, link(i)] : [link(i)]));
  let from: ComponentChildren = SAY.originGiven;
  if (number.how === "sum of products") from = number.of.flatMap((i, n) => [n ? (n % 2 ? " × " : " + ") : "", link(i)]);
  else if (number.how in SIGN) from = joined(SIGN[number.how]!);
  else if (number.how !== "given") from = [`${SAY.originHow(number.how)} `, ...joined(",")];
  shownOrigin.value = {
    name: `${number.name} = ${shortest(number.value)}`,
    from,
    to: used.length ? used.slice(0, 6).map((i, n) => [n ? ", " : "", <button class="n" onClick={() => showOrigin(example, i)}>{example.numbers[i]!.name}</button>]) : SAY.headsNextLayer,
  };
}

function Grid({ example, of, name, rows, cols, hide }: {
  example: WorkedExample;
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
                const { value, role } = example.numbers[at]!;
                if (hide && predicting.value && !revealed.value.has(at))
                  return (
                    <td key={j}>
                      <button class="n reveal" aria-label={SAY.lessonHidden} title={SAY.lessonHidden} onClick={() => ((revealed.value = new Set(revealed.value).add(at)), showOrigin(example, at))}>?</button>
                    </td>
                  );
                const shade = role === "weight" && value ? { "--part": `${Math.round(value * 70)}%` } : {};
                return (
                  <td key={j} class={role === "weight" ? "shaded" : ""} style={shade}>
                    <button class={`n ${ROLE[role] ?? role}`} onClick={() => showOrigin(example, at)}>{shortest(value)}</button>
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

/** The field of the example's words, and other controls of the lesson. */
export function TextField({ children }: { children: ComponentChildren }) {
  return (
    <form class="tools" onSubmit={(event) => (event.preventDefault(), (exampleText.value = new FormData(event.currentTarget).get("words") as string))}>
      <label class="choice">
        <span>{SAY.lessonWordsLabel}</span>
        <input name="words" value={exampleText.value} spellcheck={false} />
      </label>
      {children}
    </form>
  );
}

export function SmallExampleLesson() {
  const example = lesson.value.value;
  const now = step.value;
  useEffect(() => {
    revealed.value = new Set();
  }, [now, example, predicting.value]);
  return (
    <>
      <header class="subject">
        <TextField>
          <Check label={SAY.lessonCausal} on={causal.value} onPick={(on) => (causal.value = on)} />
          {(now === 2 || now === 7) && <PredictFirst />}
        </TextField>
        <h1>
          {now}. {SAY.lessonSteps[now - 1]![1]}
        </h1>
      </header>
      {example ? <Step example={example} /> : <p class="empty">{SAY.loading}</p>}
    </>
  );
}

/** A grid of a step: what it is called, whether its rows and columns are words, and whether its numbers may be hidden at first. */
type StepGrid = readonly [name: string, of: number[][], named: "" | "rows" | "both", hides?: boolean];
const column = (of: number[]) => of.map((at) => [at]);

/** What each step shows of a head. */
function gridsOf(head: WorkedExample["heads"][number], at: number): StepGrid[] {
  const scores: StepGrid = ["q · k", head.scores, "both", at === 2];
  const scaled: StepGrid = ["÷ √d", head.scaled, "both"];
  const masked: StepGrid = [SAY.lessonMasked, head.masked, "both"];
  const shifted: StepGrid = [SAY.lessonShifted, head.shifted, "both"];
  const exps: StepGrid = ["exp", head.exps, "both"];
  const weights: StepGrid = [SAY.lessonWeights, head.weights, "both", at === 7];
  const [q, k, v] = (["q", "k", "v"] as const).map((vector): StepGrid => [vector, head[vector], "rows"]) as [StepGrid, StepGrid, StepGrid];
  const map = (vector: "q" | "k" | "v"): StepGrid[] => [[`W_${vector}`, head[`w_${vector}`], ""], [`${vector} = x · W_${vector}`, head[vector], "rows"]];
  return {
    1: [...map("q"), ...map("k"), ...map("v")],
    2: [q, k, scores],
    3: [scores, ["√d", [[head.divisor]], ""] as StepGrid, scaled, weights],
    4: [scaled, masked],
    5: [masked, [SAY.lessonLargest, column(head.maxima), "rows"] as StepGrid, shifted],
    6: [shifted, exps],
    7: [exps, [SAY.lessonSum, column(head.sums), "rows"] as StepGrid, weights],
    8: [weights, v, [`${SAY.lessonWeights} · v`, head.out, "rows"] as StepGrid],
  }[at]!;
}

function Step({ example }: { example: WorkedExample }) {
  const now = step.value;
  const grids = (all: StepGrid[]) => (
    <div class="matrices">
      {all.map(([name, of, named, hides]) => (
        <Grid key={name} example={example} of={of} name={name} rows={named ? example.labels : undefined} cols={named === "both" ? example.labels : undefined} hide={hides} />
      ))}
    </div>
  );
  return (
    <>
      <p>{now === 1 ? `${SAY.stepProjected} ${example.chosen ? SAY.lessonFeatures : SAY.lessonUnknownWords}` : now === 4 ? `${SAY.lessonCausal}.` : [SAY.stepDot, SAY.stepScale, "", SAY.stepMaximum, SAY.stepExp, SAY.stepSum, SAY.stepOutput, SAY.stepHeads][now - 2]}</p>
      {(now === 3 || now === 7) && (
        <div class="tools">
          <Check label={SAY.stepWithout} on={!scaled.value} onPick={(on) => (scaled.value = !on)} />
          <label class="choice wide">
            <span>{SAY.lessonTemperature}</span>
            <input type="range" min="-2" max="2" step="0.25" value={Math.log2(temperature.value)} onInput={(event) => (temperature.value = 2 ** Number(event.currentTarget.value))} />
            <output>{temperature.value.toFixed(2)}</output>
          </label>
        </div>
      )}
      {now === 1 && grids([["x", example.x, "rows"]])}
      {now === 9
        ? grids([[SAY.lessonConcat, example.concat, "rows"], ["W_o", example.w_o, ""], [SAY.lessonOut, example.out, "rows"]])
        : example.heads.map((head, i) => (
            <section class="head" key={i}>
              <h2>
                {SAY.lessonHead} {i + 1}
              </h2>
              {grids(gridsOf(head, now))}
              {(now === 3 || now === 7) && (
                <p class="soft" data-entropies>
                  {SAY.lessonEntropy}:{" "}
                  {head.weights.map((row, query) => [
                    query ? ", " : "", `${example.labels[query]} `,
                    <NumberButton key={query} value={entropy(row.map((at) => example.numbers[at]!.value ?? 0))} name={`${SAY.lessonEntropy}, ${example.labels[query]}`} origin={SAY.originEntropy} />,
                  ])}{" "}
                  nats
                </p>
              )}
            </section>
          ))}
    </>
  );
}
