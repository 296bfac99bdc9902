/** Where pictures come from: examples, a file, the clipboard, or a drop. */

import { make, newId } from "../lib/dom.js";
import { read } from "../lib/pixels.js";

/** @typedef {{name: string, file: string}} Example */
/** @typedef {(source: HTMLImageElement, example?: string) => void} Taken */

const DIGITS = Array.from({ length: 10 }, (_, digit) => ({ name: `${digit}`, file: `digit-${digit}.png` }));
const EMOJI = ["fox", "octopus", "apple", "rocket", "grin", "rainbow"].map((name) => ({
  name,
  file: `${name}.webp`,
}));

/**
 * The bundled examples, those that look like the model's pictures first.
 *
 * @param {import("../lib/pixels.js").ImageSpec} image
 * @returns {Example[]}
 */
export function examples(image) {
  return image.channels === 1 ? [...DIGITS, ...EMOJI] : [...EMOJI, ...DIGITS];
}

/**
 * The picture of an example; the first one for an unknown name.
 *
 * @param {string | null} name
 * @param {import("../lib/pixels.js").ImageSpec} image
 */
export async function example(name, image) {
  const known = examples(image);
  const found = known.find((each) => each.name === name) ?? known[image.channels === 1 ? 7 : 0];
  return read(url(/** @type {Example} */ (found)));
}

/** @param {Example} found */
function url({ file }) {
  return new URL(`../examples/${file}`, import.meta.url).href;
}

/**
 * A row of the examples, and a button to choose a file.
 *
 * @param {import("../lib/pixels.js").ImageSpec} image
 * @param {Taken} taken
 * @param {(error: unknown) => void} failed
 */
export function sourceBar(image, taken, failed) {
  const id = newId();
  const input = make("input", {
    type: "file",
    accept: "image/*",
    id,
    class: "unseen",
    change: () => {
      const [file] = input.files ?? [];
      if (file) read(file).then((picture) => taken(picture), failed);
      input.value = "";
    },
  });
  const buttons = examples(image).map((each) =>
    make(
      "button",
      {
        type: "button",
        class: "example",
        title: each.name,
        click: () => read(url(each)).then((picture) => taken(picture, each.name), failed),
      },
      make("img", {
        src: url(each),
        alt: `Example: ${each.name}`,
        width: 28,
        height: 28,
        draggable: "false",
      }),
    ),
  );
  return make(
    "div",
    { class: "sources" },
    make("div", { class: "examples", role: "group", "aria-label": "Examples" }, ...buttons),
    make(
      "div",
      { class: "file" },
      input,
      make("label", { for: id, class: "button" }, "Choose a picture"),
      make("span", { class: "note" }, "or drop or paste one"),
    ),
  );
}

/**
 * Take pictures that are dropped on the page or pasted, until the signal.
 *
 * @param {Taken} taken
 * @param {(error: unknown) => void} failed
 * @param {AbortSignal} signal
 */
export function listen(taken, failed, signal) {
  /** @param {DataTransfer | null} transfer */
  const take = (transfer) => {
    const file = [...(transfer?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (file) read(file).then((picture) => taken(picture), failed);
    return file !== undefined;
  };
  document.addEventListener("dragover", (event) => event.preventDefault(), { signal });
  document.addEventListener(
    "drop",
    (event) => {
      event.preventDefault();
      if (!take(event.dataTransfer))
        failed(new Error("what was dropped is no picture; PNG, JPEG and WebP are"));
    },
    { signal },
  );
  document.addEventListener("paste", (event) => take(event.clipboardData) && event.preventDefault(), {
    signal,
  });
}
