/** Arrays as npy, the form of numpy.save: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */

/** @typedef {Uint8Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Float32Array<ArrayBuffer>} Numbers */
/** @typedef {{shape: number[], data: Numbers}} Tensor */

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];

/**
 * The bytes of an array.
 *
 * @param {Tensor} tensor
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function dump({ shape, data }) {
  const type = data instanceof Uint8Array ? "|u1" : data instanceof Int32Array ? "<i4" : "<f4";
  const axes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '${type}', 'fortran_order': False, 'shape': (${axes}), }`;
  // The data begins at a multiple of 64.
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const header = new TextEncoder().encode(`${text.padEnd(length - 1)}\n`);
  const bytes = new Uint8Array(10 + length + data.byteLength);
  bytes.set([...MAGIC, 1, 0, length & 255, length >> 8]);
  bytes.set(header, 10);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 10 + length);
  return bytes;
}

/**
 * The array of some bytes. Throws Error for another type than uint8, int32 and float32.
 *
 * @param {ArrayBuffer} buffer
 * @returns {Tensor}
 */
export function load(buffer) {
  const view = new DataView(buffer);
  const isFirst = view.getUint8(6) === 1;
  const start = isFirst ? 10 : 12;
  const length = isFirst ? view.getUint16(8, true) : view.getUint32(8, true);
  const header = new TextDecoder().decode(new Uint8Array(buffer, start, length));
  const axes = /'shape': \(([^)]*)\)/.exec(header)?.[1] ?? "";
  const shape = axes
    .split(",")
    .filter((axis) => axis.trim())
    .map(Number);
  const rest = buffer.slice(start + length);
  switch (/'descr': '([^']*)'/.exec(header)?.[1]) {
    case "|u1":
      return { shape, data: new Uint8Array(rest) };
    case "<i4":
      return { shape, data: new Int32Array(rest) };
    case "<f4":
      return { shape, data: new Float32Array(rest) };
    default:
      throw new Error(`the array has a type that this page does not read: ${header}`);
  }
}
