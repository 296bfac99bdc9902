/** The REST API of the service that this page came from: requests, keys and problems. */

/** What the service said about a request that it refused, or that nobody answered. */
export class Problem extends Error {
  /**
   * @param {string} detail
   * @param {number} status 0 if there was no response
   */
  constructor(detail, status = 0) {
    super(detail);
    this.status = status;
  }
}

/**
 * @typedef {object} Call
 * @property {"GET" | "POST"} method
 * @property {string} path
 * @property {Record<string, string | number | undefined>} [query]
 * @property {BodyInit | object} [body] an object that is no bytes is sent as JSON
 * @property {string} [type] the media type of the body
 * @property {string} accept the media type of the response
 * @property {AbortSignal} [signal]
 */

const KEY = "tessera-key";
/** The model was replaced since the page read its manifest. */
const CONFLICT = 409;

/** The key that was given in this tab; it stays in the tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  /** @param {string} value */
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** Asks for a key; the page sets it. @type {{ask: (reason: string) => Promise<string>}} */
export const keyDialog = { ask: () => Promise.reject(new Problem("this service needs a key", 401)) };

/** The calls that the page made last, the newest first; each that runs a model is kept once a path. @type {Call[]} */
export const lastCalls = [];

/**
 * The address of a call, relative to the page, so that it works below a path.
 *
 * @param {Call} request
 */
export function address({ path, query = {} }) {
  const given = Object.entries(query).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, String(value)]],
  );
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/**
 * Send a request. Asks for a key if the service needs one. Throws Problem, and AbortError if it was cancelled.
 *
 * @param {Call} request
 * @returns {Promise<Response>}
 */
export async function send(request) {
  if (request.method === "POST") {
    lastCalls.unshift(request, ...lastCalls.splice(0).filter((each) => each.path !== request.path));
  }
  for (;;) {
    const used = key.get();
    const response = await fetched(request, used);
    if (response.ok) return response;
    const detail = await said(response);
    if (response.status === CONFLICT) throw new Problem(`${detail}; load this page again`, CONFLICT);
    if (response.status !== 401) throw new Problem(detail, response.status);
    // Another call may have got a key meanwhile.
    if (key.get() === used) key.set(await keyDialog.ask(used === null ? "" : detail));
  }
}

/**
 * @param {Call} request
 * @param {string | null} known the key
 */
async function fetched(request, known) {
  const { method, body, type, accept, signal } = request;
  const isJson = body !== undefined && !(body instanceof Uint8Array || body instanceof Blob);
  /** @type {Record<string, string>} */
  const headers = { Accept: accept };
  if (type || isJson) headers["Content-Type"] = type ?? "application/json";
  if (known) headers.Authorization = `Bearer ${known}`;
  try {
    return await fetch(new URL(address(request), document.baseURI), {
      method,
      headers,
      signal: signal ?? null,
      credentials: "omit",
      body: isJson ? JSON.stringify(body) : /** @type {BodyInit | null} */ (body ?? null),
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem("the service does not answer; is it running?");
  }
}

/** @param {Response} response */
async function said(response) {
  try {
    const { detail } = await response.json();
    return String(detail);
  } catch {
    return `the service answered ${response.status} ${response.statusText}`;
  }
}

/**
 * The JSON of a GET.
 *
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function getJson(path) {
  return (await send({ method: "GET", path, accept: "application/json" })).json();
}
