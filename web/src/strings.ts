// Every sentence of the page, ready to be translated.
import { brief, count, short } from "./pure/numbers";

export const POOLED = { max: "maximum", mean: "mean", sum: "sum" } as const;

/** Tokens of arrays have no text. */
const spoken = (text: string) => (text ? ` ${brief(text)}` : "");
const quoted = (text: string) => (text ? ` “${brief(text)}”` : "");

export const name = "regard";
export const lost = "The server does not answer. Is regard explore still running?";
export const screens = { open: "Recordings", atlas: "Atlas", map: "Map", row: "Row", lesson: "Lesson", compare: "Compare" };
export const cell = (query: number, q: string, key: number, k: string, weight: number, allowed: boolean) =>
  `query ${query}${spoken(q)}, key ${key}${spoken(k)}, ${allowed ? short(weight) : "masked"}`;
export const views = "Views";
export const noMask = "no mask";
export const head = (layer: number, head: number) => `layer ${layer}, head ${head}`;
export const query = (at: number) => `query ${at}`;
export const key = (at: number) => `key ${at}`;
export const nats = (number: string) => `${number} nats`;
export const layer = "Layer";
export const headName = "Head";
export const recording = "Recording";
export const search = "Search text";
export const searchHint = "Search text, or a number for a token";
export const found = (n: number, text: string) => (n ? `${count(n)}${n === 1000 ? " or more" : ""} × “${text}”` : `“${text}” does not occur`);
export const help = "Help";
export const close = "Close";
export const share = "Export";
export const table = "Table";
export const skip = "Skip to the view";
export const loading = "loading";
export const refining = (tiles: number) => `refining, ${tiles} ${tiles === 1 ? "tile" : "tiles"} to come`;
export const pixel = (rows: number, cols: number, how: keyof typeof POOLED) => `1 px = ${count(rows)}×${count(cols)} weights, ${POOLED[how]}`;
export const exact = "exact: 1 cell = 1 weight";
export const exactShort = "exact";
export const mapLabel = (layer: number, head: number, n: number, m: number) =>
  `Map of layer ${layer}, head ${head}: ${count(n)} queries down, ${count(m)} keys across. Arrow keys move the cell, plus and minus zoom.`;
export const queries = "queries";
export const keys = "keys";
export const none = "masked or 0";
export const statistics = {
  entropy: ["entropy", "Entropy ÷ log of visible keys, mean over queries: 0 looks at one key, 1 at all alike"],
  support: ["effective keys", "e to the entropy: how many keys a query looks at"],
  first: ["first token", "Mass on the first token"],
  previous: ["previous", "Mass on the token before"],
  distance: ["distance", "Mean distance in tokens"],
  top: ["top 8", "Mass on a query's eight largest weights"],
  received: ["received", "Greatest share that one key receives"],
  redundancy: ["redundancy", "Similarity with the nearest other head"],
} as Record<string, [string, string]>;
export const goto = { title: "Go to token", hint: "A token's number", query: "as query", key: "as key", both: "on the diagonal", range: (n: number) => `0 to ${count(n - 1)}` };
export const hands = [
  ["← → ↑ ↓", "move the cell (Shift: by 10)"],
  ["[ ]", "layer before, next"],
  [", .", "head before, next"],
  ["+ −", "zoom in, out"],
  ["0", "fit everything"],
  ["D", "to the diagonal"],
  ["G", "go to a token"],
  ["/", "search the text"],
  ["N P", "next, previous strongest weight"],
  ["L", "log scale"],
  ["M", "pooling: maximum, mean, sum"],
  ["E", "explain this weight"],
  ["T", "table, picture"],
  ["1 … 6", "Recordings, Atlas, Map, Row, Lesson, Compare"],
  ["Esc", "release the cell, close"],
  ["?", "this help"],
] as [string, string][];
export const mouse = "Wheel or pinch zooms at the cursor, drag pans, Shift and drag draws a box to zoom into. Click holds the weight under the cursor; on a pooled map, the largest one under it.";
export const legendTitle = "Legend";
export const legendPooling = "Pooling";
export const legendColours = "Colours";
export const legendLog = "Log scale";
export const legendGamma = "Gamma";
export const legendRows = "Each row ÷ its largest on screen";
export const legendLess = "B larger";
export const legendMore = "A larger";
export const readoutTitle = "Cell";
export const readoutHint = "Point at the map; click to hold a weight.";
export const readoutMasked = "masked: the query may not see this key";
export const readoutDistance = "distance";
export const readoutOfMax = "of the row's largest";
export const readoutScore = "score";
export const readoutLse = "row lse";
export const readoutRank = "rank in row";
export const readoutExplain = "Explain this weight";
export const readoutPooled = (q: number, k: number) => `a block of ${q}×${k} weights`;
export const readoutRelease = "Release";
export const rowTitle = "Row";
export const rowOf = (query: number, text: string) => `The text as query ${query}${quoted(text)} sees it`;
export const rowReceived = "The text by what each token receives";
export const rowReceives = "received";
export const rowReceivedText = "The weights of all queries on a token, added up; coloured above an even share. Click a token to see what it sees itself.";
export const rowReceivers = "Largest receivers";
export const rowTops = "Largest weights";
export const rowMass = "Cumulative mass";
export const rowMassOf = (n: number, part: number) => `${count(n)} ${n === 1 ? "key holds" : "keys hold"} ${(part * 100).toFixed(0)} %`;
export const rowEarlier = "earlier";
export const rowLater = "later";
export const rowTokens = (a: number, b: number, n: number) => `tokens ${count(a)} to ${count(b - 1)} of ${count(n)}`;
export const rowStrip = "All weights of the row, first key left; click to go there";
export const rowEntropy = "entropy";
export const rowSupport = "effective keys";
export const rowToken = "token";
export const rowKey = "key";
export const rowWeight = "weight";
export const rowSum = "sum so far";
export const buildingTitle = "Measuring every weight of every head:";
export const buildingMeanwhile = "Near maps, rows and the lesson work already; the atlas and far maps follow.";
export const atlasIntro = "Each head, first query on top, first key at left; log scale, maximum.";
export const atlasSort = "Sort by";
export const atlasPlace = "layer and head";
export const atlasDescending = "largest first";
export const atlasAscending = "smallest first";
export const atlasAtLeast = "at least";
export const atlasAtMost = "at most";
export const atlasLayer = "in layer";
export const atlasEvery = "every layer";
export const atlasShown = (n: number, all: number) => `${n} of ${all} heads`;
export const atlasTelling = "Heads worth a look";
export const atlasHead = (layer: number, head: number) => `L${layer} H${head}`;
export const atlasNearest = "nearest other head";
export const openTitle = "Recordings";
export const openIntro = "Self-attention from the whole text down to one weight. Every number is exact unless it says what was pooled.";
export const openTokens = "tokens";
export const openSize = "size";
export const openModel = "model";
export const openSee = "Open";
export const openNone = "No recording is open.";
export const openMore = "From the command line";
export const openRecord = "regard record --model MODEL FILE -o run.safetensors\nregard explore run.safetensors";
export const openLesson = "New to attention?";
export const openLessonText = "All of self-attention by doing: no recording is needed.";
export const openText = "From a text";
export const openTextHint = "A text that the model reads";
export const openTextModel = "Model";
export const openRead = "Record and open";
export const openReading = "Recording";
export const openCancel = "Cancel";
export const openCancelled = "Cancelled.";
export const openOpened = (name: string) => `${name} is open.`;
export const openArrays = "From arrays";
export const openArraysText = "An .npz or .safetensors file with q and k, and v, mask, bias and tokens if you like: (n, d), (heads, n, d) or (batch, heads, n, d).";
export const openFile = "File";
export const openCausal = "Causal: no query sees later keys";
export const openScale = "Scale";
export const openScaleHint = "1 ÷ √d";
export const openOpenFile = "Open";
export const compareTitle = "Compare";
export const compareMap = "Difference";
export const compareRows = "Both rows";
export const compareRowsHint = "Hold a cell, or go to a token (G), to see both rows over the text.";
export const compareOf = (side: string, query: number, text: string, head: string) => `${side}: ${head}, as query ${query}${quoted(text)} sees it`;
export const compareShorter = (queries: number) => `B has ${count(queries)} queries only.`;
export const compareA = "A";
export const compareB = "B";
export const compareMinus = "A − B";
export const compareSwap = "Swap";
export const exportsTitle = "Export what is on screen";
export const exportsPng = "PNG with its legend";
export const exportsCsv = "The weights on screen";
export const exportsCsvNote = (rows: number, cols: number, exact: boolean) => `${count(rows)} × ${count(cols)} numbers, ${exact ? "every weight exact" : "pooled as shown"}`;
export const exportsSvg = "SVG";
export const exportsSvgVectors = "true vectors, a square for each weight";
export const exportsSvgRaster = "more than 200 × 200 weights: a picture inside vector axes";
export const exportsPython = "Copy as Python";
export const exportsCopied = "Copied.";
export const exportsSaved = (name: string) => `${name} is saved.`;
export const exportsLink = "Copy link to this place";
