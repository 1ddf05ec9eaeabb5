// The arithmetic that the lesson does on the page, on numbers of the library; results are marked as computed by the page.

export interface Term {
  readonly index: number;
  readonly q: number;
  readonly k: number;
  readonly product: number;
  /** The sum of the terms up to here, in the order shown. */
  readonly sum: number;
}

/** A dot product, term by term: all of them in order, or the largest and the exact remainder. `always` is among those that are shown. */
export function productTerms(q: readonly number[], k: readonly number[], products: readonly number[], most: number, always = -1) {
  const order = products.map((_, i) => i);
  const cut = order.length > most;
  if (cut) order.sort((a, b) => Math.abs(products[b]!) - Math.abs(products[a]!) || a - b);
  const place = order.indexOf(always);
  if (place >= most) order.splice(most - 1, 0, ...order.splice(place, 1));
  let sum = 0;
  const shown = order.slice(0, most).map<Term>((index) => ({
    index, q: q[index]!, k: k[index]!, product: products[index]!, sum: (sum += products[index]!),
  }));
  return { shown, rest: products.length - shown.length, subtotal: sum };
}

/** A row of weights at another temperature or scale, or with hidden keys; scores are ln(weight) + lse. */
export function changedWeights(
  weights: ArrayLike<number>,
  lse: number,
  changes: { temperature: number; scale: number; hidden: ReadonlySet<number> },
): Float64Array {
  const out = new Float64Array(weights.length);
  const factor = changes.scale * changes.temperature;
  let most = -Infinity;
  for (let i = 0; i < out.length; i++) {
    const visible = weights[i]! > 0 && !changes.hidden.has(i);
    out[i] = visible ? (Math.log(weights[i]!) + lse) / factor : -Infinity;
    most = Math.max(most, out[i]!);
  }
  if (most === -Infinity) return out.fill(0);
  let sum = 0;
  for (let i = 0; i < out.length; i++) sum += out[i] = Math.exp(out[i]! - most);
  for (let i = 0; i < out.length; i++) out[i] = out[i]! / sum;
  return out;
}
