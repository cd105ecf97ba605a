// Small helpers. Text from a server only ever becomes text nodes.

export const $ = (selector, root = document) => root.querySelector(selector);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--")) made.style.setProperty(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Only what differs is touched, so that focus, selection and open details stay.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setChildren(parent, children) {
  const made = element("div", {}, ...children);
  if (parent.innerHTML !== made.innerHTML) parent.replaceChildren(...made.childNodes);
}

export const count = new Intl.NumberFormat("en");

export const percent = (part, all) => (all ? `${Math.round((100 * part) / all)} %` : "–");

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function seconds(value) {
  if (value == null) return "–";
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`;
}
