// The arithmetic of one weight, as regard.analysis.weight_arithmetic has it: in float64, from the stored arrays.
import type { Head } from "./head";

const SHOWN = 64;
const BESIDE = 8;

/** The weighted values of some keys, added. */
function weightedValues(weights: ArrayLike<number>, v: Float32Array, size: number, keys: Iterable<number>): number[] {
  const out = new Array<number>(size).fill(0);
  for (const key of keys) {
    const weight = weights[key]!;
    if (weight) for (let c = 0; c < size; c++) out[c]! += weight * v[key * size + c]!;
  }
  return out;
}

/** The keys of the answer, in order: the neighbours of a key, and the strongest. */
function shownKeys(weights: Float64Array, key: number): number[] {
  const nearby = [];
  for (let k = Math.max(key - BESIDE, 0); k < Math.min(key + BESIDE + 1, weights.length); k++) nearby.push(k);
  const strongest = Array.from(weights.keys()).sort((a, b) => weights[b]! - weights[a]!);
  return [...new Set([...nearby, ...strongest.slice(0, SHOWN)])].slice(0, SHOWN).sort((a, b) => a - b);
}

export function weightsOf(head: Head, query: number, scores = head.scores(query)): Float64Array {
  return scores.map((score) => head.weight(score, query));
}

/** The output of a query: the weighted sum of all values. */
export const outOf = (head: Head, query: number, v: Float32Array): number[] =>
  weightedValues(weightsOf(head, query), v, v.length / head.keys, Array(head.keys).keys());

export function cell(head: Head, query: number, key: number, v: Float32Array | null): object {
  const { size, arrays, facts } = head;
  const scores = head.scores(query);
  const weights = weightsOf(head, query, scores);
  const rowOf = (values: Float32Array, at: number, n: number) => Array.from(values.subarray(at * n, (at + 1) * n));
  const [q, k] = [rowOf(arrays.q, query, size), rowOf(arrays.k, key, size)];
  const products = q.map((x, i) => x * k[i]!);
  const dot = head.dot(query, key);
  const scaled = dot * facts.scale;
  const cap = facts.softcap;
  const sink = arrays.sink ?? -Infinity;
  const most = Math.max(scores.reduce((a, b) => Math.max(a, b), -Infinity), sink);
  // A row that may see nothing has no maximum, and no sum.
  const seen = scores.some((score) => score > -Infinity);
  const exp = (score: number) => (seen ? Math.exp(score - most) : 0);
  const keys = shownKeys(weights, key);
  const n = v ? v.length / head.keys : 0;
  const out = v && weightedValues(weights, v, n, weights.keys());
  const rest = v && weightedValues(weights, v, n, Array.from(weights.keys()).filter((shownKey) => !keys.includes(shownKey)));
  return {
    allowed: scores[key]! > -Infinity, q, k, products, dot, scale: facts.scale, scaled,
    softcap: cap === null ? null : { cap, score: cap * Math.tanh(scaled / cap) },
    bias: head.bias(query, key), score: scores[key]!,
    max: seen ? most : null, exp: exp(scores[key]!), sum: seen ? scores.reduce((sum, score) => sum + exp(score), exp(sink)) : 0,
    sink: arrays.sink === null ? null : seen ? exp(sink) : sink,
    weight: weights[key]!, lse: arrays.lse[query]!,
    row: { keys, scores: keys.map((at) => scores[at]!), weights: keys.map((at) => weights[at]!) },
    values: v && { v: rowOf(v, key, n), out, keys, vs: keys.map((at) => rowOf(v, at, n)), rest },
    inputs: null,
  };
}
