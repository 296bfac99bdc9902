/** A grid of codes as a coloured map: like codes have like colours. */

import { colours } from "../lib/likeness.js";
import { Cells } from "../parts/cells.js";

/** Pixels of a cell from which on its index is written in it. */
const READABLE = 30;
/** Lightness from which on black is easier to read than white. */
const LIGHT = 0.62;

/**
 * @param {import("../lib/model.js").Model} model
 * @param {Partial<import("../parts/cells.js").Options> & {label: string, hint: string}} options
 */
export function codeMap(model, options) {
  /** @type {import("../lib/model.js").Codes} */
  let codes = new Int32Array(model.rows * model.columns);
  /** @type {string[]} */
  let palette = colours(model.size, null);
  const { rows, columns } = model;
  const cells = new Cells({
    rows,
    columns,
    paint: (context, cell, box) => paint(context, box, palette[codes[cell] ?? 0] ?? "", `${codes[cell]}`),
    describe: (cell) =>
      `row ${Math.floor(cell / columns) + 1}, column ${(cell % columns) + 1}: code ${codes[cell]}`,
    ...options,
  });
  // Without the codebook the colours stay as they are; the choice of codes says why.
  void model.codebook().then(
    (vectors) => {
      palette = colours(model.size, vectors);
      cells.draw();
    },
    () => {},
  );
  return {
    element: cells.element,
    cells,
    /** @param {import("../lib/model.js").Codes} given */
    show(given) {
      codes = given;
      cells.draw();
    },
  };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {import("../parts/cells.js").Box} box
 * @param {string} colour
 * @param {string} text
 */
function paint(context, { x, y, width, height }, colour, text) {
  context.fillStyle = colour;
  context.fillRect(x, y, width, height);
  const size = Math.min(width / 3, 15 * Math.min(window.devicePixelRatio || 1, 2));
  if (width < READABLE) return;
  context.fillStyle = Number(colour.slice(6, 11)) > LIGHT ? "#000" : "#fff";
  context.font = `500 ${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, x + width / 2, y + height / 2);
}
