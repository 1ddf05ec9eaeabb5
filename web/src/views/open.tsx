import { bytes, count } from "../pure/numbers";
import { ABOUT } from "../pure/hash";
import { go, open, recordings } from "../state";
import * as SAY from "../strings";
import { transport } from "../transport";
import { FromArrays, FromText } from "./opening";

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
            {list.map((one) => (
              <tr key={one.id}>
                <th scope="row">{one.name}</th>
                <td>{one.model}</td>
                <td class="right">{count(one.tokens)}</td>
                <td class="right">{bytes(one.bytes)}</td>
                <td class="right">
                  <button class="primary" data-open={one.id} aria-label={`${SAY.openSee} ${one.name}`} onClick={() => open(one.id)}>
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
          <ul class="asks">
            {ABOUT.slice(1).map((about) => (
              <li key={about}>
                <button onClick={() => go({ screen: "lesson", about, step: 1 })}>{about && SAY.lessonQuestions[about]}</button>
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
