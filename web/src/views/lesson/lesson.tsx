// The lesson: nine steps, of one weight of a recording or of three words; and questions that are answered by doing.
import { useEffect } from "preact/hooks";
import { type LessonTopic, LESSON_TOPICS } from "../../pure/hash";
import { cell, cellDetails, go, headIndex, layer, place, recording, announce, step } from "../../state";
import * as SAY from "../../strings";
import { WeightSteps } from "./weight";
import { ContextLesson } from "./context";
import { SeparateVectorsLesson } from "./separate-vectors";
import { SmallExampleLesson } from "./small-example";
import { shownOrigin, Origin } from "./number";
import { Token } from "../components";

const CONTENT: Record<LessonTopic, () => preact.JSX.Element> = { "": CellLesson, words: SmallExampleLesson, why: SeparateVectorsLesson, context: ContextLesson };

export function LessonView() {
  const hasCell = recording.value !== null && cell.value !== null;
  const topic = place.value.topic || (hasCell ? "" : "words");
  const hasSteps = topic === "" || topic === "words";
  const Content = CONTENT[topic];
  useEffect(() => {
    shownOrigin.value = null;
  }, [step.value, cell.value, topic]);
  useEffect(() => {
    if (hasSteps) announce(`${step.value}. ${SAY.lessonSteps[step.value - 1]![1]}`);
  }, [step.value, hasSteps]);
  const to = (next: LessonTopic) => go({ topic: next, component: null, ...(next === "words" ? { step: 1 } : {}) });
  return (
    <div class="lesson">
      <nav class="steps" aria-label={SAY.screens.lesson}>
        <ul class="subjects">
          {LESSON_TOPICS.map((entry) => (
            <li key={entry}>
              <button data-about={entry} aria-current={topic === entry ? "page" : undefined} disabled={!entry && !hasCell} onClick={() => to(entry)}>
                {entry ? SAY.lessonQuestions[entry] : SAY.lessonThisWeight}
                {!entry && !hasCell && <span class="soft"> · {SAY.lessonNoCell}</span>}
              </button>
            </li>
          ))}
        </ul>
        {hasSteps && (
          <ol>
            {SAY.lessonSteps.map(([sign, name], i) => (
              <li key={sign}>
                <button aria-current={step.value === i + 1 ? "step" : undefined} onClick={() => go({ step: i + 1, component: null })}>
                  <span class="index">{i + 1}</span>
                  <b>{sign}</b>
                  <span class="soft">{name}</span>
                </button>
              </li>
            ))}
          </ol>
        )}
      </nav>
      <article tabIndex={-1}>
        <Content key={topic} />
        <footer>
          {hasSteps && (
            <button disabled={step.value === 1} onClick={() => go({ step: step.value - 1, component: null })}>
              ← {SAY.lessonBack}
            </button>
          )}
          <Origin />
          {hasSteps && (
            <button class="primary" disabled={step.value === 9} onClick={() => go({ step: step.value + 1, component: null })}>
              {SAY.lessonNext} →
            </button>
          )}
        </footer>
      </article>
    </div>
  );
}

function CellLesson() {
  const now = cellDetails.value;
  if (!now) return <p class="empty">{SAY.loading}</p>;
  return (
    <>
      <header class="subject">
        <p>
          <span class="query">{SAY.query(now.query.index)}</span> <Token index={now.query.index} role="query" text={now.query.text} />
          <span class="soft"> → </span>
          <span class="key">{SAY.key(now.key.index)}</span> <Token index={now.key.index} role="key" text={now.key.text} />
          <span class="soft">
            {" "}
            · {SAY.head(layer.value?.index ?? 0, headIndex.value)} · {layer.value?.mask ?? SAY.noMask} · {layer.value?.score}
          </span>
        </p>
        <h1>
          {step.value}. {SAY.lessonSteps[step.value - 1]![1]}
        </h1>
      </header>
      <WeightSteps now={now} />
    </>
  );
}
