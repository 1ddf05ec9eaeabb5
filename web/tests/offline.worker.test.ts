import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Cancelled, Scheduler } from "../src/offline/scheduler";
import { Made } from "./offline.made";

describe("turns", () => {
  // A clock that goes on by 3 ms whenever one looks: a slice is a few looks.
  let clock = 0;
  beforeAll(() => void vi.spyOn(performance, "now").mockImplementation(() => (clock += 3)));
  afterAll(() => void vi.restoreAllMocks());
  const made = () => {
    const turns: Scheduler = new Scheduler(() => setImmediate(() => turns.next()));
    return turns;
  };
  const busy = async (turn: () => Promise<void> | undefined, steps: number) => {
    for (let i = 0; i < steps; i++) await turn();
  };
  const soon = async (slices: number) => {
    for (let i = 0; i < slices; i++) await new Promise((heard) => setImmediate(heard));
  };
  it("what was asked last is done first, and messages are heard in between", async () => {
    const turns = made();
    const done: string[] = [];
    const job = (id: number, name: string) => turns.run(id, (turn) => busy(turn, 50)).then(() => done.push(name));
    const jobs = [job(1, "first"), job(2, "second")];
    await soon(4);
    done.push("heard");
    jobs.push(job(3, "third"));
    await Promise.all(jobs);
    expect(done).toEqual(["heard", "third", "second", "first"]);
  });
  it("what is cancelled ends at its next turn, and never begins if it had not", async () => {
    const turns = made();
    let begun = 0;
    const long = turns.run(1, (turn) => (begun++, busy(turn, 1e9)));
    const waiting = turns.run(0, async (turn) => (begun++, await turn()));
    await soon(4);
    turns.cancel(0);
    turns.cancel(1);
    await expect(long).rejects.toBeInstanceOf(Cancelled);
    await expect(waiting).rejects.toBeInstanceOf(Cancelled);
    expect(begun).toBe(1);
  });
});

describe("the worker", () => {
  const texts = Array.from({ length: 600 }, (_, i) => `t${i}`);
  const made = new Made([{ q: 600, k: 600, values: 4 }], { texts, starts: texts.map(() => 0) });
  type Said = { id?: number; need?: string; status?: number; headers?: Record<string, string>; body?: ArrayBuffer | string };
  const said: Said[] = [];
  const self: { onmessage?: (event: { data: object }) => void; postMessage: (message: Said) => void } = {
    postMessage: (message) => {
      said.push(message);
      if (message.need) void made.fetch(message.need).then((text) => tell({ name: message.need, text }));
    },
  };
  const tell = (data: object) => self.onmessage!({ data: { regard: 1, ...data } });
  const answer = async (id: number): Promise<Said> => {
    for (;;) {
      const found = said.find((one) => one.id === id);
      if (found) return found;
      await new Promise((later) => setTimeout(later, 2));
    }
  };
  beforeAll(async () => {
    Object.assign(globalThis, { self });
    await import("../src/offline/worker");
    tell({ about: JSON.stringify(made.about) });
  });
  afterAll(() => void Reflect.deleteProperty(globalThis, "self"));

  it("asks the page for arrays once, and answers in numbers and in words", async () => {
    tell({ id: 1, path: "/api/recordings/a1/row/0/1/300" });
    const row = await answer(1);
    expect([row.status, row.headers!["x-regard-shape"], row.headers!["x-regard-dtype"]]).toEqual([200, "1,600", "float32"]);
    new Float32Array(row.body as ArrayBuffer).forEach((w, key) => expect(w).toBeCloseTo(made.plain[0]!.weights[1]![300]![key]!, 6));
    tell({ id: 2, path: "/api/recordings/a1/cell/0/1/300/200" });
    expect(JSON.parse((await answer(2)).body as string)).toMatchObject({ allowed: true, query: { text: "t300" }, key: { text: "t200" } });
    const asked = said.flatMap((one) => one.need ?? []);
    expect(asked).toEqual([...new Set(asked)]);
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
    expect(said.some((one) => one.id === 5)).toBe(false);
  });
  it("a page whose arrays are not there says so", async () => {
    const text = made.texts.get("a1/0/received")!;
    made.texts.set("a1/0/received", "");
    tell({ id: 7, path: "/api/recordings/a1/marginals/0/0" });
    const told = await answer(7);
    made.texts.set("a1/0/received", text);
    expect([told.status, JSON.parse(told.body as string).error.argument]).toEqual([500, "a1/0/received"]);
    tell({ id: 8, path: "/api/recordings/a1/marginals/0/0" });
    expect((await answer(8)).status).toBe(200);
  });
});
