/** The codes on a plane, where like codes are near each other. */

import { announce, canvas, make, newId, pen, redraw } from "../lib/dom.js";

/** @typedef {import("../lib/likeness.js").Point} Point */

/** Side of a little picture, as a part of the map's. */
const SIDE = 0.032;
const WAYS = new Map([
  ["ArrowLeft", [-1, 0]],
  ["ArrowRight", [1, 0]],
  ["ArrowUp", [0, -1]],
  ["ArrowDown", [0, 1]],
]);

export class CodebookMap {
  /**
   * @param {import("../lib/model.js").Model} model
   * @param {(code: number) => void} focused
   * @param {(code: number) => void} chosen
   */
  constructor(model, focused, chosen) {
    this.model = model;
    this.focused = focused;
    this.chosen = chosen;
    this.cursor = 0;
    /** @type {HTMLCanvasElement[]} */
    this.stamps = [];
    /** Where the codes are, from 0 to 1. @type {Point[]} */
    this.points = [];
    const id = newId();
    this.plane = canvas(1, 1, {
      class: "map",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "map of codes",
      "aria-label": "The codes on a plane",
      "aria-describedby": id,
      pointermove: (event) => this.#look(this.#nearest(event)),
      pointerdown: (event) => {
        this.#look(this.#nearest(event));
        chosen(this.cursor);
      },
      keydown: (event) => this.#key(event),
    });
    const hint = "The two main directions of the code vectors. Arrow keys go to the next code that way.";
    this.element = make("div", {}, this.plane, make("p", { class: "note", id }, hint));
    redraw(this.plane, () => this.#draw());
  }

  /**
   * @param {HTMLCanvasElement[]} stamps
   * @param {Point[]} places each in [-1, 1]
   */
  show(stamps, places) {
    this.stamps = stamps;
    this.points = spread(places);
    this.#draw();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const way = WAYS.get(event.key);
    if (way) this.#look(this.#neighbour(way));
    else if (event.key === "Enter" || event.key === " ") this.chosen(this.cursor);
    else return;
    announce(`code ${this.cursor} of ${this.model.size}`);
    event.preventDefault();
  }

  /** @param {number} code */
  #look(code) {
    this.cursor = code;
    this.focused(code);
    this.#draw();
  }

  /** @param {number} code */
  #at(code) {
    return this.points[code] ?? { x: 0.5, y: 0.5 };
  }

  /** @param {PointerEvent} event */
  #nearest(event) {
    const { left, top, width, height } = this.plane.getBoundingClientRect();
    const [x0, y0] = [(event.clientX - left) / width, (event.clientY - top) / height];
    return this.#best((x, y) => Math.hypot(x - x0, y - y0));
  }

  /** @param {number[]} way */
  #neighbour([across = 0, down = 0]) {
    const { x: x0, y: y0 } = this.#at(this.cursor);
    return this.#best((x, y) => {
      const ahead = (x - x0) * across + (y - y0) * down;
      const aside = Math.abs((x - x0) * down) + Math.abs((y - y0) * across);
      return ahead > 1e-6 ? ahead + 2 * aside : Infinity;
    });
  }

  /**
   * The code with the smallest cost; the one that is looked at if none is finite.
   *
   * @param {(x: number, y: number) => number} cost
   */
  #best(cost) {
    let [found, least] = [this.cursor, Infinity];
    this.points.forEach(({ x, y }, code) => {
      const own = cost(x, y);
      if (own < least) [found, least] = [code, own];
    });
    return found;
  }

  #draw() {
    const side = Math.round(this.plane.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
    if (!side || !this.points.length) return;
    Object.assign(this.plane, { width: side, height: side });
    const context = pen(this.plane);
    context.imageSmoothingEnabled = false;
    const small = Math.max(10, SIDE * side);
    const stamp = (/** @type {number} */ code, /** @type {number} */ size) => {
      const { x, y } = this.#at(code);
      const picture = this.stamps[code];
      if (picture) context.drawImage(picture, x * side - size / 2, y * side - size / 2, size, size);
      return [x * side - size / 2, y * side - size / 2];
    };
    for (const code of this.stamps.keys()) stamp(code, small);
    const [x = 0, y = 0] = stamp(this.cursor, 2 * small);
    context.strokeStyle = getComputedStyle(this.plane).getPropertyValue("--accent");
    context.lineWidth = 3;
    context.strokeRect(x, y, 2 * small, 2 * small);
  }
}

/**
 * Points in [0, 1], halfway between where they are and their rank: most codes are crowded in few places.
 *
 * @param {Point[]} points
 * @returns {Point[]}
 */
function spread(points) {
  const axis = (/** @type {number[]} */ values) => {
    const order = [...values.keys()].sort((one, other) => (values[one] ?? 0) - (values[other] ?? 0));
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const placed = Array(values.length).fill(0);
    order.forEach((code, rank) => {
      placed[code] =
        SIDE +
        (1 - 2 * SIDE) *
          (0.5 * (rank / values.length) + (0.5 * ((values[code] ?? 0) - least)) / (most - least || 1));
    });
    return placed;
  };
  const [xs, ys] = [axis(points.map(({ x }) => x)), axis(points.map(({ y }) => y))];
  return points.map((_, code) => ({ x: xs[code] ?? 0, y: ys[code] ?? 0 }));
}
