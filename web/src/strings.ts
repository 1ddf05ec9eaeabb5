// Every sentence of the page, ready to be translated.
import { brief, bytes, count, short } from "./pure/numbers";

export const POOLED = { max: "maximum", mean: "mean", sum: "sum" } as const;

/** Tokens of arrays have no text. */
const tokenAfterSpace = (text: string) => (text ? ` ${brief(text)}` : "");
const quoted = (text: string) => (text ? ` “${brief(text)}”` : "");

export const name = "regard";
export const serverLost = "The server does not answer. Is regard explore still running?";
export const screens = { open: "Recordings", atlas: "Atlas", map: "Map", row: "Row", lesson: "Lesson", compare: "Compare" };
export const cell = (query: number, q: string, key: number, k: string, weight: number, allowed: boolean) =>
  `query ${query}${tokenAfterSpace(q)}, key ${key}${tokenAfterSpace(k)}, ${allowed ? short(weight) : "masked"}`;
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
export const searchResult = (n: number, text: string) => (n ? `${count(n)}${n === 1000 ? " or more" : ""} × “${text}”` : `“${text}” does not occur`);
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
export const keyboardShortcuts = [
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
  ["Esc", "deselect the cell, close"],
  ["?", "this help"],
] as [string, string][];
export const mouseHelp = "Wheel or pinch zooms at the cursor, drag pans, Shift and drag draws a box to zoom into. Click selects the weight under the cursor; on a pooled map, the largest one under it.";
export const legendTitle = "Legend";
export const legendPooling = "Pooling";
export const legendColours = "Colours";
export const legendLog = "Log scale";
export const legendGamma = "Gamma";
export const legendRows = "Each row ÷ its largest on screen";
export const legendLess = "B larger";
export const legendMore = "A larger";
export const readoutTitle = "Cell";
export const readoutHint = "Point at the map; click to select a weight.";
export const readoutMasked = "masked: the query may not see this key";
export const readoutDistance = "distance";
export const readoutOfMax = "of the row's largest";
export const readoutScore = "score";
export const readoutLse = "row lse";
export const readoutRank = "rank in row";
export const readoutExplain = "Explain this weight";
export const readoutPooled = (q: number, k: number) => `a block of ${q}×${k} weights`;
export const readoutRelease = "Deselect";
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
export const atlasRanked = "Heads worth a look";
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
export const compareRowsHint = "Select a cell, or go to a token (G), to see both rows over the text.";
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

// The offline page.
export const offlineTitle = "Offline page: one file that needs no server";
export const offlineOneHead = (layer: number, head: number) => `only layer ${layer}, head ${head}`;
export const offlineValues = "with values, for the lesson's last steps";
export const offlineSave = "Save";
export const offlineMeasuring = "measuring …";
export const offlineSize = (size: number, dtype: string, error: string) => `${bytes(size)}, queries and keys in ${dtype}: ${error}`;
export const offlineAlready = (error: string) => `This page is a file that needs no server: all its numbers are in it. ${error}`;

// The lesson.
export const lessonSteps = [
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
export const lessonThisWeight = "This weight";
export const lessonNoCell = "select one on the map";
export const lessonKey = "key";
export const lessonToken = "token";
export const lessonWeight = "weight";
export const lessonWeights = "weights";
export const lessonShifted = "− largest";
export const lessonConcat = "heads, side by side";
export const lessonOut = "out";
export const lessonScore = "score";
export const lessonHeadName = "head";
export const lessonScale = "scale";
export const lessonScaled = "scaled";
export const lessonScaledPlusBias = "scaled + bias";
export const lessonLargest = "largest";
export const lessonExp = "exp";
export const lessonSum = "sum";
export const lessonSees = "sees";
export const lessonMasked = "masked";
export const lessonScoreOf = (key: number) => `score of ${key}`;
export const lessonNoMask = "There is no mask: every query sees every key.";
export const lessonMaskAllows = (allowed: boolean, query: number, key: number) => `${allowed ? "lets" : "does not let"} query ${query} see key ${key}.`;
export const lessonBack = "Back";
export const lessonNext = "Next";
export const originHint = "Click a number to see where it came from and where it goes.";
export const originFrom = "came from";
export const originTo = "goes into";
export const originGiven = "given";
export const originHow = (how: string) => `${how} of`;
export const lessonTemperature = "Temperature";
export const lessonEntropy = "entropy";
export const lessonRecorded = "as recorded";
export const lessonChanged = "changed";
export const lessonKeysOf = (shown: number, all: number) => `${shown} of ${all} keys: this one, the strongest, its neighbours`;
export const lessonOthers = "all others";
export const lessonOthersAndSink = "all others, and the sink";
export const lessonSoftcap = "soft-cap";
export const lessonBias = "bias";
export const lessonSink = "sink";
export const lessonCausal = "Causal mask: no word sees later ones";
export const lessonWordsLabel = "Two to six words";
export const lessonHead = "Head";
export const lessonFeatures = "Embeddings chosen by hand: the first number stands for water, the second for money.";
export const lessonHidden = "hidden: work it out, then click";
export const lessonUnknownWords = "Words outside the example get made-up embeddings: always the same, but they mean nothing.";

// Questions of the lesson, and the guess before a number is shown.
export const lessonQuestions = {
  words: "Can I see a simple example?",
  why: "Why separate query, key and value vectors?",
  context: "How does attention help a model understand context?",
};
export const predictFirst = "Predict first";
export const predictReveal = "Reveal";
export const predictGuess = (name: string) => `Your guess of ${name}`;
export const predictError = (guess: string, by: string) => `you said ${guess}, off by ${by}`;

// What each step of the lesson says.
export const stepProjected = "Each token's vector x is multiplied by three learned matrices. The query asks, the key answers to questions, the value is what gets passed on.";
export const stepVectors = `${stepProjected} The recording has q and k of every token, as the model computed them.`;
export const stepDot = "Each component of the query is multiplied by the same component of the key; the sum of the products is the score. Large: they point the same way.";
export const stepLargest = (n: number, rest: number) => `The ${n} largest of ${n + rest} products; the other ${rest} are summed exactly.`;
export const stepOthers = (n: number) => `the other ${n}`;
export const stepAllProducts = "All products";
export const stepEdited = "Edited: this sum is the page's, on your numbers.";
export const stepScale = "A sum of d products grows like √d. Divided by √d, scores keep the same spread for any size, so that the softmax does not harden.";
export const stepWithout = "Leave out ÷ √d";
export const stepUnscaled = "This layer does not divide: its scale is 1, and q and k have learned their size.";
export const stepMask = "Hide a key, and its weight is shared among the others. Keys that the model's own mask hides cannot be given back: a recording never computed them.";
export const stepMaximum = "exp of a large number overflows. Less the row's largest score, every score is 0 or below; the weights do not change.";
export const stepExp = "exp makes every score positive: 0 becomes 1, each step of −0.69 halves it.";
export const stepSum = "Each divided by the sum of all: weights between 0 and 1, and the row sums to 1.";
export const stepOutput = "Each value vector is multiplied by its weight, and all are added. The output is between the values that the query looked at.";
export const stepNoValues = "This recording has no values for this layer. regard record --values keeps them.";
export const stepHeads = "Every head of a layer does all this with its own matrices, side by side. Their outputs are concatenated and multiplied by one more matrix.";

// Inputs, outputs and heads: the steps that need more than one weight.
export const sumProduct = "product";
export const sumSoFar = "sum so far";
export const sumComponent = (of: string) => `Component of ${of}`;
export const sumComponentRange = (most: number) => `0 to ${most - 1}`;
export const sumOrBar = "; or click a bar";
export const sumLargest = "The largest";
export const originRemainder = (sum: string, shown: string, n: number) => `the whole − the ${n} shown = ${sum} − ${shown}`;
export const originTotal = "all the products, added";
export const inputsVector = "Worked out below";
export const originX = (i: number, at: number) => [`component ${i} of x, the layer's input at token ${at}`, "every component of this token's q, k and v"];
export const originInputMatrix = (name: string, i: number, j: number) => [`W_${name}: what x${j} counts for in component ${i}; learned`, `this product, for every token`];
export const inputsProjected = (name: string, i: number) => `(x · W_${name}), component ${i}`;
export const originInputBias = (name: string, i: number) => [`learned: added to component ${i} of every token's ${name}`, "projected"];
export const sumBias = "+ bias";
export const inputsIsProjected = "projected";
export const originProjected = (sum: string, bias: string) => `the sum + the bias = ${sum} + ${bias}`;
export const originRecorded = (name: string, i: number, at: number) => [`component ${i} of ${name} of token ${at}, as attention got it`, name === "v" ? "weight × value, step 8" : "q · k, step 2"];
export const inputsRecorded = "as attention got it";
export const inputsBetween = { norm: "normalised", position: "turned by its position" } as Record<string, string>;
export const inputsEqual = "nothing lies between: the two agree to rounding";
export const inputsMissing = "This recording has neither the layer's input (x) nor its matrices. regard record --inputs keeps them, and this step then shows every product.";
export const inputsMatricesUnknown = "The matrices of this layer's module are not known by name, so that step 1 has q, k and v as they were recorded.";
export const outputParts = "Each segment is one key's weight × value; the tick is their sum, the output. Click a bar to see its component key by key.";
export const outputRow = "component ";
export const outputSegment = (i: number, key: string, part: string) => `component ${i}: ${key} gives ${part}`;
export const outputOtherKeys = "all other keys";
export const outputEdited = "Edited: the output is the page's, with your values.";
export const recordedWas = (was: string, by: string) => `as recorded ${was}; changed by ${by}`;
export const outputGoes = "its place among the concatenated heads, in step 9";
export const outputComponent = (i: number) => `output, component ${i}`;
export const headsText = "Every head of a layer does all this with its own matrices. Their outputs are concatenated, and multiplied by W_O: one component of the layer's output is a sum over heads.";
export const headsOutputs = "Outputs of the heads at this query, concatenated";
export const originHeadOutput = (head: number, i: number) => [`Σ weight × value of head ${head}, component ${i}`, "this product"];
export const originOutputMatrix = (head: number, i: number, c: number) => [`W_O: what component ${c} of head ${head} counts for in component ${i} of the output; learned`, "this product, for every query"];
export const headsLayerOutput = "the layer's output";
export const headsPart = (head: number) => `Σ output × W_O of head ${head}`;
export const headsNextLayer = "what the layer adds to x, and so the next layer";
export const headsNoOutputMatrix = "W_O of this layer is not in the recording; regard record --inputs keeps it where the module's parts are known.";
export const headsPartGoes = (i: number) => `component ${i} of the layer's output`;
export const headsProducts = (head: number) => `Head ${head}, product by product`;
export const headsPair = "This pair in every head";
export const outputEvery = (n: number) => `All ${n} components`;
export const outputPoint = "Point at a segment, or use ← → on a focused bar, to name its key.";
export const outputKey = (key: string, weight: string) => `${key}, weight ${weight}`;
export const outputName = "the output";
export const originOutputWeight = (key: number) => [`the weight of key ${key}, steps 1 to 7`, "this product, in every component"];
export const headsStrongest = "strongest key";
export const headsGo = (head: number) => `Go to head ${head}`;
export const originScoreParts = "(q · k) × scale, soft-cap and bias where there are any";
export const headsTimesMatrix = "Σ output × W_O";
export const originHeadPart = (head: number, n: number) => `${n} products of head ${head}, added: click the head's number to see them`;
export const originOutputBias = (i: number) => [`learned: added to component ${i} of every output`, "the layer's output"];
export const originLayerOutput = (n: number) => `the parts of all ${n} heads, added, with the bias where there is one`;
export const headsOutputOf = (at: number) => `output of ${at}`;

// Where a number of the lesson came from, and where it goes.
export const originQ = (i: number, at: number) => [`component ${i} of the query of token ${at}, from the recording`, "one product of step 2"];
export const originK = (i: number, at: number) => [`component ${i} of the key of token ${at}, from the recording`, "one product of step 2"];
export const originProduct = (q: string, k: string, i: number) => [`q${i} × k${i} = ${q} × ${k}`, "the dot product"];
export const originRunning = (n: number) => [`the first ${n} lines of this table, added`, "the next line's sum"];
export const originDot = (n: number) => [`the sum of all ${n} products`, "the scaled score: × scale"];
export const originScale = (d: number) => [`1 ÷ √${d} by default`, "every score of this head"];
export const originBias = (bias: string | null | undefined) => [bias ?? "the layer's bias", "this score"];
export const originEntropy = ["−Σ weight × ln weight over the row, in nats: 0 for one key, ln n for n keys alike", "nothing: it says how spread the row is"];
export const originMapped = ["exp(score − lse), as on the map", "weight × value, in the output of this query"];
export const originChanged = ["the softmax of the changed scores, worked by the page", "nothing: the recording stays as it is"];
export const originSink = ["exp(sink − largest): learned, one for each head", "the row's sum, so that the weights of the keys need not sum to 1"];
export const originOthers = ["1 − the weights above", "weight × value of those keys, in the output"];
export const originMax = ["the largest score of the row", "every score of the row, less this"];
export const originScaled = (dot: string, scale: string) => [`dot × scale = ${dot} × ${scale}`, "soft-cap and bias where there are any, then the mask"];
export const originScore = (parts: string) => [parts, "the softmax of its row"];
export const originShifted = (score: string, max: string) => [`score − largest = ${score} − ${max}`, "exp"];
export const originExp = (shifted: string) => [`exp(${shifted})`, "the row's sum, and this weight"];
export const originSum = ["exp of every key that the query sees, added, and of the sink where there is one", "every weight of the row is divided by it"];
export const originWeight = (exp: string, sum: string) => [`exp ÷ sum = ${exp} ÷ ${sum}`, "weight × value, in the output of this query"];
export const originValue = (i: number, at: number) => [`component ${i} of the value of token ${at}, from the recording`, "weight × value"];
export const originOut = (i: number) => [`Σ weight × value, component ${i}, over every key`, "the concatenated heads"];

// Why separate query, key and value vectors?
export const separateLead = "A query says what a word looks for, a key what it can be found by, a value what it passes on. Tied together, one vector has two jobs. Try it on both sides: type other numbers into the vectors.";
export const separateTask = (a: string, b: string) => `Make “${a}” find “${b}”, a score above 2, while “${b}” does not find “${a}”, a score of 0 or less.`;
export const separatePair = "Two words";
export const separateVectors = "Separate: a query and a key for each word";
export const separateTied = "Tied: one vector for both";
export const separateQ = (word: string) => `q of ${word}`;
export const separateK = (word: string) => `k of ${word}`;
export const separateTiedVector = (word: string) => `q = k of ${word}`;
export const separateScore = (a: string, b: string) => `${a} → ${b}`;
export const separateDone = "Done. The relation has a direction.";
export const separateNotYet = "Not yet: change the vectors.";
export const separateImpossible = "It cannot be done: both scores are the same products in another order, so they are equal whatever you type.";
export const separateValue = "And why a value of its own?";
export const separateValueText = (word: string) => `A key is an address; a value is the letter. With k for v, “${word}” would receive the addresses of the words that it found, not what they say.`;
export const separateWithV = "Σ weight × v";
export const separateWithK = "Σ weight × k instead";
export const separateReset = "As at first";
export const separateScoreGoes = "compared with the score the other way round; then scaled, masked and made a weight";
export const separateOutputGoes = (word: string) => `what “${word}” receives in this head`;

// How does attention help a model understand context?
export const contextLead = "The same word in two lines. Going in, its vector is the same in both: the model knows only which word it is. In each layer it attends to what stands before it, and the two vectors part: each now carries its line with it.";
export const contextFirstText = "First line";
export const contextSecondText = "Second line";
export const contextCompare = "Compare";
export const contextToken = (text: string, model: string) => `“${text}” in both lines, as the model “${model}” reads them`;
export const contextCosine = "How alike its two vectors are";
export const contextCosineText = "The cosine of the word's vector in one line with its vector in the other: 1 is the same direction.";
export const contextBefore = "before the first layer";
export const contextAfter = (layer: number) => `after layer ${layer}`;
export const originCosine = (layer: number) => [layer ? `the hidden state of the token after layer ${layer - 1}, in both lines: their dot product ÷ the product of their lengths` : "the token's embedding, in both lines", layer ? "the next layer" : "layer 0"];
export const contextHeads = "Where the heads look from it";
export const contextHeadsText = "How far apart a head's two rows lie: the share of weight that is on other words. Click one.";
export const contextRow = (which: string, head: string) => `${which}: what the word sees, ${head}`;
export const originContextWeight = (text: string) => [`this head's weight on “${text}”, exp ÷ sum as in step 7`, "weight × value, in the word's output"];
