// Step 9: every head of the layer at this query, put end to end, and projected: one component of the output as a sum over heads.
import { useSignal } from "@preact/signals";
import { type Cell, headsOf, json, paths } from "../api";
import { type CellMore, type HeadsTold, more } from "../api.more";
import { short } from "../pure/numbers";
import { cell, go, headIndex, layer, place, resource, run, screen, step } from "../state";
import * as DEEP from "../strings.deep";
import * as FROM from "../strings.from";
import * as LESSON from "../strings.lesson";
import * as STEP from "../strings.steps";
import { Component, Signed, SumOfProducts, Sums } from "./lesson.sums";
import { Vector } from "./lesson.vectors";
import { N } from "./number";
import { Bar, Token } from "./parts";

const here = () => screen.value === "lesson" && step.value === 9 && run.value && layer.value && cell.value;
const beside = resource<Cell[]>(
  () => {
    const [at, now] = [cell.value, layer.value];
    if (!here()) return null;
    return headsOf(now!).slice(0, 16).map((head) => paths.cell(run.value!.id, now!.index, head, at!.query, at!.key)).join(" ");
  },
  (asked, signal) => Promise.all(asked.split(" ").map((path) => json<Cell>(path, signal))),
);
const heads = resource<HeadsTold>(
  () => (here() && layer.value!.values ? more.heads(run.value!.id, layer.value!.index, cell.value!.query, place.value.component) : null),
  json,
  40,
);

export function Heads({ now }: { now: CellMore }) {
  const told = heads.value.value;
  const all = beside.value.loading ? null : beside.value.value;
  return (
    <>
      <p>{DEEP.headsText}</p>
      {!layer.value?.values && <p class="note">{STEP.noValues}</p>}
      {told?.heads && <SideBySide told={told} query={now.query.index} />}
      <h2>{DEEP.perHead}</h2>
      <Sums head={[[LESSON.headName], ["q · k"], [LESSON.score], [LESSON.weight, "weight"], [""], [DEEP.strongest, "left"]]}>
        {all?.map((one, i) => {
          const head = headsOf(layer.value!)[i]!;
          const best = one.row.weights.indexOf(Math.max(...one.row.weights));
          return (
            <tr key={head} class={head === headIndex.value ? "this" : ""}>
              <td>
                <button class="quiet" aria-label={DEEP.goHead(head)} onClick={() => go({ head })}>{head}</button>
              </td>
              <td><N value={one.dot} tell={FROM.dot(one.q.length)} /></td>
              <td><N value={one.score} tell={FROM.score(DEEP.scoreParts)} /></td>
              <td><N value={one.weight} role="weight" tell={FROM.weight(short(one.exp), short(one.sum))} /></td>
              <td class="twobars"><Bar part={one.weight} /></td>
              <td class="left">
                {one.row.keys[best]} <Token index={one.row.keys[best] ?? 0} role="plain" />
              </td>
            </tr>
          );
        })}
      </Sums>
    </>
  );
}

function SideBySide({ told, query }: { told: HeadsTold; query: number }) {
  const opened = useSignal<number | null>(null);
  const outs = told.heads!;
  const into = told.projected;
  const head = opened.value ?? headIndex.value;
  return (
    <>
      <h2>{DEEP.headOutputs}</h2>
      <div class="end-to-end">
        {outs.map((out, h) => (
          <Vector key={h} values={out} role="output" height={56} label={`${LESSON.head} ${h}`} />
        ))}
      </div>
      {into ? (
        <>
          <Component of={DEEP.layerOut} now={into.component} most={into.size} />
          <Sums data-projected={into.out} head={[[LESSON.headName], [DEEP.ofHeads], [""], [DEEP.soFar]]}>
            {into.parts.map((part, h) => {
              const so = into.parts.slice(0, h + 1).reduce((a, b) => a + b, 0);
              const most = Math.max(...into.parts.map(Math.abs), Math.abs(into.bias ?? 0), 1e-12);
              return (
                <tr key={h} class={h === head ? "this" : ""}>
                  <td>
                    <button class="quiet" aria-label={DEEP.inHead(h)} onClick={() => (opened.value = h)}>{h}</button>
                  </td>
                  <td><N value={part} name={DEEP.headPart(h)} tell={[DEEP.headPartFrom(h, outs[h]!.length), DEEP.headPartGoes(into.component)]} /></td>
                  <td class="signed-bar"><Signed part={part / most} /></td>
                  <td><N value={so} tell={FROM.running(h + 1)} /></td>
                </tr>
              );
            })}
            {into.bias !== null && (
              <tr>
                <td class="soft">{DEEP.plusBias}</td>
                <td><N value={into.bias} tell={DEEP.outBias(into.component)} /></td>
                <td />
                <td />
              </tr>
            )}
            <tr class="total">
              <td colSpan={3}>{DEEP.headPartGoes(into.component)}</td>
              <td><N value={into.out} role="output" name={DEEP.headPartGoes(into.component)} digits={6} tell={[DEEP.allHeads(outs.length), DEEP.nextLayer]} /></td>
            </tr>
          </Sums>
          <h2>{DEEP.inHead(head)}</h2>
          <SumOfProducts
            key={head}
            a={{ name: DEEP.out(query), role: "output", values: outs[head] ?? [], tell: (i) => DEEP.headOut(head, i) }}
            b={{ name: "W_O", role: "plain", values: into.w[head] ?? [], tell: (i) => DEEP.wo(head, into.component, i) }}
            sum={into.parts[head] ?? 0}
            name={DEEP.headPart(head)}
            goes={DEEP.headPartGoes(into.component)}
          />
        </>
      ) : (
        <p class="note">{DEEP.noWo}</p>
      )}
    </>
  );
}
