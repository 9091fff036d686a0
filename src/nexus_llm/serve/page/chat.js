// The conversation and everything that is pressed.

const [talk, text, send, form, scroll, panel] = ["talk", "text", "send", "form", "scroll", "panel"].map(element);
const [keyDialog, codeDialog] = [element("key-dialog"), element("code-dialog")];
const narrow = matchMedia("(max-width: 64rem)");
let turns = [], running = null, isLockedOut = false;

const pageUrl = () => new URL(".", location.href).href;

// ---- the server's models -------------------------------------------------------------------------------------------

// Learns what there is to choose. Gives the CallError that kept it from that, or null.
async function connect(key = storedKey()) {
  try {
    cards = (await (await call("v1/models", { key })).json()).data;
  } catch (error) {
    if (error.status === 401) lockOut(key ? error.detail : "");
    return error;
  }
  isLockedOut = false;
  element("unlock").hidden = true;
  element("ideas").hidden = false;
  for (const side of sides) if (!cardOf(side)) side.model = cards[0]?.id ?? "";
  drawSettings();
  update();
  return null;
}

// ---- asking and answering ------------------------------------------------------------------------------------------

// What a side has seen so far: where it was not asked, what the other one answered.
function historyOf(index, before) {
  return before.flatMap(turn => {
    const reply = turn.replies[index] ?? turn.replies[0];
    return reply?.text ? [{ role: "user", content: turn.question }, { role: "assistant", content: reply.text }] : [];
  });
}

function requestOf(index, turn) {
  const side = sides[index], before = turns.slice(0, turns.indexOf(turn) < 0 ? undefined : turns.indexOf(turn));
  const system = side.system.trim() ? [{ role: "system", content: side.system }] : [];
  const messages = [...system, ...historyOf(index, before), { role: "user", content: turn.question }];
  return { model: side.model, messages, ...parametersOf(side) };
}

async function ask(question) {
  const turn = { question, replies: [], node: make("div", { className: "turn" }) };
  turns.push(turn);
  turn.node.append(make("h2", { className: "away", textContent: `Question ${turns.length}` }));
  turn.node.append(make("div", { className: "question", textContent: question }));
  turn.answers = make("div", { className: "answers" });
  turn.node.append(turn.answers);
  turn.node.classList.toggle("compared", sides.length > 1);
  element("welcome").hidden = true;
  talk.append(turn.node);
  sides.forEach((side, index) => turn.answers.append(newCard(side, index)));
  scroll.scrollTop = scroll.scrollHeight;
  await run(sides.map((_, index) => answer(turn, index)));
  text.focus({ preventScroll: true });
}

// Starts answers together and waits for all; one stop ends them all.
async function run(starts) {
  running = new AbortController();
  document.body.classList.add("busy");
  announce(starts.length > 1 ? "Both sides are answering." : "The model is answering.");
  update();
  await Promise.all(starts.map(start => start(running.signal)));
  running = null;
  document.body.classList.remove("busy");
  update();
}

function newCard(side, index) {
  const card = element("answer").content.firstElementChild.cloneNode(true);
  card.querySelector(".badge").textContent = side.letter;
  card.querySelector(".badge").classList.toggle("b", index === 1);
  return card;
}

// Prepares an answer at once, so that later changes of settings do not touch it; gives what carries it out.
function answer(turn, index) {
  const side = sides[index], card = turn.answers.children[index], request = requestOf(index, turn);
  const reply = {
    side: side.letter, request, text: "", reason: null, usage: null, error: null, pieces: 0,
    asked: 0, first: 0, last: 0,  // milliseconds of performance.now()
    wasTaken: false,
  };
  turn.replies[index] = reply;
  const name = `${sides.length > 1 ? `${side.letter}, ` : ""}${request.model}`;
  card.querySelector("h3").textContent = request.model;
  card.setAttribute("aria-label", `Answer of ${name}`);
  card.querySelector(".error")?.remove();
  const draw = drawer(card, reply);
  return async signal => {
    card.classList.add("streaming");
    card.setAttribute("aria-busy", "true");
    await receive(reply, signal, draw.soon);
    draw.now();
    card.classList.remove("streaming");
    card.removeAttribute("aria-busy");
    if (reply.error) showError(turn, index, card, reply.error);
    const copy = card.querySelector(".copy");
    copy.disabled = !reply.text;
    copy.onclick = () => copyText(reply.text, copy);
    countReply(reply, cardOf({ model: request.model }));
    if (!reply.error) announceReply(name, reply);
  };
}

// Brings the words to the screen, at most once a frame.
function drawer(card, reply) {
  const [words, facts, ending] = [".words", ".facts", ".ending"].map(part => card.querySelector(part));
  let isDue = false;
  const now = () => {
    isDue = false;
    const isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 90;
    show(words, reply.request.response_format && reply.text ? `\`\`\`json\n${reply.text}` : reply.text);
    facts.textContent = factsOf(reply);
    ending.textContent = { length: "cut at the limit", stopped: "stopped" }[reply.reason] ?? "";
    if (isAtEnd) scroll.scrollTop = scroll.scrollHeight;
  };
  return { now, soon: () => { if (!isDue) { isDue = true; requestAnimationFrame(now); } } };
}

function factsOf(reply) {
  const tokens = reply.usage?.completion_tokens ?? reply.pieces, speed = speedOf(reply);
  return [
    reply.first && `first token ${((reply.first - reply.asked) / 1000).toFixed(2)} s`,
    speed && `${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s`,
    reply.first && `${whole(tokens)} tokens`,
  ].filter(Boolean).join(" · ");
}

// Fills `reply` from the stream; never throws.
async function receive(reply, signal, changed) {
  reply.asked = performance.now();
  const body = { ...reply.request, stream: true, stream_options: { include_usage: true } };
  try {
    const response = await call("v1/chat/completions", { body, signal });
    reply.wasTaken = true;
    drawLimits(response.headers);
    for await (const event of events(response)) {
      reply.usage = event.usage ?? reply.usage;
      const choice = event.choices[0];
      if (!choice) continue;
      if (choice.delta.content) {
        reply.last = performance.now();
        reply.first ||= reply.last;
        reply.pieces += 1;
        reply.text += choice.delta.content;
        changed();
      }
      reply.reason = choice.finish_reason ?? reply.reason;
    }
  } catch (error) {
    if (signal.aborted) reply.reason = "stopped";
    else if (error instanceof CallError) reply.error = error;
    else reply.error = new CallError("The answer broke off.", { detail: "The connection to the server was lost." });
  }
}

// ---- what goes wrong -----------------------------------------------------------------------------------------------

function showError(turn, index, card, error) {
  const box = make("div", { className: `error${error.retrySeconds ? " waits" : ""}`, role: "alert" });
  box.append(make("strong", { textContent: error.message }), make("span", { textContent: error.detail }));
  if (error.requestId) box.append(make("small", { textContent: `Request ${error.requestId}` }));
  card.append(box);
  const isLast = turn === turns.at(-1);
  if (error.status === 401) lockOut(storedKey() ? error.detail : "");
  if (error.canRetry && isLast) box.append(make("div", {}, retryButton(turn, index, error.retrySeconds)));
  scroll.scrollTop = scroll.scrollHeight;
}

function retryButton(turn, index, seconds) {
  const button = make("button", { type: "button", className: "quiet retry" });
  const readyAt = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((readyAt - Date.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0 && (button.isConnected || left === seconds)) setTimeout(tick, 250);
  };
  tick();
  button.addEventListener("click", () => {
    // Only the last turn, and never beside another answer: what follows would not know of this one.
    if (running || turn !== turns.at(-1) || index >= sides.length) return;
    const wrong = firstWrong(sides[index]);
    if (wrong) pointAt(index, wrong);
    else run([answer(turn, index)]).then(() => text.focus());
  });
  return button;
}

// ---- what is said to screen readers --------------------------------------------------------------------------------

const SPOKEN_CHARACTERS = 400;
let spoken = Promise.resolve();

// Says something once, after what is being said. A stream is not read out piece by piece: its end is.
function announce(words) {
  spoken = spoken.then(() => new Promise(resolve => {
    // The same words a second time would be no change, and not be said.
    element("said").textContent = element("said").textContent === words ? `${words}\u00a0` : words;
    setTimeout(resolve, 700);
  }));
}

function announceReply(name, reply) {
  const end = { stopped: "was stopped", length: "was cut at the length limit" }[reply.reason] ?? "is complete";
  const isLong = reply.text.length > SPOKEN_CHARACTERS;
  const words = isLong ? `${reply.text.slice(0, SPOKEN_CHARACTERS)}… The rest is in the conversation.` : reply.text;
  announce(`The answer of ${name} ${end}. ${words}`);
}

// ---- the key -------------------------------------------------------------------------------------------------------

function lockOut(wrong) {
  isLockedOut = true;
  element("unlock").hidden = cards.length > 0;
  element("ideas").hidden = cards.length === 0;
  askForKey(wrong);
}

function askForKey(wrong = "") {
  if (keyDialog.open) return;
  const isKnown = storedKey() !== "" && !wrong;
  element("key-title").textContent = isKnown ? "The API key of this tab" : "This server asks for an API key";
  element("key-wrong").textContent = wrong;
  element("key").value = "";
  element("forget").hidden = !storedKey();
  keyDialog.showModal();
  element("key").focus();
}

async function useKey(event) {
  event.preventDefault();
  const key = element("key").value.trim();
  // Anything else cannot stand in a header at all.
  if (!/^[\x21-\x7e]+$/.test(key)) return keyIsWrong("A key is made of letters, digits and signs, without spaces.");
  const error = await connect(key);
  if (error) return keyIsWrong(`${error.message} ${error.detail}`);
  sessionStorage.setItem(KEY_PLACE, key);
  element("key").value = "";
  keyDialog.close();
  announce("The key is taken.");
  document.querySelectorAll(".turn:last-child .retry").forEach(button => button.focus());
  if (!document.querySelector(".turn:last-child .retry")) text.focus();
}

function keyIsWrong(words) {
  element("key-wrong").textContent = words;
  element("key").setAttribute("aria-invalid", "true");
  element("key").select();
}

// ---- code and export -----------------------------------------------------------------------------------------------

function showCode() {
  const index = edited < sides.length ? edited : 0;
  const wrong = firstWrong(sides[index]);
  if (wrong) return pointAt(index, wrong);
  const last = turns.at(-1)?.replies[index]?.request;
  const body = last ?? requestOf(index, { question: text.value.trim() || "Hello!" });
  const language = document.querySelector('[name="language"]:checked').value;
  const hasKey = storedKey() !== "", write = language === "curl" ? asCurl : asPython;
  element("snippet").textContent = write(pageUrl(), body, { hasKey });
  element("code-hint").textContent = [
    last ? "The last request, with the conversation before it." : "No question was asked yet, so this is an example.",
    hasKey ? `Your key is not in it: put it into the environment variable ${MASKED_KEY}.` : "",
    sides.length > 1 ? `Side ${sides[index].letter}.` : "",
  ].filter(Boolean).join(" ");
  if (!codeDialog.open) codeDialog.showModal();
}

function exportConversation() {
  const document_ = asExport(turns, { url: pageUrl(), at: new Date().toISOString() });
  download("conversation.json", `${JSON.stringify(document_, null, 2)}\n`);
  announce("The conversation was saved as conversation.json.");
}

// ---- what is pressed -----------------------------------------------------------------------------------------------

function update() {
  const canSend = cards.length > 0 && text.value.trim() !== "";
  send.disabled = !running && !canSend;
  send.setAttribute("aria-label", running ? "Stop" : "Send");
  element("compare").disabled = element("new").disabled = Boolean(running);
  if (!CSS.supports("field-sizing", "content")) text.rows = Math.min(8, text.value.split("\n").length);
}

function submit() {
  const question = text.value.trim();
  if (running || !cards.length || !question) return;
  for (const [index, side] of sides.entries()) {
    const wrong = firstWrong(side);
    if (wrong) return pointAt(index, wrong);
  }
  text.value = "";
  ask(question);
}

function pointAt(index, field) {
  edit(index);
  openPanel(true);
  element(field).focus();
  announce(`Nothing was sent: ${wrongWith(sides[index], field)}`);
}

function openPanel(isOpen, { keepFocus = false } = {}) {
  panel.hidden = !isOpen;
  element("toggle").setAttribute("aria-expanded", String(isOpen));
  const covers = isOpen && narrow.matches;
  for (const other of document.querySelectorAll("header, main")) other.inert = covers;
  if (covers && !keepFocus) element("close").focus();
}

function closePanel() {
  openPanel(false);
  element("toggle").focus();
}

function compare() {
  if (sides.length > 1) {
    sides.pop();
    edited = 0;
  } else {
    const other = cards.find(card => card.id !== sides[0].model);
    sides.push({ ...sides[0], letter: "B", model: other?.id ?? sides[0].model });
    edited = 1;
  }
  const isOn = sides.length > 1;
  element("compare").setAttribute("aria-pressed", String(isOn));
  document.body.classList.toggle("comparing", isOn);
  edit(edited);
  if (isOn) announce("Two sides: each question goes to both. Choose models and settings of each.");
}

form.addEventListener("submit", event => { event.preventDefault(); running ? running.abort() : submit(); });
text.addEventListener("input", update);
text.addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
});
document.addEventListener("keydown", event => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (running) running.abort();
  else if (!panel.hidden && narrow.matches) closePanel();
});
element("ideas").addEventListener("click", event => {
  if (event.target.matches("button")) { text.value = event.target.textContent; submit(); }
});
element("new").addEventListener("click", () => {
  turns = [];
  talk.querySelectorAll(".turn").forEach(node => node.remove());
  element("welcome").hidden = false;
  text.focus();
});
element("compare").addEventListener("click", compare);
element("toggle").addEventListener("click", () => openPanel(panel.hidden));
element("close").addEventListener("click", closePanel);
narrow.addEventListener("change", () => openPanel(!narrow.matches, { keepFocus: true }));
element("settings").addEventListener("input", readSettings);
element("settings").addEventListener("submit", event => event.preventDefault());
element("letters").addEventListener("change", event => edit(event.target.value === "B" ? 1 : 0));
element("reset").addEventListener("click", () => {
  const { letter, model } = sides[edited];
  sides[edited] = { ...newSide(letter), model };
  for (const field of FIELDS) if (element(field).type !== "checkbox") element(field).value = "";
  drawSettings();
});
element("export").addEventListener("click", exportConversation);
element("code").addEventListener("click", showCode);
element("languages").addEventListener("change", showCode);
element("code-copy").addEventListener("click", event => copyText(element("snippet").textContent, event.target));
element("code-close").addEventListener("click", () => codeDialog.close());
element("unlock").addEventListener("click", () => askForKey());
element("key-button").addEventListener("click", () => askForKey());
element("key-form").addEventListener("submit", useKey);
element("key").addEventListener("input", () => element("key").removeAttribute("aria-invalid"));
element("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY_PLACE);
  keyDialog.close();
  connect();
});
element("key-cancel").addEventListener("click", () => keyDialog.close());

openPanel(!narrow.matches, { keepFocus: true });
drawSettings();
update();
connect().then(watchServer);
