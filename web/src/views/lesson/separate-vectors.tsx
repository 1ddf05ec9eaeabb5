// Why separate query, key and value vectors: two words, with separate query and key vectors and with one vector for both. The task is a relation
// that has a direction; with tied vectors, both scores are the same products.
import { signal } from "@preact/signals";
import { json, paths } from "../../client/requests";
import type { WorkedExample } from "../../client/types";
import { shortest } from "../../pure/numbers";
import { place, resource, screen } from "../../state";
import * as SAY from "../../strings";
import { TextField, exampleText } from "./small-example";
import { NumberButton } from "./number";
import { Choice } from "../components";

const exampleAnswer = resource<WorkedExample>(() => (screen.value === "lesson" && place.value.topic === "why" ? paths.words(exampleText.value, false, true, null) : null), json, 80);
const pair = signal<readonly [number, number]>([2, 1]);
/** Typed numbers, by side, vector, word and component. */
const typed = signal<Record<string, number>>({});

type VectorOf = (kind: "q" | "k", word: number) => number[];

export function SeparateVectorsLesson() {
  const example = exampleAnswer.value.value;
  const count = example?.words.length ?? 0;
  const [a, b] = pair.value.map((at) => Math.min(at, count - 1)) as [number, number];
  if (!example || count < 2) return <p class="empty">{SAY.loading}</p>;
  const names = example.labels;
  const head = example.heads[0]!;
  const original = (kind: "q" | "k", word: number) => head[kind][word]!.map((at) => example.numbers[at]!.value ?? 0);
  const vector = (side: "separate" | "tied"): VectorOf => (kind, word) =>
    original(side === "tied" ? "k" : kind, word).map((x, i) => typed.value[`${side}/${side === "tied" ? "k" : kind}/${word}/${i}`] ?? x);
  const among = names.map((name, i) => [String(i), name] as const);
  const pick = (at: 0 | 1) => (text: string) => {
    const to = Number(text);
    const [first, second] = [a, b];
    pair.value = at === 0 ? [to, to === second ? first : second] : [to === first ? second : first, to];
  };
  return (
    <>
      <header class="subject">
        <TextField>
          <Choice label={SAY.separatePair} value={String(a)} among={among} onPick={pick(0)} />
          <Choice label="→" value={String(b)} among={among} onPick={pick(1)} />
          {Object.keys(typed.value).length > 0 && <button onClick={() => (typed.value = {})}>{SAY.separateReset}</button>}
        </TextField>
        <h1>{SAY.lessonQuestions.why}</h1>
      </header>
      <p>{SAY.separateLead}</p>
      <p><b>{SAY.separateTask(names[a]!, names[b]!)}</b></p>
      <div class="sides">
        {(["separate", "tied"] as const).map((side) => (
          <VectorPair key={side} side={side} names={names} a={a} b={b} vectorOf={vector(side)} />
        ))}
      </div>
      <h2>{SAY.separateValue}</h2>
      <p>{SAY.separateValueText(names[a]!)}</p>
      <Outputs example={example} word={a} />
    </>
  );
}

const dot = (q: number[], k: number[]) => q.reduce((sum, x, i) => sum + x * k[i]!, 0);
const productText = (q: number[], k: number[]) => q.map((x, i) => `${shortest(x)} × ${shortest(k[i]!)}`).join(" + ");

function VectorPair({ side, names, a, b, vectorOf: vectorOf }: { side: "separate" | "tied"; names: string[]; a: number; b: number; vectorOf: VectorOf }) {
  const tied = side === "tied";
  const [forward, backward] = [dot(vectorOf("q", a), vectorOf("k", b)), dot(vectorOf("q", b), vectorOf("k", a))];
  const done = forward > 2 && backward <= 0;
  const tried = Object.keys(typed.value).some((name) => name.startsWith(side));
  const title = tied ? SAY.separateTied : SAY.separateVectors;
  const called = (kind: "q" | "k", word: number) => (tied ? SAY.separateTiedVector : kind === "q" ? SAY.separateQ : SAY.separateK)(names[word]!);
  const field = (kind: "q" | "k", word: number) => (
    <tr key={kind + word}>
      <th scope="row" class={tied ? "" : kind === "q" ? "query" : "key"}>{called(kind, word)}</th>
      {vectorOf(kind, word).map((x, i) => (
        <td key={i}>
          <input
            class={`edit ${kind === "q" ? "query" : "key"}`}
            type="number"
            step="0.5"
            aria-label={`${called(kind, word)}, ${i + 1}, ${title}`}
            value={Number(x.toPrecision(5))}
            onInput={(event) => event.currentTarget.value !== "" && (typed.value = { ...typed.value, [`${side}/${kind}/${word}/${i}`]: Number(event.currentTarget.value) })}
          />
        </td>
      ))}
    </tr>
  );
  const line = (from: number, to: number, value: number) => (
    <p class="equation small" key={from}>
      <b>{SAY.separateScore(names[from]!, names[to]!)}</b>
      <span class="soft">{productText(vectorOf("q", from), vectorOf("k", to))} =</span>
      <NumberButton value={value} name={SAY.separateScore(names[from]!, names[to]!)} origin={[`${SAY.separateQ(names[from]!)} · ${SAY.separateK(names[to]!)} = ${productText(vectorOf("q", from), vectorOf("k", to))}`, SAY.separateScoreGoes]} />
    </p>
  );
  return (
    <section class="side-by" data-side={side}>
      <h2>{title}</h2>
      <table class="sums">
        <tbody>{tied ? [a, b].map((word) => field("k", word)) : [a, b].flatMap((word) => [field("q", word), field("k", word)])}</tbody>
      </table>
      {line(a, b, forward)}
      {line(b, a, backward)}
      <p class={done ? "verdict value" : "verdict"} role="status">
        {done ? `✓ ${SAY.separateDone}` : tied && tried ? SAY.separateImpossible : SAY.separateNotYet}
      </p>
    </section>
  );
}

/** The output of a word, and what it would be with keys in place of values. */
function Outputs({ example, word }: { example: WorkedExample; word: number }) {
  const head = example.heads[0]!;
  const valueAt = (at: number) => example.numbers[at]!.value ?? 0;
  return (
    <>
      {([["v", SAY.separateWithV, "output"], ["k", SAY.separateWithK, "key"]] as const).map(([name, title, role]) => (
        <p class="equation small" key={name}>
          <span class="soft">{title} =</span>
          {head[name][0]!.map((_, i) => {
            const terms = head.weights[word]!.map((weight, key) => [valueAt(weight), valueAt(head[name][key]![i]!)] as const);
            const from = terms.map(([weight, x]) => `${shortest(weight)} × ${shortest(x)}`).join(" + ");
            return <NumberButton key={i} value={terms.reduce((sum, [weight, x]) => sum + weight * x, 0)} role={role} name={`${title}, ${i + 1}`} origin={[from, SAY.separateOutputGoes(example.labels[word]!)]} />;
          })}
        </p>
      ))}
    </>
  );
}
