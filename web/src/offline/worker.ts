// The worker of an offline page: it has the arrays, and answers requests as the server does.
import type { Manifest } from "./manifest";
import { OfflineServer, jsonResponse } from "./server";
import { Arrays } from "./arrays";
import { RequestError } from "./request";
import { Cancelled, Scheduler } from "./scheduler";

interface Message {
  readonly about?: string;
  readonly name?: string;
  readonly text?: string;
  readonly cancel?: number;
  readonly id?: number;
  readonly path?: string;
  readonly method?: string;
}

const port = self as unknown as { postMessage(message: object, transfer?: ArrayBuffer[]): void; onmessage: (event: MessageEvent<Message>) => void };
const { port1, port2 } = new MessageChannel();
const scheduler = new Scheduler(() => port2.postMessage(0));
port1.onmessage = () => scheduler.next();
const pendingArrays = new Map<string, (text: string) => void>();
let server: OfflineServer;

async function answer(id: number, path: string, method: string): Promise<void> {
  try {
    const result = await scheduler.run(id, (checkpoint) => server.answer(path, method, checkpoint));
    port.postMessage({ regard: 1, id, ...result }, typeof result.body === "string" ? [] : [result.body]);
  } catch (error) {
    if (error instanceof Cancelled) return;
    const failure = new RequestError(500, "page", String(error), "no failures", "This is a defect of regard: please report it.");
    port.postMessage({ regard: 1, id, ...jsonResponse(failure.body, 500) });
  }
}

port.onmessage = ({ data }) => {
  if (data.about !== undefined) {
    const about = JSON.parse(data.about) as Manifest;
    const fetch = (name: string) =>
      new Promise<string>((done) => {
        pendingArrays.set(name, done);
        port.postMessage({ regard: 1, need: name });
      });
    server = new OfflineServer(about, new Arrays(about.arrays, fetch));
  } else if (data.name !== undefined) {
    pendingArrays.get(data.name)?.(data.text!);
    pendingArrays.delete(data.name);
  } else if (data.cancel !== undefined) scheduler.cancel(data.cancel);
  else void answer(data.id!, data.path!, data.method ?? "GET");
};
