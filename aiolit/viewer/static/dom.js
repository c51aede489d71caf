// Small helpers that every view uses. Text only ever enters the page as text nodes.

/** Make an element; `on...` are listeners, the rest attributes; children are nodes or text. */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  return fill(document.createElement(tag), classes, attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return fill(made, classes, attributes, children);
}

function fill(made, classes, attributes, children) {
  made.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** Ask the server; an error is one sentence. */
export async function ask(path, signal) {
  let response;
  try {
    response = await fetch(path, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the viewer does not answer; it may have been stopped");
  }
  const isJson = (response.headers.get("Content-Type") || "").startsWith("application/json");
  const answer = isJson ? await response.json() : {};
  if (!response.ok) throw new Error(answer.error || `the viewer failed (${response.status})`);
  return answer;
}

export const whole = (number) => Math.round(number).toLocaleString("en");

/** Bytes for people, in powers of 1000, as the command line writes them. */
export function bytes(number) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (Math.abs(number) >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export const plural = (number, one, many = `${one}s`) =>
  `${whole(number)} ${number === 1 ? one : many}`;

export const problem = (sentence) => el("p.problem", { role: "alert" }, sentence);
