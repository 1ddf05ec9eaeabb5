import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Cancelled, Scheduler } from "../src/offline/scheduler";
import { OfflineFixture } from "./offline.fixture";

describe("turns", () => {
  // A clock that goes on by 3 ms whenever one looks: a slice is a few looks.
  let clock = 0;
  beforeAll(() => void vi.spyOn(performance, "now").mockImplementation(() => (clock += 3)));
  afterAll(() => void vi.restoreAllMocks());
  const newScheduler = () => {
    const scheduler: Scheduler = new Scheduler(() => setImmediate(() => scheduler.next()));
    return scheduler;
  };
  const busy = async (checkpoint: () => Promise<void> | undefined, steps: number) => {
    for (let i = 0; i < steps; i++) await checkpoint();
  };
  const soon = async (slices: number) => {
    for (let i = 0; i < slices; i++) await new Promise((heard) => setImmediate(heard));
  };
  it("the newest request runs first, and messages are received in between", async () => {
    const scheduler = newScheduler();
    const done: string[] = [];
    const job = (id: number, name: string) => scheduler.run(id, (checkpoint) => busy(checkpoint, 50)).then(() => done.push(name));
    const jobs = [job(1, "first"), job(2, "second")];
    await soon(4);
    done.push("heard");
    jobs.push(job(3, "third"));
    await Promise.all(jobs);
    expect(done).toEqual(["heard", "third", "second", "first"]);
  });
  it("what is cancelled ends at its next turn, and never begins if it had not", async () => {
    const scheduler = newScheduler();
    let begun = 0;
    const long = scheduler.run(1, (checkpoint) => (begun++, busy(checkpoint, 1e9)));
    const waiting = scheduler.run(0, async (checkpoint) => (begun++, await checkpoint()));
    await soon(4);
    scheduler.cancel(0);
    scheduler.cancel(1);
    await expect(long).rejects.toBeInstanceOf(Cancelled);
    await expect(waiting).rejects.toBeInstanceOf(Cancelled);
    expect(begun).toBe(1);
  });
});

describe("the worker", () => {
  const texts = Array.from({ length: 600 }, (_, i) => `t${i}`);
  const newScheduler = new OfflineFixture([{ q: 600, k: 600, values: 4 }], { texts, starts: texts.map(() => 0) });
  type Said = { id?: number; need?: string; status?: number; headers?: Record<string, string>; body?: ArrayBuffer | string };
  const messages: Said[] = [];
  const self: { onmessage?: (event: { data: object }) => void; postMessage: (message: Said) => void } = {
    postMessage: (message) => {
      messages.push(message);
      if (message.need) void newScheduler.fetch(message.need).then((text) => tell({ name: message.need, text }));
    },
  };
  const tell = (data: object) => self.onmessage!({ data: { regard: 1, ...data } });
  const answer = async (id: number): Promise<Said> => {
    for (;;) {
      const found = messages.find((one) => one.id === id);
      if (found) return found;
      await new Promise((later) => setTimeout(later, 2));
    }
  };
  beforeAll(async () => {
    Object.assign(globalThis, { self });
    await import("../src/offline/worker");
    tell({ about: JSON.stringify(newScheduler.about) });
  });
  afterAll(() => void Reflect.deleteProperty(globalThis, "self"));

  it("asks the page for arrays once, and answers in numbers and in words", async () => {
    tell({ id: 1, path: "/api/recordings/a1/row/0/1/300" });
    const row = await answer(1);
    expect([row.status, row.headers!["x-regard-shape"], row.headers!["x-regard-dtype"]]).toEqual([200, "1,600", "float32"]);
    new Float32Array(row.body as ArrayBuffer).forEach((w, key) => expect(w).toBeCloseTo(newScheduler.reference[0]!.weights[1]![300]![key]!, 6));
    tell({ id: 2, path: "/api/recordings/a1/cell/0/1/300/200" });
    expect(JSON.parse((await answer(2)).body as string)).toMatchObject({ allowed: true, query: { text: "t300" }, key: { text: "t200" } });
    const requested = messages.flatMap((one) => one.need ?? []);
    expect(requested).toEqual([...new Set(requested)]);
  });
  it("refuses by status and sentence", async () => {
    tell({ id: 3, path: "/api/recordings/a1/row/0/9/300" });
    expect((await answer(3)).status).toBe(404);
    tell({ id: 4, path: "/api/open", method: "POST" });
    expect(JSON.parse((await answer(4)).body as string).error.remedy).toContain("regard explore");
  });
  it("says nothing of what was cancelled", async () => {
    tell({ id: 5, path: "/api/recordings/a1/map/0/0?rows=600&cols=600" });
    tell({ cancel: 5 });
    tell({ id: 6, path: "/api/recordings" });
    await answer(6);
    await new Promise((later) => setTimeout(later, 50));
    expect(messages.some((one) => one.id === 5)).toBe(false);
  });
  it("a page whose arrays are not there says so", async () => {
    const text = newScheduler.texts.get("a1/0/received")!;
    newScheduler.texts.set("a1/0/received", "");
    tell({ id: 7, path: "/api/recordings/a1/marginals/0/0" });
    const response = await answer(7);
    newScheduler.texts.set("a1/0/received", text);
    expect([response.status, JSON.parse(response.body as string).error.argument]).toEqual([500, "a1/0/received"]);
    tell({ id: 8, path: "/api/recordings/a1/marginals/0/0" });
    expect((await answer(8)).status).toBe(200);
  });
});
