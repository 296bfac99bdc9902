/** What the page did, as commands for a shell and for Python. */

import { address, key, lastCalls } from "../lib/api.js";
import { announce, fill, make } from "../lib/dom.js";
import * as npy from "../lib/npy.js";

/** @typedef {import("../lib/api.js").Call} Call */

/** Numbers of an array that is written out. */
const MOST = 16384;

/** A part of the page to open, with the calls that the page made last. */
export function snippets() {
  const list = make("div", { class: "snippets" });
  const element = make(
    "details",
    { class: "commands", toggle: () => element.open && show(list) },
    make("summary", {}, "The same with curl and Python"),
    list,
  );
  return element;
}

/** @param {HTMLElement} list */
export function show(list) {
  const calls = lastCalls.slice(0, 3);
  fill(
    list,
    ...calls.flatMap((call) => [
      block(`curl: ${call.path}`, curl(call)),
      block(`Python: ${call.path}`, python(call)),
    ]),
    !calls.length && make("p", { class: "note" }, "The page has run no model yet. Try something first."),
  );
}

/**
 * @param {string} title
 * @param {string} text
 */
function block(title, text) {
  const copy = make(
    "button",
    {
      type: "button",
      class: "quiet",
      "aria-label": `Copy ${title}`,
      click: async () => {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
        announce("Copied");
      },
    },
    "Copy",
  );
  return make(
    "figure",
    { class: "code" },
    make("figcaption", {}, title, copy),
    make("pre", { tabindex: 0, "aria-label": title }, make("code", {}, text)),
  );
}

/**
 * The body of a call: JSON, or the name of the file that stands for a picture.
 *
 * @param {Call} call
 */
function content({ path, body }) {
  if (!(body instanceof Uint8Array)) return { json: JSON.stringify(body ?? {}), file: "" };
  const { shape, data } = npy.load(/** @type {ArrayBuffer} */ (body.slice().buffer));
  if (path === "encode" || data.length > MOST)
    return { json: "", file: path === "encode" ? "picture.png" : "codes.json" };
  return {
    json: JSON.stringify({ shape, codes: Array.from(data, (value) => Number(value.toFixed(6))) }),
    file: "",
  };
}

/** @param {Call} call */
export function curl(call) {
  const { json, file } = content(call);
  const url = new URL(address(call), document.baseURI).href;
  const lines = [`curl -X POST '${url}'`];
  if (key.get()) lines.push('-H "Authorization: Bearer $TESSERA_KEY"');
  lines.push(`-H 'Accept: ${shown(call)}'`);
  if (json) lines.push("-H 'Content-Type: application/json'", `-d '${json.replaceAll("'", "'\\''")}'`);
  else lines.push(`--data-binary @${file}`);
  if (shown(call) === "image/png") lines.push("-o decoded.png");
  return lines.join(" \\\n  ");
}

/** @param {Call} call */
export function python(call) {
  const { json, file } = content(call);
  const url = new URL(address(call), document.baseURI).href;
  const isPng = shown(call) === "image/png";
  const headers = [`"Accept": "${shown(call)}"`];
  if (json) headers.push('"Content-Type": "application/json"');
  if (key.get()) headers.push('"Authorization": f"Bearer {os.environ[\'TESSERA_KEY\']}"');
  return [
    `import json, ${key.get() ? "os, " : ""}pathlib, urllib.request`,
    "",
    json
      ? `body = json.dumps(json.loads(r'''${json}''')).encode()`
      : `body = pathlib.Path("${file}").read_bytes()`,
    `request = urllib.request.Request("${url}", body, {${headers.join(", ")}})`,
    "with urllib.request.urlopen(request) as response:",
    isPng ? '    pathlib.Path("decoded.png").write_bytes(response.read())' : "    print(json.load(response))",
  ].join("\n");
}

/**
 * The form of the response that suits a command.
 *
 * @param {Call} call
 */
function shown({ path }) {
  return path === "decode" ? "image/png" : "application/json";
}
