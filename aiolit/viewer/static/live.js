// A running loader: once a second its counters come as a server-sent event; rates are their differences.

import { bytes, el, plural, problem, svg, whole } from "./dom.js";

const KEPT = 180; // seconds of history
const LEAST = 30; // seconds that a line has room for at first
const WIDTH = 200; // of a line's drawing, which is stretched

const moments = []; // what has come, the latest last
let state = "waiting"; // or "running", "ended", "lost"
let draw = () => {}; // the view, where it is shown

export function start() {
  const source = new EventSource("api/live");
  source.addEventListener("message", ({ data }) => {
    moments.push(JSON.parse(data));
    if (moments.length > KEPT + 1) moments.shift();
    state = "running";
    draw();
  });
  source.addEventListener("end", () => {
    source.close();
    state = "ended";
    draw();
  });
  source.addEventListener("error", () => {
    state = "lost";
    draw();
  });
}

const STATES = {
  waiting: "waiting for the first figures",
  running: "live, one look a second",
  ended: "the loader's program has closed the viewer; these were its last figures",
  lost: "no connection; the page tries again",
};

export async function show(_, rest, signal) {
  const tiles = Object.values(TILES).map((make) => make());
  const status = el("p.where", { role: "status" });
  const verdict = el("p.verdict");
  const totals = el("dl.totals");
  draw = () => {
    if (signal.aborted) return;
    status.textContent = STATES[state];
    status.dataset.state = state;
    const last = moments[moments.length - 1];
    if (!last) return;
    drawVerdict(verdict, last.stats.verdict);
    for (const tile of tiles) tile.update();
    totals.replaceChildren(
      ...figures(last).map(([name, value]) =>
        el("div", {}, el("dt", {}, name), el("dd", {}, value)),
      ),
    );
  };
  draw();
  return [
    status,
    verdict,
    el("div.tiles", {}, tiles.map((tile) => tile.element)),
    el("h2", {}, "Since the loader was made"),
    totals,
  ];
}

function drawVerdict(place, sentence) {
  if (!sentence) return;
  const [bound, advice] = sentence.split(/: (.*)/s);
  place.dataset.bound = bound;
  place.replaceChildren(el("b", {}, bound), " ", advice || "");
}

// ---- figures of the last seconds -----------------------------------------------------------------

const value = (moment, name) => moment.stats[name] || 0;

/** The growth of counters from one moment to the next, for each second of history. */
function growth(of) {
  return moments.slice(1).map((moment, at) => of(moments[at], moment));
}

const rate = (name) => () =>
  growth((from, to) =>
    Math.max(0, (value(to, name) - value(from, name)) / Math.max(to.seconds - from.seconds, 0.001)),
  );

/** How much of the growth of some counters is one of them; nothing where none grew. */
const share = (name, others) => () =>
  growth((from, to) => {
    const whole_ = others.reduce((sum, one) => sum + value(to, one) - value(from, one), 0);
    return whole_ > 0 ? Math.min(1, Math.max(0, (value(to, name) - value(from, name)) / whole_)) : null;
  });

/** What a level was at each moment. */
const level = (name) => () => moments.slice(1).map((moment) => value(moment, name));

const percent = (part) => `${Math.round(100 * part)} %`;

/** A tile: a figure, its history as a line, and a line of words. */
function tile(title, id, { history, figure, words, most }) {
  const output = el("output.figure", { "aria-labelledby": `tile-${id}` });
  const path = svg("path");
  const area = svg("path.area");
  const line = svg(
    "svg.line",
    { viewBox: `0 0 ${WIDTH} 40`, preserveAspectRatio: "none", "aria-hidden": "true" },
    area,
    path,
  );
  const below = el("p.words");
  const element = el(
    "section.tile",
    { "data-tile": id },
    el("h3", { id: `tile-${id}` }, title),
    output,
    line,
    below,
  );
  const update = () => {
    // Where nothing can be said of a second, what was true before it is drawn.
    const points = [];
    for (const point of history()) points.push(point ?? points[points.length - 1] ?? 0);
    output.textContent = points.length ? figure(points[points.length - 1]) : "–";
    below.textContent = words(moments[moments.length - 1]);
    const top = most || Math.max(...points, 1e-9);
    const step = WIDTH / (Math.max(LEAST, points.length) - 1);
    const drawn = points.map((point, at) => {
      const x = WIDTH - (points.length - 1 - at) * step;
      return `${x.toFixed(1)} ${(38 - 36 * (point / top)).toFixed(1)}`;
    });
    const [from] = (drawn[0] || "0").split(" ");
    path.setAttribute("d", drawn.length ? `M${drawn.join("L")}` : "");
    area.setAttribute("d", drawn.length ? `M${from} 40L${drawn.join("L")}L${WIDTH} 40Z` : "");
  };
  return { element, update };
}

const TILES = {
  samples: () =>
    tile("Samples a second", "samples", {
      history: rate("samples"),
      figure: whole,
      words: ({ stats }) =>
        `${plural(stats.samples || 0, "sample")} in ${plural(stats.batches || 0, "batch", "batches")}`,
    }),
  network: () =>
    tile("From the store", "network", {
      history: rate("bytes_fetched"),
      figure: (number) => `${bytes(number)}/s`,
      words: ({ stats }) =>
        `${bytes(stats.bytes_fetched || 0)} in ${plural(stats.requests || 0, "request")}`,
    }),
  waiting: () =>
    tile("Loop waits for data", "waiting", {
      history: share("loop_wait_seconds", ["loop_seconds"]),
      figure: percent,
      most: 1,
      words: ({ stats }) =>
        `${(stats.loop_wait_seconds || 0).toFixed(1)} s of ${(stats.loop_seconds || 0).toFixed(1)} s`,
    }),
  ready: () =>
    tile("Batches ready, not taken", "ready", {
      history: level("batches_ready"),
      figure: whole,
      words: ({ stats }) =>
        stats.batches_ready ? "they wait for the loop" : "the loop takes them as they come",
    }),
  ahead: () =>
    tile("Fetched ahead", "ahead", {
      history: level("bytes_ahead"),
      figure: bytes,
      words: ({ stats }) =>
        `${plural(stats.chunks_ahead || 0, "chunk or part", "chunks and parts")} · ` +
        `${plural(stats.requests_running || 0, "request")} under way`,
    }),
  cache: () =>
    tile("Answered by the cache", "cache", {
      history: share("cache_hits", ["cache_hits", "cache_misses"]),
      figure: percent,
      most: 1,
      words: ({ stats, cache }) =>
        [
          cache ? `${bytes(cache.used)}${cache.limit ? ` of ${bytes(cache.limit)}` : ""} in use` : null,
          stats.evictions ? plural(stats.evictions, "eviction") : null,
        ]
          .filter(Boolean)
          .join(" · "),
    }),
};

// ---- figures since the beginning -------------------------------------------------------------------

const SKIPPED = new Set(["verdict"]);

function figures({ stats }) {
  return Object.entries(stats)
    .filter(([name]) => !SKIPPED.has(name))
    .flatMap(([name, found]) => flat(name, found))
    .map(([name, found]) => [name.replaceAll("_", " "), written(name, found)]);
}

function flat(name, found) {
  if (found === null || typeof found !== "object") return [[name, found]];
  return Object.entries(found).flatMap(([key, inner]) => flat(`${name} ${key}`, inner));
}

function written(name, found) {
  if (typeof found !== "number") return String(found);
  if (/bytes/.test(name)) return bytes(found);
  if (/seconds/.test(name)) return `${found.toFixed(2)} s`;
  return Number.isInteger(found) ? whole(found) : found.toFixed(3);
}
