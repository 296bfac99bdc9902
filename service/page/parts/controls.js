/** Controls made from a manifest: methods, labels and parameters with their bounds. */

import { make, newId } from "../lib/dom.js";

/** @typedef {import("../lib/model.js").Parameter} Parameter */

/** Places of a slider. */
const PLACES = 1000;
/** The largest seed that this page draws; the service takes larger ones. */
const SEEDS = 2 ** 31;

/** @param {string} text */
function capitalised(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A seed for this page to show. */
export function randomSeed() {
  return Math.floor(Math.random() * SEEDS);
}

/**
 * A labelled control, with what it means below.
 *
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} [meaning]
 * @param {...HTMLElement} beside
 */
export function field(label, control, meaning, ...beside) {
  control.id ||= newId();
  const note = meaning ? make("p", { class: "note", id: newId() }, meaning) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return make(
    "div",
    { class: "field" },
    make("label", { for: control.id }, label),
    make("div", { class: "control" }, control, ...beside),
    note,
  );
}

/**
 * A choice of one of several.
 *
 * @param {[string, string][]} options value and text
 * @param {string} chosen
 * @param {(value: string) => void} changed
 */
export function choice(options, chosen, changed) {
  const select = make(
    "select",
    { change: () => changed(select.value) },
    ...options.map(([value, text]) => make("option", { value }, text)),
  );
  if (options.some(([value]) => value === chosen)) select.value = chosen;
  return select;
}

/**
 * A number with its bounds.
 *
 * @param {{value: number, minimum: number, maximum: number, step: number | "any"}} bounds
 */
export function number({ value, minimum, maximum, step }) {
  return make("input", {
    type: "number",
    min: minimum,
    max: maximum,
    step,
    value,
    required: true,
    inputmode: "decimal",
  });
}

/**
 * A seed: shown, and drawn anew with a button.
 *
 * @param {number} value
 */
export function seedField(value) {
  const input = number({ value, minimum: 0, maximum: Number.MAX_SAFE_INTEGER, step: 1 });
  const redraw = make(
    "button",
    {
      type: "button",
      click: () => {
        input.value = `${randomSeed()}`;
        input.form?.requestSubmit();
      },
    },
    "New seed",
  );
  return { input, element: field("Seed", input, "The same seed gives the same pictures.", redraw) };
}

/**
 * The parameters of a method: a slider and a number each; a choice where it is yes or no.
 *
 * @param {Record<string, Parameter>} parameters
 * @param {URLSearchParams} given
 */
export function parameterFields(parameters, given) {
  /** @type {Map<string, () => number>} */
  const values = new Map();
  const elements = Object.entries(parameters).map(([name, parameter]) => {
    const text = given.get(name);
    const value = text === null || !Number.isFinite(Number(text)) ? parameter.default : Number(text);
    const title = capitalised(name.replaceAll("_", " "));
    if (parameter.dtype === "int64" && parameter.minimum === 0 && parameter.maximum === 1) {
      const box = make("input", { type: "checkbox", checked: value === 1 });
      values.set(name, () => Number(box.checked));
      return field(title, box, parameter.description);
    }
    const { input, slider } = pair(parameter, value, title);
    values.set(name, () => input.valueAsNumber);
    const bounds = `${parameter.minimum} to ${parameter.maximum}, ${parameter.default} by default.`;
    return field(title, input, `${parameter.description} ${bounds}`.trim(), slider);
  });
  return { elements, read: () => Object.fromEntries([...values].map(([name, value]) => [name, value()])) };
}

/**
 * A number and a slider that follow each other. Where the bounds are far apart and above 0, the slider is logarithmic.
 *
 * @param {Parameter} parameter
 * @param {number} value
 * @param {string} title
 */
function pair({ dtype, minimum, maximum }, value, title) {
  const isWhole = dtype === "int64";
  const isLog = minimum > 0 && maximum / minimum > 100;
  const input = number({ value, minimum, maximum, step: isWhole ? 1 : "any" });
  /** @param {number} each */
  const toPlace = (each) =>
    PLACES *
    (isLog ? Math.log(each / minimum) / Math.log(maximum / minimum) : (each - minimum) / (maximum - minimum));
  /** @param {number} place */
  const fromPlace = (place) =>
    isLog
      ? minimum * (maximum / minimum) ** (place / PLACES)
      : minimum + ((maximum - minimum) * place) / PLACES;
  const slider = make("input", {
    type: "range",
    "aria-label": `${title}, slider`,
    min: 0,
    max: PLACES,
    step: "any",
    value: toPlace(value),
    input: () => {
      const raw = fromPlace(slider.valueAsNumber);
      input.value = `${isWhole ? Math.round(raw) : Number(raw.toPrecision(3))}`;
    },
    keydown: (event) => {
      // A step by keys changes a whole number by one at least.
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[
        /** @type {string} */ (event.key)
      ];
      if (!step) return;
      event.preventDefault();
      const place = Math.min(PLACES, Math.max(0, slider.valueAsNumber + (step * PLACES) / 100));
      const least = isWhole
        ? Math.min(maximum, Math.max(minimum, input.valueAsNumber + step))
        : fromPlace(place);
      slider.value = `${step > 0 ? Math.max(place, toPlace(least)) : Math.min(place, toPlace(least))}`;
      slider.dispatchEvent(new Event("input"));
      slider.dispatchEvent(new Event("change", { bubbles: true }));
    },
  });
  input.addEventListener("input", () => {
    if (input.validity.valid) slider.value = `${toPlace(input.valueAsNumber)}`;
  });
  return { input, slider };
}

/**
 * A choice of a class, if the method takes one.
 *
 * @param {import("../lib/model.js").Method} method
 * @param {string[] | null} labels
 * @param {string | null} given
 */
export function labelField(method, labels, given) {
  if (!method.label || !labels) return null;
  /** @type {[string, string][]} */
  const options = labels.map((label, index) => [`${index}`, label]);
  if (method.label.default !== null) options.unshift(["", "any"]);
  const select = choice(options, given ?? "", () => {});
  return {
    element: field("Class", select),
    read: () => (select.value === "" ? undefined : Number(select.value)),
  };
}
