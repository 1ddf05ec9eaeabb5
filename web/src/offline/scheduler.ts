// Runs long work in slices of a few milliseconds: the newest request first, with messages received in between.

/** The request was cancelled. */
export class Cancelled extends Error {}

const SLICE = 8; // milliseconds

/** Awaited often by long work: returns undefined while its slice lasts, else a promise of its next slice; throws Cancelled where the request was cancelled. */
export type Checkpoint = () => Promise<void> | undefined;

export class Scheduler {
  private readonly cancelled = new Set<number>();
  private waiting: { id: number; resume: () => void }[] = [];
  private sliceEnd = 0;

  /** `schedule` has to call `next` after messages have been received. */
  constructor(private readonly schedule: () => void) {}

  /** Runs a job in slices. */
  async run<T>(id: number, job: (checkpoint: Checkpoint) => Promise<T>): Promise<T> {
    const checkpoint: Checkpoint = () => {
      if (this.cancelled.has(id)) throw new Cancelled();
      return performance.now() < this.sliceEnd ? undefined : this.enqueue(id).then(checkpoint);
    };
    try {
      await this.enqueue(id);
      await checkpoint();
      return await job(checkpoint);
    } finally {
      this.cancelled.delete(id);
    }
  }

  cancel(id: number): void {
    this.cancelled.add(id);
  }

  private enqueue(id: number): Promise<void> {
    return new Promise((resume) => {
      this.waiting.push({ id, resume });
      if (this.waiting.length === 1) this.schedule();
    });
  }

  next(): void {
    if (!this.waiting.length) return;
    const newest = this.waiting.reduce((a, b) => (b.id > a.id ? b : a));
    this.waiting = this.waiting.filter((job) => job !== newest);
    this.sliceEnd = performance.now() + SLICE;
    newest.resume();
    if (this.waiting.length) this.schedule();
  }
}
