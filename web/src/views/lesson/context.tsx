// How attention helps a model understand context: one word in two lines of a real model, side by side.
import { signal } from "@preact/signals";
import { json } from "../../api";
import { type Context, more } from "../../api.more";
import { short, shown } from "../../pure/numbers";
import { css, inkOn } from "../../pure/ramps";
import { top } from "../../pure/text";
import { table as tableOf } from "../../map/stage";
import { place, resource, screen } from "../../state";
import * as SAY from "../../strings";
import { N } from "./number";
import { Bar } from "../components";

const SIDES = [["a", SAY.contextFirstText], ["b", SAY.contextSecondText]] as const;
/** The two lines as they were typed; empty: those that the server has chosen. */
const lines = signal<readonly [string, string]>(["", ""]);
const picked = signal<{ layer: number; head: number } | null>(null);
const asked = resource<Context>(() => (screen.value === "lesson" && place.value.about === "context" ? more.context(...lines.value) : null), json, 40);

export function ContextLesson() {
  const told = asked.value.value;
  return (
    <>
      <header class="subject">
        <h1>{SAY.lessonQuestions.context}</h1>
      </header>
      <p>{SAY.contextLead}</p>
      {told ? <Lines told={told} key={told.a.text + told.b.text} /> : <p class="empty">{asked.value.loading ? SAY.loading : ""}</p>}
    </>
  );
}

function Lines({ told }: { told: Context }) {
  const { layer, head } = picked.value ?? told.chosen;
  const now = told.heads.find((one) => one.layer === layer && one.head === head) ?? told.heads[0]!;
  const most = Math.max(...now.a, ...now.b);
  const layers = [...new Set(told.heads.map((one) => one.layer))];
  return (
    <>
      <form
        class="tools"
        onSubmit={(event) => {
          event.preventDefault();
          const said = new FormData(event.currentTarget);
          picked.value = null;
          lines.value = [said.get("a") as string, said.get("b") as string];
        }}
      >
        {SIDES.map(([side, name]) => (
          <label class="choice grow" key={side}>
            <span>{name}</span>
            <textarea name={side} rows={2} maxLength={1000} spellcheck={false} required>{told[side].text}</textarea>
          </label>
        ))}
        <button>{SAY.contextCompare}</button>
      </form>
      <p><b>{SAY.contextToken(shown(told.token), told.model)}</b> · {SAY.head(now.layer, now.head)}</p>
      <div class="sides">
        {SIDES.map(([side, name]) => (
          <section key={side} class="side-by" aria-label={SAY.contextRow(name, SAY.head(now.layer, now.head))}>
            <Line tokens={told[side].tokens} at={told[side].at} row={now[side]} most={most} />
            <ol class="tops">
              {top(now[side], 5).map((key) => (
                <li key={key} class="seen">
                  <span class="index">{key}</span>
                  <span class="token plain">{shown(told[side].tokens[key])}</span>
                  <Bar part={now[side][key]! / most} />
                  <N value={now[side][key]!} role="weight" tell={SAY.originContextWeight(shown(told[side].tokens[key]))} />
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
          <table class="sums apart">
            <thead>
              <tr>
                <td />
                {told.heads.filter((one) => one.layer === layers[0]).map((one) => <th scope="col" key={one.head}>{SAY.lessonHeadName} {one.head}</th>)}
              </tr>
            </thead>
            <tbody>
              {layers.map((l) => (
                <tr key={l}>
                  <th scope="row">{SAY.layer} {l}</th>
                  {told.heads.filter((one) => one.layer === l).map((one) => (
                    <td key={one.head} class="shaded" style={{ "--part": `${Math.round(one.apart * 70)}%` }}>
                      <button class="n" aria-pressed={one === now} onClick={() => (picked.value = one)}>
                        <span class="unseen">{SAY.head(l, one.head)}: </span>
                        {one.apart.toFixed(2)}
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
              {told.cosine.map((value, l) => (
                <tr key={l} class={l === now.layer + 1 ? "this" : ""}>
                  <th scope="row" class="left">{l ? SAY.contextAfter(l - 1) : SAY.contextBefore}</th>
                  <td class="twobars"><Bar part={value} role="query" /></td>
                  <td><N value={value} name={SAY.contextCosine} tell={SAY.originCosine(l)} /></td>
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
  const colours = tableOf(false);
  return (
    <p class="text line">
      {tokens.map((text, i) => {
        const part = (row[i] ?? 0) / most;
        const style = part > 0.02 ? { backgroundColor: css(colours, part), color: inkOn(colours, part) } : {};
        return (
          <mark key={i} class={i === at ? "is-query" : ""} style={style} title={`${i} ${shown(text)} ${short(row[i] ?? 0)}`}>
            {i === 0 && text === "" ? "⊢" : text}
          </mark>
        );
      })}
    </p>
  );
}
