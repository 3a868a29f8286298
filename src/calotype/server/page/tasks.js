// What a job begins from: the task that is chosen, its picture and mask, and its own settings.

import * as extras from "./extras.js";
import { Mask } from "./mask.js";
import { put } from "./sliders.js";
import { word } from "./words.js";

const $ = (id) => document.getElementById(id);

let file = null;
let shown = null; // an address of it
let painted = false;
let strengthChosen = false;
const mask = new Mask($("mask"), () => {
  $("undo").disabled = $("clear").disabled = mask.empty;
  if (painted !== mask.empty) return;
  painted = !mask.empty;
  // as requests have it that name no strength: what is painted over is drawn wholly anew
  if (!strengthChosen) $("strength").value = $("strength-now").value = painted ? 1 : 0.75;
});

export const RESTORE = ["denoise", "upscale", "inpaint", "deblur"];

export const task = () => $("task").value;
export const restores = () => RESTORE.includes(task());
const paints = () => task() === "edit" || task() === "inpaint";
export const picture = () => shown;

// Shows the fields of the task, and hides the others.
export function arrange() {
  for (const node of document.querySelectorAll("[data-for]")) {
    node.hidden = !node.dataset.for.split(" ").includes(task());
  }
  for (const field of document.querySelectorAll("[data-for] :is(input, textarea, select)")) {
    field.disabled = field.closest("[data-for][hidden]") !== null;
  }
  const [name, help] = [$("go").firstElementChild, $("mask-help")];
  name.dataset.word = restores() ? "restore" : "go";
  help.dataset.word = task() === "inpaint" ? "missing_help" : "mask_help";
  for (const node of [name, help]) node.textContent = word(node.dataset.word);
  $("sigma").dataset.hint = { upscale: "none", deblur: "sigma_one" }[task()] ?? "sigma_hint";
  $("sigma").placeholder = word($("sigma").dataset.hint);
  $("painting").hidden = !paints() || !file;
  $("begun").hidden = paints() || task() === "draw" || !file;
}

export async function choose(chosen) {
  const bitmap = await createImageBitmap(chosen);
  if (shown) URL.revokeObjectURL(shown);
  file = chosen;
  shown = URL.createObjectURL(chosen);
  $("begun").src = shown;
  $("chosen").textContent = `${chosen.name} · ${bitmap.width}×${bitmap.height}`;
  mask.show(bitmap);
  arrange();
  return bitmap;
}

// The size to draw a picture in: its own, brought near to what the model was trained on.
export function sizes({ width, height }, { size, multiple_of }) {
  const scale = Math.max(width, height) > 2 * size ? size / Math.max(width, height) : 1;
  return [width, height].map((side) => Math.max(multiple_of, Math.round((side * scale) / multiple_of) * multiple_of));
}

export function restoration() {
  const asked = { task: task(), samples: Number($("samples").value), steps: Number($("passes").value) };
  if (task() === "upscale") asked.scale = Number($("scale").value);
  if (task() === "deblur") asked.blur = Number($("blur").value);
  if ($("sigma").value && task() !== "inpaint") asked.sigma = Number($("sigma").value);
  if ($("seed").value.trim()) asked.seed = $("seed").value.trim();
  return asked;
}

// The body of the job: JSON where it begins from nothing, else a form with the pictures.
export async function body(asked) {
  if (task() === "draw" && !extras.guided()) return JSON.stringify(asked);
  const form = new FormData();
  if (task() === "edit") asked = { ...asked, strength: Number($("strength").value) };
  form.set("request", JSON.stringify(asked));
  if (task() !== "draw") form.set("image", file);
  if (!restores() && extras.guided()) form.set("control-0", extras.controlPicture());
  if (paints() && !mask.empty) form.set("mask", await mask.blob(), "mask.png");
  return form;
}

export function recall(told) {
  strengthChosen = (told.strength ?? null) !== null;
  const drawn = told.margin ? "outpaint" : told.image ? "edit" : "draw";
  $("task").value = RESTORE.includes(told.task) ? told.task : drawn;
  for (const [name, value] of [["samples", told.samples], ["passes", told.task && told.steps], ["scale", told.scale], ["blur", told.blur], ["sigma", told.sigma], ["strength", told.strength]]) {
    if (value !== undefined && value !== null) put($(name), value);
  }
  arrange();
}

export const needsPicture = () => (task() !== "draw" && !file) || (!restores() && extras.needsControl());

// What to say where something is missing before a job can be made, null where nothing is.
export function lacking() {
  if (needsPicture()) return "need";
  return task() === "inpaint" && mask.empty ? "need_mask" : null;
}

$("task").addEventListener("change", arrange);
$("strength").addEventListener("input", () => (strengthChosen = true));
$("brush").addEventListener("input", () => (mask.brush = Number($("brush").value)));
$("undo").addEventListener("click", () => mask.undo());
$("clear").addEventListener("click", () => mask.clear());
