// The screen that opens a recording: those the server has, a text that a model reads, or arrays.
import { signal, useSignal } from "@preact/signals";
import { answer, json, paths } from "../client/requests";
import type { Models } from "../client/types";
import { LESSON_TOPICS } from "../pure/hash";
import { bytes, count } from "../pure/numbers";
import { showError, go, loadRecordings, open, recordings, resource, screen, announce } from "../state";
import * as SAY from "../strings";
import { transport } from "../client/transport";
import { Check } from "./components";

export function OpenView() {
  const list = recordings.value;
  return (
    <div class="opening">
      <h1>{SAY.openTitle}</h1>
      <p class="lead">{SAY.openIntro}</p>
      {list === null ? (
        <p class="soft">{SAY.loading}</p>
      ) : list.length ? (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">{SAY.recording}</th>
              <th scope="col">{SAY.openModel}</th>
              <th scope="col" class="right">{SAY.openTokens}</th>
              <th scope="col" class="right">{SAY.openSize}</th>
              <td />
            </tr>
          </thead>
          <tbody>
            {list.map((entry) => (
              <tr key={entry.id}>
                <th scope="row">{entry.name}</th>
                <td>{entry.model}</td>
                <td class="right">{count(entry.tokens)}</td>
                <td class="right">{bytes(entry.bytes)}</td>
                <td class="right">
                  <button class="primary" data-open={entry.id} aria-label={`${SAY.openSee} ${entry.name}`} onClick={() => open(entry.id)}>
                    {SAY.openSee}
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p>{SAY.openNone}</p>
      )}
      <div class="cards">
        {transport !== "worker" && <FromText />}
        <section>
          <h2>{SAY.openLesson}</h2>
          <p>{SAY.openLessonText}</p>
          <ul class="questions">
            {LESSON_TOPICS.slice(1).map((about) => (
              <li key={about}>
                <button onClick={() => go({ screen: "lesson", topic: about, step: 1 })}>{about && SAY.lessonQuestions[about]}</button>
              </li>
            ))}
          </ul>
        </section>
        {transport !== "worker" && <FromArrays />}
        <section>
          <h2>{SAY.openMore}</h2>
          <pre tabIndex={0}>{SAY.openRecord}</pre>
        </section>
      </div>
    </div>
  );
}

const models = resource<Models>(() => (screen.value === "open" && transport !== "worker" ? paths.models : null), json);

/** The running recording job: its progress, and how to abort it. */
const recordingJob = signal<{ id: string; part: number; doing: string; ended: AbortController } | null>(null);

async function show(id: string): Promise<void> {
  const name = (await loadRecordings()).find((entry) => entry.id === id)?.name ?? id;
  announce(SAY.openOpened(name));
  // Another screen that was opened meanwhile stays open.
  if (screen.peek() === "open") open(id);
}

async function record(text: string, model: string): Promise<void> {
  const ended = new AbortController();
  const body = JSON.stringify({ text, model });
  try {
    let reply = JSON.parse((await answer(paths.open, ended.signal, { method: "POST", body })).body as string);
    const { job: id } = reply;
    for (;;) {
      recordingJob.value = { id, part: reply.progress ?? 1, doing: reply.doing ?? "", ended };
      await new Promise((resolve) => setTimeout(resolve, 250));
      const { status, body } = await answer(paths.job(id), ended.signal);
      reply = JSON.parse(body as string);
      if (status !== 202) break;
    }
    await show(reply.id);
  } catch (error) {
    if (!ended.signal.aborted) showError(error);
  } finally {
    recordingJob.value = null;
  }
}

async function cancel(): Promise<void> {
  const now = recordingJob.peek();
  if (!now) return;
  now.ended.abort();
  announce(SAY.openCancelled);
  await answer(`${paths.job(now.id)}/cancel`, undefined, { method: "POST", body: "" }).catch(showError);
}

function FromText() {
  const now = recordingJob.value;
  const available = models.value.value;
  return (
    <section>
      <h2>{SAY.openText}</h2>
      <form
        class="open-form"
        onSubmit={(event) => {
          event.preventDefault();
          const form = new FormData(event.currentTarget);
          void record(form.get("text") as string, form.get("model") as string);
        }}
      >
        <textarea name="text" rows={5} required spellcheck={false} aria-label={SAY.openTextHint} placeholder={SAY.openTextHint} />
        <label class="choice">
          <span>{SAY.openTextModel}</span>
          <select name="model" aria-describedby="model-description">
            {available?.models.map(({ name, description }) => (
              <option value={name} key={name} selected={name === available.default} title={description}>{name}</option>
            ))}
          </select>
          <button class="primary" disabled={!available || now !== null}>{SAY.openRead}</button>
        </label>
        {available && <p class="soft" id="model-description">{available.models.map(({ name, description }) => `${name}: ${description}`).join(" ")}</p>}
      </form>
      {now && (
        <div class="tools">
          <progress max="1" value={now.part} aria-label={SAY.openReading} />
          <span role="status">{SAY.openReading}</span>
          <span class="soft">{now.doing}</span>
          <button onClick={() => void cancel()}>{SAY.openCancel}</button>
        </div>
      )}
    </section>
  );
}

function FromArrays() {
  const causal = useSignal(false);
  const busy = useSignal(false);
  return (
    <section>
      <h2>{SAY.openArrays}</h2>
      <p class="soft">{SAY.openArraysText}</p>
      <form
        class="open-form"
        onSubmit={(event) => {
          event.preventDefault();
          const form = new FormData(event.currentTarget);
          const file = form.get("file") as File;
          busy.value = true;
          answer(paths.arrays(file.name, causal.value, form.get("scale") as string), undefined, { method: "POST", body: file })
            .then(({ body }) => show(JSON.parse(body as string).id))
            .catch(showError)
            .finally(() => (busy.value = false));
        }}
      >
        <input type="file" name="file" accept=".npz,.safetensors" required aria-label={SAY.openFile} />
        <Check label={SAY.openCausal} on={causal.value} onPick={(on) => (causal.value = on)} />
        <label class="choice">
          <span>{SAY.openScale}</span>
          <input name="scale" type="number" step="any" placeholder={SAY.openScaleHint} />
          <button disabled={busy.value}>{busy.value ? SAY.loading : SAY.openOpenFile}</button>
        </label>
      </form>
    </section>
  );
}
