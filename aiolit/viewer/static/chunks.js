// The chunk map: a column for each chunk, as high as it has bytes; a click leads to its samples.

import { ask, bytes, el, plural, svg, whole } from "./dom.js";

const COLUMNS = 240;
const ROWS = 50;
const HEIGHT = 120;

export async function show(state, [text], signal) {
  const found = await ask("api/chunks", signal);
  let first = 0;
  const chunks = found.names.map((name, number) => {
    const chunk = { number, name, first, samples: found.samples[number], nbytes: found.bytes[number] };
    first += chunk.samples;
    return chunk;
  });
  if (!chunks.length) return [el("p.empty", {}, "This data set has no chunks.")];
  const here = chunks.findLast((chunk) => chunk.first <= state.last);
  const pages = Math.ceil(chunks.length / ROWS);
  const wanted = text === undefined ? Math.floor(here.number / ROWS) : Number.parseInt(text, 10) || 0;
  const page = Math.min(Math.max(wanted, 0), pages - 1);
  return [
    map(chunks, here),
    pages > 1 ? paging(page, pages) : null,
    table(chunks.slice(page * ROWS, (page + 1) * ROWS), here),
  ].filter(Boolean);
}

const place = (chunk) => `#sample/${chunk.first}`;

function about(group) {
  const last = group[group.length - 1];
  const nbytes = group.reduce((sum, chunk) => sum + chunk.nbytes, 0);
  const samples = last.first + last.samples - group[0].first;
  const name =
    group.length === 1
      ? `chunk ${whole(last.number)} · ${last.name}`
      : `chunks ${whole(group[0].number)} to ${whole(last.number)}`;
  const range = samples
    ? `samples ${whole(group[0].first)} to ${whole(group[0].first + samples - 1)}`
    : "no samples";
  return `${name} · ${bytes(nbytes)} · ${range}`;
}

function map(chunks, here) {
  const size = Math.ceil(chunks.length / COLUMNS);
  const groups = [];
  for (let at = 0; at < chunks.length; at += size) groups.push(chunks.slice(at, at + size));
  const mean = (group) => group.reduce((sum, chunk) => sum + chunk.nbytes, 0) / group.length;
  const most = Math.max(...groups.map(mean), 1);
  const step = 1000 / Math.max(groups.length, 24);
  const hint = `${plural(chunks.length, "chunk")}, the largest column ${bytes(most)}. A click leads to a chunk's first sample.`;
  const caption = el("figcaption", {}, hint);
  const columns = groups.map((group, number) => {
    const height = Math.max(2, (mean(group) / most) * HEIGHT);
    const words = about(group);
    const column = svg(
      "g.column",
      { "data-first": group[0].first, onclick: () => { location.hash = place(group[0]); } },
      svg("title", {}, words),
      svg("rect.room", { x: number * step, y: 0, width: step, height: HEIGHT }),
      svg("rect.bar", {
        x: number * step + step * 0.08,
        y: HEIGHT - height,
        width: step * 0.84,
        height,
      }),
    );
    if (group.includes(here)) column.classList.add("here");
    column.addEventListener("mouseenter", () => { caption.textContent = words; });
    column.addEventListener("mouseleave", () => { caption.textContent = hint; });
    return column;
  });
  const drawing = svg(
    "svg",
    {
      viewBox: `0 0 1000 ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": "bytes of each chunk; the table below has the same figures",
    },
    columns,
  );
  return el("figure.map", {}, drawing, caption);
}

function paging(page, pages) {
  const link = (to, words, keys, mark) =>
    el(
      "a.button",
      to >= 0 && to < pages
        ? { href: `#chunks/${to}`, "data-key": keys, "aria-label": words, title: words }
        : { role: "link", "aria-disabled": "true", "aria-label": words },
      mark,
    );
  return el(
    "div.toolbar",
    {},
    link(page - 1, "previous page of chunks", "ArrowLeft k", "←"),
    link(page + 1, "next page of chunks", "ArrowRight j", "→"),
    el("span.where", {}, `page ${page + 1} of ${pages}`),
  );
}

function table(chunks, here) {
  const heads = ["chunk", "file", "samples", "bytes"];
  return el(
    "table.list",
    {},
    el("thead", {}, el("tr", {}, heads.map((name) => el("th", { scope: "col" }, name)))),
    el(
      "tbody",
      {},
      chunks.map((chunk) =>
        el(
          "tr",
          chunk === here ? { "aria-current": "true" } : {},
          el("th", { scope: "row" }, whole(chunk.number)),
          el("td", {}, el("a", { href: place(chunk) }, chunk.name)),
          el("td.figure", {}, whole(chunk.samples)),
          el("td.figure", {}, bytes(chunk.nbytes)),
        ),
      ),
    ),
  );
}
