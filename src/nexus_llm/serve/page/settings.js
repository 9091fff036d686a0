// Two sides, each with a model and its settings. An empty setting is not sent: then the model's own holds.

const FIELDS = ["system", "temperature", "top_p", "max_tokens", "seed", "stop", "is_json", "schema"];
const NUMBERS = [  // field, member of a request, word in a summary
  ["temperature", "temperature", "temperature"], ["top_p", "top_p", "top-p"],
  ["max_tokens", "max_completion_tokens", "max tokens"], ["seed", "seed", "seed"],
];
const EXAMPLE_SCHEMA = JSON.stringify({
  type: "object",
  properties: { answer: { type: "string" }, is_certain: { type: "boolean" } },
  required: ["answer", "is_certain"],
  additionalProperties: false,
}, null, 2);

function newSide(letter) {
  return {
    letter, model: "", system: "", temperature: "", top_p: "", max_tokens: "", seed: "", stop: "", is_json: false,
    schema: EXAMPLE_SCHEMA,
  };
}

const sides = [newSide("A")];
let edited = 0;
let cards = [];

const cardOf = side => cards.find(card => card.id === side.model);
const canJson = side => cardOf(side)?.nexus?.features?.includes("json_schema") ?? false;

// The members of a request that a side's settings make, without its messages. Throws where they are no valid settings.
function parametersOf(side) {
  const body = {};
  for (const [field, name] of NUMBERS) if (side[field] !== "") body[name] = Number(side[field]);
  const stop = side.stop.split("\n").filter(Boolean);
  if (stop.length) body.stop = stop;
  if (side.is_json && canJson(side)) {
    body.response_format = side.schema.trim()
      ? { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(side.schema) } }
      : { type: "json_object" };
  }
  return body;
}

// What is wrong with a side's setting, in words; empty where nothing is.
function wrongWith(side, field) {
  const limit = element(field);
  const value = side[field];
  if (field === "schema") {
    if (!side.is_json || !value.trim()) return "";
    try {
      const schema = JSON.parse(value);
      return schema && typeof schema === "object" && !Array.isArray(schema) ? "" : "A schema is a JSON object.";
    } catch (error) {
      return `This is not JSON: ${error.message}`;
    }
  }
  if (limit.type !== "number" || value === "") return "";
  const number = Number(value), min = Number(limit.min || -Infinity), max = Number(limit.max || Infinity);
  if (value === "?" || Number.isNaN(number)) return "A number is needed here.";
  if (limit.step === "1" && !Number.isInteger(number)) return "A whole number is needed here.";
  if (number >= min && number <= max) return "";
  if (field === "top_p") return "Above 0, and at most 1.";
  return max === Infinity ? `At least ${min}.` : `Between ${min} and ${whole(max)}.`;
}

const firstWrong = side => FIELDS.find(field => wrongWith(side, field));

function summaryOf(side) {
  if (side.letter === "B" && FIELDS.every(field => side[field] === sides[0][field])) return "same settings as A";
  const words = [];
  if (side.system) words.push("system prompt");
  for (const [field, , word] of NUMBERS) if (side[field] !== "") words.push(`${word} ${side[field]}`);
  if (side.stop.trim()) words.push("stop texts");
  if (side.is_json && canJson(side)) words.push("JSON");
  return words.join(" · ") || "default settings";
}

// One bar for each side: which model, and its settings in a line.
function drawSides() {
  const bars = element("sides");
  while (bars.children.length > sides.length) bars.lastElementChild.remove();
  while (bars.children.length < sides.length) bars.append(newBar(bars.children.length));
  sides.forEach((side, index) => {
    const [select, summary] = ["select", ".summary"].map(part => bars.children[index].querySelector(part));
    const listed = [...select.options].map(option => option.value).join("\n");
    if (listed !== cards.map(card => card.id).join("\n")) {
      select.replaceChildren(...cards.map(card =>
        make("option", { value: card.id, textContent: card.nexus?.is_adapter ? `${card.id} (adapter)` : card.id })));
    }
    if (!cards.length) select.replaceChildren(make("option", { value: "", textContent: "no model known yet" }));
    select.value = side.model;
    const name = sides.length > 1 ? ` ${side.letter}` : "";
    select.setAttribute("aria-label", `Model${name}`);
    summary.textContent = summaryOf(side);
    summary.setAttribute("aria-label", `Settings${name}: ${summary.textContent}`);
  });
}

function newBar(index) {
  const bar = element("side").content.firstElementChild.cloneNode(true), letter = "AB"[index];
  bar.querySelector(".badge").textContent = letter;
  bar.querySelector(".badge").classList.toggle("b", index === 1);
  bar.querySelector("select").addEventListener("change", event => {
    sides[index].model = event.target.value;
    drawSettings();
    update();
  });
  bar.querySelector(".summary").addEventListener("click", () => {
    edit(index);
    openPanel(true);
    element("system").focus();
  });
  return bar;
}

function edit(index) {
  edited = index;
  document.querySelector(`[name="letter"][value="${"AB"[index]}"]`).checked = true;
  drawSettings();
}

// The form shows the edited side.
function drawSettings() {
  const side = sides[edited], card = cardOf(side);
  element("letters").hidden = sides.length < 2;
  element("settings-title").textContent = "Settings";
  for (const field of FIELDS) {
    const input = element(field);
    if (input.type === "checkbox") input.checked = side[field];
    else if (input.value !== side[field] && side[field] !== "?") input.value = side[field];
  }
  element("json").hidden = !canJson(side);
  element("schema-field").hidden = !side.is_json;
  const own = card?.nexus?.sampling;
  element("temperature").placeholder = own ? `${own.temperature}` : "model’s";
  element("top_p").placeholder = own ? `${own.top_p}` : "model’s";
  element("max_tokens").max = card?.max_model_len || "";
  element("engine").textContent = card ? serverWords(card) : "not known yet";
  drawWrongs();
  drawSides();
  drawSession(card);
}

function serverWords(card) {
  const words = [card.nexus?.engine ? `engine ${card.nexus.engine}` : "engine not known yet"];
  if (card.max_model_len) words.push(`context ${whole(card.max_model_len)} tokens`);
  return words.join(" · ");
}

function drawWrongs() {
  for (const field of FIELDS) {
    const place = element(`${field}-wrong`);
    if (!place) continue;
    place.textContent = wrongWith(sides[edited], field);
    if (place.textContent) element(field).setAttribute("aria-invalid", "true");
    else element(field).removeAttribute("aria-invalid");
  }
}

function readSettings(event) {
  const input = event.target, side = sides[edited];
  // A number field that holds no number says "" as its value: "?" tells it from an empty one.
  if (input.type === "checkbox") side[input.name] = input.checked;
  else side[input.name] = input.validity.badInput ? "?" : input.value;
  element("schema-field").hidden = !side.is_json;
  drawWrongs();
  drawSides();
}
