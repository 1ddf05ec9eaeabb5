// The arrays of an offline page: decoded when first asked for, and let go when there are too many.
import { half } from "../pure/half";
import type { About, Stored } from "./about";
import { Refused } from "./asking";

export type Numbers = Float32Array | Int32Array | Uint32Array;

/** Numbers, row by row. */
export interface Part<T extends Numbers = Numbers> {
  readonly values: T;
  readonly shape: readonly number[];
}

/** One of the rows of a part along its first dimension, or the only one, which all share. */
export function row<T extends Numbers>({ values, shape }: Part<T>, at: number): T {
  const size = values.length / shape[0]!;
  return values.subarray(shape[0] === 1 ? 0 : at * size, shape[0] === 1 ? size : (at + 1) * size) as T;
}

let table: Float32Array | undefined;
const BYTES = { float32: 4, float16: 2, bfloat16: 2, int32: 4, uint64: 8 };

/** Little-endian bytes as numbers: halves become floats, and 64 bits two numbers of 32, the lower first. */
export function decoded(bytes: Uint8Array<ArrayBuffer>, dtype: Stored["dtype"]): Numbers {
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

async function unpacked(text: string, gzip: boolean): Promise<Uint8Array<ArrayBuffer>> {
  const native = (Uint8Array as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> }).fromBase64;
  const bytes = native ? native(text) : Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  if (!gzip) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The arrays by name; `fetch` brings the text of one. At most so many bytes are kept. */
export class Arrays {
  private readonly held = new Map<string, { part: Promise<Part>; bytes: number }>();
  private bytes = 0;

  constructor(
    private readonly about: About["arrays"],
    private readonly fetch: (name: string) => Promise<string>,
    private readonly most = 2 ** 29,
  ) {}

  /** An array, or null where the file has none of that name. */
  async get<T extends Numbers = Float32Array>(name: string): Promise<Part<T> | null> {
    const stored = this.about[name];
    if (!stored) return null;
    let one = this.held.get(name);
    if (one) this.held.delete(name);
    else {
      const size = stored.shape.reduce((a, b) => a * b, 1);
      one = { part: this.read(name, stored, size), bytes: size * Math.max(BYTES[stored.dtype], 4) };
      one.part.catch(() => this.let(name));
      this.bytes += one.bytes;
    }
    this.held.set(name, one);
    for (const other of this.held.keys()) if (this.bytes > this.most && other !== name) this.let(other);
    return (await one.part) as Part<T>;
  }

  private let(name: string): void {
    this.bytes -= this.held.get(name)?.bytes ?? 0;
    this.held.delete(name);
  }

  private async read(name: string, { dtype, shape, gzip }: Stored, size: number): Promise<Part> {
    try {
      const bytes = await unpacked(await this.fetch(name), gzip);
      if (bytes.length === size * BYTES[dtype]) return { values: decoded(bytes, dtype), shape };
    } catch {
      // What cannot be unpacked is as wrong as what is too short.
    }
    throw new Refused(500, name, "an array that is not whole", "the file as it was written", "Write or copy the page again.");
  }
}
