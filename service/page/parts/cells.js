/** A canvas of cells in rows and columns, used by mouse, touch and keyboard. */

import { announce, canvas, make, newId, pen, redraw } from "../lib/dom.js";

/** @typedef {{x: number, y: number, width: number, height: number}} Box in pixels of the canvas */
/**
 * @typedef {object} Options
 * @property {number} rows
 * @property {number} columns
 * @property {string} label what the cells are
 * @property {string} hint how to use them by keyboard
 * @property {number} [ratio] height of a cell by its width
 * @property {(context: CanvasRenderingContext2D, cell: number, box: Box) => void} paint
 * @property {(cell: number) => string} describe
 * @property {(cell: number | null) => void} [focus] the cell below the pointer, or that of the keyboard
 * @property {(cell: number, isFirst: boolean) => void} [press] isFirst is false while the pointer is dragged
 * @property {() => void} [release]
 * @property {(cell: number) => void} [choose] Enter
 */

const KEYS = new Map([
  ["ArrowLeft", [0, -1]],
  ["ArrowRight", [0, 1]],
  ["ArrowUp", [-1, 0]],
  ["ArrowDown", [1, 0]],
]);

export class Cells {
  /** @param {Options} options */
  constructor(options) {
    this.options = options;
    this.cursor = 0;
    this.last = -1;
    /** Cells that have a frame. @type {Set<number>} */
    this.marked = new Set();
    /** The frame in which it is drawn. @type {number | null} */
    this.frame = null;
    this.isPressed = false;
    /** Whether Shift and an arrow key are at work. */
    this.isGoingOn = false;
    const hint = newId();
    this.canvas = canvas(1, 1, {
      tabindex: 0,
      role: "application",
      "aria-roledescription": "grid of cells",
      "aria-label": options.label,
      "aria-describedby": hint,
    });
    this.element = make(
      "div",
      { class: "cells" },
      this.canvas,
      make("p", { id: hint, class: "unseen" }, options.hint),
    );
    this.#listen();
    redraw(this.canvas, () => this.draw());
  }

  /** Draw all cells in the next frame: once, whatever has changed until then. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#draw();
    });
  }

  /** Draw all cells; the canvas gets as many pixels as the screen has for it. */
  #draw() {
    const { rows, columns, ratio = 1 } = this.options;
    const wide = this.canvas.clientWidth;
    if (!wide) return;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(wide * scale);
    const height = Math.round((width / columns) * ratio * rows);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const context = pen(this.canvas);
    context.clearRect(0, 0, width, height);
    for (let cell = 0; cell < rows * columns; cell += 1) this.options.paint(context, cell, this.box(cell));
    for (const cell of this.marked) this.#frame(context, cell, 2 * scale);
    if (document.activeElement === this.canvas) this.#frame(context, this.cursor, 3 * scale);
  }

  /**
   * Where a cell is. Neighbours share their edges, so there are no gaps.
   *
   * @param {number} cell
   * @returns {Box}
   */
  box(cell) {
    const { rows, columns } = this.options;
    const { width, height } = this.canvas;
    const row = Math.floor(cell / columns);
    const column = cell % columns;
    const x = Math.round((column * width) / columns);
    const y = Math.round((row * height) / rows);
    return {
      x,
      y,
      width: Math.round(((column + 1) * width) / columns) - x,
      height: Math.round(((row + 1) * height) / rows) - y,
    };
  }

  /** @param {Iterable<number>} cells */
  mark(cells) {
    this.marked = new Set(cells);
    this.draw();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} cell
   * @param {number} line
   */
  #frame(context, cell, line) {
    const { x, y, width, height } = this.box(cell);
    const style = getComputedStyle(this.canvas);
    for (const [colour, thick] of /** @type {[string, number][]} */ ([
      ["--ground", 2 * line],
      ["--accent", line],
    ])) {
      context.strokeStyle = style.getPropertyValue(colour);
      context.lineWidth = thick;
      context.strokeRect(x + line, y + line, width - 2 * line, height - 2 * line);
    }
  }

  #listen() {
    const { canvas: target, options } = this;
    target.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      target.setPointerCapture(event.pointerId);
      this.isPressed = true;
      this.#press(this.#at(event), true);
    });
    target.addEventListener("pointermove", (event) => {
      const before = this.cursor;
      const cell = this.#at(event);
      if (this.isPressed) for (const each of this.#between(before, cell)) this.#press(each, false);
      else options.focus?.(cell);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      target.addEventListener(name, () => {
        if (this.isPressed) options.release?.();
        this.isPressed = false;
      });
    }
    target.addEventListener("pointerleave", () => this.isPressed || options.focus?.(null));
    target.addEventListener("keydown", (event) => this.#key(event));
    target.addEventListener("keyup", (event) => {
      if (event.key !== "Shift" || !this.isGoingOn) return;
      this.isGoingOn = false;
      options.release?.();
    });
    target.addEventListener("focus", () => {
      this.draw();
      if (target.matches(":focus-visible")) this.#say();
    });
    target.addEventListener("blur", () => {
      this.draw();
      options.focus?.(null);
    });
  }

  /** @param {PointerEvent} event */
  #at(event) {
    const { rows, columns } = this.options;
    const bounds = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - bounds.left) / bounds.width) * columns);
    const row = Math.floor(((event.clientY - bounds.top) / bounds.height) * rows);
    return clamp(row, rows) * columns + clamp(column, columns);
  }

  /**
   * The cells on the way from one to another, without the first: a quick pointer skips some.
   *
   * @param {number} from
   * @param {number} to
   */
  #between(from, to) {
    const { columns } = this.options;
    const [down, across] = [
      Math.floor(to / columns) - Math.floor(from / columns),
      (to % columns) - (from % columns),
    ];
    const steps = Math.max(Math.abs(down), Math.abs(across));
    return Array.from({ length: steps }, (_, step) => {
      const part = (step + 1) / steps;
      return (
        (Math.floor(from / columns) + Math.round(down * part)) * columns +
        (from % columns) +
        Math.round(across * part)
      );
    });
  }

  /**
   * @param {number} cell
   * @param {boolean} isFirst
   */
  #press(cell, isFirst) {
    this.cursor = cell;
    this.last = cell;
    this.options.focus?.(cell);
    this.options.press?.(cell, isFirst);
    this.draw();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const { rows, columns, choose, release } = this.options;
    const step = KEYS.get(event.key);
    if (step) {
      const [down = 0, across = 0] = step;
      // From the cell that was pressed last the same goes on.
      if (event.shiftKey && !this.isGoingOn && this.cursor !== this.last) this.#press(this.cursor, true);
      this.isGoingOn = event.shiftKey;
      const row = clamp(Math.floor(this.cursor / columns) + down, rows);
      this.cursor = row * columns + clamp((this.cursor % columns) + across, columns);
      if (event.shiftKey) this.#press(this.cursor, false);
      this.#say();
    } else if (event.key === "Home" || event.key === "End") {
      this.cursor = event.key === "Home" ? 0 : rows * columns - 1;
      this.#say();
    } else if (event.key === " ") {
      this.#press(this.cursor, true);
      release?.();
      announce(this.options.describe(this.cursor));
    } else if (event.key === "Enter") {
      (choose ?? ((cell) => this.#press(cell, true)))(this.cursor);
      if (!choose) release?.();
    } else return;
    event.preventDefault();
    this.draw();
  }

  #say() {
    this.options.focus?.(this.cursor);
    announce(this.options.describe(this.cursor));
    this.#scrolled();
  }

  /** Keep the cursor's cell in sight, where the canvas is in a box that scrolls. */
  #scrolled() {
    const { parentElement } = this.element;
    if (!parentElement || parentElement.scrollHeight <= parentElement.clientHeight) return;
    const { y, height } = this.box(this.cursor);
    const scale = this.canvas.clientHeight / this.canvas.height;
    const top = y * scale;
    const bottom = top + height * scale;
    if (top < parentElement.scrollTop) parentElement.scrollTop = top;
    else if (bottom > parentElement.scrollTop + parentElement.clientHeight)
      parentElement.scrollTop = bottom - parentElement.clientHeight;
  }
}

/**
 * @param {number} value
 * @param {number} count
 */
function clamp(value, count) {
  return Math.min(Math.max(value, 0), count - 1);
}
