// Step 9: every head of the layer at this query, put end to end, and projected: one component of the output as a sum over heads.
import { useSignal } from "@preact/signals";
import { type Cell, headsOf, json, paths } from "../../api";
import { type CellMore, type HeadsTold, more } from "../../api.more";
import { short } from "../../pure/numbers";
import { cell, go, headIndex, layer, place, resource, run, screen, step } from "../../state";
import * as SAY from "../../strings";
import { Component, Signed, SumOfProducts, Sums } from "./sum-of-products";
import { Vector } from "./dot-product";
import { N } from "./number";
import { Bar, Token } from "../components";

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
      <p>{SAY.headsText}</p>
      {!layer.value?.values && <p class="note">{SAY.stepNoValues}</p>}
      {told?.heads && <SideBySide told={told} query={now.query.index} />}
      <h2>{SAY.headsPair}</h2>
      <Sums head={[[SAY.lessonHeadName], ["q · k"], [SAY.lessonScore], [SAY.lessonWeight, "weight"], [""], [SAY.headsStrongest, "left"]]}>
        {all?.map((one, i) => {
          const head = headsOf(layer.value!)[i]!;
          const best = one.row.weights.indexOf(Math.max(...one.row.weights));
          return (
            <tr key={head} class={head === headIndex.value ? "this" : ""}>
              <td>
                <button class="quiet" aria-label={SAY.headsGo(head)} onClick={() => go({ head })}>{head}</button>
              </td>
              <td><N value={one.dot} tell={SAY.originDot(one.q.length)} /></td>
              <td><N value={one.score} tell={SAY.originScore(SAY.originScoreParts)} /></td>
              <td><N value={one.weight} role="weight" tell={SAY.originWeight(short(one.exp), short(one.sum))} /></td>
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
      <h2>{SAY.headsOutputs}</h2>
      <div class="end-to-end">
        {outs.map((out, h) => (
          <Vector key={h} values={out} role="output" height={56} label={`${SAY.lessonHead} ${h}`} />
        ))}
      </div>
      {into ? (
        <>
          <Component of={SAY.headsLayerOutput} now={into.component} most={into.size} />
          <Sums data-projected={into.out} head={[[SAY.lessonHeadName], [SAY.headsTimesMatrix], [""], [SAY.sumSoFar]]}>
            {into.parts.map((part, h) => {
              const so = into.parts.slice(0, h + 1).reduce((a, b) => a + b, 0);
              const most = Math.max(...into.parts.map(Math.abs), Math.abs(into.bias ?? 0), 1e-12);
              return (
                <tr key={h} class={h === head ? "this" : ""}>
                  <td>
                    <button class="quiet" aria-label={SAY.headsProducts(h)} onClick={() => (opened.value = h)}>{h}</button>
                  </td>
                  <td><N value={part} name={SAY.headsPart(h)} tell={[SAY.originHeadPart(h, outs[h]!.length), SAY.headsPartGoes(into.component)]} /></td>
                  <td class="signed-bar"><Signed part={part / most} /></td>
                  <td><N value={so} tell={SAY.originRunning(h + 1)} /></td>
                </tr>
              );
            })}
            {into.bias !== null && (
              <tr>
                <td class="soft">{SAY.sumBias}</td>
                <td><N value={into.bias} tell={SAY.originOutputBias(into.component)} /></td>
                <td />
                <td />
              </tr>
            )}
            <tr class="total">
              <td colSpan={3}>{SAY.headsPartGoes(into.component)}</td>
              <td><N value={into.out} role="output" name={SAY.headsPartGoes(into.component)} digits={6} tell={[SAY.originLayerOutput(outs.length), SAY.headsNextLayer]} /></td>
            </tr>
          </Sums>
          <h2>{SAY.headsProducts(head)}</h2>
          <SumOfProducts
            key={head}
            a={{ name: SAY.headsOutputOf(query), role: "output", values: outs[head] ?? [], tell: (i) => SAY.originHeadOutput(head, i) }}
            b={{ name: "W_O", role: "plain", values: into.w[head] ?? [], tell: (i) => SAY.originOutputMatrix(head, into.component, i) }}
            sum={into.parts[head] ?? 0}
            name={SAY.headsPart(head)}
            goes={SAY.headsPartGoes(into.component)}
          />
        </>
      ) : (
        <p class="note">{SAY.headsNoOutputMatrix}</p>
      )}
    </>
  );
}
