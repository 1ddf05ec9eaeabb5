// Where answers come from, and where the place is kept. The document says which way it is, in #regard-about:
// nothing: the server that sent the page; "worker": a worker in this very file, which holds the numbers;
// "parent": the window around this one, by messages.

export interface Answer {
  readonly status: number;
  /** By names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** JSON as text, or raw numbers. */
  readonly body: ArrayBuffer | string;
}

export interface Init {
  readonly method: "POST";
  /** JSON as text, or a file. */
  readonly body: string | Blob;
}

/** What is being built of a recording. */
export interface Building {
  readonly recording: string;
  readonly doing: string;
  readonly progress: number;
}

type Ask = (path: string, signal?: AbortSignal, init?: Init) => Promise<Answer>;

const said = (id: string) => globalThis.document?.getElementById(id)?.textContent ?? "";
const about = said("regard-about");
/** Where the page begins, `start`, is the document's to say. */
export const { transport, start = "" } = (about ? JSON.parse(about) : { transport: "http" }) as {
  transport: "worker" | "parent" | "http";
  start?: string;
};

const KEPT = "regard-token";
let token = "";

/** Takes the token out of the URL, so that it is neither seen nor shared, and keeps it for reloads of this tab. */
export function takeToken(): void {
  if (transport !== "http") return;
  const { location, history } = window;
  const found = new URLSearchParams(location.search).get("token") ?? /(?:^#|&)token=([^&]*)/.exec(location.hash)?.[1];
  if (found) {
    token = found;
    try {
      sessionStorage.setItem(KEPT, token);
    } catch {
      // Storage can be forbidden; then a reload needs the printed URL again.
    }
    const search = new URLSearchParams(location.search);
    search.delete("token");
    const hash = location.hash.replace(/token=[^&]*&?/, "").replace(/^#$/, "");
    history.replaceState(null, "", location.pathname + (search.size ? `?${search}` : "") + hash);
  } else {
    try {
      token = sessionStorage.getItem(KEPT) ?? "";
    } catch {
      token = "";
    }
  }
}

const byHttp: Ask = async (path, signal, init) => {
  const headers = { "X-Regard-Token": token, ...(init && { "Content-Type": typeof init.body === "string" ? "application/json" : "application/octet-stream" }) };
  const response = await fetch(path, { ...init, headers, ...(signal && { signal }) });
  const json = response.headers.get("Content-Type")?.includes("json");
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: await (json ? response.text() : response.arrayBuffer()),
  };
};

/** Asks by messages: of a worker, or of the window around. */
export class Messages {
  private readonly waiting = new Map<number, { done: (answer: Answer) => void; failed: (error: unknown) => void }>();
  private last = 0;

  constructor(private readonly send: (message: object) => void) {}

  readonly ask: Ask = (path, signal, init) =>
    new Promise((done, failed) => {
      signal?.throwIfAborted();
      const id = ++this.last;
      const leave = () => {
        this.waiting.delete(id);
        this.send({ regard: 1, cancel: id });
        failed(signal!.reason);
      };
      signal?.addEventListener("abort", leave, { once: true });
      const ended = () => signal?.removeEventListener("abort", leave);
      this.waiting.set(id, { done: (answer) => (ended(), done(answer)), failed });
      this.send({ regard: 1, id, path, ...init });
    });

  heard(message: Answer & { id: number }): void {
    this.waiting.get(message.id)?.done(message);
    this.waiting.delete(message.id);
  }

  lost(error: Error): void {
    for (const { failed } of this.waiting.values()) failed(error);
    this.waiting.clear();
  }
}

/** The worker is in the document, as text, and so are the arrays that it asks for. */
function byWorker(): Ask {
  const worker = new Worker(URL.createObjectURL(new Blob([said("regard-worker")], { type: "text/javascript" })));
  const messages = new Messages((message) => worker.postMessage(message));
  worker.onmessage = ({ data }) => {
    if (data.need) worker.postMessage({ regard: 1, name: data.need, text: said(`regard-data/${data.need}`) });
    else messages.heard(data);
  };
  worker.onerror = (event) => messages.lost(new Error(event.message));
  worker.postMessage({ regard: 1, about });
  return messages.ask;
}

let follow = () => {};
let kept = "";

function byParent(): Ask {
  const tell = (message: object) => parent.postMessage({ regard: 1, ...message }, "*");
  const messages = new Messages(tell);
  addEventListener("message", ({ data, source }) => {
    if (source !== parent || data?.regard !== 1) return;
    if ("go" in data) {
      kept = data.go;
      follow();
    } else messages.heard(data);
  });
  return messages.ask;
}

/** The page's only door to data. */
export const ask: Ask = { http: () => byHttp, worker: byWorker, parent: byParent }[transport]();

/** The hash that names the place, without its #. */
export const readPlace = () => (transport === "parent" ? kept : location.hash.slice(1)) || start;

/** Keeps the place; `far` makes it one to which Back goes back. */
export function writePlace(hash: string, far: boolean): void {
  if (hash === readPlace()) return;
  if (transport === "parent") parent.postMessage({ regard: 1, place: (kept = hash) }, "*");
  else history[far ? "pushState" : "replaceState"](null, "", `#${hash}`);
}

/** Calls back when the place is changed by others than `writePlace`. */
export function onPlace(changed: () => void): void {
  if (transport !== "parent") {
    addEventListener("hashchange", changed);
    addEventListener("popstate", changed);
    return;
  }
  follow = changed;
  parent.postMessage({ regard: 1, ready: true }, "*");
}

const POLL = 400;
const listeners = new Set<(told: Building | null) => void>();
let stream: AbortController | null = null;

/** Tells what is being built, as it changes, until `signal` ends it; null: nothing more is told, so ask again.
 *  All who listen share one stream. Only the server has one. */
export function progress(signal: AbortSignal, heard: (told: Building | null) => void): void {
  listeners.add(heard);
  signal.addEventListener("abort", () => {
    listeners.delete(heard);
    if (!listeners.size) stream = (stream?.abort(), null);
  });
  if (stream) return;
  const mine = (stream = new AbortController());
  void (transport === "http" ? events(mine.signal) : Promise.resolve())
    .catch(() => {}) // whoever asks again hears what is wrong
    .then(() => new Promise((later) => setTimeout(later, POLL)))
    .then(() => {
      if (stream !== mine) return;
      stream = null;
      for (const one of [...listeners]) one(null);
    });
}

async function events(signal: AbortSignal): Promise<void> {
  const response = await fetch("/api/progress", { headers: { "X-Regard-Token": token }, signal });
  if (!response.ok || !response.body) return;
  let text = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (text + part.value).split("\n");
    text = lines.pop()!;
    for (const line of lines)
      if (line.startsWith("data:")) for (const one of [...listeners]) one(JSON.parse(line.slice(5)) as Building);
  }
}
