/** The state of the page in its address: `#TAB?name=value`. */

/** Milliseconds between two changes of the address: browsers refuse more than some a second. */
const PAUSE = 300;

/** @returns {{tab: string, params: URLSearchParams}} */
export function read() {
  const [tab = "", query = ""] = location.hash.slice(1).split("?", 2);
  return { tab, params: new URLSearchParams(query) };
}

/**
 * @param {string} tab
 * @param {URLSearchParams} params
 */
export function hash(tab, params) {
  const query = params.toString();
  return query ? `#${tab}?${query}` : `#${tab}`;
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

/**
 * Change the address without going anywhere.
 *
 * @param {string} tab
 * @param {URLSearchParams} params
 */
export function replace(tab, params) {
  clearTimeout(timer);
  timer = setTimeout(
    () => history.replaceState(null, "", location.pathname + location.search + hash(tab, params)),
    PAUSE,
  );
}

/** Forget a change that has not been made. */
export function drop() {
  clearTimeout(timer);
}
