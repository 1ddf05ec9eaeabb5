// The tokens in which a text begins, as the server's search has them.
import { MOST_CELLS } from "./request";

/** The tokens in which the pattern begins: in the whole text, or, for recordings without one, within single tokens. */
export function findText(texts: readonly string[], starts: readonly number[], pattern: string, first: number): number[] {
  const tokens: number[] = [];
  if (!starts.some((start) => start > 0)) {
    for (let i = first; i < texts.length && tokens.length < MOST_CELLS; i++) if (texts[i]!.includes(pattern)) tokens.push(i);
    return tokens;
  }
  // Special tokens (start, separator, end) are not part of the text: the next token begins no later than they do.
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
  let index = 0;
  for (let from = text.indexOf(pattern); from >= 0 && tokens.length < MOST_CELLS; from = text.indexOf(pattern, from + 1)) {
    while (ends[index]![0] <= from) index++;
    const token = ends[index]![1];
    if (token >= first && tokens.at(-1) !== token) tokens.push(token);
  }
  return tokens;
}
