
"use strict";
// Calls to this server, and its refusals in plain words. The key lives in this tab's session storage and nowhere else.

const KEY_PLACE = "nexus-api-key";

function storedKey() {
  return sessionStorage.getItem(KEY_PLACE) ?? "";
}

class CallError extends Error {
  constructor(title, facts = {}) {
    super(title);
    Object.assign(this, { detail: "", status: 0, retrySeconds: 0, canRetry: true, requestId: "", ...facts });
  }
}

// The response to a call, with its body unread. Throws a CallError, or the AbortError of whoever stopped it.
async function call(path, { body, signal, key = storedKey() } = {}) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal, cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError("The server does not answer.", { detail: "Is it still running, and is this machine online?" });
  }
  if (!response.ok) throw await refusal(response, { hadKey: key !== "" });
  return response;
}

async function refusal(response, { hadKey }) {
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch { /* a page of some proxy, not ours: the status says enough */ }
  const { status, headers } = response;
  const isFinal = [400, 403, 404, 413].includes(status) || headers.get("x-should-retry") === "false";
  return new CallError(title(status, told.code, hadKey), {
    status,
    detail: told.message ?? `Its status is ${status}.`,
    retrySeconds: waitSeconds(headers.get("retry-after")),
    canRetry: !isFinal,
    requestId: headers.get("x-request-id") ?? "",
  });
}

// Seconds to wait, from a number of seconds or a date (RFC 9110, section 10.2.3).
function waitSeconds(retryAfter) {
  if (!retryAfter) return 0;
  const seconds = Number.isNaN(Number(retryAfter)) ? (Date.parse(retryAfter) - Date.now()) / 1000 : Number(retryAfter);
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : 0;
}

function title(status, code, hadKey) {
  const byCode = {
    context_length_exceeded: "The conversation is too long for this model.",
    insufficient_quota: "The budget of this key is used up.",
    model_not_allowed: "This key may not use this model.",
    model_not_found: "This model is not served here any more.",
    queue_full: "The server is busy.",
    rate_limit_exceeded: "The limit of this key is reached.",
  };
  const byStatus = {
    400: "The server refuses this request.",
    401: hadKey ? "The server does not take this API key." : "The server asks for an API key.",
    403: "This key may not do that.",
    404: "The server does not know this.",
    413: "The conversation is too large to send.",
    429: "Too many requests.",
    503: "The model cannot answer now.",
  };
  return byCode[code] ?? byStatus[status] ?? "Something broke on the server.";
}

// The events of a streamed answer. Throws a CallError where the server says so in the stream, or it breaks off.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const requestId = response.headers.get("x-request-id") ?? "";
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new CallError("The answer broke off.", { detail: event.error.message, requestId });
      yield event;
    }
  }
  throw new CallError("The answer broke off.", { detail: "The connection ended before the answer did.", requestId });
}
