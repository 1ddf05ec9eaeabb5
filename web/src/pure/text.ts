// The text of a row, coloured by weight.

export interface ShadedRun {
  /** The first token, and how many have the same shade. */
  readonly start: number;
  readonly length: number;
  /** 0 is none; then 1 … SHADES. */
  readonly shade: number;
}

export const SHADES = 12;

/** Whether there is white space between a token and the next that belongs to neither. Offsets count code points. */
export const hasSpaceBetween = (text: string, start: number, next: number) => next > start + [...text].length;

/** Tokens start … stop, in runs of one shade. A token with a shade stands alone, so that it can be pointed at. */
export function shadedRuns(weights: ArrayLike<number>, start: number, stop: number, toneOf: (weight: number) => number): ShadedRun[] {
  const out: ShadedRun[] = [];
  for (let i = start; i < stop; i++) {
    const shade = Math.ceil(Math.min(Math.max(toneOf(weights[i] ?? 0), 0), 1) * SHADES);
    const last = out[out.length - 1];
    if (shade === 0 && last?.shade === 0) out[out.length - 1] = { ...last, length: last.length + 1 };
    else out.push({ start: i, length: 1, shade });
  }
  return out;
}

/** The indices of the largest weights, largest first; equal ones in order. Zeros are left out. */
export function largestIndices(weights: ArrayLike<number>, count: number): number[] {
  const best: number[] = [];
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i]!;
    if (!(weight > 0)) continue;
    if (best.length === count && weight <= weights[best[count - 1]!]!) continue;
    let at = best.length;
    while (at > 0 && weights[best[at - 1]!]! < weight) at--;
    best.splice(at, 0, i);
    if (best.length > count) best.pop();
  }
  return best;
}

/** The sum of the largest 1, 2, 3, … weights of a row. */
export function cumulativeMass(weights: ArrayLike<number>): Float64Array {
  const sorted = Float64Array.from(weights).sort().reverse();
  let sum = 0;
  return sorted.map((weight) => (sum += weight));
}

/** The Shannon entropy of a row, in nats. */
export function entropy(weights: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < weights.length; i++) if (weights[i]! > 0) sum -= weights[i]! * Math.log(weights[i]!);
  return sum;
}

/** The softmax of scores at a temperature; null scores (masked) get 0. */
export function softmax(scores: readonly (number | null)[], temperature = 1): number[] {
  const visible = scores.filter((s): s is number => s !== null);
  if (!visible.length) return scores.map(() => 0);
  const most = Math.max(...visible);
  const exps = scores.map((s) => (s === null ? 0 : Math.exp((s - most) / temperature)));
  const sum = exps.reduce((a, b) => a + b, 0);
  return exps.map((e) => e / sum);
}
