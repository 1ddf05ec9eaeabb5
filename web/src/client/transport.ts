// The transports of requests, and where the place (the hash) is stored. #regard-about in the document says which:
// without it, HTTP to the server that sent the page; "worker", a worker in this file, which has the numbers;
// "parent", messages to the parent window.

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

/** The progress of building a recording's statistics. */
export interface BuildProgress {
  readonly recording: string;
  readonly doing: string;
  readonly progress: number;
}

type Ask = (path: string, signal?: AbortSignal, init?: Init) => Promise<Answer>;

const textOf = (id: string) => globalThis.document?.getElementById(id)?.textContent ?? "";
const about = textOf("regard-about");
/** The document says where the page begins: `start`. */
export const { transport, start = "" } = (about ? JSON.parse(about) : { transport: "http" }) as {
  transport: "worker" | "parent" | "http";
  start?: string;
};

const TOKEN_KEY = "regard-token";
let token = "";

/** Moves the token from the URL to the session storage, so that it is neither shown nor shared, and reloads work. */
export function takeToken(): void {
  if (transport !== "http") return;
  const { location, history } = window;
  const given = new URLSearchParams(location.search).get("token") ?? /(?:^#|&)token=([^&]*)/.exec(location.hash)?.[1];
  if (given) {
    token = given;
    try {
      sessionStorage.setItem(TOKEN_KEY, token);
    } catch {
      // Storage may be blocked; then a reload needs the printed URL.
    }
    const search = new URLSearchParams(location.search);
    search.delete("token");
    const hash = location.hash.replace(/token=[^&]*&?/, "").replace(/^#$/, "");
    history.replaceState(null, "", location.pathname + (search.size ? `?${search}` : "") + hash);
  } else {
    try {
      token = sessionStorage.getItem(TOKEN_KEY) ?? "";
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

/** Requests by messages, to a worker or to the parent window. */
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

  receive(message: Answer & { id: number }): void {
    this.waiting.get(message.id)?.done(message);
    this.waiting.delete(message.id);
  }

  fail(error: Error): void {
    for (const { failed } of this.waiting.values()) failed(error);
    this.waiting.clear();
  }
}

/** The worker is in the document, as text, and so are the arrays that it requests. */
function byWorker(): Ask {
  const worker = new Worker(URL.createObjectURL(new Blob([textOf("regard-worker")], { type: "text/javascript" })));
  const messages = new Messages((message) => worker.postMessage(message));
  worker.onmessage = ({ data }) => {
    if (data.need) worker.postMessage({ regard: 1, name: data.need, text: textOf(`regard-data/${data.need}`) });
    else messages.receive(data);
  };
  worker.onerror = (event) => messages.fail(new Error(event.message));
  worker.postMessage({ regard: 1, about });
  return messages.ask;
}

let onParentPlace = () => {};
let parentPlace = "";

function byParent(): Ask {
  const post = (message: object) => parent.postMessage({ regard: 1, ...message }, "*");
  const messages = new Messages(post);
  addEventListener("message", ({ data, source }) => {
    if (source !== parent || data?.regard !== 1) return;
    if ("go" in data) {
      parentPlace = data.go;
      onParentPlace();
    } else messages.receive(data);
  });
  return messages.ask;
}

/** Sends a request: all data of the page comes through it. */
export const ask: Ask = { http: () => byHttp, worker: byWorker, parent: byParent }[transport]();

/** The place: the hash without its #. */
export const readPlace = () => (transport === "parent" ? parentPlace : location.hash.slice(1)) || start;

/** Stores the place; `far` adds it to the history of Back. */
export function writePlace(hash: string, far: boolean): void {
  if (hash === readPlace()) return;
  if (transport === "parent") parent.postMessage({ regard: 1, place: (parentPlace = hash) }, "*");
  else history[far ? "pushState" : "replaceState"](null, "", `#${hash}`);
}

/** Calls back when the place is changed other than by `writePlace`. */
export function onPlace(changed: () => void): void {
  if (transport !== "parent") {
    addEventListener("hashchange", changed);
    addEventListener("popstate", changed);
    return;
  }
  onParentPlace = changed;
  parent.postMessage({ regard: 1, ready: true }, "*");
}

const POLL = 400;
const listeners = new Set<(now: BuildProgress | null) => void>();
let stream: AbortController | null = null;

/** Reports what is being built, as it changes, until `signal` ends it; null: the stream has ended, so repeat the request.
 *  All listeners share one stream. Only the server has one. */
export function progress(signal: AbortSignal, listener: (now: BuildProgress | null) => void): void {
  listeners.add(listener);
  signal.addEventListener("abort", () => {
    listeners.delete(listener);
    if (!listeners.size) stream = (stream?.abort(), null);
  });
  if (stream) return;
  const own = (stream = new AbortController());
  void (transport === "http" ? events(own.signal) : Promise.resolve())
    .catch(() => {}) // the repeated request will report the error
    .then(() => new Promise((later) => setTimeout(later, POLL)))
    .then(() => {
      if (stream !== own) return;
      stream = null;
      for (const listener of [...listeners]) listener(null);
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
      if (line.startsWith("data:")) for (const listener of [...listeners]) listener(JSON.parse(line.slice(5)) as BuildProgress);
  }
}
