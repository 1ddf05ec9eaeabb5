// What a request asks for, checked, as regard/explorer/asking.py does for the server.
import type { Box } from "../pure/tiles";

export const MOST_CELLS = 1000;

/** A request that is not answered, in the four parts of every message of regard. */
export class Refused extends Error {
  readonly told: object;

  constructor(readonly status: number, argument: string, given: string, allowed: string, remedy: string) {
    super(argument);
    this.told = { error: { argument, given, allowed, remedy } };
  }
}

export const quoted = (text: string | null) => `'${text ?? ""}'`;

/** A whole number in decimal digits from `least` to `most`. */
export function whole(name: string, given: string, least: number, most: number, status = 404): number {
  if (/^\d{1,15}$/.test(given) && +given >= least && +given <= most) return +given;
  throw new Refused(status, name, quoted(given), `a whole number from ${least} to ${most}`, "Stay within these.");
}

/** The parameters of a request. */
export class Query {
  constructor(private readonly said: URLSearchParams) {}

  get(name: string): string | null {
    return this.said.get(name);
  }

  /** A whole number; one above `most` is too much to ask, not wrong. */
  number(name: string, usual: number, least: number, most: number): number {
    const given = this.get(name);
    return given === null ? usual : whole(name, given, least, most, +given > most ? 413 : 400);
  }

  /** START,STOP within so many; all of them where it is not given. */
  span(name: string, most: number): [number, number] {
    const given = this.get(name) ?? `0,${most}`;
    const [start, stop] = given.split(",").map(Number) as [number, number];
    if (/^\d+,\d+$/.test(given) && start < stop && stop <= most) return [start, stop];
    throw new Refused(400, name, quoted(given), `START,STOP with 0 ≤ START < STOP ≤ ${most}`, "Spans are half-open.");
  }

  chosen(name: string, ...allowed: string[]): string {
    const given = this.get(name) ?? allowed[0]!;
    if (allowed.includes(given)) return given;
    throw new Refused(400, name, quoted(given), allowed.join(" or "), "Choose one of them.");
  }

  text(name: string): string {
    const given = this.get(name);
    if (given) return given;
    throw new Refused(400, name, "nothing", "a text", `Add ${name}=… to the query.`);
  }

  /** A map of so many queries and keys. */
  view({ queries, keys }: { queries: number; keys: number }): View {
    const [q0, q1] = this.span("q", queries);
    const [k0, k1] = this.span("k", keys);
    const count = (name: string, span: number) => {
      const found = this.number(name, Math.min(256, span), 1, 1024);
      if (found <= span) return found;
      throw new Refused(400, name, String(found), `at most the ${span} of the span`, "A weight is the smallest pixel.");
    };
    return { q0, q1, k0, k1, rows: count("rows", q1 - q0), cols: count("cols", k1 - k0), how: this.chosen("how", "max", "mean", "sum") };
  }
}

/** What of a head's weights is wanted. */
export interface View extends Box {
  readonly how: string;
}

export const isExact = (view: View) => view.rows === view.q1 - view.q0 && view.cols === view.k1 - view.k0;

/** What a number of a map is, in words. */
export function pixelOf(view: View): string {
  if (isExact(view)) return "1x1 exact";
  return `${Math.ceil((view.q1 - view.q0) / view.rows)}x${Math.ceil((view.k1 - view.k0) / view.cols)} ${view.how}`;
}
