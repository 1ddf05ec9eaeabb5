// Formatting of numbers (four significant digits, a true minus sign) and of tokens.

/** 0.3142, 12.30, 3.2e−7. */
export function short(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined) return "−∞";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-4 || size >= 1e6 ? value.toExponential(digits - 2) : value.toPrecision(digits);
  return text.replaceAll("-", "−").replace("e+", "e");
}

/** The same without trailing zeros: 0.5, 3, 0.0415. */
export function shortest(value: number | null, digits = 3): string {
  const text = short(value, digits);
  return text.includes("e") || !text.includes(".") ? text : text.replace(/\.?0+$/, "");
}

/** 93,957 */
export const count = (value: number) => Math.round(value).toLocaleString("en-US");

/** 12.4 MB */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at++;
  }
  return `${at && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

/** Control characters, direction marks and, alone, zero-width characters. */
const INVISIBLE = /[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|^[\u200b-\u200d\u2060\ufeff]+$/g;
const codePoint = (sign: string) => `U+${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** A token with its white space and invisible characters made visible. */
export function visibleText(text: string | undefined): string {
  if (text === undefined) return "…";
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (run) => "·".repeat(run.length)).replace(INVISIBLE, codePoint);
}

/** A token, truncated to `most` characters. */
export function brief(text: string | undefined, most = 40): string {
  const signs = [...visibleText(text)];
  return signs.length > most ? `${signs.slice(0, most - 1).join("")}…` : signs.join("");
}
