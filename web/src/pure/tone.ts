// From a weight to a tone between 0 and 1. The shader in map/webgl.ts does the same.

export interface Tone {
  readonly log: boolean;
  /** Linear tones are raised to this power. */
  readonly gamma: number;
  /** Decades below the greatest that a log tone spans. */
  readonly decades: number;
  /** What gets tone 1. */
  readonly greatest: number;
  /** Differences: tone 0.5 is 0, lower tones are negative, higher ones positive. */
  readonly signed: boolean;
}

/** Log tones leave this much at the bottom, so that the smallest weight differs from 0. */
const LOG_MINIMUM = 0.02;

export function toneOf(value: number, tone: Tone): number {
  const size = Math.abs(value) / tone.greatest;
  const part = tone.log
    ? size > 0
      ? LOG_MINIMUM + (1 - LOG_MINIMUM) * (1 + Math.log10(size) / tone.decades)
      : 0
    : size ** tone.gamma;
  const bounded = Math.min(Math.max(part, 0), 1);
  return tone.signed ? 0.5 + (Math.sign(value) * bounded) / 2 : bounded;
}

/** The value that has a tone: for the marks of the legend. */
export function valueAt(part: number, tone: Tone): number {
  if (tone.signed) {
    const side = valueAt(Math.abs(2 * part - 1), { ...tone, signed: false });
    return part < 0.5 ? -side : side;
  }
  if (!tone.log) return tone.greatest * part ** (1 / tone.gamma);
  return tone.greatest * 10 ** (((Math.max(part, LOG_MINIMUM) - LOG_MINIMUM) / (1 - LOG_MINIMUM) - 1) * tone.decades);
}

/** The least of 1, 2, 5, 10, … times a power of ten that is no less: so that tones do not flicker while panning. */
export function roundUp(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
  for (const step of [1, 2, 5, 10]) if (value <= step * power * (1 + 1e-6)) return step * power;
  return 10 * power;
}
