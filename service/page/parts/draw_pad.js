/** A canvas to draw on: its pixels are those that the model sees. */

import { announce } from "../lib/dom.js";
import { PictureView } from "./picture_view.js";

/** @typedef {import("../lib/pixels.js").Picture} Picture */
/** @typedef {[number, number]} Point column and row, in pixels of the picture */

const STEPS = new Map([
  ["ArrowLeft", [-1, 0]],
  ["ArrowRight", [1, 0]],
  ["ArrowUp", [0, -1]],
  ["ArrowDown", [0, 1]],
]);

export class DrawPad extends PictureView {
  /**
   * @param {Picture} picture
   * @param {(picture: Picture) => void} changed called while a stroke is drawn
   * @param {(picture: Picture) => void} ended called at the end of a stroke
   */
  constructor(picture, changed, ended) {
    super("The picture, as the model sees it. Arrow keys move the pen, Space puts it down and lifts it.", {
      tabindex: 0,
      role: "application",
      "aria-roledescription": "drawing pad",
      class: "pixels pad",
    });
    this.changed = changed;
    this.ended = ended;
    /** Radius of the pen, in pixels. */
    this.radius = Math.max(1.1, picture.width / 26);
    /** @type {number[]} */
    this.ink = [];
    /** @type {Point} */
    this.cursor = [Math.floor(picture.width / 2), Math.floor(picture.height / 2)];
    this.isDown = false;
    this.set(picture);
    this.#listen();
  }

  /** @param {Picture} picture */
  set(picture) {
    this.picture = picture;
    this.show(picture);
  }

  #begin() {
    this.before = this.picture?.data.slice();
    this.cover = new Float32Array((this.picture?.width ?? 0) * (this.picture?.height ?? 0));
    this.isDown = true;
  }

  #end() {
    if (this.isDown && this.picture) this.ended(this.picture);
    this.isDown = false;
  }

  /**
   * Draw a line. A pixel is covered by how near the line's middle comes to it, once a stroke.
   *
   * @param {Point} from
   * @param {Point} to
   */
  #line([x0, y0], [x1, y1]) {
    const { picture, cover, before, radius } = this;
    if (!picture || !cover || !before) return;
    const { width, height, channels, data } = picture;
    const [across, down] = [x1 - x0, y1 - y0];
    const length = across ** 2 + down ** 2;
    const far = Math.ceil(radius) + 1;
    const [top, bottom] = between(y0, y1, far, height);
    const [left, right] = between(x0, x1, far, width);
    for (let row = top; row <= bottom; row += 1) {
      for (let column = left; column <= right; column += 1) {
        const along = length
          ? Math.min(1, Math.max(0, ((column - x0) * across + (row - y0) * down) / length))
          : 0;
        const gap = Math.hypot(column - x0 - along * across, row - y0 - along * down);
        const at = row * width + column;
        const share = Math.max(cover[at] ?? 0, Math.min(1, Math.max(0, radius + 0.5 - gap)));
        cover[at] = share;
        for (let channel = 0; channel < channels; channel += 1) {
          const ground = before[at * channels + channel] ?? 0;
          data[at * channels + channel] = Math.round(ground + ((this.ink[channel] ?? 0) - ground) * share);
        }
      }
    }
    this.show(picture);
    this.changed(picture);
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.#begin();
      this.#draw(this.#at(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.isDown || !canvas.hasPointerCapture(event.pointerId)) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length ? events : [event]) this.#draw(this.#at(each), this.cursor);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#end());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.#showCursor());
    canvas.addEventListener("blur", () => {
      this.frame(null);
      this.#end();
    });
  }

  /**
   * @param {Point} to
   * @param {Point} [from]
   */
  #draw(to, from = to) {
    this.#line(from, to);
    this.cursor = to;
  }

  /** @param {PointerEvent} event @returns {Point} */
  #at(event) {
    const bounds = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - bounds.left) / bounds.width) * this.canvas.width - 0.5,
      ((event.clientY - bounds.top) / bounds.height) * this.canvas.height - 0.5,
    ];
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = STEPS.get(event.key);
    if (event.key === " ") {
      if (this.isDown) this.#end();
      else {
        this.cursor = /** @type {Point} */ (this.cursor.map(Math.round));
        this.#begin();
        this.#draw(this.cursor);
      }
      announce(this.isDown ? "pen down" : "pen up");
    } else if (step) {
      const { width, height } = this.canvas;
      const [across = 0, down = 0] = step;
      const far = event.shiftKey ? 4 : 1;
      /** @type {Point} */
      const to = [inside(this.cursor[0] + across * far, width), inside(this.cursor[1] + down * far, height)];
      if (this.isDown) this.#draw(to, this.cursor);
      else this.cursor = to;
      this.#showCursor();
    } else return;
    event.preventDefault();
  }

  #showCursor() {
    const { width, height } = this.canvas;
    const [column, row] = this.cursor;
    this.frame({ left: column / width, top: row / height, width: 1 / width, height: 1 / height });
  }
}

/**
 * @param {number} value
 * @param {number} size
 */
function inside(value, size) {
  return Math.min(Math.max(Math.round(value), 0), size - 1);
}

/**
 * The first and the last pixel that a line may reach along an axis.
 *
 * @param {number} from
 * @param {number} to
 * @param {number} far
 * @param {number} size
 * @returns {[number, number]}
 */
function between(from, to, far, size) {
  return [inside(Math.min(from, to) - far, size), inside(Math.max(from, to) + far, size)];
}
