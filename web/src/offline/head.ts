// One head of a layer in canonical form: weight = exp(softcap(q·k · scale) + bias − lse) where the mask allows it.
import type { LayerFacts } from "./manifest";
import { type Arrays, type ArrayData, row } from "./arrays";

/** Queries and keys in a tile of the mask, which is also the block of computation. */
export const SIDE = 64;

/** The arrays of a head. Those of the mask and the bias are as regard.lowering.tiles.Tabled and regard.lowering.canonical say. */
export interface HeadArrays {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly lse: Float32Array;
  readonly table: Float32Array | null;
  readonly pairs: ArrayData<Float32Array> | null;
  readonly sink: number | null;
  readonly runs: Int32Array | null;
  readonly kinds: Int32Array | null;
  readonly words: Uint32Array | null;
}

export class Head {
  readonly queries: number;
  readonly keys: number;
  /** Half-open spans of keys of each query. */
  private readonly spans: number;
  private readonly tileCols: number;
  /** Strides of the bias of pairs; 0 where it is shared. */
  private readonly pairRow: number;
  private readonly pairCol: number;

  constructor(
    readonly facts: Pick<LayerFacts, "scale" | "softcap">,
    readonly size: number,
    readonly arrays: HeadArrays,
  ) {
    const { q, k, pairs, runs } = arrays;
    this.queries = q.length / size;
    this.keys = k.length / size;
    this.spans = runs ? runs.length / this.queries / 2 : 0;
    this.tileCols = Math.ceil(this.keys / SIDE);
    const [rows = 1, cols = 1] = pairs?.shape ?? [];
    this.pairCol = cols > 1 ? 1 : 0;
    this.pairRow = rows > 1 ? cols : 0;
  }

  bias(query: number, key: number): number {
    const { table, pairs } = this.arrays;
    return (table ? table[query - key + this.keys - 1]! : 0) + (pairs ? pairs.values[query * this.pairRow + key * this.pairCol]! : 0);
  }

  /** Whether the spans and the tile, of a kind other than 0, both allow a pair. */
  private allowed(kind: number, query: number, key: number): boolean {
    const { runs, words } = this.arrays;
    let inside = !runs;
    for (let i = 2 * this.spans * query, end = i + 2 * this.spans; i < end; i += 2) inside ||= runs![i]! <= key && key < runs![i + 1]!;
    if (kind === 1 || !inside) return inside;
    const at = 2 * ((kind - 2) * SIDE + (key & 63)) + ((query >> 5) & 1);
    return ((words![at]! >>> (query & 31)) & 1) === 1;
  }

  /** q · k, before scale and bias. */
  dot(query: number, key: number): number {
    const { q, k } = this.arrays;
    let sum = 0;
    for (let i = 0, a = query * this.size, b = key * this.size; i < this.size; i++) sum += q[a + i]! * k[b + i]!;
    return sum;
  }

  private score(dot: number, query: number, key: number): number {
    const { scale, softcap } = this.facts;
    const scaled = dot * scale;
    return (softcap === null ? scaled : softcap * Math.tanh(scaled / softcap)) + this.bias(query, key);
  }

  /** The score of each key of a query; −∞ where the mask does not allow it. */
  scores(query: number): Float64Array {
    const out = new Float64Array(this.keys).fill(-Infinity);
    for (let k = 0; k < this.keys; k += SIDE) this.block(query, query + 1, k, Math.min(k + SIDE, this.keys), out.subarray(k));
    return out;
  }

  /** A score as a weight. A row that may see nothing has no lse. */
  weight(score: number, query: number): number {
    return score === -Infinity ? 0 : Math.exp(score - this.arrays.lse[query]!);
  }

  /** From the first to behind the last key that any of these queries may see by its spans. */
  reach(q0: number, q1: number): [number, number] {
    const { runs } = this.arrays;
    if (!runs) return [0, this.keys];
    let [first, last] = [this.keys, 0];
    for (let i = 2 * this.spans * q0; i < 2 * this.spans * q1; i += 2)
      if (runs[i]! < runs[i + 1]!) {
        first = Math.min(first, runs[i]!);
        last = Math.max(last, runs[i + 1]!);
      }
    return [first, last];
  }

  /** Writes the scores of a rectangle within one tile of the mask; false where the mask allows none of them. */
  block(q0: number, q1: number, k0: number, k1: number, out: Float64Array): boolean {
    const { kinds } = this.arrays;
    const kind = kinds ? kinds[(q0 >> 6) * this.tileCols + (k0 >> 6)]! : 1;
    if (kind === 0) return false;
    const wide = k1 - k0;
    let any = false;
    out.fill(-Infinity, 0, (q1 - q0) * wide);
    for (let a = q0; a < q1; a += 2) {
      const b = Math.min(a + 1, q1 - 1);
      const [first, last] = this.reach(a, b + 1);
      const [start, stop] = [Math.max(first, k0), Math.min(last, k1)];
      if (start >= stop) continue;
      any = true;
      this.dots(a, b, start, stop, out, (a - q0) * wide - k0, (b - q0) * wide - k0);
      for (let query = a; query <= b; query++)
        for (let key = start, at = (query - q0) * wide - k0 + key; key < stop; key++, at++)
          out[at] = this.allowed(kind, query, key) ? this.score(out[at]!, query, key) : -Infinity;
    }
    return any;
  }

  /** Writes q · k of two queries and a run of keys, four at a time: the inner loop. */
  private dots(a: number, b: number, start: number, stop: number, out: Float64Array, atA: number, atB: number): void {
    const { size } = this;
    const { q, k } = this.arrays;
    let key = start;
    for (; key + 4 <= stop; key += 4) {
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let i = a * size, j = b * size, at = key * size, end = i + size; i < end; i++, j++, at++) {
        const x = q[i]!, y = q[j]!;
        const k0 = k[at]!, k1 = k[at + size]!, k2 = k[at + 2 * size]!, k3 = k[at + 3 * size]!;
        a0 += x * k0;
        a1 += x * k1;
        a2 += x * k2;
        a3 += x * k3;
        b0 += y * k0;
        b1 += y * k1;
        b2 += y * k2;
        b3 += y * k3;
      }
      out[atA + key] = a0;
      out[atA + key + 1] = a1;
      out[atA + key + 2] = a2;
      out[atA + key + 3] = a3;
      out[atB + key] = b0;
      out[atB + key + 1] = b1;
      out[atB + key + 2] = b2;
      out[atB + key + 3] = b3;
    }
    for (; key < stop; key++) {
      out[atA + key] = this.dot(a, key);
      out[atB + key] = this.dot(b, key);
    }
  }
}

/** A head of the file: `slot` is its index among those that the file holds. */
export async function headOf(arrays: Arrays, prefix: string, facts: LayerFacts, slot: number): Promise<Head> {
  const get = <T extends Float32Array | Int32Array | Uint32Array = Float32Array>(name: string) => arrays.get<T>(`${prefix}/${name}`);
  const [q, k, lse, table, pairs, sink, runs, kinds, words] = await Promise.all([
    get("q"), get("k"), get("lse"), get("table"), get("pairs"), get("sink"), get<Int32Array>("runs"), get<Int32Array>("kinds"), get<Uint32Array>("words"),
  ]);
  return new Head(facts, q!.shape[2]!, {
    q: row(q!, slot),
    k: row(k!, facts.group[slot]!),
    lse: row(lse!, slot),
    table: table && row(table, slot),
    pairs: pairs && { values: row(pairs, slot), shape: pairs.shape.slice(1) },
    sink: sink && row(sink, slot)[0]!,
    runs: runs && row(runs, slot),
    kinds: kinds && row(kinds, slot),
    words: words?.values ?? null,
  });
}
