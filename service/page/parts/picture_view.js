/** A picture on a canvas, with a caption and a frame around a part of it. */

import { canvas, make } from "../lib/dom.js";
import { show } from "../lib/pixels.js";

/** @typedef {{left: number, top: number, width: number, height: number}} Part in fractions of the picture */

export class PictureView {
  /**
   * @param {string} label
   * @param {import("../lib/dom.js").Attributes} [attributes] of the canvas
   */
  constructor(label, attributes = {}) {
    this.canvas = canvas(1, 1, { role: "img", "aria-label": label, class: "pixels", ...attributes });
    this.outline = make("div", { class: "outline", hidden: true });
    this.element = make("div", { class: "picture" }, this.canvas, this.outline);
  }

  /** @param {import("../lib/pixels.js").Picture} picture */
  show(picture) {
    show(this.canvas, picture);
  }

  /** @param {Part | null} part */
  frame(part) {
    this.outline.hidden = !part;
    if (!part) return;
    for (const side of /** @type {const} */ (["left", "top", "width", "height"])) {
      this.outline.style[side] = `${100 * part[side]}%`;
    }
  }
}
