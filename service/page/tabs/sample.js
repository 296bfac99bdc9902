/** Sample: new pictures by any method of the model, films of chains, and the way between two pictures. */

import { ofBlob } from "../lib/base64.js";
import { fill, make } from "../lib/dom.js";
import { fromLink, toLink } from "../lib/links.js";
import { fitted, toFile } from "../lib/pixels.js";
import { Status } from "../lib/tasks.js";
import { choice, field } from "../parts/controls.js";
import { PictureView } from "../parts/picture_view.js";
import { snippets } from "../parts/snippets.js";
import { example, examples } from "../parts/sources.js";
import { drawForm } from "./draw_form.js";
import { elsewhere } from "./elsewhere.js";
import { sampleGrid, scrubber } from "./film.js";

/** @typedef {import("../lib/model.js").Method} Method */
/** @typedef {import("../lib/pixels.js").Picture} Picture */

/** The parameter that has a chain respond with its states, and how many states a film has. */
const EVERY = "every";
const STATES = 50;
/** The ends of an interpolation that are in no example. */
const FROM_TRY = "try";

/** @param {import("../main.js").View} view */
export function sampleTab(view) {
  const { model, params, remember, signal } = view;
  const { methods } = model;
  const method =
    methods.find(({ name }) => name === params.get("method")) ??
    methods.find(({ name }) => name === "prior") ??
    methods[0];
  if (!method) {
    return elsewhere(view, "sample", `${model.name} cannot sample.`, (other) => other.methods.length > 0);
  }
  const status = new Status(signal);
  const results = make("div", { class: "results", "aria-live": "off" });
  const isBetween = method.operation.inputs.some(({ role }) => role === "target");
  const isChain =
    method.operation.outputs.some(({ role }) => role === "states") && EVERY in method.parameters;
  const film = make("input", { type: "checkbox", checked: isChain && params.get("film") !== "0" });
  const ends = isBetween ? pictureEnds(view) : null;

  const draw = () => {
    remember({ ...form.state(), film: isChain ? Number(film.checked) : undefined });
    void status.run("Drawing", async (abort) => {
      const document = /** @type {any} */ (form.document());
      if (ends) {
        document.images = await ends.read();
        remember(await ends.state());
      }
      const every = Math.max(1, Math.ceil((document.parameters.steps ?? 1) / STATES));
      if (isChain) document.parameters[EVERY] = film.checked ? every : 0;
      const samples = await model.sample(document, abort);
      const grid = sampleGrid(view, samples, isBetween);
      fill(results, grid, samples.state_images && scrubber(grid, samples.state_images, every, signal));
      performance.mark("tessera-drawn");
    });
  };
  const chooser = choice(
    methods.map(({ name }) => [name, name]),
    method.name,
    // Another method has other controls.
    (name) => view.go("sample", { method: name }),
  );
  chooser.addEventListener("change", (event) => event.stopPropagation());
  const form = drawForm(view, method, {
    count: isBetween ? 9 : 16,
    many: isBetween ? "Pictures on the way" : "Pictures",
    without: [EVERY],
    above: [
      field("Method", chooser, method.operation.description),
      ends?.element,
      isChain ? field("Film of the states", film) : null,
    ],
    button: "Draw",
    submit: draw,
  });
  form.form.append(status.element);
  form.begin(status);
  return make(
    "div",
    {},
    make("h2", {}, "New pictures"),
    make(
      "p",
      { class: "lead" },
      `${model.name} draws codes, and decodes them. Choose a picture to see its codes in Try.`,
    ),
    make("div", { class: "workshop" }, form.form, results),
    snippets(),
  );
}

/**
 * The choice of two pictures to go between.
 *
 * @param {import("../main.js").View} view
 */
function pictureEnds({ model, params, shared }) {
  const { image } = model.detail;
  /** @type {[string, string][]} */
  const options = examples(image).map(({ name }) => [name, name]);
  const link = params.get("picture");
  const isSame = shared.picture?.channels === image.channels && shared.picture.width === image.width;
  if (link) options.unshift([FROM_TRY, "the picture of the link"]);
  else if (isSame) options.unshift([FROM_TRY, "the picture in Try"]);
  // A link that is broken has no picture; the first example takes its place.
  const own = link
    ? fromLink(link, image).catch(() => null)
    : Promise.resolve(isSame ? shared.picture : null);
  const ends = [
    { name: "from", title: "From", first: image.channels === 1 ? "3" : "fox" },
    { name: "to", title: "To", first: image.channels === 1 ? "8" : "octopus" },
  ].map(({ name, title, first }) => {
    const shown = new PictureView(`${title}: the picture at this end`);
    const select = choice(options, params.get(name) ?? first, () => void show());
    /** @returns {Promise<Picture>} */
    const picture = async () => {
      const given = await own;
      if (select.value === FROM_TRY && given) return given;
      return fitted(await example(select.value, image), image);
    };
    const show = async () => shown.show(await picture());
    void show();
    return { name, select, picture, element: make("div", {}, shown.element, field(title, select)) };
  });
  return {
    element: make("div", { class: "ends" }, ...ends.map(({ element }) => element)),
    state: async () => {
      const chosen = Object.fromEntries(ends.map(({ name, select }) => [name, select.value]));
      const given = await own;
      const isUsed = given && Object.values(chosen).includes(FROM_TRY);
      return { ...chosen, picture: isUsed ? await toLink(given) : null };
    },
    read: () =>
      Promise.all(
        ends.map(async ({ picture }) => {
          const file = await toFile(await picture(), "image/png");
          if (!file) throw new Error("this browser writes no PNG");
          return ofBlob(file);
        }),
      ),
  };
}
