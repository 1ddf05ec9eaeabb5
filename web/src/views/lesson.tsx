// The lesson: nine steps, of one weight of a recording or of three words.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { cell, cellNow, go, headIndex, layer, run, step } from "../state";
import { LESSON } from "../strings.lesson";
import { SAY } from "../strings";
import { CellSteps } from "./lesson.cell";
import { WordsLesson } from "./lesson.words";
import { told, Where } from "./number";
import { Token } from "./parts";

export function LessonView() {
  const real = run.value !== null && cell.value !== null;
  const words = useSignal(false);
  const asWords = words.value || !real;
  useEffect(() => {
    told.value = null;
  }, [step.value, cell.value, asWords]);
  return (
    <div class="lesson">
      <nav class="steps" aria-label={SAY.screens.lesson}>
        <div class="segmented" role="group">
          <button aria-pressed={!asWords} disabled={!real} onClick={() => (words.value = false)}>
            {LESSON.this}
          </button>
          <button aria-pressed={asWords} onClick={() => (words.value = true)}>
            {LESSON.words}
          </button>
        </div>
        <ol>
          {LESSON.steps.map(([sign, name], i) => (
            <li key={sign}>
              <button aria-current={step.value === i + 1 ? "step" : undefined} onClick={() => go({ step: i + 1 })}>
                <span class="index">{i + 1}</span>
                <b>{sign}</b>
                <span class="soft">{name}</span>
              </button>
            </li>
          ))}
        </ol>
      </nav>
      <article>
        {asWords ? <WordsLesson /> : <CellLesson />}
        <footer>
          <button disabled={step.value === 1} onClick={() => go({ step: step.value - 1 })}>
            ← {LESSON.back}
          </button>
          <Where />
          <button class="primary" disabled={step.value === 9} onClick={() => go({ step: step.value + 1 })}>
            {LESSON.next} →
          </button>
        </footer>
      </article>
    </div>
  );
}

function CellLesson() {
  const now = cellNow.value;
  if (!now) return <p class="empty">{SAY.loading}</p>;
  return (
    <>
      <header class="subject">
        <p>
          <span class="query">query {now.query.index}</span> <Token index={now.query.index} role="query" text={now.query.text} />
          <span class="soft"> → </span>
          <span class="key">key {now.key.index}</span> <Token index={now.key.index} role="key" text={now.key.text} />
          <span class="soft">
            {" "}
            · {SAY.head(layer.value?.index ?? 0, headIndex.value)} · {layer.value?.mask ?? "no mask"} · {layer.value?.score}
          </span>
        </p>
        <h1>
          {step.value}. {LESSON.steps[step.value - 1]![1]}
        </h1>
      </header>
      <CellSteps now={now} />
    </>
  );
}
