// How attention helps a model understand context: one word in two lines of a real model, side by side.
import { signal } from "@preact/signals";
import { json, paths } from "../../client/requests";
import type { ContextExample } from "../../client/types";
import { short, visibleText } from "../../pure/numbers";
import { css, textColour } from "../../pure/ramps";
import { largestIndices } from "../../pure/text";
import { colourTableNow } from "../../map/scene";
import { place, resource, screen } from "../../state";
import * as SAY from "../../strings";
import { NumberButton } from "./number";
import { Bar } from "../components";

const SIDES = [["a", SAY.contextFirstText], ["b", SAY.contextSecondText]] as const;
/** The two lines as they were typed; empty: those of the server. */
const lines = signal<readonly [string, string]>(["", ""]);
const picked = signal<{ layer: number; head: number } | null>(null);
const contextAnswer = resource<ContextExample>(() => (screen.value === "lesson" && place.value.topic === "context" ? paths.context(...lines.value) : null), json, 40);

export function ContextLesson() {
  const answer = contextAnswer.value.value;
  return (
    <>
      <header class="subject">
        <h1>{SAY.lessonQuestions.context}</h1>
      </header>
      <p>{SAY.contextLead}</p>
      {answer ? <Lines answer={answer} key={answer.a.text + answer.b.text} /> : <p class="empty">{contextAnswer.value.loading ? SAY.loading : ""}</p>}
    </>
  );
}

function Lines({ answer }: { answer: ContextExample }) {
  const { layer, head } = picked.value ?? answer.chosen;
  const now = answer.heads.find((entry) => entry.layer === layer && entry.head === head) ?? answer.heads[0]!;
  const most = Math.max(...now.a, ...now.b);
  const layers = [...new Set(answer.heads.map((entry) => entry.layer))];
  return (
    <>
      <form
        class="tools"
        onSubmit={(event) => {
          event.preventDefault();
          const form = new FormData(event.currentTarget);
          picked.value = null;
          lines.value = [form.get("a") as string, form.get("b") as string];
        }}
      >
        {SIDES.map(([side, name]) => (
          <label class="choice grow" key={side}>
            <span>{name}</span>
            <textarea name={side} rows={2} maxLength={1000} spellcheck={false} required>{answer[side].text}</textarea>
          </label>
        ))}
        <button>{SAY.contextCompare}</button>
      </form>
      <p><b>{SAY.contextToken(visibleText(answer.token), answer.model)}</b> · {SAY.head(now.layer, now.head)}</p>
      <div class="sides">
        {SIDES.map(([side, name]) => (
          <section key={side} class="side-by" aria-label={SAY.contextRow(name, SAY.head(now.layer, now.head))}>
            <Line tokens={answer[side].tokens} at={answer[side].at} row={now[side]} most={most} />
            <ol class="tops">
              {largestIndices(now[side], 5).map((key) => (
                <li key={key} class="seen">
                  <span class="index">{key}</span>
                  <span class="token plain">{visibleText(answer[side].tokens[key])}</span>
                  <Bar part={now[side][key]! / most} />
                  <NumberButton value={now[side][key]!} role="weight" origin={SAY.originContextWeight(visibleText(answer[side].tokens[key]))} />
                </li>
              ))}
            </ol>
          </section>
        ))}
      </div>
      <div class="sides">
        <section class="side-by">
          <h2>{SAY.contextHeads}</h2>
          <p class="soft">{SAY.contextHeadsText}</p>
          <table class="sums head-distances">
            <thead>
              <tr>
                <td />
                {answer.heads.filter((entry) => entry.layer === layers[0]).map((entry) => <th scope="col" key={entry.head}>{SAY.lessonHeadName} {entry.head}</th>)}
              </tr>
            </thead>
            <tbody>
              {layers.map((l) => (
                <tr key={l}>
                  <th scope="row">{SAY.layer} {l}</th>
                  {answer.heads.filter((entry) => entry.layer === l).map((entry) => (
                    <td key={entry.head} class="shaded" style={{ "--part": `${Math.round(entry.apart * 70)}%` }}>
                      <button class="n" aria-pressed={entry === now} onClick={() => (picked.value = entry)}>
                        <span class="visually-hidden">{SAY.head(l, entry.head)}: </span>
                        {entry.apart.toFixed(2)}
                      </button>
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </section>
        <section class="side-by">
          <h2>{SAY.contextCosine}</h2>
          <p class="soft">{SAY.contextCosineText}</p>
          <table class="sums">
            <tbody>
              {answer.cosine.map((value, l) => (
                <tr key={l} class={l === now.layer + 1 ? "this" : ""}>
                  <th scope="row" class="left">{l ? SAY.contextAfter(l - 1) : SAY.contextBefore}</th>
                  <td class="two-bars"><Bar part={value} role="query" /></td>
                  <td><NumberButton value={value} name={SAY.contextCosine} origin={SAY.originCosine(l)} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      </div>
    </>
  );
}

function Line({ tokens, at, row, most }: { tokens: string[]; at: number; row: number[]; most: number }) {
  const colours = colourTableNow(false);
  return (
    <p class="text line">
      {tokens.map((text, i) => {
        const part = (row[i] ?? 0) / most;
        const style = part > 0.02 ? { backgroundColor: css(colours, part), color: textColour(colours, part) } : {};
        return (
          <mark key={i} class={i === at ? "is-query" : ""} style={style} title={`${i} ${visibleText(text)} ${short(row[i] ?? 0)}`}>
            {i === 0 && text === "" ? "⊢" : text}
          </mark>
        );
      })}
    </p>
  );
}
