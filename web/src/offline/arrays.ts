// The arrays of an offline page: decoded on first use, evicted when they take too much memory.
import { half } from "../pure/half";
import type { Manifest, ArrayEntry } from "./manifest";
import { RequestError } from "./request";

export type NumberArray = Float32Array | Int32Array | Uint32Array;

/** Numbers, row by row. */
export interface ArrayData<T extends NumberArray = NumberArray> {
  readonly values: T;
  readonly shape: readonly number[];
}

/** One row along the first dimension, or the only one, which all share. */
export function row<T extends NumberArray>({ values, shape }: ArrayData<T>, at: number): T {
  const size = values.length / shape[0]!;
  return values.subarray(shape[0] === 1 ? 0 : at * size, shape[0] === 1 ? size : (at + 1) * size) as T;
}

let table: Float32Array | undefined;
const BYTES = { float32: 4, float16: 2, bfloat16: 2, int32: 4, uint64: 8 };

/** Little-endian bytes as numbers: halves become float32, and 64 bits two numbers of 32, the lower first. */
export function decode(bytes: Uint8Array<ArrayBuffer>, dtype: ArrayEntry["dtype"]): NumberArray {
  const { buffer } = bytes;
  const whole = { float32: Float32Array, int32: Int32Array, uint64: Uint32Array }[dtype as "float32"];
  if (whole) return new whole(buffer);
  const halves = new Uint16Array(buffer);
  const out = new Float32Array(halves.length);
  if (dtype === "float16") {
    table ??= Float32Array.from({ length: 65536 }, (_, bits) => half(bits));
    for (let i = 0; i < out.length; i++) out[i] = table[halves[i]!]!;
  } else {
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < out.length; i++) bits[i] = halves[i]! << 16;
  }
  return out;
}

async function unpack(text: string, gzip: boolean): Promise<Uint8Array<ArrayBuffer>> {
  const native = (Uint8Array as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> }).fromBase64;
  const bytes = native ? native(text) : Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  if (!gzip) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A cache of arrays by name, of at most `mostBytes`; `fetch` returns the encoded text of an array. */
export class Arrays {
  private readonly cache = new Map<string, { data: Promise<ArrayData>; bytes: number }>();
  private bytes = 0;

  constructor(
    private readonly entries: Manifest["arrays"],
    private readonly fetch: (name: string) => Promise<string>,
    private readonly mostBytes = 2 ** 29,
  ) {}

  /** An array, or null where the file has none of that name. */
  async get<T extends NumberArray = Float32Array>(name: string): Promise<ArrayData<T> | null> {
    const entry = this.entries[name];
    if (!entry) return null;
    let cached = this.cache.get(name);
    if (cached) this.cache.delete(name);
    else {
      const size = entry.shape.reduce((a, b) => a * b, 1);
      cached = { data: this.read(name, entry, size), bytes: size * Math.max(BYTES[entry.dtype], 4) };
      cached.data.catch(() => this.evict(name));
      this.bytes += cached.bytes;
    }
    this.cache.set(name, cached);
    for (const other of this.cache.keys()) if (this.bytes > this.mostBytes && other !== name) this.evict(other);
    return (await cached.data) as ArrayData<T>;
  }

  private evict(name: string): void {
    this.bytes -= this.cache.get(name)?.bytes ?? 0;
    this.cache.delete(name);
  }

  private async read(name: string, { dtype, shape, gzip }: ArrayEntry, size: number): Promise<ArrayData> {
    try {
      const bytes = await unpack(await this.fetch(name), gzip);
      if (bytes.length === size * BYTES[dtype]) return { values: decode(bytes, dtype), shape };
    } catch {
      // An array that cannot be unpacked is reported like one that is too short.
    }
    throw new RequestError(500, name, "an array that is not whole", "the file as it was written", "Write or copy the page again.");
  }
}
