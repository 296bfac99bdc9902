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

/**
 * @param {import("../lib/model.js").Model} model
 * @param {(code: number | null) => void} focused
 * @param {(code: number) => void} chosen
 */
export function codebookMap(model, focused, chosen) {
  /** @type {HTMLCanvasElement[]} */
  let stamps = [];
  /** Where the codes are, from 0 to 1. @type {Point[]} */
  let points = [];
  let cursor = 0;
  const hint = newId();
  const plane = canvas(1, 1, {
    class: "map",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "map of codes",
    "aria-label": "The codes on a plane",
    "aria-describedby": hint,
    pointermove: (event) => look(nearest(event)),
    pointerdown: (event) => {
      look(nearest(event));
      chosen(cursor);
    },
    focus: () => draw(),
    blur: () => draw(),
    keydown: (event) => {
      const way = WAYS.get(event.key);
      if (way) look(neighbour(way));
      else if (event.key === "Enter" || event.key === " ") chosen(cursor);
      else return;
      announce(`code ${cursor} of ${model.size}`);
      event.preventDefault();
    },
  });

  const at = (/** @type {number} */ code) => points[code] ?? { x: 0.5, y: 0.5 };
  /** @param {number} code */
  const look = (code) => {
    cursor = code;
    focused(code);
    draw();
  };
  /** @param {PointerEvent} event */
  const nearest = (event) => {
    const bounds = plane.getBoundingClientRect();
    return best((x, y) =>
      Math.hypot(
        x - (event.clientX - bounds.left) / bounds.width,
        y - (event.clientY - bounds.top) / bounds.height,
      ),
    );
  };
  /** @param {number[]} way */
  const neighbour = ([across = 0, down = 0]) => {
    const { x: x0, y: y0 } = at(cursor);
    return best((x, y) => {
      const ahead = (x - x0) * across + (y - y0) * down;
      const aside = Math.abs((x - x0) * down) + Math.abs((y - y0) * across);
      return ahead > 1e-6 ? ahead + 2 * aside : Infinity;
    });
  };
  /**
   * The code with the smallest cost; the one that is looked at if none is finite.
   *
   * @param {(x: number, y: number) => number} cost
   */
  const best = (cost) => {
    let [found, least] = [cursor, Infinity];
    points.forEach(({ x, y }, code) => {
      const own = cost(x, y);
      if (own < least) [found, least] = [code, own];
    });
    return found;
  };
  const draw = () => {
    const side = Math.round(plane.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
    if (!side || !points.length) return;
    Object.assign(plane, { width: side, height: side });
    const context = pen(plane);
    context.imageSmoothingEnabled = false;
    const small = Math.max(10, SIDE * side);
    stamps.forEach((stamp, code) => {
      const { x, y } = at(code);
      context.drawImage(stamp, x * side - small / 2, y * side - small / 2, small, small);
    });
    const { x, y } = at(cursor);
    const stamp = stamps[cursor];
    if (stamp) context.drawImage(stamp, x * side - small, y * side - small, 2 * small, 2 * small);
    context.strokeStyle = getComputedStyle(plane).getPropertyValue("--accent");
    context.lineWidth = 3;
    context.strokeRect(x * side - small, y * side - small, 2 * small, 2 * small);
  };
  redraw(plane, draw);
  return {
    element: make(
      "div",
      {},
      plane,
      make(
        "p",
        { class: "note", id: hint },
        "The two main directions of the code vectors. Arrow keys go to the next code that way.",
      ),
    ),
    /**
     * @param {HTMLCanvasElement[]} pictures
     * @param {Point[]} places
     */
    show(pictures, places) {
      stamps = pictures;
      points = spread(places);
      draw();
    },
  };
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
