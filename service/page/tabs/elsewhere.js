/** What a section shows if the model cannot do it: the models that can. */

import { fill, make } from "../lib/dom.js";

/**
 * @param {import("../main.js").View} view
 * @param {string} tab
 * @param {string} text
 * @param {(model: import("../lib/model.js").Model) => boolean} can
 */
export function elsewhere({ summaries, load, signal }, tab, text, can) {
  const found = make("p", {});
  const element = make("section", { class: "empty" }, make("h2", {}, text), found);
  void Promise.allSettled(summaries.map(({ name }) => load(name))).then((models) => {
    if (signal.aborted) return;
    const able = models.flatMap((each) =>
      each.status === "fulfilled" && can(each.value) ? [each.value.name] : [],
    );
    const links = able.flatMap((name) => [
      " ",
      make("a", { href: `#${tab}?model=${encodeURIComponent(name)}` }, name),
    ]);
    fill(found, able.length ? "These models can:" : "No model that is loaded can.", ...links);
  });
  return element;
}
