/** The form of a draw from a model: how many, which class, the seed and the method's parameters. */

import { make } from "../lib/dom.js";
import { field, labelField, number, parameterFields, randomSeed, seedField } from "../parts/controls.js";

/** How many pictures this page asks for at most; the service has its own limit. */
const MOST = 256;

/**
 * @typedef {object} Draw
 * @property {HTMLFormElement} form
 * @property {(status: import("../lib/tasks.js").Status) => void} begin draw what the address says
 * @property {() => Record<string, unknown>} document the body of the request
 * @property {() => Record<string, string | number | undefined>} state for the address
 */

/**
 * @param {import("../main.js").View} view
 * @param {import("../lib/model.js").Method} method
 * @param {object} options
 * @param {number} options.count by default
 * @param {string} options.many what the number is of
 * @param {string[]} [options.without] parameters that are set elsewhere
 * @param {(HTMLElement | null | undefined)[]} options.above fields that come first
 * @param {string} options.button
 * @param {() => void} options.submit
 * @returns {Draw}
 */
export function drawForm({ params, model }, method, { count, many, without = [], above, button, submit }) {
  const chosen = Object.fromEntries(
    Object.entries(method.parameters).filter(([name]) => !without.includes(name)),
  );
  const amount = number({ value: Number(params.get("n") ?? count), minimum: 1, maximum: MOST, step: 1 });
  const seed = method.draws ? seedField(Number(params.get("seed") ?? randomSeed())) : null;
  const label = labelField(method, model.detail.labels, params.get("label"));
  const parameters = parameterFields(chosen, params);
  const form = make(
    "form",
    {
      novalidate: true,
      submit: (event) => {
        event.preventDefault();
        if (form.reportValidity()) submit();
      },
      // Whoever changes a control wants to see what it does.
      change: () => form.reportValidity() && submit(),
    },
    ...above,
    field(many, amount),
    label?.element,
    seed?.element,
    ...parameters.elements,
    make("div", {}, make("button", { class: "main" }, button)),
  );
  return {
    form,
    begin: (status) => {
      if (form.checkValidity()) submit();
      else status.fail(new Error("the address has a value that is out of bounds: see the controls"));
    },
    document: () => ({
      method: method.name,
      n: amount.valueAsNumber,
      ...(seed && { seed: seed.input.valueAsNumber }),
      ...(label?.read() === undefined ? {} : { label: label.read() }),
      parameters: parameters.read(),
    }),
    state: () => ({
      method: method.name,
      n: amount.valueAsNumber,
      seed: seed?.input.valueAsNumber,
      label: label?.read(),
      ...parameters.read(),
    }),
  };
}
