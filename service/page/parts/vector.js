/** A vector of numbers: as bars, and as sliders. */

import { canvas, fill, make, newId, pen, redraw } from "../lib/dom.js";

/** How many sliders are shown at first. */
const FEW = 8;

/**
 * Bars of a vector, up for positive numbers and down for negative ones.
 *
 * @param {string} label
 */
export function bars(label) {
  const element = canvas(1, 1, { class: "bars", role: "img", "aria-label": label });
  /** @type {ArrayLike<number>} */
  let shown = [];
  const draw = () => {
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [
      Math.round(element.clientWidth * scale),
      Math.round(element.clientHeight * scale),
    ];
    if (!width || !height) return;
    Object.assign(element, { width, height });
    const context = pen(element);
    const style = getComputedStyle(element);
    const most = Math.max(1e-9, ...Array.from(shown, Math.abs));
    const each = width / shown.length;
    context.fillStyle = style.getPropertyValue("--line");
    context.fillRect(0, Math.round(height / 2), width, 1);
    context.fillStyle = style.getPropertyValue("--accent");
    Array.from(shown).forEach((value, at) => {
      const tall = (Math.abs(value) / most) * (height / 2 - 1);
      context.fillRect(at * each + each * 0.15, value > 0 ? height / 2 - tall : height / 2, each * 0.7, tall);
    });
  };
  redraw(element, draw);
  return {
    element,
    /** @param {ArrayLike<number>} values */
    show(values) {
      shown = values;
      draw();
    },
  };
}

/**
 * Sliders for the dimensions of a vector, the most active ones first.
 *
 * @param {number[]} order the dimensions, the most active first
 * @param {(dimension: number, value: number) => void} changed
 */
export function sliders(order, changed) {
  const list = make("div", { class: "sliders" });
  /** @type {{dimension: number, input: HTMLInputElement, output: HTMLOutputElement}[]} */
  let rows = [];
  /** @type {ArrayLike<number>} */
  let shown = [];
  let count = Math.min(FEW, order.length);

  const build = () => {
    rows = order.slice(0, count).map((dimension) => {
      const id = newId();
      const output = make("output", { for: id });
      const input = make("input", {
        type: "range",
        id,
        min: -4,
        max: 4,
        step: 0.01,
        input: () => {
          output.textContent = input.valueAsNumber.toFixed(2);
          changed(dimension, input.valueAsNumber);
        },
      });
      return { dimension, input, output };
    });
    const more = make(
      "button",
      {
        type: "button",
        class: "quiet",
        click: () => {
          count = order.length;
          build();
        },
      },
      `Show all ${order.length}`,
    );
    fill(
      list,
      ...rows.map(({ dimension, input, output }) =>
        make("div", { class: "slider" }, make("label", { for: input.id }, `${dimension}`), input, output),
      ),
      count < order.length && more,
    );
    show(shown);
  };

  /** @param {ArrayLike<number>} values */
  const show = (values) => {
    shown = values;
    for (const { dimension, input, output } of rows) {
      const value = values[dimension] ?? 0;
      const far = Math.max(4, Math.ceil(Math.abs(value)));
      input.min = `${-far}`;
      input.max = `${far}`;
      input.value = `${value}`;
      output.textContent = value.toFixed(2);
    }
  };
  build();
  return { element: list, show };
}
