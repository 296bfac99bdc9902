/** Codes of a grid: shown as a map, chosen from the codebook, painted over cells. */

import { make, newId } from "../lib/dom.js";
import { CodePicker } from "../parts/code_picker.js";
import { codeMap } from "./code_map.js";
import { inspector } from "./inspector.js";

/** @typedef {import("../lib/model.js").Codes} Codes */
/**
 * An editor of codes: the element that shows them, the panels beside it, and how to set them.
 *
 * @typedef {object} Editor
 * @property {HTMLElement} element
 * @property {HTMLElement} about
 * @property {HTMLElement} tools
 * @property {string} aboutTitle
 * @property {(codes: Codes) => void} show
 */
/**
 * @typedef {object} Hooks
 * @property {(cell: number, code: number) => void} change
 * @property {() => void} begin called before the changes of one gesture
 * @property {(cell: number | null) => void} focus
 * @property {(error: unknown) => void} failed
 */

/** @implements {Editor} */
export class GridEditor {
  /**
   * @param {import("../lib/model.js").Model} model
   * @param {Hooks} hooks
   */
  constructor(model, hooks) {
    this.hooks = hooks;
    /** @type {Codes} */
    this.codes = new Int32Array(0);
    // The cell that is chosen, the one that was looked at last, and the code that is painted.
    this.selected = -1;
    this.looked = -1;
    this.brush = -1;
    this.inspector = inspector(model);
    this.map = codeMap(model, {
      label: "The codes of the picture",
      hint: "Arrow keys move. Enter goes to the choice of codes for the cell. Space paints the brush's code; Shift and an arrow key paint on.",
      focus: (cell) => this.#look(cell),
      press: (cell, isFirst) => this.#press(cell, isFirst),
      choose: (cell) => this.#choose(cell),
    });
    this.picker = new CodePicker(
      model,
      (code) => this.#chosen(code),
      (code) => code !== null && this.inspector.show(code, -1, 0),
    );
    const group = newId();
    const change = () => this.#say();
    this.picks = make("input", { type: "radio", name: group, id: newId(), checked: true, change });
    this.paints = make("input", { type: "radio", name: group, id: newId(), change });
    this.hint = make("p", { class: "note" });
    this.element = this.map.element;
    this.about = this.inspector.element;
    this.aboutTitle = "Code";
    this.tools = make("div", {}, this.#modes(), this.hint, this.picker.element);
    this.#say();
    this.picker.load().catch(hooks.failed);
  }

  #modes() {
    return make(
      "div",
      { class: "modes", role: "radiogroup", "aria-label": "What a click does" },
      this.picks,
      make("label", { for: this.picks.id }, "Choose for one cell"),
      this.paints,
      make("label", { for: this.paints.id }, "Paint"),
    );
  }

  /** @param {Codes} codes */
  show(codes) {
    this.codes = codes;
    this.map.show(codes);
    if (this.looked >= 0) this.#describe(this.looked);
  }

  /**
   * @param {number} cell
   * @param {boolean} isFirst
   */
  #press(cell, isFirst) {
    if (!this.paints.checked) {
      if (isFirst) this.#select(cell);
      return;
    }
    if (this.brush < 0) this.brush = this.codes[cell] ?? 0;
    if (isFirst) this.hooks.begin();
    this.hooks.change(cell, this.brush);
    this.picker.show(this.brush);
  }

  /** @param {number} cell */
  #choose(cell) {
    this.picks.checked = true;
    this.#select(cell);
    this.picker.cells?.canvas.focus();
  }

  /** @param {number} cell */
  #select(cell) {
    this.selected = cell;
    const code = this.codes[cell] ?? 0;
    this.picker.sortBy(code);
    this.picker.show(code);
    this.#look(cell);
    this.#say();
  }

  /** @param {number} code */
  #chosen(code) {
    this.brush = code;
    if (!this.paints.checked && this.selected >= 0) {
      this.hooks.begin();
      this.hooks.change(this.selected, code);
    }
    this.#say();
  }

  /** @param {number | null} cell null for the one that is chosen, if any */
  #look(cell) {
    const shown = cell ?? (this.selected >= 0 ? this.selected : null);
    this.hooks.focus(shown);
    if (shown === null) return this.map.cells.mark([]);
    this.looked = shown;
    this.map.cells.mark(this.#describe(shown));
  }

  /**
   * Show the code of a cell: the cells that have it too.
   *
   * @param {number} cell
   */
  #describe(cell) {
    const code = this.codes[cell] ?? 0;
    const same = [...this.codes.keys()].filter((each) => this.codes[each] === code);
    this.inspector.show(code, cell, same.length);
    return same;
  }

  /** Say what to do next. */
  #say() {
    const { brush, selected, hint } = this;
    if (!this.paints.checked) {
      hint.textContent =
        selected < 0
          ? "Click a cell of the codes, then choose another code for it."
          : "Choose another code; the most alike come first.";
    } else {
      hint.textContent =
        brush < 0
          ? "Choose a code below, then drag over the codes."
          : `Drag over the codes to paint code ${brush}.`;
    }
  }
}
