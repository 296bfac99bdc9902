/** Codebook: all codes as little pictures, by index, use or likeness, or as a map. */

import { inspector } from "../editors/inspector.js";
import { fill, make, panel } from "../lib/dom.js";
import { map } from "../lib/likeness.js";
import { fitted } from "../lib/pixels.js";
import { Status } from "../lib/tasks.js";
import { CodePicker } from "../parts/code_picker.js";
import { choice, field } from "../parts/controls.js";
import { snippets } from "../parts/snippets.js";
import { example, examples } from "../parts/sources.js";
import { codebookMap } from "./codebook_map.js";
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
  const { model, params, remember, signal } = view;
  if (!model.isGrid || !model.can("decode")) {
    return elsewhere(
      view,
      "codebook",
      `${model.name} has no codebook: its codes are numbers.`,
      (other) => other.isGrid && other.can("decode"),
    );
  }
  const status = new Status(signal);
  const about = inspector(model);
  const used = make("p", { class: "note", role: "status" });
  const shelf = make("div", {});
  const use = (/** @type {number} */ code) =>
    (model.seen.get(code) ?? 0) / Math.max(1, ...model.seen.values());
  const look = (/** @type {number | null} */ code) => code !== null && about.show(code, -1, 0);
  const picker = new CodePicker(
    model,
    (code) => chosen(code),
    look,
    (code) => (order.value === "use" ? use(code) : undefined),
  );
  const plane = codebookMap(model, look, (code) => chosen(code));

  const chosen = (/** @type {number} */ code) => {
    about.show(code, -1, 0);
    remember({ code });
    if (order.value === "likeness") picker.sortBy(code);
  };
  const sort = () => {
    const isMap = order.value === "map" && picker.vectors !== null;
    remember({ order: order.value });
    fill(shelf, isMap ? plane.element : picker.element);
    if (isMap) return plane.show(picker.stamps, map(picker.vectors ?? []));
    const codes = [...Array(model.size).keys()];
    const code = Number(params.get("code") ?? -1);
    if (order.value === "likeness" && picker.vectors) picker.sortBy(Math.max(0, code));
    else if (order.value === "use")
      picker.sort(codes.sort((one, other) => use(other) - use(one) || one - other));
    else picker.sort(codes);
    if (code >= 0) picker.show(code);
  };
  const order = choice(ORDERS, params.get("order") ?? "likeness", sort);
  const count = () => {
    used.textContent = `${model.seen.size} of ${model.size} codes were used by the pictures of this visit.`;
    sort();
  };
  const encode = make(
    "button",
    {
      type: "button",
      click: () =>
        void status.run("Encoding", async (abort) => {
          for (const { name } of examples(model.detail.image)) {
            model.count(
              await model.encode(fitted(await example(name, model.detail.image), model.detail.image), abort),
            );
          }
          count();
        }),
    },
    "Encode the examples",
  );
  void status.run("Decoding the codes", async () => {
    await picker.load();
    count();
    const code = params.get("code");
    if (code !== null && Number(code) < model.size) about.show(Number(code), -1, 0);
  });
  return make(
    "div",
    {},
    make("h2", {}, "The codebook"),
    make(
      "p",
      { class: "lead" },
      `Every code of ${model.name} as the little picture that it decodes to by itself. Choose one to see those that are most like it.`,
    ),
    make(
      "div",
      { class: "codebook" },
      make(
        "section",
        { class: "panel", "aria-label": "All codes" },
        field("Order", order),
        shelf,
        status.element,
      ),
      make(
        "div",
        { class: "stack" },
        panel("Code", about.element),
        panel("Use", used, make("div", {}, model.can("encode") && encode)),
      ),
    ),
    snippets(),
  );
}
