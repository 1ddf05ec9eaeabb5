// What is on screen as text: CSV, SVG, Python.

export interface Area {
  readonly q0: number;
  readonly q1: number;
  readonly k0: number;
  readonly k1: number;
  readonly rows: number;
  readonly cols: number;
}

const cut = (place: number, start: number, stop: number, count: number) => start + Math.floor((place * (stop - start)) / count);

/** One line for each query, one column for each key; a pooled one is named by its first weight. */
export function csvOf(at: Area, values: ArrayLike<number>): string {
  const across = Array.from({ length: at.cols }, (_, c) => cut(c, at.k0, at.k1, at.cols));
  const lines = [["query\\key", ...across].join(",")];
  for (let r = 0; r < at.rows; r++) {
    const line: (number | string)[] = [cut(r, at.q0, at.q1, at.rows)];
    for (let c = 0; c < at.cols; c++) line.push(values[r * at.cols + c]!);
    lines.push(line.join(","));
  }
  return lines.join("\n") + "\n";
}

const escaped = (text: string) => text.replace(/[<>&"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** True vectors: a square for each weight, tokens on both axes. Null is no colour. */
export function svgOf(at: Area, values: ArrayLike<number>, colourOf: (value: number) => string | null, token: (index: number) => string | undefined): string {
  const side = 12;
  const edge = 80;
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${edge + at.cols * side} ${edge + at.rows * side}" font-family="monospace" font-size="9" shape-rendering="crispEdges">`,
  ];
  for (let r = 0; r < at.rows; r++)
    for (let c = 0; c < at.cols; c++) {
      const value = values[r * at.cols + c]!;
      const colour = colourOf(value);
      if (colour) out.push(`<rect x="${edge + c * side}" y="${edge + r * side}" width="${side}" height="${side}" fill="${colour}"><title>${at.q0 + r}, ${at.k0 + c}: ${value}</title></rect>`);
    }
  const text = (i: number) => escaped((token(i) ?? String(i)).trim().slice(0, 12) || "·");
  for (let r = 0; r < at.rows; r++) out.push(`<text x="${edge - 4}" y="${edge + r * side + 9}" text-anchor="end">${text(at.q0 + r)}</text>`);
  for (let c = 0; c < at.cols; c++)
    out.push(`<text transform="translate(${edge + c * side + 9} ${edge - 4}) rotate(-90)">${text(at.k0 + c)}</text>`);
  out.push("</svg>");
  return out.join("\n");
}

/** The lines that give the same numbers in Python. */
export function pythonOf(at: Area & { name: string; layer: number; head: number; cell: { query: number; key: number } | null; pooling: string }): string {
  const lines = [
    "import regard",
    "",
    `run = regard.Recording.open(${JSON.stringify(at.name)})`,
    `head = run.layer(${at.layer}).head(${at.head})`,
    `weights = head.weights(queries=slice(${at.q0}, ${at.q1}), keys=slice(${at.k0}, ${at.k1}))`,
  ];
  if (at.cell) lines.push(`weight = head.weight(${at.cell.query}, ${at.cell.key})`);
  return lines.join("\n");
}
