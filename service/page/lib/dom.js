/** Elements from names, attributes and children. */

/** @typedef {string | Node | null | undefined | false} Child */
/** @typedef {Record<string, string | number | boolean | null | undefined | ((event: any) => void)>} Attributes */

/**
 * An element. An attribute that is a function listens to the event of its name; true is an attribute without a
 * value, and false, null and undefined are none.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  fill(element, ...children);
  return element;
}

/**
 * Replace the children of an element.
 *
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren(
    .../** @type {(string | Node)[]} */ (children.filter((child) => child || child === "")),
  );
}

/**
 * A canvas of a size in pixels.
 *
 * @param {number} width
 * @param {number} height
 * @param {Attributes} [attributes]
 */
export function canvas(width, height, attributes = {}) {
  return make("canvas", { width, height, ...attributes });
}

/**
 * The context of a canvas for drawing in two dimensions.
 *
 * @param {HTMLCanvasElement} element
 */
export function pen(element) {
  const found = element.getContext("2d", { willReadFrequently: true });
  if (!found) throw new Error("this browser has no canvas");
  return found;
}

let made = 0;

/** An id that no other element has. */
export function newId() {
  made += 1;
  return `e${made}`;
}

/**
 * Say something to a screen reader.
 *
 * @param {string} text
 */
export function announce(text) {
  const region = document.getElementById("announcements");
  if (region) region.textContent = text;
}

/**
 * A section with a heading.
 *
 * @param {string} title
 * @param {...Child} children
 */
export function panel(title, ...children) {
  const id = newId();
  return make("section", { class: "panel", "aria-labelledby": id }, make("h3", { id }, title), ...children);
}

/**
 * Do something when an element gets another size: in the next frame, since it may change the size of others.
 *
 * @param {Element} element
 * @param {() => void} act
 */
export function resized(element, act) {
  new ResizeObserver(() => requestAnimationFrame(act)).observe(element);
}

/**
 * Draw a canvas when it gets another size, or the page other colours.
 *
 * @param {HTMLCanvasElement} element
 * @param {() => void} draw
 */
export function redraw(element, draw) {
  resized(element, draw);
  const themed = () => (element.isConnected ? draw() : removeEventListener("themechange", themed));
  addEventListener("themechange", themed);
}
