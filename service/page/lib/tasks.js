/** Work that takes time: shown, cancelled, and never more than one at once. */

import { fill, make } from "./dom.js";

/** Milliseconds before a call shows that it works: a quick one would only flicker. */
const PATIENCE = 250;

let open = 0;

/**
 * Say that the content changes, or no longer.
 *
 * @param {number} more
 */
function busy(more) {
  open += more;
  const content = document.getElementById("content");
  if (open) content?.setAttribute("aria-busy", "true");
  else content?.removeAttribute("aria-busy");
}

/**
 * Wrap a function so that one call of it runs at a time: of the calls meanwhile only the last one follows.
 *
 * @template {unknown[]} A
 * @param {(...given: A) => Promise<void>} work
 * @returns {(...given: A) => Promise<void>}
 */
export function latest(work) {
  /** @type {A | null} */
  let next = null;
  /** @type {Promise<void> | null} */
  let running = null;
  const run = async () => {
    while (next) {
      const given = next;
      next = null;
      await work(...given);
    }
  };
  return (...given) => {
    next = given;
    running ??= run().finally(() => {
      running = null;
    });
    return running;
  };
}

/** A line beside a control: that it works, with a button that cancels, or what went wrong. */
export class Status {
  /** @param {AbortSignal} signal that of the view: when it is gone, so is what it waits for */
  constructor(signal) {
    this.element = make("div", { class: "status" });
    /** @type {AbortController | null} */
    this.controller = null;
    signal.addEventListener("abort", () => this.controller?.abort());
  }

  /**
   * Run some work, which gets a signal to be cancelled by. What it throws is shown in words.
   *
   * @param {string} what
   * @param {(signal: AbortSignal) => Promise<void>} work
   */
  async run(what, work) {
    this.controller?.abort();
    const controller = new AbortController();
    this.controller = controller;
    const timer = setTimeout(() => this.#showWork(what, controller), PATIENCE);
    busy(1);
    try {
      await work(controller.signal);
      if (this.controller === controller) fill(this.element);
    } catch (error) {
      if (this.controller === controller) this.#showError(error, controller.signal.aborted);
    } finally {
      clearTimeout(timer);
      busy(-1);
      if (this.controller === controller) this.controller = null;
    }
  }

  /** @param {unknown} error @param {boolean} [cancelled] */
  #showError(error, cancelled = false) {
    if (cancelled) return fill(this.element, make("p", { role: "status" }, "Cancelled."));
    const text = error instanceof Error ? error.message : String(error);
    fill(this.element, make("p", { class: "error", role: "alert" }, sentence(text)));
  }

  /** @param {unknown} error */
  fail(error) {
    this.#showError(error);
  }

  clear() {
    if (!this.controller) fill(this.element);
  }

  /**
   * @param {string} what
   * @param {AbortController} controller
   */
  #showWork(what, controller) {
    const begun = performance.now() - PATIENCE;
    const time = make("span", { class: "time" });
    const tick = () => {
      time.textContent = `${((performance.now() - begun) / 1000).toFixed(1)} s`;
    };
    tick();
    const clock = setInterval(() => (time.isConnected ? tick() : clearInterval(clock)), 100);
    fill(
      this.element,
      make("progress", { "aria-label": what }),
      make("span", { role: "status" }, `${what} …`),
      time,
      make("button", { type: "button", click: () => controller.abort() }, "Cancel"),
    );
  }
}

/** @param {string} text */
function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
