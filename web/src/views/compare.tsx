// A − B: two heads of one recording, or of two.
import { resourceOf } from "./others";
import { go, headIndex, layer, minus, place, recordingId, recordings, run } from "../state";
import { SAY } from "../strings";
import { MapView } from "./map";
import { Choice } from "./parts";

export function CompareView() {
  const told = run.value;
  const at = layer.value;
  if (!told || !at) return <p class="empty">{SAY.loading}</p>;
  const [otherId = "", otherLayer = "0", otherHead = "0"] = minus.value.split("/");
  const other = otherId === told.id ? told : resourceOf(otherId);
  const names = (recordings.value ?? []).map((one) => [one.id, one.name] as const);
  const count = (n: number) => Array.from({ length: n }, (_, i) => [String(i), String(i)] as const);
  const layers = (other?.layers ?? []).map((one) => [String(one.index), String(one.index)] as const);
  const subtract = (id: string, l: string, h: string) => go({ other: `${id}/${l}/${h}` });
  const heads = other?.layers.find((one) => String(one.index) === otherLayer)?.heads ?? 1;
  return (
    <div class="comparing">
      <header class="tools">
        <b class="side">{SAY.compare.a}</b>
        <span>
          {told.name} · {SAY.head(at.index, headIndex.value)}
        </span>
        <b class="side">− {SAY.compare.b}</b>
        {names.length > 1 && <Choice label={SAY.recording} value={otherId} among={names} onPick={(id) => subtract(id, "0", "0")} />}
        <Choice label={SAY.layer} value={otherLayer} among={layers} onPick={(l) => subtract(otherId, l, otherHead)} />
        <Choice label={SAY.headName} value={otherHead} among={count(heads)} onPick={(h) => subtract(otherId, otherLayer, h)} />
        <button
          onClick={() =>
            go({
              recording: otherId, layer: Number(otherLayer), head: Number(otherHead),
              other: `${recordingId.value}/${at.index}/${headIndex.value}`, log: place.value.log,
            })
          }
        >
          {SAY.compare.swap}
        </button>
      </header>
      <MapView />
    </div>
  );
}
