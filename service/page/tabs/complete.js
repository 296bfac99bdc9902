/** Complete: erase cells of a picture, and let the model draw them anew. */

import { canvas, fill, make, newId } from "../lib/dom.js";
import { fromLink, toLink } from "../lib/links.js";
import { fitted, show } from "../lib/pixels.js";
import { Status } from "../lib/tasks.js";
import { Cells } from "../parts/cells.js";
import { choice, field } from "../parts/controls.js";
import { snippets } from "../parts/snippets.js";
import * as sources from "../parts/sources.js";
import { drawForm } from "./draw_form.js";
import { elsewhere } from "./elsewhere.js";
import { sampleGrid } from "./film.js";

/** @typedef {import("../lib/pixels.js").Picture} Picture */

/** @param {import("../main.js").View} view */
export function completeTab(view) {
  const { model, params, remember, signal, shared } = view;
  const { image } = model.detail;
  const methods = model.methodsThatTake("mask");
  const method = methods.find(({ name }) => name === params.get("method")) ?? methods[0];
  if (!method || !model.isGrid || !model.can("encode")) {
    return elsewhere(
      view,
      "complete",
      `${model.name} cannot complete pictures.`,
      (other) => other.isGrid && other.methodsThatTake("mask").length > 0,
    );
  }
  const status = new Status(signal);
  const results = make("div", { class: "results" });
  const eraser = new Eraser(model, given(params.get("mask"), model), () => draw());
  /** @type {Picture | null} */
  let picture = null;

  const draw = () => {
    const source = picture;
    if (!source) return;
    const mask = eraser.mask;
    remember({ ...form.state(), mask: mask.join("") });
    void status.run("Completing", async (abort) => {
      if (!mask.includes(1))
        throw new Error("nothing is erased: press a cell of the picture, or drag over some");
      const codes = await model.encode(source, abort);
      const { rows, columns } = model;
      const grid = (/** @type {ArrayLike<number>} */ flat) => [
        Array.from({ length: rows }, (_, row) =>
          Array.from({ length: columns }, (_, column) => flat[row * columns + column]),
        ),
      ];
      const samples = await model.sample({ ...form.document(), codes: grid(codes), mask: grid(mask) }, abort);
      fill(results, sampleGrid(view, samples, true));
      performance.mark("tessera-drawn");
    });
  };
  /** @type {sources.Taken} */
  const taken = (source, example) => {
    const fit = fitted(source, image);
    remember({ example, picture: null });
    if (!example) void keep(fit);
    use(fit);
  };
  const keep = async (/** @type {Picture} */ fit) => remember({ example: null, picture: await toLink(fit) });
  /** @param {Picture} fit */
  const use = (fit) => {
    picture = fit;
    eraser.show(fit);
    draw();
  };
  const failed = (/** @type {unknown} */ error) => status.fail(error);
  sources.listen(taken, failed, signal);

  const form = drawForm(view, method, {
    count: 8,
    many: "Proposals",
    above: [
      methods.length > 1
        ? field(
            "Method",
            choice(
              methods.map(({ name }) => [name, name]),
              method.name,
              (name) => view.go("complete", { method: name }),
            ),
          )
        : null,
    ],
    button: "Complete",
    submit: draw,
  });
  const isSame =
    shared.picture?.width === image.width &&
    shared.picture?.height === image.height &&
    shared.picture?.channels === image.channels;
  const link = params.get("picture");
  if (link) fromLink(link, image).then(use, failed);
  else if (shared.picture && isSame && !params.get("example")) {
    void keep(shared.picture);
    use(shared.picture);
  } else
    sources
      .example(params.get("example"), image)
      .then((found) => taken(found, params.get("example") ?? undefined), failed);
  return make(
    "div",
    {},
    make("h2", {}, "Erase a part, and let the model fill it"),
    make(
      "p",
      { class: "lead" },
      "The codes that are left stay as they are; the prior draws the others to go with them.",
    ),
    sources.sourceBar(image, taken, failed),
    make(
      "div",
      { class: "workshop" },
      form.form,
      make("div", {}, make("div", { class: "erase" }, eraser.element), results, status.element),
    ),
    snippets(),
  );
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

/** A picture whose cells are erased, by a box or one by one. */
class Eraser {
  /**
   * @param {import("../lib/model.js").Model} model
   * @param {number[]} mask 1 where a cell is erased
   * @param {() => void} changed called at the end of a gesture
   */
  constructor(model, mask, changed) {
    this.mask = mask;
    this.changed = changed;
    this.columns = model.columns;
    this.picture = canvas(1, 1);
    const name = newId();
    this.freehand = make("input", { type: "radio", name, id: newId(), checked: true });
    this.box = make("input", { type: "radio", name, id: newId() });
    this.start = 0;
    this.value = 1;
    this.before = mask;
    this.cells = new Cells({
      rows: model.rows,
      columns: model.columns,
      label: "The picture by its cells; erased cells are hatched",
      hint: "Arrow keys move. Space erases a cell or brings it back; Shift and an arrow key go on with it.",
      paint: (context, cell, box) => this.#paint(context, cell, box, model),
      describe: (cell) =>
        `row ${Math.floor(cell / this.columns) + 1}, column ${(cell % this.columns) + 1}: ${this.mask[cell] ? "erased" : "kept"}`,
      press: (cell, isFirst) => this.#press(cell, isFirst),
      release: () => this.changed(),
    });
    const all = (/** @type {number} */ value) => () => {
      this.mask = this.mask.map(() => value);
      this.cells.draw();
      this.changed();
    };
    this.element = make(
      "div",
      {},
      make(
        "div",
        { class: "modes", role: "radiogroup", "aria-label": "How to erase" },
        this.freehand,
        make("label", { for: this.freehand.id }, "Freehand"),
        this.box,
        make("label", { for: this.box.id }, "Box"),
        make("button", { type: "button", click: all(1) }, "Erase all"),
        make("button", { type: "button", click: all(0) }, "Erase none"),
      ),
      this.cells.element,
    );
  }

  /** @param {Picture} picture */
  show(picture) {
    show(this.picture, picture);
    this.cells.draw();
  }

  /**
   * @param {number} cell
   * @param {boolean} isFirst
   */
  #press(cell, isFirst) {
    if (isFirst) {
      this.start = cell;
      this.value = this.box.checked ? 1 : 1 - (this.mask[cell] ?? 0);
      this.before = this.mask.slice();
    }
    if (!this.box.checked) this.mask[cell] = this.value;
    else {
      const [rows, columns] = [
        [this.start, cell].map((each) => Math.floor(each / this.columns)),
        [this.start, cell].map((each) => each % this.columns),
      ];
      const isIn = (/** @type {number} */ at, /** @type {number[]} */ ends) =>
        at >= Math.min(...ends) && at <= Math.max(...ends);
      this.mask = this.before.map((value, each) =>
        isIn(Math.floor(each / this.columns), rows) && isIn(each % this.columns, columns)
          ? this.value
          : value,
      );
    }
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} cell
   * @param {import("../parts/cells.js").Box} box
   * @param {import("../lib/model.js").Model} model
   */
  #paint(context, cell, { x, y, width, height }, { rows, columns }) {
    const [wide, high] = [this.picture.width / columns, this.picture.height / rows];
    context.imageSmoothingEnabled = false;
    context.drawImage(
      this.picture,
      (cell % columns) * wide,
      Math.floor(cell / columns) * high,
      wide,
      high,
      x,
      y,
      width,
      height,
    );
    if (!this.mask[cell]) return;
    const style = getComputedStyle(context.canvas);
    context.fillStyle = style.getPropertyValue("--wash");
    context.fillRect(x, y, width, height);
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    context.beginPath();
    // Lines that go on from cell to cell.
    for (let line = -height; line < width; line += width / 4) {
      context.moveTo(x + line, y + height);
      context.lineTo(x + line + height, y);
    }
    context.strokeStyle = style.getPropertyValue("--accent");
    context.globalAlpha = 0.45;
    context.stroke();
    context.restore();
  }
}
