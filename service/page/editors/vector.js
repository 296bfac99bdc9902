/** Codes that are a vector: shown as bars, changed by sliders of the most active dimensions. */

import { fill, make } from "../lib/dom.js";
import { fitted } from "../lib/pixels.js";
import { figures } from "../parts/figures.js";
import { example, examples } from "../parts/sources.js";
import { bars, sliders } from "../parts/vector.js";

/**
 * @param {import("../lib/model.js").Model} model
 * @param {import("./grid.js").Hooks} hooks
 * @returns {import("./grid.js").Editor}
 */
export function vectorEditor(model, hooks) {
  /** @type {import("../lib/model.js").Codes} */
  let codes = new Float32Array(model.columns);
  const shown = bars(`The ${model.columns} numbers of the code`);
  const numbers = make("div", {});
  const tools = make("div", {}, make("p", { class: "note" }, "finding the most active dimensions …"));
  /** @type {ReturnType<typeof sliders> | null} */
  let found = null;
  let last = -1;
  activity(model).then((spread) => {
    const order = [...spread.keys()].sort((one, other) => (spread[other] ?? 0) - (spread[one] ?? 0));
    found = sliders(order, (dimension, value) => {
      if (dimension !== last) hooks.begin();
      last = dimension;
      hooks.change(dimension, value);
    });
    fill(
      tools,
      make("p", { class: "note" }, "The dimensions that differ most between the examples come first."),
      found.element,
    );
    found.show(codes);
  }, hooks.failed);
  return {
    element: make("div", { class: "vector" }, shown.element),
    about: numbers,
    aboutTitle: "Vector",
    tools,
    show(given) {
      codes = given;
      shown.show(given);
      const length = Math.hypot(...given);
      fill(
        numbers,
        figures([
          ["Numbers", `${given.length}`],
          ["Length", length.toFixed(2)],
          ["Smallest", Math.min(...given).toFixed(2)],
          ["Largest", Math.max(...given).toFixed(2)],
        ]),
      );
      if (!document.activeElement?.matches(".sliders input")) last = -1;
      if (last < 0) found?.show(given);
    },
  };
}

/**
 * How much each dimension differs between the codes of the examples: its variance.
 *
 * @param {import("../lib/model.js").Model} model
 * @returns {Promise<number[]>}
 */
function activity(model) {
  const { image } = model.detail;
  return model.once("activity", async () => {
    const names = examples(image).map(({ name }) => name);
    const all = await Promise.all(
      names.map(async (name) => model.encode(fitted(await example(name, image), image))),
    );
    return Array.from({ length: model.columns }, (_, axis) => {
      const values = all.map((each) => each[axis] ?? 0);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
    });
  });
}
