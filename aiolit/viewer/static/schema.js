// The leaves of a sample and how they are stored, and what else the index says.

import { ask, bytes, el, plural, whole } from "./dom.js";

export async function show(state, rest, signal) {
  const { data } = state.about;
  const { leaves } = await ask("api/schema", signal);
  const columns = ["path", "format", ...(leaves.some((leaf) => leaf.means) ? ["means"] : [])];
  return [
    el("h2", {}, "Leaves"),
    el(
      "table.list",
      {},
      el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, leaves.map((leaf) => row(leaf, columns))),
    ),
    el("h2", {}, "Data set"),
    el("dl.facts", {}, rows(data).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
  ];
}

function row(leaf, columns) {
  const [, ...others] = columns.map((name) => el("td", {}, leaf[name]));
  return el("tr", {}, el("th", { scope: "row" }, leaf.path), others);
}

function rows(data) {
  const level = data.compression_level ? `by ${data.compression_level}` : "whole chunks";
  const checked = data.chunks_with_checksums;
  const found = [
    ["samples", whole(data.samples)],
    ["chunks", `${whole(data.chunks)}, ${bytes(data.bytes)}`],
    ["layout", data.loader],
    ["compression", data.compression ? `${data.compression}, ${level}` : "none"],
    [
      "encryption",
      data.encryption ? `${data.encryption.algorithm}, by ${data.encryption.level}` : "none",
    ],
    [
      "checksums",
      checked === data.chunks ? "in every chunk" : `in ${whole(checked)} of ${plural(data.chunks, "chunk")}`,
    ],
  ];
  if (data.tokens !== undefined) found.splice(1, 0, ["tokens", whole(data.tokens)]);
  return found;
}
