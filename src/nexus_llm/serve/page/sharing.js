// Taking it along: the conversation as JSON, the last request as code. A key never leaves the page: code reads it from
// the environment.

const MASKED_KEY = "NEXUS_API_KEY";

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function asCurl(url, body, { hasKey }) {
  const lines = [`curl -sS ${shellQuoted(`${url}v1/chat/completions`)}`, "-H 'content-type: application/json'"];
  if (hasKey) lines.push(`-H "authorization: Bearer $${MASKED_KEY}"`);
  lines.push(`-d ${shellQuoted(JSON.stringify(body, null, 2))}`);
  return `${lines.join(" \\\n  ")}\n`;
}

// A value as Python writes it. JSON's strings are Python's, too.
function asPythonValue(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const entries = Array.isArray(value)
    ? value.map(one => inner + asPythonValue(one, inner))
    : Object.entries(value).map(([name, one]) => `${inner}${JSON.stringify(name)}: ${asPythonValue(one, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return entries.length ? `${open}\n${entries.join(",\n")},\n${indent}${close}` : open + close;
}

function asPython(url, body, { hasKey }) {
  const key = hasKey ? `os.environ["${MASKED_KEY}"]` : '"none"';
  const words = Object.entries(body).map(([name, value]) => `    ${name}=${asPythonValue(value, "    ")},\n`).join("");
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(`${url}v1`)}, api_key=${key})
answer = client.chat.completions.create(
${words})
print(answer.choices[0].message.content)
`;
}

// All turns with what was asked of each side and what came of it. Holds no key.
function asExport(turns, { url, at }) {
  const answers = turn => turn.replies.filter(Boolean).map(reply => ({
    side: reply.side,
    request: reply.request,
    text: reply.text,
    finish_reason: reply.reason,
    error: reply.error ? { message: reply.error.message, detail: reply.error.detail } : null,
    usage: reply.usage,
    seconds_to_first_token: reply.first ? round((reply.first - reply.asked) / 1000) : null,
    tokens_per_second: speedOf(reply),
  }));
  return {
    format: "nexus-conversation/1",
    exported_at: at,
    server: url,
    turns: turns.map(turn => ({ question: turn.question, answers: answers(turn) })),
  };
}

const round = number => Math.round(number * 1000) / 1000;

// Tokens a second after the first one; null where that cannot be told.
function speedOf(reply) {
  const tokens = reply.usage?.completion_tokens ?? reply.pieces, seconds = (reply.last - reply.first) / 1000;
  return tokens > 1 && seconds > 0.02 ? round((tokens - 1) / seconds) : null;
}

function download(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
