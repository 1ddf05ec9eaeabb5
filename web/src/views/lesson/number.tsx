// A number that shows, when clicked, where it came from and where it goes.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { short } from "../../pure/numbers";
import * as SAY from "../../strings";

export interface NumberOrigin {
  readonly name: string;
  readonly from: ComponentChildren;
  readonly to: ComponentChildren;
}

export const shownOrigin = signal<NumberOrigin | null>(null);

export function NumberButton({ value, role = "score", name = "", origin, digits = 4, chosen }: {
  value: number | null;
  role?: string;
  name?: string;
  origin: readonly ComponentChildren[] | (() => readonly ComponentChildren[]);
  digits?: number;
  chosen?: boolean;
}) {
  const show = () => {
    const [from, to] = typeof origin === "function" ? origin() : origin;
    shownOrigin.value = { name: name || short(value, digits), from, to };
  };
  return (
    <button class={`n ${role}${chosen ? " chosen" : ""}`} onClick={show}>
      {short(value, digits)}
    </button>
  );
}

export function Origin() {
  const now = shownOrigin.value;
  return (
    <div class="origin" role="status">
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
