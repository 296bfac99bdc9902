/** A bench: a picture, its codes, what they decode to, and what was lost. */

import { fill, make } from "../lib/dom.js";
import { fromLink, toLink } from "../lib/links.js";
import { difference, toFile } from "../lib/pixels.js";
import { latest, Status } from "../lib/tasks.js";
import { DrawPad } from "../parts/draw_pad.js";
import { distances, figures, showSizes } from "../parts/figures.js";
import { PictureView } from "../parts/picture_view.js";
import { example, firstExample } from "../parts/sources.js";
import { GridEditor } from "./grid.js";
import { latentsEditor } from "./latents.js";
import { vectorEditor } from "./vector.js";

/** @typedef {import("../lib/pixels.js").Picture} Picture */
/** @typedef {import("../lib/model.js").Codes} Codes */

/** Steps back that are kept. */
const MOST_STEPS = 200;

export class Bench {
  /** @param {import("../main.js").View} view */
  constructor(view) {
    this.view = view;
    const { model, signal } = view;
    const { height, width, channels, background } = model.detail.image;
    this.status = new Status(signal);
    /** @type {Picture} */
    this.picture = {
      height,
      width,
      channels,
      data: new Uint8Array(height * width * channels).fill(background),
    };
    this.pad = new DrawPad(
      this.picture,
      () => void this.encode(),
      () => void this.strokeEnded(),
    );
    this.decoded = new PictureView("The reconstruction: what the codes decode to");
    this.lost = new PictureView(
      "The difference of the reconstruction from the picture; grey where there is none",
    );
    /** @type {Codes} */
    this.codes = new Int32Array(0);
    /** @type {Codes} */
    this.own = this.codes;
    /** @type {Codes[]} */
    this.steps = [];
    const hooks = {
      begin: () => this.keep(),
      change: (/** @type {number} */ cell, /** @type {number} */ code) => this.change(cell, code),
      focus: (/** @type {number | null} */ cell) => this.frame(cell),
      failed: (/** @type {unknown} */ error) => this.status.fail(error),
    };
    if (model.isGrid) this.editor = new GridEditor(model, hooks);
    else this.editor = model.isLatents ? latentsEditor(model) : vectorEditor(model, hooks);
    this.numbers = make("div", {});
    this.sizes = make("ul", { class: "sizes" });
    this.large = make(
      "p",
      { class: "note", hidden: true },
      "Too large for the address: a link will not have it.",
    );
    this.edited = make("p", { class: "note", role: "status" });
    this.undoButton = make("button", { type: "button", disabled: true, click: () => this.undo() }, "Undo");
    this.resetButton = make("button", { type: "button", disabled: true, click: () => this.reset() }, "Reset");
    this.encode = latest(() => this.status.run("Encoding", (abort) => this.#encode(abort)));
    this.decode = latest(() => this.status.run("Decoding", (abort) => this.#decode(abort)));
  }

  /** @param {AbortSignal} abort */
  async #encode(abort) {
    this.codes = await this.view.model.encode(this.picture, abort);
    this.encoded = this.picture;
    this.own = this.codes.slice();
    this.steps = [];
    this.editor.show(this.codes);
    await this.#decode(abort);
  }

  /** @param {AbortSignal} abort */
  async #decode(abort) {
    const [decoded] = await this.view.model.decode(this.codes, abort);
    if (!decoded) return;
    this.decoded.show(decoded);
    const { picture, mse } = difference(this.picture, decoded);
    this.lost.show(picture);
    fill(this.numbers, figures(distances(mse)));
    this.#showEdited();
    performance.mark("tessera-drawn");
  }

  #showEdited() {
    const changed = [...this.codes.keys()].filter((at) => this.codes[at] !== this.own[at]);
    const what = this.view.model.isGrid ? ["cell", "cells"] : ["number", "numbers"];
    this.edited.textContent = changed.length
      ? `${changed.length} ${changed.length === 1 ? what[0] : what[1]} changed`
      : "";
    this.undoButton.disabled = !this.steps.length;
    this.resetButton.disabled = !changed.length;
    this.view.remember({
      edit: changed.map((at) => `${at}:${Number(this.codes[at]?.toFixed(3))}`).join(","),
    });
  }

  /**
   * @param {number} cell
   * @param {number} code
   */
  change(cell, code) {
    if (this.codes[cell] === code) return;
    this.codes[cell] = code;
    this.editor.show(this.codes);
    void this.decode();
  }

  /** @param {Codes} codes */
  set(codes) {
    this.codes = codes;
    this.editor.show(codes);
    void this.decode();
  }

  /** Keep the codes as they are, to go back to. */
  keep() {
    this.steps = [...this.steps.slice(-MOST_STEPS), this.codes.slice()];
  }

  undo() {
    const before = this.steps.pop();
    if (before) this.set(before);
  }

  reset() {
    this.keep();
    this.set(this.own.slice());
  }

  /** @param {number | null} cell */
  frame(cell) {
    const { rows, columns, isInPlace } = this.view.model;
    const part =
      cell === null || !isInPlace
        ? null
        : {
            left: (cell % columns) / columns,
            top: Math.floor(cell / columns) / rows,
            width: 1 / columns,
            height: 1 / rows,
          };
    this.pad.frame(part);
    this.decoded.frame(part);
    this.lost.frame(part);
  }

  /**
   * Take a picture, and remember where it is from.
   *
   * @param {Picture} picture
   * @param {string} [example]
   */
  async take(picture, example) {
    this.picture = picture;
    this.pad.set(picture);
    await this.encode();
    await this.settled(example);
  }

  strokeEnded() {
    void this.encode().then(() => this.settled());
  }

  /**
   * Once the picture stays as it is: its sizes, its place in the address, the count of its codes.
   *
   * @param {string} [example]
   */
  async settled(example) {
    if (this.encoded !== this.picture) return;
    const { model, remember, shared } = this.view;
    shared.picture = this.picture;
    if (model.isGrid) model.count(this.codes);
    await showSizes(this.sizes, this.picture, model.bits);
    this.large.hidden = true;
    if (example) return remember({ example, picture: null });
    const link = await toLink(this.picture);
    this.large.hidden = link !== null;
    remember({ example: null, picture: link });
  }

  /** Save the picture, for the commands that read it. */
  async save() {
    const file = await toFile(this.picture, "image/png");
    if (!file) return;
    const url = URL.createObjectURL(file);
    make("a", { href: url, download: "picture.png" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  clear() {
    const { background } = this.view.model.detail.image;
    void this.take({ ...this.picture, data: this.picture.data.slice().fill(background) });
  }

  /** Start with what the address says. */
  async begin() {
    const { params, model } = this.view;
    const { image } = model.detail;
    const edits = params.get("edit");
    const given = params.get("picture");
    if (given) await this.take(await fromLink(given, image));
    else {
      const name = params.get("example") ?? firstExample(image);
      await this.take(await example(name, image), name);
    }
    const changes = edits?.split(",").map((each) => each.split(":").map(Number)) ?? [];
    for (const [cell = -1, code = 0] of changes) if (cell in this.codes) this.codes[cell] = code;
    if (changes.length) this.set(this.codes);
  }
}
