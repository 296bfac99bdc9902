/** Complete: erase cells of a picture, and let the model draw them anew. */

import { Eraser } from "../editors/eraser.js";
import { fill, make } from "../lib/dom.js";
import { fromLink, toLink } from "../lib/links.js";
import { fitted, matches } from "../lib/pixels.js";
import { Status } from "../lib/tasks.js";
import { choice, field } from "../parts/controls.js";
import { snippets } from "../parts/snippets.js";
import * as sources from "../parts/sources.js";
import { drawForm } from "./draw_form.js";
import { elsewhere } from "./elsewhere.js";
import { sampleGrid } from "./film.js";

/** @typedef {import("../lib/pixels.js").Picture} Picture */

/** @param {import("../main.js").View} view */
export function completeTab(view) {
  const { model, params } = view;
  const able = model.methodsThatTake("mask");
  const method = able.find(({ name }) => name === params.get("method")) ?? able[0];
  if (!method || !model.isInPlace || !model.can("encode")) {
    return elsewhere(
      view,
      "complete",
      `${model.name} cannot complete pictures.`,
      (other) => other.isInPlace && other.methodsThatTake("mask").length > 0,
    );
  }
  return new Completion(view, method).element;
}

class Completion {
  /**
   * @param {import("../main.js").View} view
   * @param {import("../lib/model.js").Method} method
   */
  constructor(view, method) {
    this.view = view;
    const { model, params, signal } = view;
    this.status = new Status(signal);
    this.results = make("div");
    this.eraser = new Eraser(model, given(params.get("mask"), model), () => this.draw());
    /** @type {Picture | null} */
    this.picture = null;
    this.form = drawForm(view, method, {
      count: 8,
      many: "Proposals",
      above: [methods(view, method)],
      button: "Complete",
      submit: () => this.draw(),
    });
    /** @type {sources.Taken} */
    const taken = (source, example) => this.take(fitted(source, model.detail.image), example);
    const failed = (/** @type {unknown} */ error) => this.status.fail(error);
    sources.listen(taken, failed, signal);
    this.begin().catch(failed);
    const eraser = make("div", { class: "erase" }, this.eraser.element);
    this.element = make(
      "div",
      {},
      make("h2", {}, "Erase a part, and let the model fill it"),
      make(
        "p",
        { class: "lead" },
        "The codes that are left stay as they are; the prior draws the others to go with them.",
      ),
      sources.sourceBar(model.detail.image, taken, failed),
      make(
        "div",
        { class: "workshop" },
        this.form.form,
        make("div", {}, eraser, this.results, this.status.element),
      ),
      snippets(),
    );
  }

  /** Start with the picture of the address, that of Try, or an example. */
  async begin() {
    const { params, shared, model } = this.view;
    const { image } = model.detail;
    const [link, example] = [params.get("picture"), params.get("example")];
    const { picture } = shared;
    if (link) this.take(await fromLink(link, image));
    else if (picture && matches(picture, image) && !example) this.take(picture);
    else this.take(await sources.example(example, image), example ?? undefined);
  }

  /**
   * @param {Picture} picture
   * @param {string} [example] its name, if it is one
   */
  take(picture, example) {
    this.picture = picture;
    this.eraser.show(picture);
    if (example) this.view.remember({ example, picture: null });
    else void toLink(picture).then((link) => this.view.remember({ example: null, picture: link }));
    this.draw();
  }

  draw() {
    const { view, picture, form, results } = this;
    const { mask } = this.eraser;
    if (!picture) return;
    view.remember({ ...form.state(), mask: mask.join("") });
    void this.status.run("Completing", async (abort) => {
      if (!mask.includes(1))
        throw new Error("nothing is erased: press a cell of the picture, or drag over some");
      const codes = await view.model.encode(picture, abort);
      const document = {
        ...form.document(),
        codes: nested(codes, view.model),
        mask: nested(mask, view.model),
      };
      fill(results, sampleGrid(view, await view.model.sample(document, abort), true));
      performance.mark("tessera-drawn");
    });
  }
}

/**
 * The choice of a method, if there are several.
 *
 * @param {import("../main.js").View} view
 * @param {import("../lib/model.js").Method} method
 */
function methods({ model, go }, method) {
  const names = model.methodsThatTake("mask").map(({ name }) => name);
  if (names.length < 2) return null;
  /** @type {[string, string][]} */
  const options = names.map((name) => [name, name]);
  return field(
    "Method",
    choice(options, method.name, (name) => go("complete", { method: name })),
  );
}

/**
 * One grid as nested lists.
 *
 * @param {ArrayLike<number>} flat
 * @param {import("../lib/model.js").Model} model
 */
function nested(flat, { rows, columns }) {
  return [
    Array.from({ length: rows }, (_, row) => Array.from(flat).slice(row * columns, (row + 1) * columns)),
  ];
}

/**
 * The mask of the address; without one the lower half.
 *
 * @param {string | null} text
 * @param {import("../lib/model.js").Model} model
 */
function given(text, { rows, columns }) {
  const cells = rows * columns;
  if (text?.length === cells) return Array.from(text, Number);
  return Array.from({ length: cells }, (_, cell) => Number(cell >= Math.ceil(rows / 2) * columns));
}
