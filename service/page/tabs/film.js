/** Pictures that were drawn: a grid of them, and the film of their states with a scrubber. */

import { forAddress } from "../lib/base64.js";
import { make, newId } from "../lib/dom.js";

/** Milliseconds between two states. */
const FRAME = 60;
const MOST_COLUMNS = 10;

/** @param {string} base64 of a PNG */
export function source(base64) {
  return `data:image/png;base64,${base64}`;
}

/**
 * A grid of samples; one that is chosen goes to Try.
 *
 * @param {import("../main.js").View} view
 * @param {import("../lib/model.js").Samples} samples
 * @param {boolean} [isStrip] in a row, not in a square
 */
export function sampleGrid(view, samples, isStrip = false) {
  const labels = view.model.detail.labels;
  const pictures = samples.images.map((image, index) => {
    const label = samples.labels?.[index];
    const name = label === undefined ? undefined : labels?.[label];
    const figures = Object.entries(samples.figures ?? {}).map(
      ([title, values]) => `${title.replaceAll("_", " ")} ${values[index]?.toPrecision(3) ?? "none"}`,
    );
    return make(
      "button",
      {
        type: "button",
        class: "sample",
        title: "Send to Try",
        click: () => view.go("try", { picture: forAddress(image) }),
      },
      make("img", {
        src: source(image),
        alt: `Picture ${index + 1}${name ? ` of class ${name}` : ""}: send to Try`,
      }),
      ...figures.map((text) => make("span", {}, text)),
    );
  });
  const grid = make("div", { class: "samples", role: "group", "aria-label": "What was drawn" }, ...pictures);
  grid.style.setProperty(
    "--columns",
    `${Math.min(MOST_COLUMNS, isStrip ? pictures.length : Math.ceil(Math.sqrt(pictures.length)))}`,
  );
  return grid;
}

/**
 * A scrubber for the states of chains, which changes the pictures of a grid.
 *
 * @param {HTMLElement} grid
 * @param {string[][]} states of each chain
 * @param {number} every steps between two states
 * @param {AbortSignal} signal
 */
export function scrubber(grid, states, every, signal) {
  const pictures = [...grid.querySelectorAll("img")];
  const last = Math.max(...states.map((each) => each.length)) - 1;
  const output = make("output", {});
  const id = newId();
  const slider = make("input", {
    type: "range",
    id,
    min: 0,
    max: last,
    step: 1,
    value: last,
    input: () => show(slider.valueAsNumber),
  });
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let clock;
  const stop = () => {
    clearInterval(clock);
    clock = undefined;
    play.textContent = "Play";
  };
  /** @param {number} at */
  const show = (at) => {
    slider.value = `${at}`;
    output.textContent = `step ${(at + 1) * every}`;
    for (const [index, chain] of states.entries()) {
      pictures[index]?.setAttribute("src", source(chain[Math.min(at, chain.length - 1)] ?? ""));
    }
  };
  const play = make(
    "button",
    {
      type: "button",
      click: () => {
        if (clock) return stop();
        if (slider.valueAsNumber === last) show(0);
        play.textContent = "Pause";
        clock = setInterval(() => {
          if (slider.valueAsNumber === last || !slider.isConnected) stop();
          else show(slider.valueAsNumber + 1);
        }, FRAME);
      },
    },
    "Play",
  );
  signal.addEventListener("abort", stop);
  show(last);
  const element = make(
    "div",
    { class: "film" },
    play,
    make("label", { for: id, class: "unseen" }, "State of the chains"),
    slider,
    output,
  );
  return element;
}
