// The form: what it offers, the request it makes, and settings that come back into it.

import * as extras from "./extras.js";
import * as kept from "./kept.js";
import * as tasks from "./tasks.js";
import { put } from "./sliders.js";
import { word } from "./words.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["prompt", "negative", "model", "count", "width", "height", "steps", "guidance", "sampler", "grid", "seed",
  "task", "strength", "samples", "passes", "sigma", "scale", "blur", ...extras.FIELDS];
let models = []; // those that draw

// What the server has: its choices and its models.
export function offer(choices, found) {
  models = found.filter((model) => model.kind === "draw");
  const able = found.some((model) => model.kind === "restore");
  for (const name of tasks.RESTORE) $("task").querySelector(`[value=${name}]`).disabled = !able;
  $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id, model.default, model.default)));
  listed($("sampler"), Object.keys(choices.samplers));
  listed($("grid"), choices.grids);
  $("count").max = choices.limits.pictures;
  $("steps").max = choices.limits.steps;
  useDefaults();
  recall();
}

function listed(select, names) {
  const own = new Option(word("auto"), "");
  own.dataset.word = "auto";
  select.replaceChildren(own, ...names.map((name) => new Option(name, name)));
}

export function modelNow() {
  return models.find((model) => model.id === $("model").value);
}

export function useDefaults() {
  const model = modelNow();
  for (const name of ["width", "height"]) {
    $(name).value = model.size;
    $(name).step = model.multiple_of;
    $(name).min = model.multiple_of;
  }
  $("steps").value = model.steps;
  $("guidance").value = model.guidance;
  $("sampler").value = $("grid").value = "";
  outputs();
}

export function outputs() {
  for (const name of ["steps", "guidance", "strength"]) $(`${name}-now`).value = $(name).value;
  extras.outputs();
}

export function request() {
  if (tasks.restores()) return tasks.restoration();
  const asked = { prompts: $("prompt").value, negative: $("negative").value, model: $("model").value };
  for (const name of ["count", "width", "height", "steps", "guidance"]) {
    if ($(name).value !== "") asked[name] = Number($(name).value);
  }
  for (const name of ["sampler", "grid"]) if ($(name).value) asked[name] = $(name).value;
  // Sent as text, for a seed may be larger than the numbers of JavaScript
  if ($("seed").value.trim()) asked.seed = $("seed").value.trim();
  return kept.added(extras.added(asked, tasks.task(), modelNow()));
}

export function fill(told, seed = told.seed) {
  if (told.model && models.some((model) => model.id === told.model)) $("model").value = told.model;
  useDefaults();
  tasks.recall(told);
  extras.recall(told);
  if (tasks.restores()) {
    $("seed").value = seed ?? "";
    return remember();
  }
  kept.recall(told);
  $("prompt").value = told.prompts?.[0] ?? "";
  $("negative").value = told.negative ?? "";
  for (const name of ["width", "height", "steps", "guidance", "sampler", "grid"]) {
    if (told[name] !== undefined) put($(name), told[name]);
  }
  if (told.width) [$("width").value, $("height").value] = extras.firstSize(told);
  $("count").value = 1;
  $("seed").value = seed ?? "";
  outputs();
  remember();
}

export const remember = () =>
  sessionStorage.setItem("form", JSON.stringify(Object.fromEntries(FIELDS.map((name) => [name, $(name).value]))));

function recall() {
  const known = JSON.parse(sessionStorage.getItem("form") ?? "{}");
  for (const name of FIELDS) if (known[name] !== undefined) put($(name), known[name]);
  if (!$("model").value) $("model").value = models.find((model) => model.default).id;
  outputs();
  tasks.arrange();
}
