// Files made of what is on screen: CSV, SVG, NPZ, Python.
import { brief } from "./numbers";
import type { Box } from "./tiles";
import { type Extent, type Size, stepFor, type View, xOf, yOf } from "./view";

/** The first weight of each pixel along a side, as the server divides it. */
export const pixelStarts = (start: number, stop: number, count: number) =>
  Array.from({ length: count }, (_, i) => start + Math.ceil((i * (stop - start)) / count));

/** One line for each query, one column for each key; a pooled one is named by its first weight. */
export function csvText(at: Box, values: ArrayLike<number>): string {
  const lines = [["query\\key", ...pixelStarts(at.k0, at.k1, at.cols)].join(",")];
  pixelStarts(at.q0, at.q1, at.rows).forEach((query, r) => {
    const line: (number | string)[] = [query];
    for (let c = 0; c < at.cols; c++) line.push(values[r * at.cols + c]!);
    lines.push(line.join(","));
  });
  return lines.join("\n") + "\n";
}

const escaped = (text: string) => text.replace(/[<>&"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** One line for each key of a row. */
export function csvOfRow(weights: ArrayLike<number>, token: (index: number) => string | undefined): string {
  const lines = Array.from(weights, (weight, i) => `${i},"${(token(i) ?? "").replaceAll('"', '""')}",${weight}`);
  return ["key,token,weight", ...lines].join("\n") + "\n";
}

/** Vector graphics: a square for each weight, tokens on both axes; a null colour draws nothing. */
export function svgOfWeights(at: Box, values: ArrayLike<number>, colourOf: (value: number) => string | null, token: (index: number, query?: boolean) => string | undefined): string {
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
  // Invisible characters are written as code points: XML allows no control characters.
  const text = (i: number, query?: boolean) => escaped(brief(token(i, query), 12) || String(i));
  for (let r = 0; r < at.rows; r++) out.push(`<text x="${edge - 4}" y="${edge + r * side + 9}" text-anchor="end">${text(at.q0 + r, true)}</text>`);
  for (let c = 0; c < at.cols; c++)
    out.push(`<text transform="translate(${edge + c * side + 9} ${edge - 4}) rotate(-90)">${text(at.k0 + c)}</text>`);
  out.push("</svg>");
  return out.join("\n");
}

/** A raster image of the map inside vector axes. */
export function svgWithImage(picture: string, view: View & Size, extent: Extent, names: { queries: string; keys: string }): string {
  const { width, height, scale } = view;
  const edge = 70;
  const step = stepFor(scale, 70);
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${edge + width + 10} ${edge + height + 10}" font-family="sans-serif" font-size="11">`,
    `<image x="${edge}" y="${edge}" width="${width}" height="${height}" href="${picture}"/>`,
    `<rect x="${edge}" y="${edge}" width="${width}" height="${height}" fill="none" stroke="#888"/>`,
    `<text x="${edge}" y="16">${escaped(names.keys)}</text>`,
    `<text transform="translate(14 ${edge}) rotate(-90)" text-anchor="end">${escaped(names.queries)}</text>`,
  ];
  const marks = (most: number, at: (i: number) => number, span: number, draw: (place: number, i: number) => string) => {
    for (let i = 0; i < most; i += step) {
      const place = at(i);
      if (place >= 0 && place <= span) out.push(draw(edge + place, i));
    }
  };
  marks(extent.keys, (i) => xOf(view, view, i), width, (x, i) =>
    `<path d="M${x} ${edge - 6}v6" stroke="#888"/><text x="${x}" y="${edge - 10}" text-anchor="middle">${i}</text>`);
  marks(extent.queries, (i) => yOf(view, view, i), height, (y, i) =>
    `<path d="M${edge - 6} ${y}h6" stroke="#888"/><text x="${edge - 9}" y="${y + 4}" text-anchor="end">${i}</text>`);
  out.push("</svg>");
  return out.join("\n");
}

export interface HeadName {
  name: string;
  layer: number;
  head: number;
}

/** The lines that give the same numbers in Python; of two heads, those of the first minus those of the second. */
export function pythonCode(at: Box & { how: string; cell: { query: number; key: number } | null }, a: HeadName, b: HeadName | null = null): string {
  const headCode = ({ name, layer, head }: HeadName) => `regard.Recording.open(${JSON.stringify(name)}).layer(${layer}).head(${head})`;
  const pooled = at.rows < at.q1 - at.q0 || at.cols < at.k1 - at.k0;
  const both = (part: string) => (b ? `a${part} - b${part}` : `a${part}`);
  const lines = ["import regard", "", `a = ${headCode(a)}`];
  if (b) lines.push(`b = ${headCode(b)}`);
  if (pooled) {
    lines.push(`pooled = regard.Pooled(${at.rows}, ${at.cols}, "${at.how}", queries=(${at.q0}, ${at.q1}), keys=(${at.k0}, ${at.k1}))`);
    lines.push(`shown = ${both(".see(pooled)[pooled]")}`);
  } else lines.push(`shown = ${both(`.weights[${at.q0}:${at.q1}, ${at.k0}:${at.k1}]`)}`);
  if (at.cell) lines.push(`weight = ${both(`.weights[${at.cell.query}, ${at.cell.key}]`)}`);
  return lines.join("\n") + "\n";
}

const crcs = Uint32Array.from({ length: 256 }, (_, i) => {
  for (let bit = 0; bit < 8; bit++) i = i & 1 ? (i >>> 1) ^ 0xedb88320 : i >>> 1;
  return i;
});

export function crc32(bytes: Uint8Array): number {
  let crc = ~0;
  for (const byte of bytes) crc = (crc >>> 8) ^ crcs[(crc ^ byte) & 255]!;
  return ~crc >>> 0;
}

/** An array as NumPy's .npy, version 1.0, little-endian. */
export function npyBytes(values: Float32Array | Int32Array, shape: readonly number[]): Uint8Array<ArrayBuffer> {
  const kind = values instanceof Float32Array ? "<f4" : "<i4";
  const dims = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  let head = `{'descr': '${kind}', 'fortran_order': False, 'shape': (${dims}), }`;
  head += " ".repeat(63 - ((10 + head.length) % 64)) + "\n";
  const out = new Uint8Array(10 + head.length + 4 * values.length);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, head.length & 255, head.length >> 8]);
  out.set(new TextEncoder().encode(head), 10);
  const view = new DataView(out.buffer, 10 + head.length);
  const put = kind === "<f4" ? view.setFloat32.bind(view) : view.setInt32.bind(view);
  values.forEach((value, i) => put(4 * i, value, true));
  return out;
}

/** Arrays by name as NumPy's .npz: a zip whose members are stored as they are. */
export function npzBytes(arrays: Record<string, Uint8Array>): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  const central: Uint8Array[] = [];
  let at = 0;
  for (const [name, data] of Object.entries(arrays)) {
    const nameBytes = new TextEncoder().encode(`${name}.npy`);
    // After its signature, a member's local header and its entry in the directory say the same.
    const commonHeader = new DataView(new ArrayBuffer(26));
    for (const [offset, value] of [[0, 20], [6, 0], [8, 0x21], [22, nameBytes.length]] as const) commonHeader.setUint16(offset, value, true);
    for (const [offset, value] of [[10, crc32(data)], [14, data.length], [18, data.length]] as const) commonHeader.setUint32(offset, value, true);
    const commonBytes = new Uint8Array(commonHeader.buffer);
    const local = new Uint8Array([0x50, 0x4b, 3, 4, ...commonBytes, ...nameBytes]);
    const tail = new DataView(new ArrayBuffer(14));
    tail.setUint32(10, at, true);
    central.push(new Uint8Array([0x50, 0x4b, 1, 2, 20, 0, ...commonBytes, ...new Uint8Array(tail.buffer), ...nameBytes]));
    parts.push(local, data);
    at += local.length + data.length;
  }
  const length = central.reduce((sum, part) => sum + part.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  for (const offset of [8, 10]) end.setUint16(offset, central.length, true);
  end.setUint32(12, length, true);
  end.setUint32(16, at, true);
  const all = [...parts, ...central, new Uint8Array(end.buffer)];
  const out = new Uint8Array(at + length + 22);
  let offset = 0;
  for (const part of all) {
    out.set(part, offset);
    offset += part.length;
  }
  return out;
}
