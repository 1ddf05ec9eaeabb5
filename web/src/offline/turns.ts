// Work in slices: what was asked last comes first, and messages are heard in between.

/** Nobody waits for the answer any more. */
export class Gone extends Error {}

const SLICE = 8; // milliseconds

/** Called often by what takes long: returns at once, or when it is its turn again; throws Gone where nobody waits. */
export type Turn = () => Promise<void> | undefined;

export class Turns {
  private readonly gone = new Set<number>();
  private waiting: { id: number; go: () => void }[] = [];
  private due = 0;

  /** `later` is to call `next` once messages have been heard. */
  constructor(private readonly later: () => void) {}

  /** Runs a job when it is its turn. */
  async run<T>(id: number, job: (turn: Turn) => Promise<T>): Promise<T> {
    const turn: Turn = () => {
      if (this.gone.has(id)) throw new Gone();
      return performance.now() < this.due ? undefined : this.queued(id).then(turn);
    };
    try {
      await this.queued(id);
      await turn();
      return await job(turn);
    } finally {
      this.gone.delete(id);
    }
  }

  cancel(id: number): void {
    this.gone.add(id);
  }

  private queued(id: number): Promise<void> {
    return new Promise((go) => {
      this.waiting.push({ id, go });
      if (this.waiting.length === 1) this.later();
    });
  }

  next(): void {
    if (!this.waiting.length) return;
    const newest = this.waiting.reduce((a, b) => (b.id > a.id ? b : a));
    this.waiting = this.waiting.filter((one) => one !== newest);
    this.due = performance.now() + SLICE;
    newest.go();
    if (this.waiting.length) this.later();
  }
}
