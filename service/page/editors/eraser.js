/** A picture whose cells are erased, by a box or one by one. */

import { canvas, make, newId } from "../lib/dom.js";
import { show } from "../lib/pixels.js";
import { Cells } from "../parts/cells.js";

/** @typedef {import("../lib/pixels.js").Picture} Picture */

export class Eraser {
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
