// Step 1: a component of q, k or v as the sum of products that it is.
import { computed, useSignal } from "@preact/signals";
import { type CellMore, more, type Part } from "../../api.more";
import { json } from "../../api";
import { short } from "../../pure/numbers";
import { cellNow, cellPath, go, place, resource, run, screen, step } from "../../state";
import * as SAY from "../../strings";
import { Component, SumOfProducts } from "./sum-of-products";
import { Vector } from "./dot-product";
import { N } from "./number";

const path = computed(() => {
  const { component } = place.value;
  return screen.value === "lesson" && step.value === 1 && component !== null && component < (cellNow.value?.q.length ?? 0) && cellPath.value ? more.component(cellPath.value, component) : null;
});
const chosen = resource<CellMore>(() => path.value, json, 40);

export function Vectors({ now }: { now: CellMore }) {
  const which = useSignal<"q" | "k" | "v">("q");
  const inputs = (path.value ? chosen.value.value?.inputs : null) ?? now.inputs;
  const { query, key } = now;
  const vectors = [
    ["q", "query", query.index, now.q],
    ["k", "key", key.index, now.k],
    ...(now.values ? [["v", "value", key.index, now.values.v] as const] : []),
  ] as const;
  const [name, role, at] = vectors.find(([one]) => one === which.value) ?? vectors[0]!;
  const part = inputs?.[name];
  return (
    <>
      <p>{SAY.stepVectors}</p>
      {vectors.map(([one, role, at, values]) => (
        <Vector
          key={one}
          values={values}
          role={role}
          height={60}
          label={`${one} of ${at}, ${values.length} numbers`}
          mark={inputs?.[one]?.component ?? null}
          onPick={inputs ? (i) => ((which.value = one), go({ component: i })) : undefined}
        />
      ))}
      {inputs && part ? (
        <>
          <div class="tools">
            <div class="segmented" role="group" aria-label={SAY.inputsVector}>
              {vectors.map(([one, role, at]) => (
                <button key={one} class={role} aria-pressed={one === name} onClick={() => (which.value = one)}>
                  {one} of {at}
                </button>
              ))}
            </div>
            <Component bars of={name} now={part.component} most={name === "v" ? now.values!.v.length : now.q.length} />
          </div>
          <Projection part={part} name={name} role={role} at={at} />
        </>
      ) : (
        <>
          {vectors.slice(0, 2).map(([one, role, at, values]) => (
            <div class="numbers" key={one}>
              {values.slice(0, 8).map((x, i) => <N key={i} value={x} role={role} name={`${one}${i}`} tell={(one === "k" ? SAY.originK : SAY.originQ)(i, at)} />)}
              {values.length > 8 && <span class="soft">…</span>}
            </div>
          ))}
          <p class="note">{run.value?.layers.some((one) => one.inputs) ? SAY.inputsMatricesUnknown : SAY.inputsMissing}</p>
        </>
      )}
    </>
  );
}

function Projection({ part, name, role, at }: { part: Part; name: string; role: string; at: number }) {
  const i = part.component;
  return (
    <SumOfProducts
      a={{ name: `x of ${at}`, role: "plain", values: part.x, tell: (j) => SAY.originX(j, at) }}
      b={{ name: `W_${name}, ${i}`, role: "plain", values: part.w, tell: (j) => SAY.originInputMatrix(name, i, j) }}
      sum={part.sum}
      name={SAY.inputsProjected(name, i)}
      goes={part.bias === null ? SAY.inputsIsProjected : SAY.sumBias}
    >
      {part.bias !== null && (
        <>
          <tr class="total">
            <td colSpan={7}>{SAY.sumBias}</td>
            <td><N value={part.bias} name={SAY.sumBias} tell={SAY.originInputBias(name, i)} /></td>
          </tr>
          <tr class="total">
            <td colSpan={7}>{SAY.inputsIsProjected}</td>
            <td><N value={part.projected} name={SAY.inputsIsProjected} digits={6} tell={[SAY.originProjected(short(part.sum), short(part.bias)), SAY.inputsRecorded]} /></td>
          </tr>
        </>
      )}
      {part.recorded !== null && (
        <tr class="total">
          <td colSpan={7}>
            {part.between.length > 0 && <span class="soft">{part.between.map((one) => SAY.inputsBetween[one] ?? one).join(", ")} → </span>}
            {name}
            {i} {SAY.inputsRecorded}
            {part.between.length === 0 && <span class="soft"> · {SAY.inputsEqual}</span>}
          </td>
          <td><N value={part.recorded} role={role} name={`${name}${i}`} digits={6} tell={SAY.originRecorded(name, i, at)} /></td>
        </tr>
      )}
    </SumOfProducts>
  );
}
