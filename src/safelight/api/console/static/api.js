// Talks to the gateway as every client does. The key is kept for this tab alone.

const KEY = "safelight.key";

export const session = {
  get key() {
    return sessionStorage.getItem(KEY);
  },
  set key(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
    document.dispatchEvent(new CustomEvent("session"));
  },
};

/** What the gateway refused, in its own words. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? (status ? `the gateway answered ${status}` : "the gateway cannot be reached"));
    this.status = status;
    this.code = body?.error?.code;
  }
}

/** Where a path of the gateway is, also behind a proxy's prefix. */
export function address(path, query = {}) {
  const url = new URL(path.replace(/^\//, ""), document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

/** A signed link as this page reaches it: the gateway may know itself under another name. */
export function linked(url) {
  const found = new URL(url, document.baseURI);
  const path = found.pathname.slice(found.pathname.lastIndexOf("/v1/files/"));
  return address(path + found.search).href;
}

function credentials() {
  return session.key ? { authorization: `Bearer ${session.key}` } : {};
}

async function answered(method, path, { query, json, form, headers = {}, signal } = {}) {
  const body = json === undefined ? form : JSON.stringify(json);
  const kind = json === undefined ? {} : { "content-type": "application/json" };
  let response;
  try {
    response = await fetch(address(path, query), { method, body, signal, headers: { ...kind, ...credentials(), ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, null);
  }
  if (response.ok) return response;
  const problem = new ApiError(response.status, await response.json().catch(() => null));
  if (response.status === 401) document.dispatchEvent(new CustomEvent("unauthorized"));
  throw problem;
}

/** One exchange; gives the JSON that came back, `null` for none. Throws `ApiError`. */
export async function call(method, path, options) {
  const response = await answered(method, path, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path, query, options = {}) => call("GET", path, { query, ...options });

/** The picture behind a signed link, as a file. */
export async function picture(url, name) {
  const response = await fetch(linked(url));
  if (!response.ok) throw new ApiError(response.status, null);
  const content = await response.blob();
  return new File([content], name, { type: content.type });
}

/** Server-sent events of one response: `{id, event, data}`. `EventSource` could send no key. */
export async function* events(path, { signal, after } = {}) {
  const headers = { accept: "text/event-stream", ...(after ? { "last-event-id": after } : {}) };
  const response = await answered("GET", path, { headers, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = parsed(block);
      if (found.data !== undefined) yield found;
    }
  }
}

function parsed(block) {
  const found = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 1) continue;
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
    if (name === "data") found.data = JSON.parse(value);
    else found[name] = value;
  }
  return found;
}
