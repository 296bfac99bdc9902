/** The page: sections, the choice of a model, and what both share. */

import { getJson, Problem } from "./lib/api.js";
import { fill, make } from "./lib/dom.js";
import { Model } from "./lib/model.js";
import * as address from "./shell/address.js";
import { askForKeys } from "./shell/key_dialog.js";
import { startTheme } from "./shell/theme.js";
import { codebookTab } from "./tabs/codebook.js";
import { completeTab } from "./tabs/complete.js";
import { modelsTab } from "./tabs/models.js";
import { sampleTab } from "./tabs/sample.js";
import { tryTab } from "./tabs/try.js";

/** @typedef {{name: string, default: boolean, kind: string}} Summary */
/**
 * What a section gets.
 *
 * @typedef {object} View
 * @property {Model} model
 * @property {Summary[]} summaries
 * @property {URLSearchParams} params its part of the address
 * @property {(changes: Record<string, string | number | null | undefined>) => void} remember change the address
 * @property {(tab: string, params: Record<string, string>) => void} go to another section
 * @property {(name: string) => Promise<Model>} load another model
 * @property {{picture: import("./lib/pixels.js").Picture | null}} shared the picture in Try
 * @property {AbortSignal} signal aborted when the section is left
 */

/** @type {Record<string, (view: View) => HTMLElement>} */
const TABS = {
  try: tryTab,
  sample: sampleTab,
  complete: completeTab,
  codebook: codebookTab,
  models: modelsTab,
};
const FIRST = "try";

const content = /** @type {HTMLElement} */ (document.getElementById("content"));
const chooser = /** @type {HTMLSelectElement} */ (document.getElementById("model"));
const links = [.../** @type {NodeListOf<HTMLAnchorElement>} */ (document.querySelectorAll("#tabs a"))];

/** @type {Summary[]} */
let summaries = [];
/** @type {Map<string, Promise<Model>>} */
const models = new Map();
/** The address of each section when it was left. @type {Map<string, URLSearchParams>} */
const left = new Map();
/** @type {View["shared"]} */
const shared = { picture: null };
let controller = new AbortController();

/** @param {string} name */
function load(name) {
  const found = models.get(name) ?? Model.load(name);
  models.set(name, found);
  found.catch(() => models.delete(name));
  return found;
}

/** Show what the address says. */
async function show() {
  const { tab: named, params } = address.read();
  const tab = named in TABS ? named : FIRST;
  address.drop();
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  for (const link of links) {
    if (link.hash === `#${tab}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    const model = await load(params.get("model") ?? chooser.value);
    if (signal.aborted) return;
    chooser.value = model.name;
    params.set("model", model.name);
    left.set(tab, params);
    /** @type {View["remember"]} */
    const remember = (changes) => {
      for (const [name, value] of Object.entries(changes)) {
        if (value === null || value === undefined || value === "") params.delete(name);
        else params.set(name, String(value));
      }
      if (!signal.aborted) address.replace(tab, params);
    };
    const view = TABS[tab]?.({ model, summaries, params, remember, go, load, shared, signal });
    fill(content, view);
  } catch (error) {
    if (!signal.aborted) fill(content, failure(error));
  }
}

/** @type {View["go"]} */
function go(tab, params) {
  location.hash = address.hash(tab, new URLSearchParams({ model: chooser.value, ...params }));
}

/** @param {unknown} error */
function failure(error) {
  const text = error instanceof Error ? error.message : String(error);
  return make(
    "section",
    { class: "empty" },
    make("h2", {}, "Nothing to show yet"),
    make("p", { class: "error", role: "alert" }, text),
    make("button", { type: "button", click: () => void start() }, "Try again"),
  );
}

async function start() {
  try {
    summaries = (await getJson("models")).models;
    // What keeps the service from being ready says why no model is loaded.
    if (!summaries.length) await getJson("readyz");
    if (!summaries.length) throw new Problem("no model is loaded");
    fill(chooser, ...summaries.map(({ name }) => make("option", { value: name }, name)));
    chooser.value = (summaries.find((each) => each.default) ?? summaries[0])?.name ?? "";
    chooser.disabled = false;
    await show();
  } catch (error) {
    fill(content, failure(error));
  }
}

chooser.addEventListener("change", () => {
  const { tab, params } = address.read();
  const name = tab in TABS ? tab : FIRST;
  // Of the state of a section only the picture belongs to any model.
  const kept = ["example", "picture"].flatMap((each) =>
    params.get(each) ? [[each, params.get(each) ?? ""]] : [],
  );
  left.clear();
  go(name, Object.fromEntries(kept));
});
for (const link of links) {
  link.addEventListener("click", (event) => {
    const tab = link.hash.slice(1);
    const params = left.get(tab);
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(tab, params?.get("model") === chooser.value ? Object.fromEntries(params) : {});
  });
}
document.getElementById("skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  content.focus();
});
addEventListener("hashchange", () => void show());
startTheme(/** @type {HTMLButtonElement} */ (document.getElementById("theme")));
askForKeys();
void start();
