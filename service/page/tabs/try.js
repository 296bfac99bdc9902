/** Try: a picture, its codes, what they decode to, and what was lost; the codes can be edited. */

import { Bench } from "../editors/bench.js";
import { make, panel } from "../lib/dom.js";
import { fitted } from "../lib/pixels.js";
import { snippets } from "../parts/snippets.js";
import * as sources from "../parts/sources.js";
import { elsewhere } from "./elsewhere.js";

/** @param {import("../main.js").View} view */
export function tryTab(view) {
  const { model, signal } = view;
  const { image } = model.detail;
  if (!model.can("encode") || !model.can("decode")) {
    return elsewhere(
      view,
      "try",
      `${model.name} does not both encode and decode.`,
      (other) => other.can("encode") && other.can("decode"),
    );
  }
  const bench = new Bench(view);
  const failed = (/** @type {unknown} */ error) => bench.status.fail(error);
  /** @type {sources.Taken} */
  const taken = (source, example) => void bench.take(fitted(source, image), example).catch(failed);
  sources.listen(taken, failed, signal);
  void bench.begin().catch(failed);
  return make(
    "div",
    { class: "try" },
    make("h2", {}, "A picture, its codes, and back"),
    make("p", { class: "lead" }, lead(model)),
    sources.sourceBar(image, taken, failed),
    make(
      "div",
      { class: "bench" },
      step(
        "Picture",
        "Draw on it.",
        bench.pad.element,
        ink(bench),
        make("button", { type: "button", click: () => bench.clear() }, "Clear"),
        make("button", { type: "button", click: () => void bench.save() }, "Save"),
        bench.large,
      ),
      step("Codes", legend(model), bench.editor.element, bench.undoButton, bench.resetButton, bench.edited),
      step("Reconstruction", "Decoded from the codes alone.", bench.decoded.element),
      step("Difference", "Grey is none.", bench.lost.element),
    ),
    bench.status.element,
    make(
      "div",
      { class: "panels" },
      panel("Edit the codes", bench.editor.tools),
      make(
        "div",
        { class: "stack" },
        panel(bench.editor.aboutTitle, bench.editor.about),
        panel(
          "Cost and loss",
          bench.numbers,
          bench.sizes,
          make(
            "p",
            { class: "note" },
            "The codes as bits, beside the same picture as a file that this browser writes; WebP and JPEG at quality 0.8.",
          ),
        ),
      ),
    ),
    snippets(),
  );
}

/** @param {import("../lib/model.js").Model} model */
function legend(model) {
  if (model.isGrid) return "Like codes have like colours.";
  if (!model.isLatents) return "Up is positive, down negative.";
  return `The first ${model.size ? "levels" : "channels"}, as colours.`;
}

/** @param {import("../lib/model.js").Model} model */
function lead(model) {
  const { image, codes } = model.detail;
  const size = `${image.width}×${image.height}`;
  if (!model.size) return `${model.name} turns a ${size} picture into ${model.columns} numbers, and back.`;
  return `${model.name} turns a ${size} picture into ${codes.shape.join("×")} codes out of ${model.size}: ${Math.round(model.bits)} bits. It makes the picture anew from these alone.`;
}

/**
 * @param {string} title
 * @param {string} note
 * @param {HTMLElement} picture
 * @param {...HTMLElement | null} tools
 */
function step(title, note, picture, ...tools) {
  return make(
    "section",
    { class: "step" },
    make("h3", {}, title),
    make("p", { class: "note" }, note),
    picture,
    make("div", { class: "tools" }, ...tools),
  );
}

/**
 * The colour of the pen; of a model of grey pictures it is the farthest from the background.
 *
 * @param {Bench} bench
 */
function ink(bench) {
  const { channels, background } = bench.view.model.detail.image;
  bench.pad.ink = Array(channels).fill(background < 128 ? 255 : 0);
  if (channels === 1) return null;
  const input = make("input", {
    type: "color",
    id: "ink",
    value: "#1f5fbf",
    input: () => take(),
  });
  const take = () => {
    bench.pad.ink = [1, 3, 5].map((at) => Number.parseInt(input.value.slice(at, at + 2), 16));
  };
  take();
  return make("span", { class: "ink" }, make("label", { for: "ink" }, "Pen"), input);
}
