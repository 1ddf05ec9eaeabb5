import { bytes, count } from "../pure/numbers";
import { ABOUT } from "../pure/hash";
import { go, open, recordings } from "../state";
import { SAY } from "../strings";
import { ASK } from "../strings.ask";
import { transport } from "../transport";
import { FromArrays, FromText } from "./opening";

export function OpenView() {
  const list = recordings.value;
  return (
    <div class="opening">
      <h1>{SAY.open.title}</h1>
      <p class="lead">{SAY.open.intro}</p>
      {list === null ? (
        <p class="soft">{SAY.loading}</p>
      ) : list.length ? (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">{SAY.recording}</th>
              <th scope="col">{SAY.open.model}</th>
              <th scope="col" class="right">{SAY.open.tokens}</th>
              <th scope="col" class="right">{SAY.open.size}</th>
              <td />
            </tr>
          </thead>
          <tbody>
            {list.map((one) => (
              <tr key={one.id}>
                <th scope="row">{one.name}</th>
                <td>{one.model}</td>
                <td class="right">{count(one.tokens)}</td>
                <td class="right">{bytes(one.bytes)}</td>
                <td class="right">
                  <button class="primary" data-open={one.id} aria-label={`${SAY.open.see} ${one.name}`} onClick={() => open(one.id)}>
                    {SAY.open.see}
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p>{SAY.open.none}</p>
      )}
      <div class="cards">
        {transport !== "worker" && <FromText />}
        {transport === "http" && <FromArrays />}
        <section>
          <h2>{SAY.open.lesson}</h2>
          <p>{SAY.open.lessonText}</p>
          <ul class="asks">
            {ABOUT.slice(1).map((about) => (
              <li key={about}>
                <button onClick={() => go({ screen: "lesson", about, step: 1 })}>{about && ASK.names[about]}</button>
              </li>
            ))}
          </ul>
        </section>
        <section>
          <h2>{SAY.open.more}</h2>
          <pre tabIndex={0}>{SAY.open.record}</pre>
        </section>
      </div>
    </div>
  );
}
