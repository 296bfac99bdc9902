/** What a picture costs and loses: figures, and sizes as bars. */

import { fill, make } from "../lib/dom.js";
import { toFile } from "../lib/pixels.js";

/** @typedef {import("../lib/pixels.js").Picture} Picture */

/** Of WebP and JPEG: what most tools take if nobody says. */
const QUALITY = 0.8;

/**
 * Names and values, side by side.
 *
 * @param {[string, string][]} rows
 */
export function figures(rows) {
  return make(
    "dl",
    { class: "figures" },
    ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

/**
 * MSE and PSNR as text.
 *
 * @param {number} mse of pixels in [0, 1]
 * @returns {[string, string][]}
 */
export function distances(mse) {
  const psnr = mse > 0 ? `${(-10 * Math.log10(mse)).toFixed(1)} dB` : "no loss";
  return [
    ["PSNR", psnr],
    ["MSE", mse.toPrecision(3)],
  ];
}

/**
 * Bars of the sizes of the codes and of the picture as files, into an element.
 *
 * @param {HTMLElement} target
 * @param {Picture} picture
 * @param {number} bits of the codes
 */
export async function showSizes(target, picture, bits) {
  const files = await Promise.all([
    toFile(picture, "image/png"),
    toFile(picture, "image/webp", QUALITY),
    toFile(picture, "image/jpeg", QUALITY),
  ]);
  /** @type {[string, number | undefined][]} */
  const sizes = [
    ["Codes", Math.ceil(bits / 8)],
    ["PNG", files[0]?.size],
    ["WebP", files[1]?.size],
    ["JPEG", files[2]?.size],
  ];
  const most = Math.max(...sizes.map(([, size]) => size ?? 0));
  const rows = sizes.flatMap(([name, size]) => (size === undefined ? [] : [bar(name, size, most)]));
  fill(target, ...rows);
}

/**
 * @param {string} name
 * @param {number} size
 * @param {number} most
 */
function bar(name, size, most) {
  const length = make("span", { class: name === "Codes" ? "bar own" : "bar" });
  length.style.width = `${Math.max(0.5, (100 * size) / most)}%`;
  return make(
    "li",
    {},
    make("span", {}, name),
    make("span", { class: "track" }, length),
    make("span", { class: "value" }, bytes(size)),
  );
}

/** @param {number} size */
export function bytes(size) {
  return size < 10_000 ? `${size.toLocaleString("en")} B` : `${(size / 1000).toFixed(1)} kB`;
}
