import { describe, expect, it } from "vitest";
import { floats, half, halves } from "../src/pure/half";
import { parseHash, DEFAULT_PLACE, formatHash, type Place } from "../src/pure/hash";
import { Lru } from "../src/pure/lru";
import { brief, bytes, short, visibleText, shortest } from "../src/pure/numbers";
import { colourTable, css, textColour } from "../src/pure/ramps";
import { hasSpaceBetween, cumulativeMass, entropy, shadedRuns, softmax, largestIndices } from "../src/pure/text";
import { roundUp, toneOf, valueAt, type Tone } from "../src/pure/tone";

describe("half floats", () => {
  it("decodes every kind", () => {
    const pairs: [number, number][] = [
      [0x3c00, 1], [0xc000, -2], [0x7bff, 65504], [0x0001, 2 ** -24], [0x03ff, 1023 * 2 ** -24],
      [0x0400, 2 ** -14], [0x3555, 0.333251953125], [0x7c00, Infinity], [0xfc00, -Infinity],
    ];
    for (const [bits, value] of pairs) expect(half(bits)).toBe(value);
    expect(half(0x7e00)).toBeNaN();
  });
  it("reads little-endian buffers", () => {
    expect([...halves(new Uint8Array([0, 0x3c, 0, 0xc0]).buffer)]).toEqual([1, -2]);
    expect([...floats(new Uint8Array([0, 0, 0x80, 0x3f]).buffer)]).toEqual([1]);
  });
});

describe("the cache", () => {
  it("forgets what was used longest ago, and says so", () => {
    const gone: number[] = [];
    const cache = new Lru<number>(2, (value) => gone.push(value));
    cache.set("a", 1);
    cache.set("b", 2);
    expect(cache.get("a")).toBe(1);
    cache.set("c", 3);
    expect(gone).toEqual([2]);
    expect(cache.has("b")).toBe(false);
    cache.set("a", 4);
    expect(gone).toEqual([2, 1]);
    cache.clear();
    expect(gone.slice(2).sort()).toEqual([3, 4]);
    expect(cache.size).toBe(0);
  });
});

describe("the hash", () => {
  it("brings every part back", () => {
    const place: Place = {
      screen: "compare", recording: "a1b2", layer: 3, head: 11, view: { q: 412.5, k: 17.25, scale: 0.0103 },
      cell: { query: 412, key: 17 }, pooling: "mean", ramp: "cividis", log: false, gamma: 0.7, rows: true, step: 6,
      other: "c3d4/1/2", table: true, topic: "why", component: 7, beside: true,
    };
    expect(parseHash(formatHash(place))).toEqual(place);
    for (const [name, usual] of Object.entries(DEFAULT_PLACE)) {
      const one = { ...DEFAULT_PLACE, [name]: place[name as keyof Place] };
      expect(parseHash("#" + formatHash(one)), name).toEqual(one);
      expect(usual).not.toEqual(one[name as keyof Place]);
    }
    expect(formatHash(DEFAULT_PLACE)).toBe("open");
  });
  it("takes nonsense for the start", () => {
    expect(parseHash("#nowhere?layer=-1&head=x&at=1,2&cell=1.5,2&pool=min&ramp=jet&gamma=99&step=0")).toEqual(DEFAULT_PLACE);
    expect(parseHash("map?at=1,2,0&step=99&i=-1&about=all&beside=2")).toEqual({ ...DEFAULT_PLACE, screen: "map" });
    expect(parseHash("map?cell=,3").cell).toBeNull();
  });
});

describe("tones", () => {
  const log: Tone = { log: true, gamma: 1, decades: 4, greatest: 1, signed: false };
  it("go from none to the greatest", () => {
    expect(toneOf(0, log)).toBe(0);
    expect(toneOf(1, log)).toBe(1);
    expect(toneOf(1e-9, log)).toBe(0);
    expect(toneOf(1e-2, log)).toBeCloseTo(0.51, 10);
    expect(toneOf(0.25, { ...log, log: false, gamma: 0.5 })).toBe(0.5);
  });
  it("have signs where differences are shown", () => {
    const signed = { ...log, log: false, signed: true };
    expect([-1, -0.5, 0, 0.5, 1].map((x) => toneOf(x, signed))).toEqual([0, 0.25, 0.5, 0.75, 1]);
  });
  it("are undone by valueAt", () => {
    for (const tone of [log, { ...log, log: false, gamma: 0.5 }, { ...log, signed: true }])
      for (const part of [0.1, 0.3, 0.75, 1]) expect(toneOf(valueAt(part, tone), tone)).toBeCloseTo(part, 9);
  });
  it("end at round numbers", () => {
    expect([0.013, 0.02, 0.3, 1, 7, 1000.1].map(roundUp)).toEqual([0.02, 0.02, 0.5, 1, 10, 2000]);
    expect(roundUp(0)).toBe(1);
  });
});

describe("ramps", () => {
  it("pass through their ends and get steadily lighter", () => {
    expect(css(colourTable("viridis"), 0)).toBe("rgb(68 1 84)");
    expect(css(colourTable("viridis"), 1)).toBe("rgb(253 231 37)");
    for (const ramp of ["viridis", "cividis", "grey"] as const) {
      const table = colourTable(ramp);
      const light = (i: number) => 0.2126 * table[4 * i]! + 0.7152 * table[4 * i + 1]! + 0.0722 * table[4 * i + 2]!;
      for (let i = 8; i < 256; i += 8) expect(light(i), `${ramp} ${i}`).toBeGreaterThan(light(i - 8));
    }
  });
  it("say which ink to write with", () => {
    expect(textColour(colourTable("viridis"), 0)).toBe("#fff");
    expect(textColour(colourTable("viridis"), 1)).toBe("#000");
  });
});

describe("text", () => {
  it("joins tokens without a shade, and only those", () => {
    expect(shadedRuns([0, 0, 0.5, 0.5, 0, 1], 0, 6, (w) => w)).toEqual([
      { start: 0, length: 2, shade: 0 }, { start: 2, length: 1, shade: 6 }, { start: 3, length: 1, shade: 6 },
      { start: 4, length: 1, shade: 0 }, { start: 5, length: 1, shade: 12 },
    ]);
    expect(shadedRuns([1, 0, 0], 1, 3, (w) => w)).toEqual([{ start: 1, length: 2, shade: 0 }]);
  });
  it("has the white space that an encoder's tokens leave out, and none around those that are added", () => {
    const tokens = [["[CLS]", 0], ["She", 0], ["sat", 4], [".", 7], ["🙂", 9], ["ש", 11], ["[SEP]", 12], ["", 12]] as const;
    const gaps = tokens.slice(0, -1).map(([text, start], i) => hasSpaceBetween(text, start, tokens[i + 1]![1]));
    expect(gaps).toEqual([false, true, false, true, true, false, false]);
  });
  it("finds the largest, in order", () => {
    expect(largestIndices([0.1, 0.4, 0, 0.4, 0.1], 3)).toEqual([1, 3, 0]);
    expect(largestIndices([0, 0], 3)).toEqual([]);
  });
  it("adds up", () => {
    expect([...cumulativeMass([0.25, 0.5, 0.25])]).toEqual([0.5, 0.75, 1]);
    expect(entropy([0.5, 0.5, 0])).toBeCloseTo(Math.LN2, 12);
    const even = softmax([0, Math.log(3), null]);
    expect(even[0]).toBeCloseTo(0.25, 12);
    expect(even[2]).toBe(0);
    expect(softmax([0, 1], 1e6)[0]).toBeCloseTo(0.5, 5);
    expect(softmax([null, null])).toEqual([0, 0]);
  });
  it("writes numbers and white space so that they are seen", () => {
    expect([0.31416, -2, 0, 3.21e-7, null, 12345678].map((x) => short(x))).toEqual([
      "0.3142", "−2.000", "0", "3.21e−7", "−∞", "1.23e7",
    ]);
    expect([0.5, 3, -1, 0, 0.04152, 100, 1e-7, null].map((x) => shortest(x))).toEqual(["0.5", "3", "−1", "0", "0.0415", "100", "1.0e−7", "−∞"]);
    expect([999, 9_400_000, 1_234_000_000].map(bytes)).toEqual(["999 B", "9.4 MB", "1.2 GB"]);
    expect([" f", "\n", "", undefined].map(visibleText)).toEqual(["·f", "⏎", "", "…"]);
    expect(["\0", "\x1b[0m", "a\u202eb", "\u200d", "👩\u200d👧", "שלום"].map(visibleText)).toEqual(["U+0000", "U+001B[0m", "aU+202Eb", "U+200D", "👩\u200d👧", "שלום"]);
    expect(brief("x".repeat(2000))).toBe(`${"x".repeat(39)}…`);
    expect(brief("🙂🙂🙂", 2)).toBe("🙂…");
  });
});
