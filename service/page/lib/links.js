/** Pictures in an address, so that a link has them. */

import { forAddress, fromAddress, ofBlob } from "./base64.js";
import { fitted, read, toFile } from "./pixels.js";

/** @typedef {import("./pixels.js").Picture} Picture */

/** Bytes of a picture up to which it is in the address. */
const MOST_BYTES = 3000;

/**
 * A picture for an address; null if it is too large.
 *
 * @param {Picture} picture
 */
export async function toLink(picture) {
  const file = await toFile(picture, "image/png");
  return file && file.size <= MOST_BYTES ? forAddress(await ofBlob(file)) : null;
}

/**
 * The picture of an address.
 *
 * @param {string} text
 * @param {import("./pixels.js").ImageSpec} image
 */
export async function fromLink(text, image) {
  return fitted(await read(`data:image/png;base64,${fromAddress(text)}`), image);
}
