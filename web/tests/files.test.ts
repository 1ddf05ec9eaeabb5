import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { HeadSummary } from "../src/client/types";
import { crc32, csvText, npyBytes, npzBytes, pythonCode, csvOfRow, svgWithImage, svgOfWeights } from "../src/pure/files";
import { changedWeights, productTerms } from "../src/pure/lesson";
import { softmax } from "../src/pure/text";
import { filterHeads, type Filter } from "../src/pure/sorting";

const area = { q0: 4, q1: 6, k0: 2, k1: 5, rows: 2, cols: 3 };
const values = Float32Array.from([0.25, 0, 0.75, 0.5, 0.25, 0.25]);

describe("files", () => {
  it("CSV names queries and keys", () => {
    expect(csvText(area, values)).toBe("query\\key,2,3,4\n4,0.25,0,0.75\n5,0.5,0.25,0.25\n");
    expect(csvText({ ...area, q1: 9, rows: 2 }, values).split("\n")[2]).toMatch(/^7,/); // 4, 5, 6 and 7, 8: as Pooled parts them
  });
  it("SVG draws a square for each weight, and escapes the text", () => {
    const text = svgOfWeights(area, values, (v) => (v ? "red" : null), (i) => (i === 2 ? "<a&b>" : `t${i}`));
    expect(text.match(/<rect/g)).toHaveLength(5);
    expect(text).toContain("&#60;a&#38;b&#62;");
    expect(text).not.toContain("<a&b>");
    expect(text).toContain("<title>5, 2: 0.5</title>");
  });
  it("a larger SVG is a picture inside axes whose marks lie where the weights do", () => {
    const text = svgWithImage("data:x", { q: 500, k: 500, scale: 1, width: 1000, height: 1000 }, { queries: 1000, keys: 1000 }, { queries: "q", keys: "k" });
    expect(text).toContain('href="data:x"');
    expect(text).toContain('<path d="M370 64v6" stroke="#888"/><text x="370" y="60" text-anchor="middle">300</text>');
    expect(text.match(/<path/g)).toHaveLength(20);
  });
  it("Python asks for the same weights", () => {
    const [a, b] = [{ name: 'a "b".safetensors', layer: 3, head: 1 }, { name: "b", layer: 0, head: 2 }];
    const text = pythonCode({ ...area, how: "max", cell: { query: 5, key: 2 } }, a);
    expect(text).toContain('a = regard.Recording.open("a \\"b\\".safetensors").layer(3).head(1)\n');
    expect(text).toContain("shown = a.weights[4:6, 2:5]\nweight = a.weights[5, 2]\n");
    const less = pythonCode({ ...area, how: "max", q1: 9, cell: null }, a, b);
    expect(less).toContain('pooled = regard.Pooled(2, 3, "max", queries=(4, 9), keys=(2, 5))\nshown = a.see(pooled)[pooled] - b.see(pooled)[pooled]\n');
  });
  it("a row has its tokens, quoted", () => {
    expect(csvOfRow([0.5, 0.25], (i) => (i ? undefined : 'a "b",\n'))).toBe('key,token,weight\n0,"a ""b"",\n",0.5\n1,"",0.25\n');
  });
  it("SVG has no signs that XML does not know, numbers where there is no text, and each query its own token", () => {
    const text = svgOfWeights(area, values, () => null, (i, query) => (query ? `at ${i + 3}` : i === 2 ? "\0\x1b" : ""));
    expect(text).toContain(">U+0000U+001B<");
    expect(text).toContain(">3</text>");
    expect(text).toContain(">at 7</text>");
  });
  it("NPZ is a zip of arrays", () => {
    expect(crc32(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
    const npy = npyBytes(values, [2, 3]);
    expect((npy.length - 24) % 64).toBe(0);
    expect(new TextDecoder("latin1").decode(npy.slice(10, 80))).toContain("'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), ");
    expect([...new Float32Array(npy.slice(-24).buffer)]).toEqual([...values]);
    const file = npzBytes({ weights: npy, keys: npyBytes(Int32Array.from([2, 3, 4]), [3]) });
    const path = join(tmpdir(), `regard-${process.pid}.npz`);
    writeFileSync(path, file);
    // Python's own reader checks headers and sums.
    const list = execFileSync("python3", ["-c", `import zipfile, os; z = zipfile.ZipFile("${path}"); print(z.testzip(), z.namelist()); os.unlink("${path}")`]);
    expect(list.toString().trim()).toBe("None ['weights.npy', 'keys.npy']");
  });
});

describe("the lesson's sums", () => {
  it("show all terms in order, or the largest and how many are left", () => {
    const all = productTerms([1, 2, 3], [1, -1, 2], [1, -2, 6], 5);
    expect(all.shown.map((t) => t.sum)).toEqual([1, -1, 5]);
    expect(all.rest).toBe(0);
    const two = productTerms([1, 2, 3], [1, -1, 2], [1, -2, 6], 2);
    expect(two.shown.map((t) => t.index)).toEqual([2, 1]);
    expect([two.rest, two.subtotal]).toEqual([1, 4]);
    const withRequired = productTerms([1, 2, 3], [1, -1, 2], [1, -2, 6], 2, 0);
    expect(withRequired.shown.map((t) => [t.index, t.sum])).toEqual([[2, 6], [0, 7]]);
  });
  it("change a row by temperature, scale and hidden keys as the softmax would", () => {
    const scores = [1, 2.5, -0.5, 0];
    const weights = softmax(scores);
    const lse = Math.log(scores.reduce((sum, s) => sum + Math.exp(s), 0));
    const plain = { temperature: 1, scale: 1, hidden: new Set<number>() };
    const close = (a: ArrayLike<number>, b: number[]) => b.forEach((x, i) => expect(a[i]).toBeCloseTo(x, 12));
    close(changedWeights(weights, lse, plain), weights);
    close(changedWeights(weights, lse, { ...plain, temperature: 2 }), softmax(scores, 2));
    close(changedWeights(weights, lse, { ...plain, scale: 0.25 }), softmax(scores.map((s) => 4 * s)));
    close(changedWeights(weights, lse, { ...plain, hidden: new Set([1]) }), softmax([1, null, -0.5, 0]));
    close(changedWeights([0, 0], -Infinity, plain), [0, 0]);
  });
});

describe("the atlas", () => {
  const head = (layer: number, head: number, entropy: number, similarity: number): HeadSummary => ({
    layer, head, entropy, support: 0, first: 0, previous: 0, distance: 0, top: 0, received: 0, redundancy: { layer: 0, head: 0, similarity },
  });
  const heads = [head(0, 0, 0.5, 0.1), head(0, 1, 0.9, 0.3), head(1, 0, 0.5, 0.2)];
  const all: Filter = { by: "", descending: true, least: "", most: "", layer: "" };
  const places = (filter: Partial<Filter>) => filterHeads(heads, { ...all, ...filter }).map((one) => `${one.layer}${one.head}`);
  it("sorts, and keeps the order of the model where values are equal", () => {
    expect(places({})).toEqual(["00", "01", "10"]);
    expect(places({ by: "entropy" })).toEqual(["01", "00", "10"]);
    expect(places({ by: "redundancy", descending: false })).toEqual(["00", "10", "01"]);
  });
  it("filters by layer and bounds, and ignores what is no number", () => {
    expect(places({ layer: "1" })).toEqual(["10"]);
    expect(places({ by: "entropy", least: "0.6" })).toEqual(["01"]);
    expect(places({ by: "entropy", most: "0.6", least: "x" })).toEqual(["00", "10"]);
  });
});
