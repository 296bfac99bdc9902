/** Codebook: all codes as little pictures, by index, use or likeness, or as a map. */

import { inspector } from "../editors/inspector.js";
import { fill, make, panel } from "../lib/dom.js";
import { map } from "../lib/likeness.js";
import { Status } from "../lib/tasks.js";
import { CodePicker } from "../parts/code_picker.js";
import { choice, field } from "../parts/controls.js";
import { snippets } from "../parts/snippets.js";
import { example, examples } from "../parts/sources.js";
import { CodebookMap } from "./codebook_map.js";
import { elsewhere } from "./elsewhere.js";

/** @type {[string, string][]} */
const ORDERS = [
  ["likeness", "by likeness"],
  ["use", "by use in this visit"],
  ["index", "by index"],
  ["map", "as a map"],
];

/** @param {import("../main.js").View} view */
export function codebookTab(view) {
  const { model } = view;
  if (!model.isGrid || !model.can("decode")) {
    return elsewhere(
      view,
      "codebook",
      model.size
        ? `${model.name} has a codebook for each level, which this page does not show.`
        : `${model.name} has no codebook: its codes are numbers.`,
      (other) => other.isGrid && other.can("decode"),
    );
  }
  return new Codebook(view).element;
}

class Codebook {
  /** @param {import("../main.js").View} view */
  constructor(view) {
    this.view = view;
    const { model, params, signal } = view;
    this.status = new Status(signal);
    this.inspector = inspector(model);
    this.used = make("p", { class: "note", role: "status" });
    this.shelf = make("div", {});
    this.order = choice(ORDERS, params.get("order") ?? "likeness", () => this.sort());
    const chosen = (/** @type {number} */ code) => this.#chosen(code);
    const look = (/** @type {number | null} */ code) => this.#look(code);
    const use = (/** @type {number} */ code) => (this.order.value === "use" ? this.#use(code) : undefined);
    this.picker = new CodePicker(model, chosen, look, use);
    this.plane = new CodebookMap(model, look, chosen);
    this.element = make(
      "div",
      {},
      make("h2", {}, "The codebook"),
      make(
        "p",
        { class: "lead" },
        `Every code of ${model.name} as the little picture that it decodes to by itself. Choose one to see those that are most like it.`,
      ),
      make("div", { class: "codebook" }, this.#shelf(), this.#side()),
      snippets(),
    );
    void this.status.run("Decoding the codes", async () => {
      await this.picker.load();
      this.count();
      const code = params.get("code");
      if (code !== null && Number(code) < model.size) this.#look(Number(code));
    });
  }

  #shelf() {
    const order = field("Order", this.order);
    const { shelf, status } = this;
    return make("section", { class: "panel", "aria-label": "All codes" }, order, shelf, status.element);
  }

  #side() {
    const click = () => void this.status.run("Encoding", (abort) => this.encode(abort));
    const encode = make("button", { type: "button", click }, "Encode the examples");
    const use = panel("Use", this.used, make("div", {}, this.view.model.can("encode") && encode));
    return make("div", { class: "stack" }, panel("Code", this.inspector.element), use);
  }

  /**
   * How often a code was used, by the one that was used most.
   *
   * @param {number} code
   */
  #use(code) {
    const { seen } = this.view.model;
    return (seen.get(code) ?? 0) / Math.max(1, ...seen.values());
  }

  /** @param {number | null} code */
  #look(code) {
    if (code !== null) this.inspector.show(code, -1, 0);
  }

  /** @param {number} code */
  #chosen(code) {
    this.#look(code);
    this.view.remember({ code });
    if (this.order.value === "likeness") this.picker.sortBy(code);
  }

  /** Show the codes in the order that is chosen. */
  sort() {
    const { picker, plane, order, view } = this;
    const isMap = order.value === "map" && picker.vectors !== null;
    view.remember({ order: order.value });
    fill(this.shelf, isMap ? plane.element : picker.element);
    if (isMap) return plane.show(picker.stamps, map(picker.vectors ?? []));
    const codes = [...Array(view.model.size).keys()];
    const code = Number(view.params.get("code") ?? -1);
    if (order.value === "likeness" && picker.vectors) picker.sortBy(Math.max(0, code));
    else if (order.value === "use")
      picker.sort(codes.sort((one, other) => this.#use(other) - this.#use(one) || one - other));
    else picker.sort(codes);
    if (code >= 0) picker.show(code);
  }

  count() {
    const { seen, size } = this.view.model;
    this.used.textContent = `${seen.size} of ${size} codes were used by the pictures of this visit.`;
    this.sort();
  }

  /**
   * Encode the bundled examples, and count their codes.
   *
   * @param {AbortSignal} abort
   */
  async encode(abort) {
    const { model } = this.view;
    const { image } = model.detail;
    for (const { name } of examples(image)) {
      model.count(await model.encode(await example(name, image), abort));
    }
    this.count();
  }
}
