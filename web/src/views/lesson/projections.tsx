// Step 1: a component of q, k or v as a sum of products.
import { computed, useSignal } from "@preact/signals";
import { type Cell, json, paths } from "../../client/requests";
import type { InputProduct } from "../../client/types";
import { short } from "../../pure/numbers";
import { cellDetails, cellPath, go, place, resource, recording, screen, step } from "../../state";
import * as SAY from "../../strings";
import { ComponentField, SumOfProducts } from "./sum-of-products";
import { VectorChart } from "./dot-product";
import { NumberButton } from "./number";

const path = computed(() => {
  const { component } = place.value;
  return screen.value === "lesson" && step.value === 1 && component !== null && component < (cellDetails.value?.q.length ?? 0) && cellPath.value ? paths.component(cellPath.value, component) : null;
});
const chosen = resource<Cell>(() => path.value, json, 40);

export function Projections({ now }: { now: Cell }) {
  const which = useSignal<"q" | "k" | "v">("q");
  const inputs = (path.value ? chosen.value.value?.inputs : null) ?? now.inputs;
  const { query, key } = now;
  const vectors = [
    ["q", "query", query.index, now.q],
    ["k", "key", key.index, now.k],
    ...(now.values ? [["v", "value", key.index, now.values.v] as const] : []),
  ] as const;
  const [name, role, at] = vectors.find(([vector]) => vector === which.value) ?? vectors[0]!;
  const part = inputs?.[name];
  return (
    <>
      <p>{SAY.stepVectors}</p>
      {vectors.map(([vector, role, at, values]) => (
        <VectorChart
          key={vector}
          values={values}
          role={role}
          height={60}
          label={`${vector} of ${at}, ${values.length} numbers`}
          mark={inputs?.[vector]?.component ?? null}
          onPick={inputs ? (i) => ((which.value = vector), go({ component: i })) : undefined}
        />
      ))}
      {inputs && part ? (
        <>
          <div class="tools">
            <div class="segmented" role="group" aria-label={SAY.inputsVector}>
              {vectors.map(([vector, role, at]) => (
                <button key={vector} class={role} aria-pressed={vector === name} onClick={() => (which.value = vector)}>
                  {vector} of {at}
                </button>
              ))}
            </div>
            <ComponentField bars vector={name} now={part.component} most={name === "v" ? now.values!.v.length : now.q.length} />
          </div>
          <Projection part={part} name={name} role={role} at={at} />
        </>
      ) : (
        <>
          {vectors.slice(0, 2).map(([vector, role, at, values]) => (
            <div class="numbers" key={vector}>
              {values.slice(0, 8).map((x, i) => <NumberButton key={i} value={x} role={role} name={`${vector}${i}`} origin={(vector === "k" ? SAY.originK : SAY.originQ)(i, at)} />)}
              {values.length > 8 && <span class="soft">…</span>}
            </div>
          ))}
          <p class="note">{recording.value?.layers.some((vector) => vector.inputs) ? SAY.inputsMatricesUnknown : SAY.inputsMissing}</p>
        </>
      )}
    </>
  );
}

function Projection({ part, name, role, at }: { part: InputProduct; name: string; role: string; at: number }) {
  const i = part.component;
  return (
    <SumOfProducts
      a={{ name: `x of ${at}`, role: "plain", values: part.x, origin: (j) => SAY.originX(j, at) }}
      b={{ name: `W_${name}, ${i}`, role: "plain", values: part.w, origin: (j) => SAY.originInputMatrix(name, i, j) }}
      sum={part.sum}
      name={SAY.inputsProjected(name, i)}
      destination={part.bias === null ? SAY.inputsIsProjected : SAY.sumBias}
    >
      {part.bias !== null && (
        <>
          <tr class="total">
            <td colSpan={7}>{SAY.sumBias}</td>
            <td><NumberButton value={part.bias} name={SAY.sumBias} origin={SAY.originInputBias(name, i)} /></td>
          </tr>
          <tr class="total">
            <td colSpan={7}>{SAY.inputsIsProjected}</td>
            <td><NumberButton value={part.projected} name={SAY.inputsIsProjected} digits={6} origin={[SAY.originProjected(short(part.sum), short(part.bias)), SAY.inputsRecorded]} /></td>
          </tr>
        </>
      )}
      {part.recorded !== null && (
        <tr class="total">
          <td colSpan={7}>
            {part.between.length > 0 && <span class="soft">{part.between.map((vector) => SAY.inputsBetween[vector] ?? vector).join(", ")} → </span>}
            {name}
            {i} {SAY.inputsRecorded}
            {part.between.length === 0 && <span class="soft"> · {SAY.inputsEqual}</span>}
          </td>
          <td><NumberButton value={part.recorded} role={role} name={`${name}${i}`} digits={6} origin={SAY.originRecorded(name, i, at)} /></td>
        </tr>
      )}
    </SumOfProducts>
  );
}
