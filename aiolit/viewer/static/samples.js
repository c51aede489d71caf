// Samples: a page of many, and one with everything that is in it.

import { ask, el, plural, problem, whole } from "./dom.js";
import { describe, drawNode, drawPicture } from "./nodes.js";

const PAGE = 24;

const atLeast0 = (text) => Math.max(0, Number.parseInt(text, 10) || 0);

export async function showPage(state, [text], signal) {
  const total = state.about.data.samples;
  if (!total) return [el("p.empty", {}, "This data set has no samples.")];
  const first = Math.min(text === undefined ? state.page : atLeast0(text), total - 1);
  state.page = first;
  const found = await ask(`api/samples?first=${first}&count=${PAGE}`, signal);
  const last = first + found.samples.length - 1;
  const bar = toolbar({
    where: `samples ${whole(first)} to ${whole(last)} of ${whole(total)}`,
    back: first > 0 ? `#samples/${Math.max(0, first - PAGE)}` : null,
    on: last + 1 < total ? `#samples/${first + PAGE}` : null,
    what: "page",
    total,
    go: (number) => `#samples/${number}`,
  });
  const cards = el("ul.cards", {}, found.samples.map((one) => el("li", {}, card(one))));
  if (!cards.querySelector("img")) cards.classList.add("wide");
  return [bar, cards];
}

export async function showOne(state, [text], signal) {
  const total = state.about.data.samples;
  const number = Math.min(atLeast0(text), Math.max(0, total - 1));
  state.last = number;
  state.page = number - (number % PAGE);
  const found = await ask(`api/samples?first=${number}&count=1`, signal);
  const bar = toolbar({
    where: `sample ${whole(number)} of ${whole(total)}`,
    back: number > 0 ? `#sample/${number - 1}` : null,
    on: number + 1 < total ? `#sample/${number + 1}` : null,
    what: "sample",
    total,
    go: (wanted) => `#sample/${wanted}`,
    up: `#samples/${state.page}`,
  });
  const [one] = found.samples;
  const body = one.error ? problem(one.error) : el("article.sample", {}, sampleNodes(one));
  return [bar, body];
}

function sampleNodes({ number, tree }) {
  if (tree.kind !== "branch") return [drawNode({ ...tree, name: "" }, number)];
  const more = tree.more ? [el("p.more", {}, `and ${whole(tree.more)} more`)] : [];
  return [...tree.children.map((child) => drawNode(child, number)), ...more];
}

function toolbar({ where, back, on, what, total, go, up }) {
  const link = (href, words, keys, mark) =>
    el(
      "a.button",
      href
        ? { href, "data-key": keys, "aria-label": words, title: `${words} (${mark})` }
        : { role: "link", "aria-disabled": "true", "aria-label": words },
      mark,
    );
  const input = el("input", {
    id: "go",
    type: "number",
    min: 0,
    max: total - 1,
    placeholder: "number",
    "data-key": "g",
    title: "go to a sample (g)",
  });
  const submit = (event) => {
    event.preventDefault();
    if (input.value === "") return;
    location.hash = go(Math.min(total - 1, atLeast0(input.value)));
  };
  return el(
    "div.toolbar",
    {},
    link(back, `previous ${what}`, "ArrowLeft k", "←"),
    link(on, `next ${what}`, "ArrowRight j", "→"),
    el("span.where", {}, where),
    up ? el("a.button", { href: up, "data-key": "Escape", title: "all samples (Esc)" }, "All") : null,
    el("form.go", { onsubmit: submit }, el("label", { for: "go" }, "Go to sample"), input),
  );
}

// ---- a card ------------------------------------------------------------------------------------

function card({ number, tree, error }) {
  const title = el("span.number", {}, whole(number));
  if (error) {
    const inside = [el("div.preview.problem", {}, error), el("div.caption", {}, title)];
    return el("a.card", { href: `#sample/${number}` }, inside);
  }
  const leaves = [...walk(tree, "")];
  const main = ["image", "picture", "text", "array", "bytes", "unread"]
    .map((wanted) => leaves.find(([, leaf]) => isKind(leaf, wanted)))
    .find(Boolean);
  const values = leaves.filter(([, leaf]) => leaf.kind === "value").slice(0, 3);
  const sounds = leaves.filter(([, leaf]) => leaf.kind === "audio" || leaf.kind === "video").length;
  return el(
    "a.card",
    { href: `#sample/${number}` },
    preview(main, number, leaves),
    el(
      "div.caption",
      {},
      title,
      values.map(([path, leaf]) =>
        el("span.chip", {}, path ? el("b", {}, path) : null, " ", leaf.text),
      ),
      sounds ? el("span.chip", {}, `♪ ${plural(sounds, "recording")}`) : null,
    ),
  );
}

const isKind = (leaf, wanted) =>
  wanted === "picture" ? leaf.kind === "array" && leaf.media !== undefined : leaf.kind === wanted;

function* walk(node, path) {
  if (node.kind !== "branch") {
    yield [path, node];
    return;
  }
  for (const child of node.children)
    yield* walk(child, path ? `${path}.${child.name}` : child.name);
}

function preview(found, number, leaves) {
  if (!found) return el("div.preview.plain", {}, leaves.length ? "" : "empty");
  const [path, leaf] = found;
  if (leaf.media !== undefined && (leaf.kind === "image" || leaf.kind === "array"))
    return el("div.preview", {}, drawPicture(leaf, number, path));
  if (leaf.kind === "text") {
    const texts = leaves.filter(([, other]) => other.kind === "text").map(([, other]) => other.text);
    return el("div.preview.excerpt", {}, texts.join("\n").slice(0, 400));
  }
  if (leaf.kind === "array") {
    const first = leaf.rows.flat().slice(0, 32).join("  ");
    return el("div.preview.numbers", {}, el("b", {}, describe(leaf) || leaf.type), el("span", {}, first));
  }
  if (leaf.kind === "bytes") return el("div.preview.numbers", {}, leaf.hex.slice(0, 120));
  return el("div.preview.plain", {}, leaf.reason);
}
