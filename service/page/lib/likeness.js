/** Where codes stand beside each other: the codebook's first two principal components, and colours from them. */

/** @typedef {{x: number, y: number}} Point each in [-1, 1] */

/**
 * The two main directions of some vectors, by power iteration on their covariance.
 *
 * @param {Float32Array[]} vectors
 * @returns {Point[]}
 */
export function map(vectors) {
  const width = vectors[0]?.length ?? 0;
  const mean = Array.from(
    { length: width },
    (_, axis) => sum(vectors, (vector) => vector[axis] ?? 0) / vectors.length,
  );
  const centred = vectors.map((vector) =>
    Float64Array.from(vector, (value, axis) => value - (mean[axis] ?? 0)),
  );
  const first = component(centred);
  const along = centred.map((vector) => dot(vector, first));
  const rest = centred.map((vector, row) =>
    vector.map((value, axis) => value - (along[row] ?? 0) * (first[axis] ?? 0)),
  );
  const second = component(rest);
  const xs = scaled(along);
  const ys = scaled(rest.map((vector) => dot(vector, second)));
  return xs.map((x, row) => ({ x, y: ys[row] ?? 0 }));
}

/**
 * A CSS colour for each code: like codes have like colours. Without vectors the hues are spread evenly.
 *
 * @param {number} size
 * @param {Float32Array[] | null} vectors
 * @returns {string[]}
 */
export function colours(size, vectors) {
  if (!vectors)
    return Array.from({ length: size }, (_, code) => `oklch(0.68 0.13 ${(code * 137.508) % 360})`);
  return map(vectors).map(({ x, y }) => {
    const hue = ((Math.atan2(y, x) * 180) / Math.PI + 360) % 360;
    const far = Math.min(1, Math.hypot(x, y));
    return `oklch(${(0.52 + 0.18 * (1 - far) + 0.12 * (0.5 + x / 2)).toFixed(3)} ${(0.03 + 0.13 * far).toFixed(3)} ${hue.toFixed(1)})`;
  });
}

/**
 * The squared distance of two vectors.
 *
 * @param {Float32Array} one
 * @param {Float32Array} other
 */
export function distance(one, other) {
  return one.reduce((total, value, axis) => total + (value - (other[axis] ?? 0)) ** 2, 0);
}

/** @param {Float64Array[]} vectors */
function component(vectors) {
  const width = vectors[0]?.length ?? 0;
  let direction = Float64Array.from({ length: width }, (_, axis) => 1 + axis / width);
  for (let step = 0; step < 30; step += 1) {
    const next = new Float64Array(width);
    for (const vector of vectors) {
      const along = dot(vector, direction);
      for (let axis = 0; axis < width; axis += 1)
        next[axis] = (next[axis] ?? 0) + along * (vector[axis] ?? 0);
    }
    const length = Math.sqrt(dot(next, next)) || 1;
    direction = next.map((value) => value / length);
  }
  return direction;
}

/** @param {number[]} values */
function scaled(values) {
  const most = Math.max(...values.map(Math.abs)) || 1;
  return values.map((value) => value / most);
}

/**
 * @param {Float64Array} one
 * @param {Float64Array} other
 */
function dot(one, other) {
  return one.reduce((total, value, axis) => total + value * (other[axis] ?? 0), 0);
}

/**
 * @template T
 * @param {T[]} items
 * @param {(item: T) => number} value
 */
function sum(items, value) {
  return items.reduce((total, item) => total + value(item), 0);
}
