// Which view is shown: the part of the address behind "#" says it, so that it can be kept and shared.

import { ask, bytes, el, plural, problem } from "./dom.js";
import * as chunks from "./chunks.js";
import * as live from "./live.js";
import * as samples from "./samples.js";
import * as schema from "./schema.js";

const main = document.getElementById("main");
const state = { about: null, last: 0, page: 0 };
let leave = null; // ends what the shown view has under way

const VIEWS = {
  samples: { title: "Samples", show: samples.showPage },
  sample: { show: samples.showOne, under: "samples" },
  chunks: { title: "Chunks", show: chunks.show },
  schema: { title: "Schema", show: schema.show },
  live: { title: "Live", show: live.show },
};

function offered() {
  const { data, live: watched } = state.about;
  const names = [];
  if (data) names.push("samples");
  if (data && data.chunks) names.push("chunks");
  if (data && data.leaves) names.push("schema");
  if (watched) names.push("live");
  return names;
}

async function route() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const names = offered();
  const view = VIEWS[name] && names.includes(VIEWS[name].under || name) ? name : names[0];
  for (const link of document.querySelectorAll("#views a")) {
    const here = link.hash === `#${VIEWS[view].under || view}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (leave) leave.abort();
  const mine = (leave = new AbortController());
  main.setAttribute("aria-busy", "true");
  try {
    const shown = await VIEWS[view].show(state, rest, mine.signal);
    if (mine.signal.aborted) return;
    main.replaceChildren(...shown);
  } catch (error) {
    if (mine.signal.aborted) return;
    main.replaceChildren(problem(error.message));
  }
  main.removeAttribute("aria-busy");
  main.dataset.view = view;
  const where = main.querySelector(".where");
  document.getElementById("status").textContent = where ? where.textContent : VIEWS[view].title;
  scrollTo(0, 0);
  // What had the focus may be gone with the last view.
  if (document.activeElement === document.body) main.focus({ preventScroll: true });
}

function heading() {
  const { data, live: watched } = state.about;
  const url = data ? data.url : "a running loader";
  document.getElementById("url").textContent = url;
  document.title = `${url} · aiolit`;
  const facts = data
    ? [
        plural(data.samples, "sample"),
        data.chunks ? plural(data.chunks, "chunk") : null,
        bytes(data.bytes),
        data.loader,
        data.compression,
        data.encryption ? "encrypted" : null,
      ]
    : [];
  document.getElementById("facts").textContent = facts.filter(Boolean).join(" · ");
  document
    .getElementById("views")
    .replaceChildren(...offered().map((name) => el("a", { href: `#${name}` }, VIEWS[name].title)));
  if (watched) live.start();
}

/** Keys move through samples and pages, unless what has the focus needs them itself. */
function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, audio, video, .scrolled")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const wanted = document.querySelector(`[data-key~="${CSS.escape(event.key)}"]`);
  if (!wanted) return;
  event.preventDefault();
  if (wanted.matches("input")) wanted.select();
  else wanted.click();
}

async function begin() {
  try {
    state.about = await ask("api/about");
  } catch (error) {
    main.replaceChildren(problem(error.message));
    return;
  }
  heading();
  addEventListener("hashchange", route);
  addEventListener("keydown", key);
  await route();
}

begin();
