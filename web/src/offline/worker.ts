// The worker of an offline page: it holds the numbers, and answers as the server would.
import type { About } from "./about";
import { Answers, json } from "./answers";
import { Arrays } from "./arrays";
import { Refused } from "./asking";
import { Gone, Turns } from "./turns";

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
const turns = new Turns(() => port2.postMessage(0));
port1.onmessage = () => turns.next();
const needed = new Map<string, (text: string) => void>();
let answers: Answers;

async function answer(id: number, path: string, method: string): Promise<void> {
  try {
    const told = await turns.run(id, (turn) => answers.to(path, method, turn));
    port.postMessage({ regard: 1, id, ...told }, typeof told.body === "string" ? [] : [told.body]);
  } catch (error) {
    if (error instanceof Gone) return;
    const refused = new Refused(500, "page", String(error), "no failures", "This is a defect of regard: please report it.");
    port.postMessage({ regard: 1, id, ...json(refused.told, 500) });
  }
}

port.onmessage = ({ data }) => {
  if (data.about !== undefined) {
    const about = JSON.parse(data.about) as About;
    const fetch = (name: string) =>
      new Promise<string>((done) => {
        needed.set(name, done);
        port.postMessage({ regard: 1, need: name });
      });
    answers = new Answers(about, new Arrays(about.arrays, fetch));
  } else if (data.name !== undefined) {
    needed.get(data.name)?.(data.text!);
    needed.delete(data.name);
  } else if (data.cancel !== undefined) turns.cancel(data.cancel);
  else void answer(data.id!, data.path!, data.method ?? "GET");
};
