/** The codebook as little pictures to choose from. */

import { fill, make, pen, resized } from "../lib/dom.js";
import { distance } from "../lib/likeness.js";
import { toImageData } from "../lib/pixels.js";
import { Cells } from "./cells.js";

/** @typedef {import("../lib/pixels.js").Picture} Picture */

/** Width of a little picture on the screen, in pixels. */
const WIDE = 30;

/**
 * Little pictures as canvases, ready to be drawn.
 *
 * @param {Picture[]} pictures
 */
export function stamps(pictures) {
  return pictures.map((picture) => {
    const stamp = document.createElement("canvas");
    stamp.width = picture.width;
    stamp.height = picture.height;
    pen(stamp).putImageData(toImageData(picture), 0, 0);
    return stamp;
  });
}

export class CodePicker {
  /**
   * @param {import("../lib/model.js").Model} model
   * @param {(code: number) => void} chosen
   * @param {(code: number | null) => void} [focused]
   * @param {(code: number) => number | undefined} [use] from 0 to 1, shown below each picture
   */
  constructor(model, chosen, focused, use) {
    this.model = model;
    this.chosen = chosen;
    this.focused = focused;
    this.use = use;
    this.element = make("div", { class: "picker" });
    /** The codes in the order in which they are shown. */
    this.order = Array.from({ length: model.size }, (_, code) => code);
    /** @type {HTMLCanvasElement[]} */
    this.stamps = [];
    this.current = -1;
    this.columns = 0;
    /** @type {Cells | null} */
    this.cells = null;
    /** @type {Float32Array[] | null} */
    this.vectors = null;
    resized(this.element, () => this.#build());
  }

  async load() {
    this.stamps = stamps(await this.model.glyphs());
    this.vectors = await this.model.codebook();
    this.#build();
  }

  #build() {
    const columns = Math.floor(this.element.clientWidth / WIDE);
    if (columns < 1 || columns === this.columns || !this.stamps.length) return;
    this.columns = columns;
    this.cells = new Cells({
      rows: Math.ceil(this.order.length / columns),
      columns,
      label: "The codes to choose from",
      hint: "Arrow keys move, Enter chooses a code.",
      paint: (context, cell, box) => this.#paint(context, cell, box),
      describe: (cell) => `code ${this.order[cell] ?? "none"}`,
      focus: (cell) => this.focused?.(cell === null ? null : (this.order[cell] ?? null)),
      press: (cell, isFirst) => isFirst && this.#choose(cell),
    });
    fill(this.element, this.cells.element);
    this.show(this.current);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} cell
   * @param {import("./cells.js").Box} box
   */
  #paint(context, cell, { x, y, width, height }) {
    const stamp = this.stamps[this.order[cell] ?? -1];
    if (!stamp) return;
    const use = this.use?.(this.order[cell] ?? -1);
    context.imageSmoothingEnabled = false;
    context.globalAlpha = use === 0 ? 0.45 : 1;
    context.drawImage(stamp, x + 1, y + 1, width - 2, height - 2);
    context.globalAlpha = 1;
    if (!use) return;
    context.fillStyle = getComputedStyle(context.canvas).getPropertyValue("--accent");
    context.fillRect(x + 1, y + height - 5, Math.max(3, (width - 2) * use), 4);
  }

  /** @param {number} cell */
  #choose(cell) {
    const code = this.order[cell];
    if (code === undefined) return;
    this.show(code);
    this.chosen(code);
  }

  /**
   * Mark a code.
   *
   * @param {number} code
   */
  show(code) {
    this.current = code;
    this.cells?.mark(code < 0 ? [] : [this.order.indexOf(code)]);
  }

  /**
   * Show the codes in an order.
   *
   * @param {number[]} order
   */
  sort(order) {
    this.order = order;
    if (this.cells) this.cells.cursor = 0;
    this.element.scrollTop = 0;
    this.show(this.current);
  }

  /**
   * Show the codes by their likeness to one, itself first.
   *
   * @param {number} code
   */
  sortBy(code) {
    const vectors = this.vectors;
    const own = vectors?.[code];
    if (!vectors || !own) return;
    const far = vectors.map((vector) => distance(own, vector));
    this.sort(far.map((_, each) => each).sort((one, other) => (far[one] ?? 0) - (far[other] ?? 0)));
  }
}
