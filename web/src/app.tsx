// The frame of every screen: the bar on top, the view, dialogs, and what is said aloud.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { headsOf, json, paths } from "./api";
import { goTo } from "./keys";
import { SCREENS, type Screen } from "./pure/hash";
import { count } from "./pure/numbers";
import {
  choose, cell, dialog, doing, fail, go, headIndex, layer, live, open, recordingId, recordings, run, screen, shift, speak, table, trouble,
} from "./state";
import * as SAY from "./strings";
import { AtlasView } from "./views/atlas";
import { Dialog } from "./views/components";
import { CompareView } from "./views/compare";
import { ExportDialog } from "./views/export-dialog";
import { LessonView } from "./views/lesson/lesson";
import { MapView } from "./views/map";
import { OpenView } from "./views/open";
import { RowView } from "./views/row";

const VIEWS: Record<Screen, () => preact.JSX.Element | null> = {
  open: OpenView,
  atlas: AtlasView,
  map: MapView,
  row: RowView,
  lesson: LessonView,
  compare: CompareView,
};

export function App() {
  const View = VIEWS[screen.value];
  const ready = screen.value === "open" || screen.value === "lesson" || run.value;
  const twin = screen.value === "map" || screen.value === "row" || screen.value === "atlas" || screen.value === "compare";
  useEffect(() => {
    document.title = `${run.value ? `${run.value.name} · ` : ""}${SAY.screens[screen.value]} · regard`;
  }, [screen.value, run.value]);
  return (
    <>
      <a class="skip" href="#view" onClick={(event) => (event.preventDefault(), document.querySelector<HTMLElement>("main")?.focus())}>
        {SAY.skip}
      </a>
      <Top twin={twin} />
      <Building />
      <main id="view" tabIndex={-1} class={`screen-${screen.value}`}>
        {ready ? <View key={screen.value} /> : <p class="empty">{SAY.loading}</p>}
      </main>
      {trouble.value && (
        <div class="trouble" role="alert">
          <p>{trouble.value}</p>
          <button onClick={() => (trouble.value = "")}>{SAY.close}</button>
        </div>
      )}
      <div class="unseen" aria-live="polite" id="live">
        {live.value}
      </div>
      {dialog.value === "help" && <Help />}
      {dialog.value === "goto" && <GoTo />}
      {dialog.value === "export" && <ExportDialog />}
    </>
  );
}

/** What is being built of the recording that is open, and what works meanwhile. */
function Building() {
  const now = doing.value;
  if (!now) return null;
  return (
    <div class="building">
      <progress max="1" value={now.part} aria-label={SAY.buildingTitle} />
      <p>
        <span role="status">{SAY.buildingTitle}</span> <b>{now.what}</b>, {(now.part * 100).toFixed(0)} %. <span class="soft">{SAY.buildingMeanwhile}</span>
      </p>
    </div>
  );
}

function Top({ twin }: { twin: boolean }) {
  const at = layer.value;
  const told = run.value;
  const now = screen.value;
  return (
    <header class="top">
      <button class="name" onClick={() => go({ screen: "open" })} title={SAY.screens.open}>
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d="M2 2h4v4H2zM6 6h4v4H6zM10 10h4v4h-4z" />
          <path class="bright" d="M2 10h4v4H2z" />
        </svg>
        {SAY.name}
      </button>
      {told && at && (
        <nav class="crumbs" aria-label={SAY.recording}>
          {(recordings.value?.length ?? 0) > 1 ? (
            <select aria-label={SAY.recording} value={recordingId.value} onChange={(event) => open(event.currentTarget.value, { screen: now === "open" ? "atlas" : now })}>
              {recordings.value!.map((one) => (
                <option value={one.id} key={one.id}>
                  {one.name}
                </option>
              ))}
            </select>
          ) : (
            <span class="crumb">{told.name}</span>
          )}
          {now !== "open" && now !== "atlas" && (
            <>
              <Stepper label={SAY.layer} value={at.index} of={told.layers.map((one) => one.index)} onStep={(by) => shift(by, 0)} onPick={(index) => go({ layer: index })} keys="[ ]" />
              <Stepper
                label={SAY.headName}
                value={headIndex.value}
                of={headsOf(at)}
                onStep={(by) => shift(0, by)}
                onPick={(head) => go({ head })}
                keys=", ."
              />
            </>
          )}
        </nav>
      )}
      <nav class="tabs" aria-label={SAY.views}>
        {SCREENS.filter((one) => one !== "open").map((one) => (
          <button key={one} aria-current={now === one ? "page" : undefined} disabled={!told && one !== "lesson"} onClick={() => go({ screen: one })}>
            {SAY.screens[one]}
          </button>
        ))}
      </nav>
      <span class="gap" />
      {told && <Search />}
      {twin && (
        <button class="tool" aria-pressed={table.value} onClick={() => go({ table: !table.value })} title={`${SAY.table} (T)`}>
          {SAY.table}
        </button>
      )}
      {told && (
        <button class="tool" onClick={() => (dialog.value = "export")}>
          {SAY.share}
        </button>
      )}
      <button class="tool" onClick={() => (dialog.value = "help")} aria-label={SAY.help} title={`${SAY.help} (?)`}>
        ?
      </button>
    </header>
  );
}

function Stepper({ label, value, of, onStep, onPick, keys }: {
  label: string;
  value: number;
  of: number[];
  onStep: (by: number) => void;
  onPick: (value: number) => void;
  keys: string;
}) {
  return (
    <span class="stepper" title={`${label} (${keys})`}>
      <button aria-label={`${label} −1`} disabled={value === of[0]} onClick={() => onStep(-1)}>
        ‹
      </button>
      <label>
        <span>{label}</span>
        <select value={String(value)} onChange={(event) => onPick(Number(event.currentTarget.value))}>
          {of.map((one) => (
            <option key={one} value={String(one)}>
              {one}
            </option>
          ))}
        </select>
      </label>
      <button aria-label={`${label} +1`} disabled={value === of[of.length - 1]} onClick={() => onStep(1)}>
        ›
      </button>
    </span>
  );
}

function Search() {
  const found = useSignal<number[]>([]);
  const at = useSignal(-1);
  const asked = useSignal("");
  const look = async (text: string, by: number) => {
    if (/^\d+$/.test(text)) return goTo(Number(text), "both");
    try {
      if (text !== asked.value) {
        found.value = (await json<{ tokens: number[] }>(paths.search(recordingId.value, text))).tokens;
        asked.value = text;
        at.value = -1;
        speak(SAY.found(found.value.length, text));
      }
      if (!found.value.length) return;
      at.value = (at.value + by + found.value.length) % found.value.length;
      const index = found.value[at.value]!;
      if (screen.value === "row") choose(index, Math.min(cell.value?.key ?? index, index));
      else {
        if (screen.value !== "map" && screen.value !== "compare") go({ screen: "map" });
        goTo(index, "both");
      }
    } catch (error) {
      fail(error);
    }
  };
  return (
    <form
      role="search"
      class="search"
      onSubmit={(event) => {
        event.preventDefault();
        const text = new FormData(event.currentTarget).get("text") as string;
        if (text.trim()) void look(text, 1);
      }}
    >
      <input
        id="search"
        name="text"
        type="search"
        placeholder={SAY.search}
        aria-label={SAY.searchHint}
        autocomplete="off"
        spellcheck={false}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || !event.shiftKey) return;
          event.preventDefault();
          void look(event.currentTarget.value, -1);
        }}
      />
      <kbd>/</kbd>
      {asked.value && <output>{found.value.length ? `${at.value + 1} / ${count(found.value.length)}` : "0"}</output>}
    </form>
  );
}

function Help() {
  return (
    <Dialog title={SAY.help}>
      <dl class="keys">
        {SAY.hands.map(([keys, what]) => (
          <div key={keys}>
            <dt>
              {keys.split(" ").map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <p class="soft">{SAY.mouse}</p>
    </Dialog>
  );
}

function GoTo() {
  const tokens = layer.value?.keys ?? 1;
  const as = useSignal<"query" | "key" | "both">("both");
  return (
    <Dialog title={SAY.goto.title}>
      <form
        class="goto"
        onSubmit={(event) => {
          event.preventDefault();
          const text = new FormData(event.currentTarget).get("index") as string;
          dialog.value = "";
          goTo(Math.min(Number(text), tokens - 1), as.value);
        }}
      >
        <label class="choice">
          <span>{SAY.goto.hint}</span>
          <input name="index" type="number" min="0" max={tokens - 1} step="1" required autofocus placeholder={SAY.goto.range(tokens)} />
        </label>
        <div class="radios">
          {(["both", "query", "key"] as const).map((one) => (
            <label key={one} class="check">
              <input type="radio" name="as" checked={as.value === one} onChange={() => (as.value = one)} />
              <span>{SAY.goto[one]}</span>
            </label>
          ))}
        </div>
        <button class="primary">{SAY.goto.title}</button>
      </form>
    </Dialog>
  );
}
