// The sentences of the lesson.

export const steps = [
  ["q, k, v", "Three vectors for each token"],
  ["q · k", "How well a query and a key agree"],
  ["÷ √d", "Scores that do not grow with size"],
  ["mask", "What the query may see"],
  ["− max", "The largest score becomes 0"],
  ["exp", "Scores become positive"],
  ["÷ sum", "Weights that sum to 1"],
  ["Σ w × v", "The output: values, mixed"],
  ["heads", "Several at once"],
] as [string, string][];
export const thisWeight = "This weight";
export const noCell = "hold one on the map";
export const key = "key";
export const token = "token";
export const weight = "weight";
export const weights = "weights";
export const shifted = "− largest";
export const concat = "heads, side by side";
export const out = "out";
export const score = "score";
export const headName = "head";
export const scale = "scale";
export const scaled = "scaled";
export const plusBias = "scaled + bias";
export const largest = "largest";
export const exp = "exp";
export const sum = "sum";
export const sees = "sees";
export const masked = "masked";
export const scoreOf = (key: number) => `score of ${key}`;
export const seesAll = "There is no mask: every query sees every key.";
export const lets = (allowed: boolean, query: number, key: number) => `${allowed ? "lets" : "does not let"} query ${query} see key ${key}.`;
export const back = "Back";
export const next = "Next";
export const where = "Click a number to see where it came from and where it goes.";
export const from = "came from";
export const to = "goes into";
export const given = "given";
export const how = (how: string) => `${how} of`;
export const temperature = "Temperature";
export const entropy = "entropy";
export const recorded = "as recorded";
export const changed = "changed";
export const keysOf = (shown: number, all: number) => `${shown} of ${all} keys: this one, the strongest, its neighbours`;
export const others = "all others";
export const othersAndSink = "all others, and the sink";
export const soft = "soft-cap";
export const bias = "bias";
export const sink = "sink";
export const causal = "Causal mask: no word sees later ones";
export const wordsLabel = "Two to six words";
export const head = "Head";
export const features = "Embeddings chosen by hand: the first number stands for water, the second for money.";
export const unseen = "hidden: work it out, then click";
export const madeUp = "Words outside the example get made-up embeddings: always the same, but they mean nothing.";
