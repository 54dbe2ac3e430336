// The server's API: what it serves, and completions as they are written.

import { apiKey } from "./key.js";
import { events } from "./sse.js";

// Relative to the page, so that a proxy may serve it under a path of its own.
export const address = (path) => new URL(path, new URL(".", location.href)).href;

export class ApiError extends Error {
  constructor(message, { param = null, status = 0 } = {}) {
    super(message);
    this.param = param;
    this.status = status;
  }
}

export async function servedModel() {
  const { data } = await (await ask("v1/models", {})).json();
  return data[0];
}

// Yields the answer's parts; a body that is not streamed is one part.
export async function* complete(body, signal) {
  const response = await ask("v1/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!body.stream) {
    yield await response.json();
    return;
  }
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const part = JSON.parse(data);
    if (part.error) throw new ApiError(part.error.message, part.error);
    yield part;
  }
  throw new ApiError("The connection ended before the answer did.");
}

async function ask(path, options) {
  const headers = { ...options.headers };
  if (apiKey()) headers.authorization = `Bearer ${apiKey()}`;
  let response;
  try {
    response = await fetch(address(path), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const { status } = response;
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // a proxy's page, not an answer of ours
  }
  if (status === 401) return new ApiError("The server wants an API key: enter it under Settings, API key.", { status });
  return new ApiError(told.message ?? `The server answered with status ${status}.`, { param: told.param, status });
}
