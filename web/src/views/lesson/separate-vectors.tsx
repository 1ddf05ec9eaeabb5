// Why separate query, key and value vectors: two words, with a vector for each job and with one for both. One tries to make a relation
// that has a direction; tied, both scores are the same products.
import { signal } from "@preact/signals";
import { json, paths, type Words } from "../../api";
import { tidy } from "../../pure/numbers";
import { place, resource, screen } from "../../state";
import * as SAY from "../../strings";
import { WordsField, words } from "./small-example";
import { N } from "./number";
import { Choice } from "../components";

const asked = resource<Words>(() => (screen.value === "lesson" && place.value.about === "why" ? paths.words(words.value, false, true, null) : null), json, 80);
const pair = signal<readonly [number, number]>([2, 1]);
/** Typed numbers, by side, vector, word and component. */
const typed = signal<Record<string, number>>({});

type Vector = (kind: "q" | "k", word: number) => number[];

export function WhyLesson() {
  const made = asked.value.value;
  const count = made?.words.length ?? 0;
  const [a, b] = pair.value.map((at) => Math.min(at, count - 1)) as [number, number];
  if (!made || count < 2) return <p class="empty">{SAY.loading}</p>;
  const names = made.labels;
  const head = made.heads[0]!;
  const given = (kind: "q" | "k", word: number) => head[kind][word]!.map((at) => made.numbers[at]!.value ?? 0);
  const vector = (side: "separate" | "tied"): Vector => (kind, word) =>
    given(side === "tied" ? "k" : kind, word).map((x, i) => typed.value[`${side}/${side === "tied" ? "k" : kind}/${word}/${i}`] ?? x);
  const among = names.map((name, i) => [String(i), name] as const);
  const pick = (at: 0 | 1) => (text: string) => {
    const to = Number(text);
    const [one, two] = [a, b];
    pair.value = at === 0 ? [to, to === two ? one : two] : [to === one ? two : one, to];
  };
  return (
    <>
      <header class="subject">
        <WordsField>
          <Choice label={SAY.separatePair} value={String(a)} among={among} onPick={pick(0)} />
          <Choice label="→" value={String(b)} among={among} onPick={pick(1)} />
          {Object.keys(typed.value).length > 0 && <button onClick={() => (typed.value = {})}>{SAY.separateReset}</button>}
        </WordsField>
        <h1>{SAY.lessonQuestions.why}</h1>
      </header>
      <p>{SAY.separateLead}</p>
      <p><b>{SAY.separateTask(names[a]!, names[b]!)}</b></p>
      <div class="sides">
        {(["separate", "tied"] as const).map((side) => (
          <Side key={side} side={side} names={names} a={a} b={b} of={vector(side)} />
        ))}
      </div>
      <h2>{SAY.separateValue}</h2>
      <p>{SAY.separateValueText(names[a]!)}</p>
      <Mixed made={made} word={a} />
    </>
  );
}

const dot = (q: number[], k: number[]) => q.reduce((sum, x, i) => sum + x * k[i]!, 0);
const written = (q: number[], k: number[]) => q.map((x, i) => `${tidy(x)} × ${tidy(k[i]!)}`).join(" + ");

function Side({ side, names, a, b, of }: { side: "separate" | "tied"; names: string[]; a: number; b: number; of: Vector }) {
  const tied = side === "tied";
  const [there, back] = [dot(of("q", a), of("k", b)), dot(of("q", b), of("k", a))];
  const done = there > 2 && back <= 0;
  const tried = Object.keys(typed.value).some((name) => name.startsWith(side));
  const title = tied ? SAY.separateTied : SAY.separateVectors;
  const called = (kind: "q" | "k", word: number) => (tied ? SAY.separateTiedVector : kind === "q" ? SAY.separateQ : SAY.separateK)(names[word]!);
  const field = (kind: "q" | "k", word: number) => (
    <tr key={kind + word}>
      <th scope="row" class={tied ? "" : kind === "q" ? "query" : "key"}>{called(kind, word)}</th>
      {of(kind, word).map((x, i) => (
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
      <span class="soft">{written(of("q", from), of("k", to))} =</span>
      <N value={value} name={SAY.separateScore(names[from]!, names[to]!)} tell={[`${SAY.separateQ(names[from]!)} · ${SAY.separateK(names[to]!)} = ${written(of("q", from), of("k", to))}`, SAY.separateScoreGoes]} />
    </p>
  );
  return (
    <section class="side-by" data-side={side}>
      <h2>{title}</h2>
      <table class="sums">
        <tbody>{tied ? [a, b].map((word) => field("k", word)) : [a, b].flatMap((word) => [field("q", word), field("k", word)])}</tbody>
      </table>
      {line(a, b, there)}
      {line(b, a, back)}
      <p class={done ? "verdict value" : "verdict"} role="status">
        {done ? `✓ ${SAY.separateDone}` : tied && tried ? SAY.separateImpossible : SAY.separateNotYet}
      </p>
    </section>
  );
}

/** What a word receives with its values, and what it would with keys in their place. */
function Mixed({ made, word }: { made: Words; word: number }) {
  const head = made.heads[0]!;
  const of = (at: number) => made.numbers[at]!.value ?? 0;
  return (
    <>
      {([["v", SAY.separateWithV, "output"], ["k", SAY.separateWithK, "key"]] as const).map(([name, title, role]) => (
        <p class="equation small" key={name}>
          <span class="soft">{title} =</span>
          {head[name][0]!.map((_, i) => {
            const terms = head.weights[word]!.map((weight, key) => [of(weight), of(head[name][key]![i]!)] as const);
            const from = terms.map(([weight, x]) => `${tidy(weight)} × ${tidy(x)}`).join(" + ");
            return <N key={i} value={terms.reduce((sum, [weight, x]) => sum + weight * x, 0)} role={role} name={`${title}, ${i + 1}`} tell={[from, SAY.separateOutputGoes(made.labels[word]!)]} />;
          })}
        </p>
      ))}
    </>
  );
}
