// Step 9: every head of the layer at this query, concatenated, and projected: one component of the output as a sum over heads.
import { useSignal } from "@preact/signals";
import { type Cell, headsOf, json, paths } from "../../client/requests";
import type { HeadOutputsAtQuery } from "../../client/types";
import { short } from "../../pure/numbers";
import { cell, go, headIndex, layer, place, resource, recording, screen, step } from "../../state";
import * as SAY from "../../strings";
import { ComponentField, SignedBar, SumOfProducts, LessonTable } from "./sum-of-products";
import { VectorChart } from "./dot-product";
import { NumberButton } from "./number";
import { Bar, Token } from "../components";

const onThisStep = () => screen.value === "lesson" && step.value === 9 && recording.value && layer.value && cell.value;
const cellInEveryHead = resource<Cell[]>(
  () => {
    const [at, now] = [cell.value, layer.value];
    if (!onThisStep()) return null;
    return headsOf(now!).slice(0, 16).map((head) => paths.cell(recording.value!.id, now!.index, head, at!.query, at!.key)).join(" ");
  },
  (joinedPaths, signal) => Promise.all(joinedPaths.split(" ").map((path) => json<Cell>(path, signal))),
);
const heads = resource<HeadOutputsAtQuery>(
  () => (onThisStep() && layer.value!.values ? paths.heads(recording.value!.id, layer.value!.index, cell.value!.query, place.value.component) : null),
  json,
  40,
);

export function Heads({ now }: { now: Cell }) {
  const answer = heads.value.value;
  const all = cellInEveryHead.value.loading ? null : cellInEveryHead.value.value;
  return (
    <>
      <p>{SAY.headsText}</p>
      {!layer.value?.values && <p class="note">{SAY.stepNoValues}</p>}
      {answer?.heads && <SideBySide answer={answer} query={now.query.index} />}
      <h2>{SAY.headsPair}</h2>
      <LessonTable head={[[SAY.lessonHeadName], ["q · k"], [SAY.lessonScore], [SAY.lessonWeight, "weight"], [""], [SAY.headsStrongest, "left"]]}>
        {all?.map((cellOfHead, i) => {
          const head = headsOf(layer.value!)[i]!;
          const best = cellOfHead.row.weights.indexOf(Math.max(...cellOfHead.row.weights));
          return (
            <tr key={head} class={head === headIndex.value ? "this" : ""}>
              <td>
                <button class="quiet" aria-label={SAY.headsGo(head)} onClick={() => go({ head })}>{head}</button>
              </td>
              <td><NumberButton value={cellOfHead.dot} origin={SAY.originDot(cellOfHead.q.length)} /></td>
              <td><NumberButton value={cellOfHead.score} origin={SAY.originScore(SAY.originScoreParts)} /></td>
              <td><NumberButton value={cellOfHead.weight} role="weight" origin={SAY.originWeight(short(cellOfHead.exp), short(cellOfHead.sum))} /></td>
              <td class="two-bars"><Bar part={cellOfHead.weight} /></td>
              <td class="left">
                {cellOfHead.row.keys[best]} <Token index={cellOfHead.row.keys[best] ?? 0} role="plain" />
              </td>
            </tr>
          );
        })}
      </LessonTable>
    </>
  );
}

function SideBySide({ answer, query }: { answer: HeadOutputsAtQuery; query: number }) {
  const opened = useSignal<number | null>(null);
  const outs = answer.heads!;
  const projected = answer.projected;
  const head = opened.value ?? headIndex.value;
  return (
    <>
      <h2>{SAY.headsOutputs}</h2>
      <div class="end-to-end">
        {outs.map((out, h) => (
          <VectorChart key={h} values={out} role="output" height={56} label={`${SAY.lessonHead} ${h}`} />
        ))}
      </div>
      {projected ? (
        <>
          <ComponentField vector={SAY.headsLayerOutput} now={projected.component} most={projected.size} />
          <LessonTable data-projected={projected.out} head={[[SAY.lessonHeadName], [SAY.headsTimesMatrix], [""], [SAY.sumSoFar]]}>
            {projected.parts.map((part, h) => {
              const sumSoFar = projected.parts.slice(0, h + 1).reduce((a, b) => a + b, 0);
              const most = Math.max(...projected.parts.map(Math.abs), Math.abs(projected.bias ?? 0), 1e-12);
              return (
                <tr key={h} class={h === head ? "this" : ""}>
                  <td>
                    <button class="quiet" aria-label={SAY.headsProducts(h)} onClick={() => (opened.value = h)}>{h}</button>
                  </td>
                  <td><NumberButton value={part} name={SAY.headsPart(h)} origin={[SAY.originHeadPart(h, outs[h]!.length), SAY.headsPartGoes(projected.component)]} /></td>
                  <td class="signed-bar"><SignedBar part={part / most} /></td>
                  <td><NumberButton value={sumSoFar} origin={SAY.originRunning(h + 1)} /></td>
                </tr>
              );
            })}
            {projected.bias !== null && (
              <tr>
                <td class="soft">{SAY.sumBias}</td>
                <td><NumberButton value={projected.bias} origin={SAY.originOutputBias(projected.component)} /></td>
                <td />
                <td />
              </tr>
            )}
            <tr class="total">
              <td colSpan={3}>{SAY.headsPartGoes(projected.component)}</td>
              <td><NumberButton value={projected.out} role="output" name={SAY.headsPartGoes(projected.component)} digits={6} origin={[SAY.originLayerOutput(outs.length), SAY.headsNextLayer]} /></td>
            </tr>
          </LessonTable>
          <h2>{SAY.headsProducts(head)}</h2>
          <SumOfProducts
            key={head}
            a={{ name: SAY.headsOutputOf(query), role: "output", values: outs[head] ?? [], origin: (i) => SAY.originHeadOutput(head, i) }}
            b={{ name: "W_O", role: "plain", values: projected.w[head] ?? [], origin: (i) => SAY.originOutputMatrix(head, projected.component, i) }}
            sum={projected.parts[head] ?? 0}
            name={SAY.headsPart(head)}
            destination={SAY.headsPartGoes(projected.component)}
          />
        </>
      ) : (
        <p class="note">{SAY.headsNoOutputMatrix}</p>
      )}
    </>
  );
}
