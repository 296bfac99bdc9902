/** Bytes as text: base64 for JSON, and its form for addresses (RFC 4648, 5). */

/**
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
export async function ofBlob(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

/** @param {string} text */
export function forAddress(text) {
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** @param {string} text */
export function fromAddress(text) {
  return text.replaceAll("-", "+").replaceAll("_", "/");
}
