/** A map of bounded size that forgets what was used longest ago, and says what it forgets. */
export class Lru<V> {
  private readonly held = new Map<string, V>();

  constructor(
    readonly capacity: number,
    private readonly forget: (value: V) => void = () => {},
  ) {}

  get size(): number {
    return this.held.size;
  }

  /** The value, which counts as used. */
  get(key: string): V | undefined {
    const value = this.held.get(key);
    if (value !== undefined) {
      this.held.delete(key);
      this.held.set(key, value);
    }
    return value;
  }

  has(key: string): boolean {
    return this.held.has(key);
  }

  set(key: string, value: V): void {
    const before = this.held.get(key);
    if (before !== undefined && before !== value) this.forget(before);
    this.held.delete(key);
    this.held.set(key, value);
    while (this.held.size > this.capacity) {
      const [oldest, old] = this.held.entries().next().value as [string, V];
      this.held.delete(oldest);
      this.forget(old);
    }
  }

  clear(): void {
    for (const value of this.held.values()) this.forget(value);
    this.held.clear();
  }
}
