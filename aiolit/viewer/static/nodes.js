// One leaf or branch of a sample, drawn by its kind.

import { bytes, el, plural, whole } from "./dom.js";

const LEAST = 192; // pixels; smaller pictures are enlarged, each pixel a square

const address = (node, number) => `media/${number}/${node.media}`;

export function drawNode(node, number) {
  if (node.kind === "branch") return drawBranch(node, number);
  const about = [node.type, describe(node)].filter(Boolean).join(" · ");
  const draw = BODIES[node.kind];
  return el(
    "section.leaf",
    { "data-kind": node.kind },
    el("h3", {}, el("span.name", {}, node.name), el("span.type", {}, about)),
    draw(node, number),
  );
}

function drawBranch(node, number) {
  return el(
    "details.branch",
    { open: true },
    el("summary", {}, el("span.name", {}, node.name), el("span.type", {}, node.type)),
    el(
      "div.children",
      {},
      node.children.map((child) => drawNode(child, number)),
      node.more ? el("p.more", {}, `and ${whole(node.more)} more`) : null,
    ),
  );
}

/** Say how large a leaf is, in words. */
export function describe(node) {
  if (node.shape && node.shape.length === 1) return `${whole(node.shape[0])} of ${node.dtype}`;
  if (node.shape) return `${node.shape.join(" × ")} of ${node.dtype}`;
  if (node.nbytes !== undefined) return bytes(node.nbytes);
  if (node.length !== undefined) return plural(node.length, "character");
  return "";
}

export function drawPicture(node, number, name) {
  const image = el("img", { src: address(node, number), alt: `${name} of sample ${number}` });
  image.addEventListener("load", () => {
    const times = Math.floor(LEAST / Math.max(image.naturalWidth, image.naturalHeight));
    if (times < 2) return;
    image.classList.add("enlarged");
    image.style.setProperty("--width", `${times * image.naturalWidth}px`);
  });
  image.addEventListener("error", () => {
    image.replaceWith(el("span.problem", {}, "this browser cannot show the image"));
  });
  return image;
}

const BODIES = {
  image: (node, number) => drawPicture(node, number, node.name),

  audio: (node, number) =>
    el("audio", {
      src: address(node, number),
      controls: true,
      preload: "metadata",
      "aria-label": `${node.name} of sample ${number}`,
    }),

  video: (node, number) =>
    el("video", {
      src: address(node, number),
      controls: true,
      preload: "metadata",
      "aria-label": `${node.name} of sample ${number}`,
    }),

  text: (node, number) =>
    el(
      "div",
      {},
      el("pre.text", {}, node.text),
      node.more
        ? el("a.whole", { href: address(node, number), target: "_blank" }, "the whole text")
        : null,
    ),

  value: (node) => el("p.value", {}, node.text),

  array: (node, number) => {
    const shades = node.shades ? `black is ${node.shades[0]}, white is ${node.shades[1]}` : null;
    const picture =
      node.media === undefined
        ? null
        : el(
            "figure",
            {},
            drawPicture(node, number, node.name),
            shades ? el("figcaption", {}, shades) : null,
          );
    const figures = el("div", {}, drawStatistics(node), drawValues(node));
    return picture ? el("div.beside", {}, picture, figures) : figures;
  },

  bytes: (node, number) =>
    el(
      "div",
      {},
      el("pre.hex", {}, node.hex + (node.more ? " …" : "")),
      el("a.whole", { href: address(node, number), download: true }, "save the bytes"),
    ),

  unread: (node) => el("p.unread", {}, node.reason),
};

function drawStatistics(node) {
  if (!node.stats) return null;
  return el(
    "dl.stats",
    {},
    Object.entries(node.stats).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value)),
    ),
  );
}

function drawValues(node) {
  if (!node.rows.length) return null;
  if (node.rows.length === 1 && (!node.shape || node.shape.length === 1))
    return el("p.flow", {}, node.rows[0].map((one) => el("span", {}, one)), node.more ? "…" : null);
  const [first] = node.rows;
  const leading = node.shape.length > 2 ? node.shape.slice(0, -2).map(() => "0").join(", ") : null;
  const table = el(
    "table.values",
    {},
    el(
      "caption",
      {},
      `the first ${node.rows.length} × ${first.length} values${leading ? ` at [${leading}]` : ""}`,
    ),
    el("tbody", {}, node.rows.map((row) => el("tr", {}, row.map((one) => el("td", {}, one))))),
  );
  const scrolled = el("div.scrolled", { tabindex: "0", role: "region", "aria-label": "values" }, table);
  if (node.media === undefined) return scrolled;
  return el("details.table", {}, el("summary", {}, "values"), scrolled);
}
