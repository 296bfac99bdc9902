/** Codes with several numbers a cell, latents or residual codes: shown as a picture, not changed by hand. */

import { fill, make } from "../lib/dom.js";
import { figures } from "../parts/figures.js";
import { PictureView } from "../parts/picture_view.js";

/** Channels that are shown, as red, green and blue. */
const SHOWN = 3;
/** Standard deviations from the mean to black and to white. */
const REACH = 2.5;

/**
 * @param {import("../lib/model.js").Model} model
 * @returns {import("./grid.js").Editor}
 */
export function latentsEditor(model) {
  const [height = 1, width = 1, channels = 1] = model.detail.codes.shape;
  const [what, axis] = model.size ? ["codes", "levels"] : ["latents", "channels"];
  const view = new PictureView(`The first ${axis} of the ${what}, as colours`);
  const numbers = make("div", {});
  return {
    element: view.element,
    about: numbers,
    aboutTitle: model.size ? "Codes" : "Latents",
    tools: make(
      "p",
      { class: "note" },
      `The ${what} are ${width}×${height} cells of ${channels} numbers each, too many to be changed by hand here.`,
    ),
    show(codes) {
      const colours = channels < SHOWN ? 1 : SHOWN;
      const data = new Uint8Array(height * width * colours);
      for (let channel = 0; channel < colours; channel += 1) {
        const { mean, deviation } = spread(codes, channel, channels);
        for (let cell = 0; cell < height * width; cell += 1) {
          const value = ((codes[cell * channels + channel] ?? 0) - mean) / (REACH * deviation);
          data[cell * colours + channel] = Math.round(127.5 * (1 + Math.max(-1, Math.min(1, value))));
        }
      }
      view.show({ height, width, channels: colours, data });
      const all = spread(codes, 0, 1);
      fill(
        numbers,
        figures([
          ["Cells", `${width}×${height}`],
          ["Numbers", `${codes.length}`],
          ["Mean", all.mean.toFixed(2)],
          ["Standard deviation", all.deviation.toFixed(2)],
        ]),
      );
    },
  };
}

/**
 * The mean and the standard deviation of every `step`th number, from the one at `first` on.
 *
 * @param {import("../lib/model.js").Codes} codes
 * @param {number} first
 * @param {number} step
 */
function spread(codes, first, step) {
  const count = codes.length / step;
  let [sum, squares] = [0, 0];
  for (let at = first; at < codes.length; at += step) {
    const value = codes[at] ?? 0;
    sum += value;
    squares += value * value;
  }
  const mean = sum / count;
  return { mean, deviation: Math.sqrt(Math.max(squares / count - mean * mean, 1e-12)) };
}
