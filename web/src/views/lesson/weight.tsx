// The steps for one weight of a recording. Every number is the server's, except those marked as changed on the page.
import { signal, useSignal } from "@preact/signals";
import type { Cell } from "../../client/requests";
import { changedWeights } from "../../pure/lesson";
import { short } from "../../pure/numbers";
import { entropy } from "../../pure/text";
import { layer, rowValues, step, tokenText } from "../../state";
import * as SAY from "../../strings";
import { Heads } from "./heads";
import { Projections } from "./projections";
import { Output } from "./output";
import { LessonTable } from "./sum-of-products";
import { DotProduct } from "./dot-product";
import { NumberButton } from "./number";
import { Bar, Check, Token } from "../components";
import { Predict, PredictFirst, predicting } from "./prediction";

const temperature = signal(1);
const unscaled = signal(false);
const hidden = signal<ReadonlySet<number>>(new Set());

export function WeightSteps({ now }: { now: Cell }) {
  switch (step.value) {
    case 1: return <Projections now={now} />;
    case 2: return <DotProduct now={now} key={`${now.query.index}/${now.key.index}`} />;
    case 3: return <Scale now={now} />;
    case 4: return <Mask now={now} />;
    case 8: return <Output now={now} />;
    case 9: return <Heads now={now} />;
    default: return <Softmax now={now} upTo={step.value} key={`${step.value}/${now.query.index}/${now.key.index}`} />;
  }
}

function Equation({ children }: { children: preact.ComponentChildren }) {
  return <p class="equation">{children}</p>;
}

function Scale({ now }: { now: Cell }) {
  return (
    <>
      <p>{SAY.stepScale}</p>
      <Equation>
        <span class="soft">q · k × scale =</span>
        <NumberButton value={now.dot} name="q · k" origin={SAY.originDot(now.q.length)} /> × <NumberButton value={now.scale} name={SAY.lessonScale} origin={SAY.originScale(now.q.length)} /> ={" "}
        <NumberButton value={now.scaled} name={SAY.lessonScaled} digits={6} origin={SAY.originScaled(short(now.dot), short(now.scale))} />
      </Equation>
      {now.softcap && (
        <Equation>
          {SAY.lessonSoftcap}: {short(now.softcap.cap)} × tanh({short(now.scaled)} ÷ {short(now.softcap.cap)}) = {short(now.softcap.score)}
        </Equation>
      )}
      {!!now.bias && (
        <Equation>
          + {SAY.lessonBias} <NumberButton value={now.bias} name={SAY.lessonBias} origin={SAY.originBias(layer.value?.bias)} /> = <NumberButton value={now.score} name={SAY.lessonScore} origin={SAY.originScore(SAY.lessonScaledPlusBias)} />
        </Equation>
      )}
      {now.scale === 1 ? <p class="note">{SAY.stepUnscaled}</p> : <Check label={SAY.stepWithout} on={unscaled.value} onPick={(on) => (unscaled.value = on)} />}
      <WeightsTable now={now} />
    </>
  );
}

/** The row's weights as recorded, and with the changes made on the page. */
function WeightsTable({ now, hide, brief }: { now: Cell; hide?: boolean; brief?: boolean }) {
  const row = rowValues.value?.values;
  const changed = unscaled.value || temperature.value !== 1 || hidden.value.size > 0;
  if (!row || now.lse === null) return null;
  const changedRow = changedWeights(row, now.lse, { temperature: temperature.value, scale: unscaled.value ? now.scale : 1, hidden: hidden.value });
  const keys = shownKeys(now);
  const most = Math.max(...row, ...(changed ? changedRow : []));
  const toggle = (key: number) => {
    const next = new Set(hidden.value);
    if (!next.delete(key)) next.add(key);
    hidden.value = next;
  };
  return (
    <>
      <div class="tools">
        <label class="choice wide">
          <span>{SAY.lessonTemperature}</span>
          <input type="range" min="-2" max="2" step="0.05" value={Math.log2(temperature.value)} onInput={(event) => (temperature.value = 2 ** Number(event.currentTarget.value))} />
          <output>{temperature.value.toFixed(2)}</output>
        </label>
        <span>
          {SAY.lessonEntropy} <NumberButton value={entropy(row)} name={SAY.lessonEntropy} origin={SAY.originEntropy} />
          {changed && (
            <>
              {" → "}
              <NumberButton value={entropy(changedRow)} role="weight" name={SAY.lessonEntropy} origin={SAY.originEntropy} />
            </>
          )}
        </span>
        {changed && <button onClick={() => ((temperature.value = 1), (unscaled.value = false), (hidden.value = new Set()))}>{SAY.lessonRecorded}</button>}
      </div>
      {(changed || !brief) && (
        <LessonTable head={[...(hide ? [[SAY.lessonSees] as const] : []), [SAY.lessonKey], [SAY.lessonToken, "left"], [SAY.lessonRecorded], [""], [changed ? SAY.lessonChanged : ""]]}>
          {keys.map((key) => (
            <tr key={key} class={key === now.key.index ? "this" : ""}>
              {hide && (
                <td>
                  <input type="checkbox" aria-label={`${key}`} checked={row[key]! > 0 && !hidden.value.has(key)} disabled={!(row[key]! > 0)} onChange={() => toggle(key)} />
                </td>
              )}
              <td>{key}</td>
              <td class="left"><Token index={key} role="plain" text={tokenText(key)} /></td>
              <td><NumberButton value={row[key]!} origin={SAY.originMapped} /></td>
              <td class="two-bars">
                <Bar part={row[key]! / most} />
                {changed && <Bar part={changedRow[key]! / most} role="key" />}
              </td>
              <td>{changed && <NumberButton value={changedRow[key]!} role="weight" origin={SAY.originChanged} />}</td>
            </tr>
          ))}
        </LessonTable>
      )}
    </>
  );
}

/** At most a dozen keys of the row: the strongest, this one and its neighbours. */
function shownKeys(now: Cell): number[] {
  const { keys, weights } = now.row;
  const order = keys.map((key, i) => [key, weights[i]!] as const);
  const nearby = order.filter(([key]) => Math.abs(key - now.key.index) <= 1).map(([key]) => key);
  const strong = [...order].sort((a, b) => b[1] - a[1]).map(([key]) => key);
  return [...new Set([now.key.index, ...nearby, ...strong])].slice(0, 12).sort((a, b) => a - b);
}

function Mask({ now }: { now: Cell }) {
  return (
    <>
      <p>{SAY.stepMask}</p>
      <p>
        {layer.value?.mask ? <><code>{layer.value.mask}</code> {SAY.lessonMaskAllows(now.allowed, now.query.index, now.key.index)}</> : SAY.lessonNoMask}
      </p>
      <WeightsTable now={now} hide />
    </>
  );
}

function Softmax({ now, upTo }: { now: Cell; upTo: number }) {
  const { keys, scores, weights } = now.row;
  const shown = shownKeys(now);
  const revealed = useSignal(false);
  const hiding = upTo === 7 && predicting.value && !revealed.value;
  const max = now.max;
  const otherWeights = 1 - shown.reduce((sum, key) => sum + (weights[keys.indexOf(key)] ?? 0), 0);
  return (
    <>
      <p>{upTo === 5 ? SAY.stepMaximum : upTo === 6 ? SAY.stepExp : SAY.stepSum}</p>
      {upTo === 5 && (
        <Equation>
          max = <NumberButton value={max} name={SAY.lessonLargest} origin={SAY.originMax} />
        </Equation>
      )}
      {upTo === 7 && (
        <Equation>
          <span class="soft">exp ÷ sum =</span>
          <NumberButton value={now.exp} name={SAY.lessonExp} origin={SAY.originExp(short(max === null || now.score === null ? null : now.score - max))} /> ÷{" "}
          <NumberButton value={now.sum} name={SAY.lessonSum} origin={SAY.originSum} /> ={" "}
          <Predict value={now.weight} name={SAY.lessonWeight} onReveal={() => (revealed.value = true)}>
            <span data-lesson-weight={now.weight}>
              <NumberButton value={now.weight} role="weight" name={SAY.lessonWeight} digits={6} origin={SAY.originWeight(short(now.exp), short(now.sum))} />
            </span>
          </Predict>
          <PredictFirst />
        </Equation>
      )}
      {now.sink !== null && <p class="note">{SAY.lessonSink}: <NumberButton value={now.sink} name={SAY.lessonSink} origin={SAY.originSink} /></p>}
      <p class="soft">{SAY.lessonKeysOf(shown.length, layer.value?.keys ?? 0)}</p>
      <LessonTable head={[[SAY.lessonKey], [SAY.lessonToken, "left"], [SAY.lessonScore], ["− max"], ...(upTo >= 6 ? [[SAY.lessonExp] as const] : []), ...(upTo >= 7 ? [[SAY.lessonWeight, "weight"] as const, [""] as const] : [])]}>
        {shown.map((key) => {
          const at = keys.indexOf(key);
          const score = scores[at] ?? null;
          const shifted = score === null || max === null ? null : score - max;
          const exp = shifted === null ? 0 : Math.exp(shifted);
          return (
            <tr key={key} class={key === now.key.index ? "this" : ""}>
              <td>{key}</td>
              <td class="left"><Token index={key} role={key === now.key.index ? "key" : "plain"} /></td>
              <td><NumberButton value={score} name={SAY.lessonScoreOf(key)} origin={SAY.originScore(score === null ? SAY.lessonMasked : SAY.originScoreParts)} /></td>
              <td><NumberButton value={shifted} origin={SAY.originShifted(short(score), short(max))} /></td>
              {upTo >= 6 && <td><NumberButton value={exp} origin={SAY.originExp(short(shifted))} /></td>}
              {upTo >= 7 && <td>{hiding && key === now.key.index ? "?" : <NumberButton value={weights[at] ?? 0} role="weight" origin={SAY.originWeight(short(exp), short(now.sum))} />}</td>}
              {upTo >= 7 && <td class="two-bars">{!(hiding && key === now.key.index) && <Bar part={weights[at] ?? 0} />}</td>}
            </tr>
          );
        })}
        {upTo >= 7 && (
          <tr class="total">
            <td colSpan={5}>{now.sink === null ? SAY.lessonOthers : SAY.lessonOthersAndSink}</td>
            <td><NumberButton value={Math.max(otherWeights, 0)} role="weight" origin={SAY.originOthers} /></td>
            <td class="two-bars"><Bar part={otherWeights} /></td>
          </tr>
        )}
      </LessonTable>
      {upTo >= 7 && !hiding && <WeightsTable now={now} brief />}
    </>
  );
}
