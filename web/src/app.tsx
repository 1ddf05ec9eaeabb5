// The frame of every screen: the top bar, the view, dialogs, and announcements to screen readers.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { headsOf, json, paths } from "./client/requests";
import { goToToken } from "./keys";
import { SCREENS, type Screen } from "./pure/hash";
import { count } from "./pure/numbers";
import {
  selectCell, cell, dialog, buildProgress, showError, go, headIndex, layer, announcement, open, recordingId, recordings, recording, screen, stepHead, announce, table, errorMessage,
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
  const ready = screen.value === "open" || screen.value === "lesson" || recording.value;
  const hasTable = screen.value === "map" || screen.value === "row" || screen.value === "atlas" || screen.value === "compare";
  useEffect(() => {
    document.title = `${recording.value ? `${recording.value.name} · ` : ""}${SAY.screens[screen.value]} · regard`;
  }, [screen.value, recording.value]);
  return (
    <>
      <a class="skip" href="#view" onClick={(event) => (event.preventDefault(), document.querySelector<HTMLElement>("main")?.focus())}>
        {SAY.skip}
      </a>
      <Top hasTable={hasTable} />
      <BuildProgress />
      <main id="view" tabIndex={-1} class={`screen-${screen.value}`}>
        {ready ? <View key={screen.value} /> : <p class="empty">{SAY.loading}</p>}
      </main>
      {errorMessage.value && (
        <div class="error-banner" role="alert">
          <p>{errorMessage.value}</p>
          <button onClick={() => (errorMessage.value = "")}>{SAY.close}</button>
        </div>
      )}
      <div class="visually-hidden" aria-live="polite" id="live">
        {announcement.value}
      </div>
      {dialog.value === "help" && <Help />}
      {dialog.value === "goto" && <GoTo />}
      {dialog.value === "export" && <ExportDialog />}
    </>
  );
}

/** The progress of the open recording's pyramids. */
function BuildProgress() {
  const now = buildProgress.value;
  if (!now) return null;
  return (
    <div class="build-progress">
      <progress max="1" value={now.part} aria-label={SAY.buildingTitle} />
      <p>
        <span role="status">{SAY.buildingTitle}</span> <b>{now.what}</b>, {(now.part * 100).toFixed(0)} %. <span class="soft">{SAY.buildingMeanwhile}</span>
      </p>
    </div>
  );
}

function Top({ hasTable }: { hasTable: boolean }) {
  const at = layer.value;
  const opened = recording.value;
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
      {opened && at && (
        <nav class="crumbs" aria-label={SAY.recording}>
          {(recordings.value?.length ?? 0) > 1 ? (
            <select aria-label={SAY.recording} value={recordingId.value} onChange={(event) => open(event.currentTarget.value, { screen: now === "open" ? "atlas" : now })}>
              {recordings.value!.map((entry) => (
                <option value={entry.id} key={entry.id}>
                  {entry.name}
                </option>
              ))}
            </select>
          ) : (
            <span class="crumb">{opened.name}</span>
          )}
          {now !== "open" && now !== "atlas" && (
            <>
              <Stepper label={SAY.layer} value={at.index} of={opened.layers.map((entry) => entry.index)} onStep={(by) => stepHead(by, 0)} onPick={(index) => go({ layer: index })} keys="[ ]" />
              <Stepper
                label={SAY.headName}
                value={headIndex.value}
                of={headsOf(at)}
                onStep={(by) => stepHead(0, by)}
                onPick={(head) => go({ head })}
                keys=", ."
              />
            </>
          )}
        </nav>
      )}
      <nav class="tabs" aria-label={SAY.views}>
        {SCREENS.filter((entry) => entry !== "open").map((entry) => (
          <button key={entry} aria-current={now === entry ? "page" : undefined} disabled={!opened && entry !== "lesson"} onClick={() => go({ screen: entry })}>
            {SAY.screens[entry]}
          </button>
        ))}
      </nav>
      <span class="gap" />
      {opened && <Search />}
      {hasTable && (
        <button class="tool" aria-pressed={table.value} onClick={() => go({ table: !table.value })} title={`${SAY.table} (T)`}>
          {SAY.table}
        </button>
      )}
      {opened && (
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
          {of.map((entry) => (
            <option key={entry} value={String(entry)}>
              {entry}
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
  const matches = useSignal<number[]>([]);
  const at = useSignal(-1);
  const searched = useSignal("");
  const search = async (text: string, by: number) => {
    if (/^\d+$/.test(text)) return goToToken(Number(text), "both");
    try {
      if (text !== searched.value) {
        matches.value = (await json<{ tokens: number[] }>(paths.search(recordingId.value, text))).tokens;
        searched.value = text;
        at.value = -1;
        announce(SAY.searchResult(matches.value.length, text));
      }
      if (!matches.value.length) return;
      at.value = (at.value + by + matches.value.length) % matches.value.length;
      const index = matches.value[at.value]!;
      if (screen.value === "row") selectCell(index, Math.min(cell.value?.key ?? index, index));
      else {
        if (screen.value !== "map" && screen.value !== "compare") go({ screen: "map" });
        goToToken(index, "both");
      }
    } catch (error) {
      showError(error);
    }
  };
  return (
    <form
      role="search"
      class="search"
      onSubmit={(event) => {
        event.preventDefault();
        const text = new FormData(event.currentTarget).get("text") as string;
        if (text.trim()) void search(text, 1);
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
          void search(event.currentTarget.value, -1);
        }}
      />
      <kbd>/</kbd>
      {searched.value && <output>{matches.value.length ? `${at.value + 1} / ${count(matches.value.length)}` : "0"}</output>}
    </form>
  );
}

function Help() {
  return (
    <Dialog title={SAY.help}>
      <dl class="keys">
        {SAY.keyboardShortcuts.map(([keys, what]) => (
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
      <p class="soft">{SAY.mouseHelp}</p>
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
          goToToken(Math.min(Number(text), tokens - 1), as.value);
        }}
      >
        <label class="choice">
          <span>{SAY.goto.hint}</span>
          <input name="index" type="number" min="0" max={tokens - 1} step="1" required autofocus placeholder={SAY.goto.range(tokens)} />
        </label>
        <div class="radios">
          {(["both", "query", "key"] as const).map((entry) => (
            <label key={entry} class="check">
              <input type="radio" name="as" checked={as.value === entry} onChange={() => (as.value = entry)} />
              <span>{SAY.goto[entry]}</span>
            </label>
          ))}
        </div>
        <button class="primary">{SAY.goto.title}</button>
      </form>
    </Dialog>
  );
}
