/** What one code of a picture is: its index, its little picture, its vector, and where else it occurs. */

import { fill, make } from "../lib/dom.js";
import { figures } from "../parts/figures.js";
import { PictureView } from "../parts/picture_view.js";
import { bars } from "../parts/vector.js";

/** @param {import("../lib/model.js").Model} model */
export function inspector(model) {
  const numbers = make("div", {});
  const glyph = new PictureView("What the code decodes to by itself");
  const vector = bars("The vector of the code in the codebook");
  const note = make(
    "p",
    { class: "note" },
    "Point at a cell of the codes, or move to one with the arrow keys.",
  );
  const detail = make("div", { class: "inspector", hidden: true }, glyph.element, numbers, vector.element);
  const element = make("div", {}, note, detail);
  /** @type {import("../lib/pixels.js").Picture[]} */
  let glyphs = [];
  /** @type {Float32Array[] | null} */
  let vectors = null;
  // What fails here fails for the choice of codes too, which says why.
  void Promise.all([model.glyphs(), model.codebook()]).then(
    ([pictures, found]) => {
      glyphs = pictures;
      vectors = found;
    },
    () => {},
  );

  return {
    element,
    /**
     * @param {number} code
     * @param {number} cell -1 for a code of no picture
     * @param {number} times how often the picture has it
     */
    show(code, cell, times) {
      note.hidden = true;
      detail.hidden = false;
      const picture = glyphs[code];
      if (picture) glyph.show(picture);
      const own = vectors?.[code];
      vector.element.hidden = !own;
      if (own) vector.show(own);
      const row = Math.floor(cell / model.columns) + 1;
      fill(
        numbers,
        figures([
          ["Code", `${code} of ${model.size}`],
          ...(cell < 0
            ? []
            : /** @type {[string, string][]} */ ([
                ["Cell", `row ${row}, column ${(cell % model.columns) + 1}`],
                ["In this picture", times === 1 ? "here alone" : counted(times)],
              ])),
          ["In this visit", counted(model.seen.get(code) ?? 0)],
        ]),
      );
    },
  };
}

/** @param {number} times */
function counted(times) {
  return times === 1 ? "once" : `${times} times`;
}
