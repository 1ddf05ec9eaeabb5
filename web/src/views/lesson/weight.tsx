// The steps for one weight of a recording. Every number is the server's, but those that say that they were changed here.
import { signal, useSignal } from "@preact/signals";
import type { CellMore } from "../../api.more";
import { changed } from "../../pure/lesson";
import { short } from "../../pure/numbers";
import { entropy } from "../../pure/text";
import { layer, rowNow, step, token } from "../../state";
import * as SAY from "../../strings";
import { Heads } from "./heads";
import { Vectors } from "./projections";
import { Output } from "./output";
import { Sums } from "./sum-of-products";
import { Products } from "./dot-product";
import { N } from "./number";
import { Bar, Check, Token } from "../components";
import { Predict, PredictFirst, predicting } from "./prediction";

const temperature = signal(1);
const unscaled = signal(false);
const hidden = signal<ReadonlySet<number>>(new Set());

export function CellSteps({ now }: { now: CellMore }) {
  switch (step.value) {
    case 1: return <Vectors now={now} />;
    case 2: return <Products now={now} key={`${now.query.index}/${now.key.index}`} />;
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

function Scale({ now }: { now: CellMore }) {
  return (
    <>
      <p>{SAY.stepScale}</p>
      <Equation>
        <span class="soft">q · k × scale =</span>
        <N value={now.dot} name="q · k" tell={SAY.originDot(now.q.length)} /> × <N value={now.scale} name={SAY.lessonScale} tell={SAY.originScale(now.q.length)} /> ={" "}
        <N value={now.scaled} name={SAY.lessonScaled} digits={6} tell={SAY.originScaled(short(now.dot), short(now.scale))} />
      </Equation>
      {now.softcap && (
        <Equation>
          {SAY.lessonSoftcap}: {short(now.softcap.cap)} × tanh({short(now.scaled)} ÷ {short(now.softcap.cap)}) = {short(now.softcap.score)}
        </Equation>
      )}
      {!!now.bias && (
        <Equation>
          + {SAY.lessonBias} <N value={now.bias} name={SAY.lessonBias} tell={SAY.originBias(layer.value?.bias)} /> = <N value={now.score} name={SAY.lessonScore} tell={SAY.originScore(SAY.lessonScaledPlusBias)} />
        </Equation>
      )}
      {now.scale === 1 ? <p class="note">{SAY.stepUnscaled}</p> : <Check label={SAY.stepWithout} on={unscaled.value} onPick={(on) => (unscaled.value = on)} />}
      <WeightsTable now={now} />
    </>
  );
}

/** The row's weights as recorded, beside what they become with what was changed. */
function WeightsTable({ now, hide, brief }: { now: CellMore; hide?: boolean; brief?: boolean }) {
  const row = rowNow.value?.values;
  const touched = unscaled.value || temperature.value !== 1 || hidden.value.size > 0;
  if (!row || now.lse === null) return null;
  const other = changed(row, now.lse, { temperature: temperature.value, scale: unscaled.value ? now.scale : 1, hidden: hidden.value });
  const keys = shownKeys(now);
  const most = Math.max(...row, ...(touched ? other : []));
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
          {SAY.lessonEntropy} <N value={entropy(row)} name={SAY.lessonEntropy} tell={SAY.originEntropy} />
          {touched && (
            <>
              {" → "}
              <N value={entropy(other)} role="weight" name={SAY.lessonEntropy} tell={SAY.originEntropy} />
            </>
          )}
        </span>
        {touched && <button onClick={() => ((temperature.value = 1), (unscaled.value = false), (hidden.value = new Set()))}>{SAY.lessonRecorded}</button>}
      </div>
      {(touched || !brief) && (
        <Sums head={[...(hide ? [[SAY.lessonSees] as const] : []), [SAY.lessonKey], [SAY.lessonToken, "left"], [SAY.lessonRecorded], [""], [touched ? SAY.lessonChanged : ""]]}>
          {keys.map((key) => (
            <tr key={key} class={key === now.key.index ? "this" : ""}>
              {hide && (
                <td>
                  <input type="checkbox" aria-label={`${key}`} checked={row[key]! > 0 && !hidden.value.has(key)} disabled={!(row[key]! > 0)} onChange={() => toggle(key)} />
                </td>
              )}
              <td>{key}</td>
              <td class="left"><Token index={key} role="plain" text={token(key)} /></td>
              <td><N value={row[key]!} tell={SAY.originMapped} /></td>
              <td class="twobars">
                <Bar part={row[key]! / most} />
                {touched && <Bar part={other[key]! / most} role="key" />}
              </td>
              <td>{touched && <N value={other[key]!} role="weight" tell={SAY.originChanged} />}</td>
            </tr>
          ))}
        </Sums>
      )}
    </>
  );
}

/** At most a dozen keys of the row: the strongest, this one and its neighbours. */
function shownKeys(now: CellMore): number[] {
  const { keys, weights } = now.row;
  const order = keys.map((key, i) => [key, weights[i]!] as const);
  const near = order.filter(([key]) => Math.abs(key - now.key.index) <= 1).map(([key]) => key);
  const strong = [...order].sort((a, b) => b[1] - a[1]).map(([key]) => key);
  return [...new Set([now.key.index, ...near, ...strong])].slice(0, 12).sort((a, b) => a - b);
}

function Mask({ now }: { now: CellMore }) {
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

function Softmax({ now, upTo }: { now: CellMore; upTo: number }) {
  const { keys, scores, weights } = now.row;
  const shown = shownKeys(now);
  const seen = useSignal(false);
  const hiding = upTo === 7 && predicting.value && !seen.value;
  const max = now.max;
  const others = 1 - shown.reduce((sum, key) => sum + (weights[keys.indexOf(key)] ?? 0), 0);
  return (
    <>
      <p>{upTo === 5 ? SAY.stepMaximum : upTo === 6 ? SAY.stepExp : SAY.stepSum}</p>
      {upTo === 5 && (
        <Equation>
          max = <N value={max} name={SAY.lessonLargest} tell={SAY.originMax} />
        </Equation>
      )}
      {upTo === 7 && (
        <Equation>
          <span class="soft">exp ÷ sum =</span>
          <N value={now.exp} name={SAY.lessonExp} tell={SAY.originExp(short(max === null || now.score === null ? null : now.score - max))} /> ÷{" "}
          <N value={now.sum} name={SAY.lessonSum} tell={SAY.originSum} /> ={" "}
          <Predict value={now.weight} name={SAY.lessonWeight} onSeen={() => (seen.value = true)}>
            <span data-lesson-weight={now.weight}>
              <N value={now.weight} role="weight" name={SAY.lessonWeight} digits={6} tell={SAY.originWeight(short(now.exp), short(now.sum))} />
            </span>
          </Predict>
          <PredictFirst />
        </Equation>
      )}
      {now.sink !== null && <p class="note">{SAY.lessonSink}: <N value={now.sink} name={SAY.lessonSink} tell={SAY.originSink} /></p>}
      <p class="soft">{SAY.lessonKeysOf(shown.length, layer.value?.keys ?? 0)}</p>
      <Sums head={[[SAY.lessonKey], [SAY.lessonToken, "left"], [SAY.lessonScore], ["− max"], ...(upTo >= 6 ? [[SAY.lessonExp] as const] : []), ...(upTo >= 7 ? [[SAY.lessonWeight, "weight"] as const, [""] as const] : [])]}>
        {shown.map((key) => {
          const at = keys.indexOf(key);
          const score = scores[at] ?? null;
          const shifted = score === null || max === null ? null : score - max;
          const exp = shifted === null ? 0 : Math.exp(shifted);
          return (
            <tr key={key} class={key === now.key.index ? "this" : ""}>
              <td>{key}</td>
              <td class="left"><Token index={key} role={key === now.key.index ? "key" : "plain"} /></td>
              <td><N value={score} name={SAY.lessonScoreOf(key)} tell={SAY.originScore(score === null ? SAY.lessonMasked : SAY.originScoreParts)} /></td>
              <td><N value={shifted} tell={SAY.originShifted(short(score), short(max))} /></td>
              {upTo >= 6 && <td><N value={exp} tell={SAY.originExp(short(shifted))} /></td>}
              {upTo >= 7 && <td>{hiding && key === now.key.index ? "?" : <N value={weights[at] ?? 0} role="weight" tell={SAY.originWeight(short(exp), short(now.sum))} />}</td>}
              {upTo >= 7 && <td class="twobars">{!(hiding && key === now.key.index) && <Bar part={weights[at] ?? 0} />}</td>}
            </tr>
          );
        })}
        {upTo >= 7 && (
          <tr class="total">
            <td colSpan={5}>{now.sink === null ? SAY.lessonOthers : SAY.lessonOthersAndSink}</td>
            <td><N value={Math.max(others, 0)} role="weight" tell={SAY.originOthers} /></td>
            <td class="twobars"><Bar part={others} /></td>
          </tr>
        )}
      </Sums>
      {upTo >= 7 && !hiding && <WeightsTable now={now} brief />}
    </>
  );
}
