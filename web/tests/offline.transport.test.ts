import { afterEach, describe, expect, it, vi } from "vitest";
import { json } from "../src/client/requests";
import { Messages } from "../src/client/transport";

describe("asking by messages", () => {
  const made = () => {
    const sent: Record<string, unknown>[] = [];
    return { sent, messages: new Messages((message) => sent.push(message as Record<string, unknown>)) };
  };
  const answer = (id: number, body: string) => ({ regard: 1, id, status: 200, headers: {}, body });
  it("each answer goes to who asked for it, in whatever order they come", async () => {
    const { sent, messages } = made();
    const [a, b] = [messages.ask("/a"), messages.ask("/b", undefined, { method: "POST", body: "{}" })];
    expect(sent).toEqual([{ regard: 1, id: 1, path: "/a" }, { regard: 1, id: 2, path: "/b", method: "POST", body: "{}" }]);
    messages.receive(answer(2, "B"));
    messages.receive(answer(1, "A"));
    expect([(await a).body, (await b).body]).toEqual(["A", "B"]);
  });
  it("what is aborted is cancelled, and its answer is nobody's", async () => {
    const { sent, messages } = made();
    const abort = new AbortController();
    const asked = messages.ask("/a", abort.signal);
    abort.abort();
    await expect(asked).rejects.toMatchObject({ name: "AbortError" });
    expect(sent[1]).toEqual({ regard: 1, cancel: 1 });
    messages.receive(answer(1, "A"));
    await expect(messages.ask("/b", abort.signal)).rejects.toMatchObject({ name: "AbortError" });
    expect(sent).toHaveLength(2);
  });
  it("an answered question is not cancelled later", async () => {
    const { sent, messages } = made();
    const abort = new AbortController();
    const asked = messages.ask("/a", abort.signal);
    messages.receive(answer(1, "A"));
    await asked;
    abort.abort();
    expect(sent).toHaveLength(1);
  });
  it("where nobody answers any more, all who wait hear it", async () => {
    const { messages } = made();
    const asked = messages.ask("/a");
    messages.fail(new Error("gone"));
    await expect(asked).rejects.toThrow("gone");
  });
});

describe("what is being built", () => {
  const event = (recording: string, progress: number, doing: string) => `data: ${JSON.stringify({ recording, doing, progress })}\n\n`;
  /** A server that builds: what /api/progress says, piece by piece, and what else is asked. */
  function server(answers: Record<string, Response[]>) {
    const asked: string[] = [];
    let say: ReadableStreamDefaultController<Uint8Array> | null = null;
    let left = 0;
    vi.stubGlobal("fetch", async (path: string, init: RequestInit) => {
      asked.push(path);
      if (path !== "/api/progress") return answers[path]!.shift()!;
      init.signal?.addEventListener("abort", () => (left++, say?.error(init.signal!.reason)));
      return new Response(new ReadableStream({ start: (controller) => void (say = controller) }));
    });
    const tell = (text: string) => say!.enqueue(new TextEncoder().encode(text));
    return { asked, tell, end: () => say!.close(), left: () => left, open: () => say !== null };
  }
  const later = (status: number, value: unknown) => new Response(JSON.stringify(value), { status, headers: { "Content-Type": "application/json" } });
  const soon = () => new Promise((resolve) => setTimeout(resolve, 5));
  afterEach(() => void vi.unstubAllGlobals());

  it("is told as it changes, in one stream for all who listen, and asked for again when it is there", async () => {
    const [a, b] = ["/api/recordings/aa/atlas", "/api/recordings/bb/atlas"];
    const building = { progress: 0.1, doing: "layer 1 of 2" };
    const { asked, tell, left } = server({ [a]: [later(202, building), later(200, { heads: 1 })], [b]: [later(202, building), later(200, { heads: 2 })] });
    const told: [number, string][] = [];
    const [first, second] = [json(a, undefined, (part, doing) => told.push([part, doing])), json(b)];
    await soon();
    // An event in pieces is one event, and another recording's is none.
    tell(event("aa", 0.2, "layer 1 of 2").slice(0, 20));
    tell(event("aa", 0.2, "layer 1 of 2").slice(20) + event("cc", 1, ""));
    await soon();
    expect(asked).toEqual([a, b, "/api/progress"]);
    tell(event("aa", 1, ""));
    expect(await first).toEqual({ heads: 1 });
    expect(left()).toBe(0);
    tell(event("bb", 0.3, "layer 1 of 2") + event("bb", 0.5, "layer 2 of 2"));
    expect(await second).toEqual({ heads: 2 });
    expect(told).toEqual([[0.1, "layer 1 of 2"], [0.2, "layer 1 of 2"], [1, ""]]);
    expect([asked, left()]).toEqual([[a, b, "/api/progress", a, b], 1]);
  });
  it("is asked for again where the stream ends, and not by who has left", async () => {
    const a = "/api/recordings/aa/atlas";
    const { asked, end, left } = server({ [a]: [later(202, { progress: 0, doing: "" }), later(202, { progress: 0, doing: "" }), later(200, [])] });
    const abort = new AbortController();
    const gone = json(a, abort.signal);
    await soon();
    abort.abort();
    await expect(gone).rejects.toMatchObject({ name: "AbortError" });
    expect(left()).toBe(1);
    const asking = json(a);
    await soon();
    end();
    expect(await asking).toEqual([]);
    expect(asked).toEqual([a, "/api/progress", a, "/api/progress", a]);
  });
});
