import { describe, expect, it } from "vitest";
import { Messages } from "../src/transport";

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
    messages.heard(answer(2, "B"));
    messages.heard(answer(1, "A"));
    expect([(await a).body, (await b).body]).toEqual(["A", "B"]);
  });
  it("what is aborted is cancelled, and its answer is nobody's", async () => {
    const { sent, messages } = made();
    const abort = new AbortController();
    const asked = messages.ask("/a", abort.signal);
    abort.abort();
    await expect(asked).rejects.toMatchObject({ name: "AbortError" });
    expect(sent[1]).toEqual({ regard: 1, cancel: 1 });
    messages.heard(answer(1, "A"));
    await expect(messages.ask("/b", abort.signal)).rejects.toMatchObject({ name: "AbortError" });
    expect(sent).toHaveLength(2);
  });
  it("an answered question is not cancelled later", async () => {
    const { sent, messages } = made();
    const abort = new AbortController();
    const asked = messages.ask("/a", abort.signal);
    messages.heard(answer(1, "A"));
    await asked;
    abort.abort();
    expect(sent).toHaveLength(1);
  });
  it("where nobody answers any more, all who wait hear it", async () => {
    const { messages } = made();
    const asked = messages.ask("/a");
    messages.lost(new Error("gone"));
    await expect(asked).rejects.toThrow("gone");
  });
});
