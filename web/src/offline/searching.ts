// Where a text begins, as the server's search finds it.
import { MOST_CELLS } from "./asking";

/** The tokens in which a text begins: in the whole text, or where that is not there in single tokens. */
export function searched(texts: readonly string[], starts: readonly number[], wanted: string, first: number): number[] {
  const found: number[] = [];
  if (!starts.some((start) => start > 0)) {
    for (let i = first; i < texts.length && found.length < MOST_CELLS; i++) if (texts[i]!.includes(wanted)) found.push(i);
    return found;
  }
  // Tokens that are put before, between or behind stand nowhere in the text: the next one begins no later.
  let text = "";
  let at = 0;
  const ends: [number, number][] = [];
  texts.forEach((token, i) => {
    const start = starts[i]!;
    const stop = start + [...token].length;
    const next = starts[i + 1] ?? stop;
    if (start < at || (start <= next && next < stop)) return;
    text += " ".repeat(start - at) + token;
    at = stop;
    ends.push([text.length, i]);
  });
  let place = 0;
  for (let from = text.indexOf(wanted); from >= 0 && found.length < MOST_CELLS; from = text.indexOf(wanted, from + 1)) {
    while (ends[place]![0] <= from) place++;
    const token = ends[place]![1];
    if (token >= first && found.at(-1) !== token) found.push(token);
  }
  return found;
}
