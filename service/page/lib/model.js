/** A model as its manifest describes it, and the calls that run it. */

import { getJson, Problem, send } from "./api.js";
import * as npy from "./npy.js";
import { middle, ofTensor } from "./pixels.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {{dtype: "float32" | "int64", default: number, minimum: number, maximum: number, description: string}} Parameter */
/** @typedef {{name: string, role: string, default: number | null}} Input */
/** @typedef {{inputs: Input[], outputs: {name: string, role: string}[], parameters: Record<string, Parameter>, description: string}} Operation */
/** @typedef {{dtype: "int32" | "float32", shape: number[], stride: number | null, codebook_size: number | null, codebook_dim: number | null, level_grids?: number[] | null}} CodesSpec */
/**
 * The response of `GET /models/NAME`.
 *
 * @typedef {object} Detail
 * @property {string} name
 * @property {string} version
 * @property {string} kind
 * @property {string} created
 * @property {string} provider
 * @property {string} reason
 * @property {import("./pixels.js").ImageSpec} image
 * @property {CodesSpec} codes
 * @property {string[] | null} labels
 * @property {Record<string, Operation>} operations
 * @property {number[] | null} codebook
 * @property {{of: string, dataset: string, split: string, images: number, values: Record<string, number>}[]} measures
 * @property {{images: number, within_one_level: number, largest_difference: number, code_flips: number, codes: number, tolerance: string} | null} parity
 */
/** @typedef {{name: string, operation: Operation, label: Input | undefined, draws: boolean, parameters: Record<string, Parameter>}} Method */
/** @typedef {Int32Array<ArrayBuffer> | Float32Array<ArrayBuffer>} Codes */
/**
 * The response of `POST /sample`.
 *
 * @typedef {object} Samples
 * @property {string[]} images PNG as base64
 * @property {any[] | null} codes
 * @property {number} seed
 * @property {number[] | null} labels
 * @property {string[][] | null} state_images
 * @property {Record<string, (number | null)[]> | null} figures
 */

const SAMPLE = "sample/";
const NPY = "application/x-npy";
/** Rows of one request for the pictures of codes. */
const ROWS = 256;
const TOO_LARGE = 413;

/**
 * Rows of one length for so many cells, about as many as columns.
 *
 * @param {number} count
 */
function rowsOf(count) {
  let rows = Math.floor(Math.sqrt(count));
  while (count % rows) rows -= 1;
  return rows;
}

/**
 * @param {number} cell
 * @param {number} columns
 */
const cellOf = (cell, columns) => `row ${Math.floor(cell / columns) + 1}, column ${(cell % columns) + 1}`;

export class Model {
  /** @param {Detail} detail */
  constructor(detail) {
    this.detail = detail;
    this.name = detail.name;
    const { shape, dtype } = detail.codes;
    /** Whether a cell of a grid has several numbers: those of a vector, or a code of each level. */
    this.isLatents = shape.length === 3;
    /** Whether the codes are one index a cell, in a grid or in a sequence, which is shown in rows of one length. */
    this.isGrid = dtype === "int32" && !this.isLatents;
    /** Whether a cell has a place in the picture. */
    this.isInPlace = this.isGrid && shape.length === 2;
    const count = shape.reduce((product, axis) => product * axis, 1);
    this.rows = this.isInPlace ? (shape[0] ?? 1) : this.isGrid ? rowsOf(count) : 1;
    this.columns = count / this.rows;
    this.size = detail.codes.codebook_size ?? 0;
    /** How often each code was seen in this visit, by index. @type {Map<number, number>} */
    this.seen = new Map();
    /** @type {Map<string, Promise<any>>} */
    this.kept = new Map();
  }

  /** @param {string} name */
  static async load(name) {
    return new Model(await getJson(`models/${encodeURIComponent(name)}`));
  }

  /** Bits of the codes of one picture. */
  get bits() {
    const cells = this.rows * this.columns;
    return cells * (this.size ? Math.log2(this.size) : 32);
  }

  /**
   * Where a cell of the grid is, in words.
   *
   * @param {number} cell
   */
  place(cell) {
    if (this.isInPlace) return cellOf(cell, this.columns);
    let first = 0;
    for (const side of this.detail.codes.level_grids ?? []) {
      if (cell < first + side * side) return `${side}×${side}, ${cellOf(cell - first, side)}`;
      first += side * side;
    }
    return `place ${cell + 1}`;
  }

  /** @param {string} operation */
  can(operation) {
    return operation in this.detail.operations;
  }

  /**
   * The sampling methods, each with its parameters and those of the decoder.
   *
   * @returns {Method[]}
   */
  get methods() {
    const { decode } = this.detail.operations;
    const isNoise = (/** @type {Input} */ { role }) => role === "normal" || role === "uniform";
    return Object.entries(this.detail.operations)
      .filter(([name]) => name.startsWith(SAMPLE))
      .map(([name, operation]) => ({
        name: name.slice(SAMPLE.length),
        operation,
        label: operation.inputs.find((input) => input.role === "label"),
        draws: [...operation.inputs, ...(decode?.inputs ?? [])].some(isNoise),
        parameters: { ...decode?.parameters, ...operation.parameters },
      }));
  }

  /**
   * The methods with an input of a role.
   *
   * @param {string} role
   */
  methodsThatTake(role) {
    return this.methods.filter(({ operation }) => operation.inputs.some((input) => input.role === role));
  }

  /**
   * Do something once for this model.
   *
   * @template T
   * @param {string} what
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  once(what, work) {
    let found = this.kept.get(what);
    if (!found) {
      found = work();
      this.kept.set(what, found);
      found.catch(() => this.kept.delete(what));
    }
    return found;
  }

  /**
   * The codes of a picture.
   *
   * @param {Picture} picture
   * @param {AbortSignal} [signal]
   * @returns {Promise<Codes>}
   */
  async encode({ height, width, channels, data }, signal) {
    const body = npy.dump({ shape: [1, height, width, channels], data });
    const codes = await this.#run("encode", body, signal);
    return /** @type {Codes} */ (codes.data);
  }

  /**
   * The pictures of some codes.
   *
   * @param {Codes} codes
   * @param {AbortSignal} [signal]
   * @param {number[]} [shape] of one row; the model's own by default
   * @returns {Promise<Picture[]>}
   */
  async decode(codes, signal, shape = this.detail.codes.shape) {
    const count = codes.length / shape.reduce((product, axis) => product * axis, 1);
    const images = await this.#run("decode", npy.dump({ shape: [count, ...shape], data: codes }), signal);
    return Array.from({ length: count }, (_, row) => ofTensor(images, row));
  }

  /**
   * Draw, complete or interpolate.
   *
   * @param {object} document
   * @param {AbortSignal} [signal]
   * @returns {Promise<Samples>}
   */
  async sample(document, signal) {
    const query = { model: this.name, version: this.detail.version };
    const response = await send({
      method: "POST",
      path: "sample",
      query,
      body: document,
      accept: "application/json",
      ...(signal && { signal }),
    });
    return response.json();
  }

  /** The codebook's vectors, or null if the model has none. */
  codebook() {
    return this.once("codebook", async () => {
      if (!this.detail.codebook) return null;
      const path = `models/${encodeURIComponent(this.name)}/codebook`;
      const { shape, data } = npy.load(
        await (await send({ method: "GET", path, accept: NPY })).arrayBuffer(),
      );
      const [count = 0, width = 0] = shape;
      return Array.from({ length: count }, (_, row) =>
        Float32Array.from(data.subarray(row * width, (row + 1) * width)),
      );
    });
  }

  /**
   * What each code of the codebook decodes to by itself: little pictures, by index. A model of one size decodes a
   * whole grid of the code, of which they are the cell in the middle; one whose levels have grids, the first level.
   *
   * @returns {Promise<Picture[]>}
   */
  glyphs() {
    return this.once("glyphs", async () => {
      const { stride } = this.detail.codes;
      const isAny = this.detail.image.multiple_of !== null && stride !== null;
      const coarsest = this.detail.codes.level_grids?.[0];
      const [rows = 1, columns = 1] = isAny
        ? [1, 1]
        : coarsest
          ? [coarsest, coarsest]
          : [this.rows, this.columns];
      const shape = this.isInPlace ? [rows, columns] : [rows * columns];
      /** @type {Picture[]} */
      const found = [];
      let most = isAny ? ROWS : Math.ceil(ROWS / (rows * columns));
      while (found.length < this.size) {
        const first = found.length;
        const count = Math.min(most, this.size - first);
        const length = count * rows * columns;
        const codes = Int32Array.from({ length }, (_, at) => first + Math.floor(at / (rows * columns)));
        try {
          found.push(...(await this.decode(codes, undefined, shape)));
        } catch (error) {
          // The service takes fewer at once; how many follows from its settings.
          if (!(error instanceof Problem && error.status === TOO_LARGE) || count === 1) throw error;
          most = Math.floor(count / 2);
        }
      }
      return isAny ? found : found.map((picture) => middle(picture, rows, columns));
    });
  }

  /** @param {Codes} codes */
  count(codes) {
    for (const code of codes) this.seen.set(code, (this.seen.get(code) ?? 0) + 1);
  }

  /**
   * @param {"encode" | "decode"} path
   * @param {Uint8Array<ArrayBuffer>} body
   * @param {AbortSignal} [signal]
   */
  async #run(path, body, signal) {
    const query = { model: this.name, version: this.detail.version };
    const response = await send({
      method: "POST",
      path,
      query,
      body,
      type: NPY,
      accept: NPY,
      ...(signal && { signal }),
    });
    return npy.load(await response.arrayBuffer());
  }
}
