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

/**
 * @param {import("../lib/model.js").Model} model
 * @param {Hooks} hooks
 * @returns {Editor}
 */
export function gridEditor(model, hooks) {
  /** @type {Codes} */
  let codes = new Int32Array(0);
  let selected = -1;
  let brush = -1;
  /** The cell that was looked at last. */
  let looked = -1;
  const about = inspector(model);
  const group = newId();
  const hint = make("p", { class: "note" });
  const paints = make("input", { type: "radio", name: group, id: newId(), change: () => mode() });
  const picks = make("input", {
    type: "radio",
    name: group,
    id: newId(),
    checked: true,
    change: () => mode(),
  });

  const map = codeMap(model, {
    label: "The codes of the picture",
    hint: "Arrow keys move. Enter goes to the choice of codes for the cell. Space paints the brush's code; Shift and an arrow key paint on.",
    focus: (cell) => look(cell),
    press: (cell, isFirst) => (paints.checked ? paint(cell, isFirst) : isFirst && select(cell)),
    choose: (cell) => {
      picks.checked = true;
      mode();
      select(cell);
      picker.cells?.canvas.focus();
    },
  });
  const picker = new CodePicker(
    model,
    (code) => chosen(code),
    (code) => code !== null && about.show(code, -1, 0),
  );

  /** @param {number} cell */
  const select = (cell) => {
    selected = cell;
    const code = codes[cell] ?? 0;
    picker.sortBy(code);
    picker.show(code);
    look(cell);
    mode();
  };
  /** @param {number} code */
  const chosen = (code) => {
    brush = code;
    if (!paints.checked && selected >= 0) {
      hooks.begin();
      hooks.change(selected, code);
    }
    mode();
  };
  /**
   * @param {number} cell
   * @param {boolean} isFirst
   */
  const paint = (cell, isFirst) => {
    if (brush < 0) brush = codes[cell] ?? 0;
    if (isFirst) hooks.begin();
    hooks.change(cell, brush);
    picker.show(brush);
  };
  /** @param {number | null} cell */
  const look = (cell) => {
    const shown = cell ?? (selected >= 0 ? selected : null);
    if (shown !== null) looked = shown;
    hooks.focus(shown);
    if (shown === null) return map.cells.mark([]);
    const code = codes[shown] ?? 0;
    const same = [...codes.keys()].filter((each) => codes[each] === code);
    map.cells.mark(same);
    about.show(code, shown, same.length);
  };
  const mode = () => {
    if (paints.checked)
      hint.textContent =
        brush < 0
          ? "Choose a code below, then drag over the codes."
          : `Drag over the codes to paint code ${brush}.`;
    else if (selected < 0) hint.textContent = "Click a cell of the codes, then choose another code for it.";
    else hint.textContent = "Choose another code; the most alike come first.";
  };
  mode();
  picker.load().catch(hooks.failed);

  const tools = make(
    "div",
    {},
    make(
      "div",
      { class: "modes", role: "radiogroup", "aria-label": "What a click does" },
      picks,
      make("label", { for: picks.id }, "Choose for one cell"),
      paints,
      make("label", { for: paints.id }, "Paint"),
    ),
    hint,
    picker.element,
  );
  return {
    element: map.element,
    about: about.element,
    aboutTitle: "Code",
    tools,
    show(given) {
      codes = given;
      map.show(given);
      const same = [...codes.keys()].filter((each) => codes[each] === codes[looked]);
      if (looked >= 0) about.show(codes[looked] ?? 0, looked, same.length);
    },
  };
}
