// A number that says, when it is clicked, where it came from and where it goes.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { short } from "../../pure/numbers";
import * as SAY from "../../strings";

export interface Told {
  readonly name: string;
  readonly from: ComponentChildren;
  readonly to: ComponentChildren;
}

export const told = signal<Told | null>(null);

export function N({ value, role = "score", name = "", tell, digits = 4, chosen }: {
  value: number | null;
  role?: string;
  name?: string;
  tell: readonly ComponentChildren[] | (() => readonly ComponentChildren[]);
  digits?: number;
  chosen?: boolean;
}) {
  const say = () => {
    const [from, to] = typeof tell === "function" ? tell() : tell;
    told.value = { name: name || short(value, digits), from, to };
  };
  return (
    <button class={`n ${role}${chosen ? " chosen" : ""}`} onClick={say}>
      {short(value, digits)}
    </button>
  );
}

export function Where() {
  const now = told.value;
  return (
    <div class="where" role="status">
      {now ? (
        <>
          <b>{now.name}</b>
          <span>
            <i>{SAY.originFrom}</i> {now.from}
          </span>
          <span>
            <i>{SAY.originTo}</i> {now.to}
          </span>
        </>
      ) : (
        <span class="soft">{SAY.originHint}</span>
      )}
    </div>
  );
}
