// A number that stays hidden until a guess is entered.
import { signal, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { short } from "../../pure/numbers";
import { announce } from "../../state";
import * as SAY from "../../strings";
import { Check } from "../components";

/** Whether the lesson asks for a guess first. */
export const predicting = signal(false);

export function PredictFirst() {
  return <Check label={SAY.predictFirst} on={predicting.value} onPick={(on) => (predicting.value = on)} />;
}

/** Asks for a number, then shows it (`children`) and how far off the guess was. `onReveal` is called when it is shown. */
export function Predict({ value, name, children, onReveal }: { value: number; name: string; children: ComponentChildren; onReveal: () => void }) {
  const guess = useSignal("");
  const revealed = useSignal(false);
  if (!predicting.value) return <>{children}</>;
  if (revealed.value)
    return (
      <>
        {children}
        {guess.value.trim() !== "" && <span class="soft guess">{SAY.predictError(short(Number(guess.value)), short(Math.abs(Number(guess.value) - value)))}</span>}
      </>
    );
  return (
    <form
      class="predict"
      onSubmit={(event) => {
        event.preventDefault();
        revealed.value = true;
        onReveal();
        announce(`${name}: ${short(value)}`);
      }}
    >
      <input type="number" step="any" aria-label={SAY.predictGuess(name)} placeholder="?" value={guess.value} onInput={(event) => (guess.value = event.currentTarget.value)} />
      <button class="reveal">{SAY.predictReveal}</button>
    </form>
  );
}
