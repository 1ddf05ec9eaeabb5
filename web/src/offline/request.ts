// Parses and checks the parameters of a request, as the server does.
import type { Box } from "../pure/tiles";

export const MOST_CELLS = 1000;

/** The request is wrong; the message has the four parts of every error of regard. */
export class RequestError extends Error {
  readonly body: object;

  constructor(readonly status: number, argument: string, value: string, allowed: string, remedy: string) {
    super(argument);
    this.body = { error: { argument, given: value, allowed, remedy } };
  }
}

export const quoted = (text: string | null) => `'${text ?? ""}'`;

/** A whole number in decimal digits from `least` to `most`. */
export function wholeNumber(name: string, value: string, least: number, most: number, status = 404): number {
  if (/^\d{1,15}$/.test(value) && +value >= least && +value <= most) return +value;
  throw new RequestError(status, name, quoted(value), `a whole number from ${least} to ${most}`, "Stay within these.");
}

/** The parameters of a request. */
export class Parameters {
  constructor(private readonly search: URLSearchParams) {}

  get(name: string): string | null {
    return this.search.get(name);
  }

  /** A whole number; one above `most` is too large a request (413), not a malformed one (400). */
  number(name: string, fallback: number, least: number, most: number): number {
    const value = this.get(name);
    return value === null ? fallback : wholeNumber(name, value, least, most, +value > most ? 413 : 400);
  }

  /** START,STOP within so many; all of them where it is not given. */
  span(name: string, most: number): [number, number] {
    const value = this.get(name) ?? `0,${most}`;
    const [start, stop] = value.split(",").map(Number) as [number, number];
    if (/^\d+,\d+$/.test(value) && start < stop && stop <= most) return [start, stop];
    throw new RequestError(400, name, quoted(value), `START,STOP with 0 ≤ START < STOP ≤ ${most}`, "Spans are half-open.");
  }

  choice(name: string, ...allowed: string[]): string {
    const value = this.get(name) ?? allowed[0]!;
    if (allowed.includes(value)) return value;
    throw new RequestError(400, name, quoted(value), allowed.join(" or "), "Choose one of them.");
  }

  text(name: string): string {
    const value = this.get(name);
    if (value) return value;
    throw new RequestError(400, name, "nothing", "a text", `Add ${name}=… to the query.`);
  }

  /** The part of a map of so many queries and keys. */
  mapRequest({ queries, keys }: { queries: number; keys: number }): MapRequest {
    const [q0, q1] = this.span("q", queries);
    const [k0, k1] = this.span("k", keys);
    const pixelCount = (name: string, span: number) => {
      const result = this.number(name, Math.min(256, span), 1, 1024);
      if (result <= span) return result;
      throw new RequestError(400, name, String(result), `at most the ${span} of the span`, "A weight is the smallest pixel.");
    };
    return { q0, q1, k0, k1, rows: pixelCount("rows", q1 - q0), cols: pixelCount("cols", k1 - k0), how: this.choice("how", "max", "mean", "sum") };
  }
}

/** A rectangle of a head's weights, and how they are pooled into pixels. */
export interface MapRequest extends Box {
  readonly how: string;
}

export const isExact = (mapRequest: MapRequest) => mapRequest.rows === mapRequest.q1 - mapRequest.q0 && mapRequest.cols === mapRequest.k1 - mapRequest.k0;

/** What a number of a map is, as text. */
export function pixelLabel(mapRequest: MapRequest): string {
  if (isExact(mapRequest)) return "1x1 exact";
  return `${Math.ceil((mapRequest.q1 - mapRequest.q0) / mapRequest.rows)}x${Math.ceil((mapRequest.k1 - mapRequest.k0) / mapRequest.cols)} ${mapRequest.how}`;
}
