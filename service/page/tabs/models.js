/** Models: a card for each, from its manifest, and the commands that do what the page did. */

import { send } from "../lib/api.js";
import { fill, make, panel } from "../lib/dom.js";
import { figures } from "../parts/figures.js";
import { show as showSnippets } from "../parts/snippets.js";

/** @typedef {import("../lib/model.js").Model} Model */

/** @param {import("../main.js").View} view */
export function modelsTab(view) {
  const { summaries, load } = view;
  const cards = make("div", { class: "cards" }, make("p", { class: "note", role: "status" }, "Loading …"));
  void Promise.allSettled(summaries.map(({ name }) => load(name))).then((found) => {
    const parts = found.map((each, index) => {
      if (each.status === "fulfilled") return card(view, each.value, summaries[index]?.default ?? false);
      return make(
        "p",
        { class: "error", role: "alert" },
        `${summaries[index]?.name}: ${each.reason?.message}`,
      );
    });
    fill(cards, ...parts);
  });
  const commands = make("div", { class: "snippets" });
  showSnippets(commands);
  return make(
    "div",
    {},
    make("h2", {}, "Models"),
    make(
      "p",
      { class: "lead" },
      "What is served now, as its manifests say it. The figures were measured when each model was exported.",
    ),
    cards,
    panel("What the page did last, as commands", commands),
  );
}

/**
 * @param {import("../main.js").View} view
 * @param {Model} model
 * @param {boolean} isDefault
 */
function card({ go, signal }, model, isDefault) {
  const { detail } = model;
  const { image, codes } = detail;
  const picture = make("div");
  void preview(model, signal).then((shown) => fill(picture, shown));
  const numbers = model.size ? `of ${model.size}` : "numbers";
  const shape = `${codes.shape.join("×")} ${numbers}`;
  const use = (/** @type {string} */ tab, /** @type {string} */ text) =>
    make("button", { type: "button", click: () => go(tab, { model: model.name }) }, text);
  return make(
    "article",
    { class: "panel card", "aria-label": model.name },
    make(
      "h3",
      {},
      model.name,
      make(
        "span",
        { class: "tag" },
        `${detail.kind}, version ${detail.version}${isDefault ? ", the default" : ""}`,
      ),
    ),
    make(
      "div",
      {},
      picture,
      figures([
        ["Pictures", `${image.width}×${image.height}, ${image.channels === 1 ? "grey" : "colour"}`],
        ["Other sizes", image.multiple_of === null ? "no" : `multiples of ${image.multiple_of}`],
        ["Codes", shape],
        [
          "Size of the codes",
          `${Math.ceil(model.bits / 8)} B, ${(model.bits / (image.width * image.height)).toFixed(2)} bits a pixel`,
        ],
        ["Runs on", detail.provider],
        ["Made", detail.created.slice(0, 10)],
      ]),
      make("p", { class: "note" }, `On ${detail.provider}: ${detail.reason}.`),
    ),
    make(
      "div",
      {},
      measures(detail.measures),
      parity(detail.parity),
      make(
        "div",
        { class: "tools" },
        model.can("encode") && model.can("decode") && use("try", "Try it"),
        model.methods.length > 0 && use("sample", "Sample"),
        model.methodsThatTake("mask").length > 0 && use("complete", "Complete"),
        model.isGrid && use("codebook", "Codebook"),
      ),
      operations(detail.operations),
    ),
  );
}

/**
 * @param {Model} model
 * @param {AbortSignal} signal
 */
async function preview(model, signal) {
  try {
    const path = `models/${encodeURIComponent(model.name)}/preview.png`;
    const url = URL.createObjectURL(
      await (await send({ method: "GET", path, accept: "image/png", signal })).blob(),
    );
    signal.addEventListener("abort", () => URL.revokeObjectURL(url));
    return make("img", { src: url, alt: `Preview of ${model.name}: pictures, and what it makes of them` });
  } catch (error) {
    return make("p", { class: "note" }, error instanceof Error ? error.message : String(error));
  }
}

/** @param {import("../lib/model.js").Detail["measures"]} all */
function measures(all) {
  if (!all.length) return null;
  const rows = all.map(({ of, dataset, split, images, values }) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, of),
      make(
        "td",
        {},
        Object.entries(values)
          .map(([name, value]) => `${name.replaceAll("_", " ")} ${Number(value.toPrecision(4))}`)
          .join(", "),
      ),
      make("td", {}, `${images.toLocaleString("en")} of ${dataset}, ${split}`),
    ),
  );
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": "Measures" },
    make(
      "table",
      {},
      make(
        "thead",
        {},
        make("tr", {}, ...["Of", "Measures", "On"].map((name) => make("th", { scope: "col" }, name))),
      ),
      make("tbody", {}, ...rows),
    ),
  );
}

/** @param {import("../lib/model.js").Detail["parity"]} found */
function parity(found) {
  if (!found) return null;
  const { images, within_one_level: within, code_flips: flips, codes, tolerance } = found;
  return make(
    "p",
    { class: "note", title: tolerance },
    `ONNX Runtime against torch on ${images} pictures: ${(100 * within).toFixed(2)} % of pixels within 1 of 255, ${flips} of ${codes.toLocaleString("en")} codes differ.`,
  );
}

/** @param {import("../lib/model.js").Detail["operations"]} all */
function operations(all) {
  const rows = Object.entries(all).map(([name, { description }]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, description)),
  );
  return make(
    "details",
    {},
    make("summary", {}, "Operations"),
    make("table", {}, make("tbody", {}, ...rows)),
  );
}
