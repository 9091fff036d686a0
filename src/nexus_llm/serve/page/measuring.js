// Numbers: what /metrics tells of the server, and what this session took.

const METRICS_SECONDS = 3;
const SPARK_POINTS = 60;

// Metric name → sum over its labels, from Prometheus' text form.
function readMetrics(text) {
  const sums = {};
  for (const line of text.split("\n")) {
    const found = /^([A-Za-z_:][\w:]*)(?:\{.*\})?\s+(\S+)/.exec(line);
    if (found) sums[found[1]] = (sums[found[1]] ?? 0) + Number(found[2]);
  }
  return sums;
}

// The paths of a line and of the area below it, over 240 × 44, newest value at the right.
function sparkline(values) {
  if (values.length < 2) return { line: "", area: "" };
  const top = Math.max(...values, 1), step = 240 / (SPARK_POINTS - 1), left = 240 - step * (values.length - 1);
  const place = (value, index) => `${(left + index * step).toFixed(1)} ${(42 - 38 * value / top).toFixed(1)}`;
  const points = values.map(place);
  return { line: `M${points.join("L")}`, area: `M${left.toFixed(1)} 44L${points.join("L")}L240 44Z` };
}

const whole = number => new Intl.NumberFormat("en").format(Math.round(number));

// US dollars with as many places as tell something: a chat costs fractions of a cent.
function money(usd) {
  if (usd === 0) return "$0";
  return `$${usd >= 1 ? usd.toFixed(2) : usd >= 0.0001 ? usd.toFixed(5) : usd.toFixed(8)}`;
}

const price = usd => `$${usd.toFixed(Math.max(2, `${usd}`.split(".")[1]?.length ?? 0))}`;

const speeds = [];
let lastTokens = null;

// Looks at /metrics and /ready again and again while the page can be seen.
async function watchServer() {
  if (!document.hidden) {
    await Promise.all([lookAtMetrics(), lookWhetherReady()]);
  } else lastTokens = null;  // a gap: its mean would look like one moment's speed
  setTimeout(watchServer, METRICS_SECONDS * 1000);
}

async function lookAtMetrics() {
  let sums;
  try {
    sums = readMetrics(await (await call("metrics", { signal: AbortSignal.timeout(5000) })).text());
  } catch {
    for (const id of ["running", "waiting", "cache", "speed"]) element(id).textContent = "–";
    element("spark-note").textContent = "the server does not tell its metrics";
    lastTokens = null;
    return;
  }
  const now = performance.now(), tokens = sums["vllm:generation_tokens_total"] ?? 0;
  if (lastTokens && tokens >= lastTokens.tokens) {
    speeds.push((tokens - lastTokens.tokens) / ((now - lastTokens.at) / 1000));
    if (speeds.length > SPARK_POINTS) speeds.shift();
  }
  lastTokens = { tokens, at: now };
  element("running").textContent = whole(sums["vllm:num_requests_running"] ?? 0);
  element("waiting").textContent = whole(sums["vllm:num_requests_waiting"] ?? 0);
  const share = sums["vllm:kv_cache_usage_perc"];
  const places = share > 0 && share < 0.1 ? 1 : 0;
  element("cache").textContent = share === undefined ? "–" : `${(100 * share).toFixed(places)}%`;
  drawSpeeds();
}

function drawSpeeds() {
  if (!speeds.length) return;
  const { line, area } = sparkline(speeds), latest = whole(speeds.at(-1)), peak = whole(Math.max(...speeds));
  element("speed").textContent = latest;
  document.querySelector("#spark .line").setAttribute("d", line);
  document.querySelector("#spark .area").setAttribute("d", area);
  const said = `Tokens per second over the last minutes: now ${latest}, at most ${peak}`;
  element("spark").setAttribute("aria-label", said);
  element("spark-note").textContent = `tokens/s, last three minutes, at most ${peak}`;
}

const STATES = {
  unreachable: "not reachable", loading: "model is loading", draining: "stopping", failed: "engine is down",
};

async function lookWhetherReady() {
  let state = "unreachable";
  try {
    state = (await (await fetch("ready", { cache: "no-store", signal: AbortSignal.timeout(5000) })).json()).status;
  } catch { /* said by the word */ }
  const was = element("state").dataset.state;
  element("state").dataset.state = state;
  document.querySelector("#state .label").textContent = STATES[state] ?? state;
  // What the engine can do is known once it is ready. Whoever has no key is not asked again and again.
  if (state === "ready" && (was !== "ready" || !cards.length) && !isLockedOut) connect();
}

// What this page has used since it was opened. `isExact` is false once an answer ended without its usage.
const session = { promptTokens: 0, answerTokens: 0, usd: 0, isPriced: false, isExact: true };

function countReply(reply, card) {
  const prices = card?.nexus?.prices;
  const prompt = reply.usage?.prompt_tokens ?? 0, answer = reply.usage?.completion_tokens ?? reply.pieces;
  session.promptTokens += prompt;
  session.answerTokens += answer;
  if (!reply.usage && reply.wasTaken) session.isExact = false;
  if (prices) {
    session.isPriced = true;
    const { usd_per_million_prompt_tokens: usdIn, usd_per_million_completion_tokens: usdOut } = prices;
    session.usd += (prompt * usdIn + answer * usdOut) / 1e6;
  }
  drawSession(card);
}

function drawSession(card) {
  const atLeast = session.isExact ? "" : "at least ", prices = card?.nexus?.prices;
  element("prompt-tokens").textContent = atLeast + whole(session.promptTokens);
  element("answer-tokens").textContent = atLeast + whole(session.answerTokens);
  const unpriced = card ? "no price configured" : "not known yet";
  element("cost").textContent = session.isPriced || prices ? atLeast + money(session.usd) : unpriced;
  const words = [];
  if (prices) {
    const { usd_per_million_prompt_tokens: usdIn, usd_per_million_completion_tokens: usdOut } = prices;
    words.push(`${price(usdIn)} a million tokens in, ${price(usdOut)} out`);
  }
  if (!session.isExact) words.push("a stopped answer does not tell its whole usage");
  element("price").textContent = words.join(" · ");
}

// What the key has left, from the headers of an answer (OpenAI's x-ratelimit-*).
function drawLimits(headers) {
  const left = ["requests", "tokens"].flatMap(kind => {
    const limit = headers.get(`x-ratelimit-limit-${kind}`), remaining = headers.get(`x-ratelimit-remaining-${kind}`);
    return limit === null ? [] : [`${whole(remaining)} of ${whole(limit)} ${kind}`];
  });
  element("limit-row").hidden = left.length === 0;
  element("limits").textContent = left.join(", ");
}
