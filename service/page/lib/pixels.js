/** Pictures as a model has them: uint8 pixels in rows, made to fit, drawn and compared. */

import { canvas, pen } from "./dom.js";

/** @typedef {{height: number, width: number, channels: number, data: Uint8Array<ArrayBuffer>}} Picture */
/**
 * How a model takes pictures: its manifest's `image`.
 *
 * @typedef {object} ImageSpec
 * @property {1 | 3} channels
 * @property {number} height
 * @property {number} width
 * @property {number | null} multiple_of
 * @property {"stretch" | "crop" | "pad"} fit
 * @property {number} background
 */

/**
 * A source made to fit a model by the model's rule, over its background.
 *
 * @param {CanvasImageSource & {width: number, height: number}} source
 * @param {ImageSpec} image
 * @returns {Picture}
 */
export function fitted(source, image) {
  const { width, height, background } = image;
  const small = canvas(width, height);
  const context = pen(small);
  context.fillStyle = `rgb(${background} ${background} ${background})`;
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  const scales = [width / source.width, height / source.height];
  const scale = image.fit === "crop" ? Math.max(...scales) : Math.min(...scales);
  const [wide, high] =
    image.fit === "stretch" ? [width, height] : [source.width * scale, source.height * scale];
  context.drawImage(source, (width - wide) / 2, (height - high) / 2, wide, high);
  return fromCanvas(small, image.channels);
}

/**
 * The pixels of a canvas; one channel is the luma of three (ITU-R 601), as in the service.
 *
 * @param {HTMLCanvasElement} source
 * @param {number} channels
 * @returns {Picture}
 */
export function fromCanvas(source, channels) {
  const { width, height } = source;
  const rgba = pen(source).getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * channels);
  for (let at = 0; at < width * height; at += 1) {
    const [red = 0, green = 0, blue = 0] = rgba.subarray(4 * at, 4 * at + 3);
    if (channels === 1) data[at] = Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
    else data.set([red, green, blue], 3 * at);
  }
  return { height, width, channels, data };
}

/**
 * One row of a uint8 array `[n, height, width, channels]`.
 *
 * @param {import("./npy.js").Tensor} tensor
 * @param {number} row
 * @returns {Picture}
 */
export function ofTensor({ shape, data }, row) {
  const [, height = 0, width = 0, channels = 0] = shape;
  const size = height * width * channels;
  return { height, width, channels, data: new Uint8Array(data.slice(row * size, (row + 1) * size)) };
}

/**
 * The cell in the middle of a picture of so many rows and columns of them.
 *
 * @param {Picture} picture
 * @param {number} rows
 * @param {number} columns
 * @returns {Picture}
 */
export function middle(picture, rows, columns) {
  const [height, width] = [Math.floor(picture.height / rows), Math.floor(picture.width / columns)];
  const [top, left] = [Math.floor(rows / 2) * height, Math.floor(columns / 2) * width];
  const { channels } = picture;
  const data = new Uint8Array(height * width * channels);
  for (let row = 0; row < height; row += 1) {
    const start = ((top + row) * picture.width + left) * channels;
    data.set(picture.data.subarray(start, start + width * channels), row * width * channels);
  }
  return { height, width, channels, data };
}

/**
 * Pixels for a canvas.
 *
 * @param {Picture} picture
 */
export function toImageData({ height, width, channels, data }) {
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      image.data[4 * at + channel] = data[channels * at + (channels === 1 ? 0 : channel)] ?? 0;
    }
    image.data[4 * at + 3] = 255;
  }
  return image;
}

/**
 * Show a picture on a canvas, which gets its size.
 *
 * @param {HTMLCanvasElement} target
 * @param {Picture} picture
 */
export function show(target, picture) {
  if (target.width !== picture.width) target.width = picture.width;
  if (target.height !== picture.height) target.height = picture.height;
  pen(target).putImageData(toImageData(picture), 0, 0);
}

/**
 * How two pictures differ: the difference, grey where there is none, and the mean squared error of pixels in [0, 1].
 *
 * @param {Picture} one
 * @param {Picture} other
 * @returns {{picture: Picture, mse: number}}
 */
export function difference(one, other) {
  let sum = 0;
  const data = new Uint8Array(one.data.length);
  for (let at = 0; at < data.length; at += 1) {
    const gap = (other.data[at] ?? 0) - (one.data[at] ?? 0);
    sum += (gap / 255) ** 2;
    data[at] = 128 + Math.trunc(gap / 2);
  }
  return { picture: { ...one, data }, mse: sum / data.length };
}

/**
 * A picture as a file.
 *
 * @param {Picture} picture
 * @param {string} type a media type
 * @param {number} [quality]
 * @returns {Promise<Blob | null>} null if the browser does not write this type
 */
export async function toFile(picture, type, quality) {
  const sheet = canvas(picture.width, picture.height);
  show(sheet, picture);
  /** @type {Blob | null} */
  const blob = await new Promise((resolve) => sheet.toBlob(resolve, type, quality));
  return blob?.type === type ? blob : null;
}

/**
 * The picture of a file, an address or a blob.
 *
 * @param {Blob | string} source
 */
export async function read(source) {
  const image = new Image();
  const url = typeof source === "string" ? source : URL.createObjectURL(source);
  image.src = url;
  try {
    await image.decode();
    return image;
  } catch {
    throw new Error("this is no picture that the browser can read");
  } finally {
    if (typeof source !== "string") URL.revokeObjectURL(url);
  }
}
