// What a request may have besides: larger pictures, variations, margins, add-ons; and the server's guards.

import { put } from "./sliders.js";
import { word } from "./words.js";

const $ = (id) => document.getElementById(id);
const SIDES = ["left", "top", "right", "bottom"];
export const FIELDS = ["hires", "vary", ...SIDES, "control", "control-scale"];

let addons = [];
let guards = null;
let controlFile = null;
let varySeed = null; // of a variation whose settings are in the form

export function outputs() {
  for (const name of ["vary", "control-scale"]) $(`${name}-now`).value = $(name).value;
}

export function offer(found, owner) {
  addons = found;
  guards = owner;
  const named = (kind) => addons.filter((addon) => addon.kind === kind);
  const title = ({ name, family }) => (family ? `${name} (${family})` : name);
  const words = [...named("lora"), ...named("embedding")];
  const blank = (key) => {
    const option = new Option(word(key), "");
    option.dataset.word = key;
    return option;
  };
  $("addon").replaceChildren(blank("none"), ...words.map((addon) => new Option(title(addon), addons.indexOf(addon))));
  $("control").replaceChildren(blank("none"), ...named("control").map((addon) => new Option(title(addon), addon.name)));
  $("addons").hidden = addons.length === 0;
  $("words-box").hidden = words.length === 0;
  $("control-box").hidden = named("control").length === 0;
  tell();
}

// In one line, what the owner's guards do.
export function tell() {
  if (!guards) return;
  const said = [word(`check_${guards.content_check}`, { n: guards.threshold })];
  for (const name of ["block_list", "watermark", "signed"]) if (guards[name]) said.push(word(`guard_${name}`));
  if (guards.metadata === "shareable") said.push(word("guard_shareable"));
  $("guards").textContent = said.join(" · ");
}

// What the content check says of a picture, "" where it did not look.
export function verdict(content) {
  if (!content) return "";
  const score = content.score === null ? "" : word("score", { score: content.score, threshold: content.threshold });
  return [word("checked"), word(`decision_${content.decision}`), score].filter(Boolean).join(" · ");
}

// The request with what the fields add to it; `task` is draw, edit or outpaint.
export function added(asked, task, model) {
  const more = { ...asked };
  if (task === "outpaint") {
    more.margin = SIDES.map((side) => Number($(side).value));
    delete more.width;
    delete more.height;
  }
  const times = Number($("hires").value);
  if (task === "draw" && times > 1) {
    more.hires_from = [more.width, more.height];
    for (const side of ["width", "height"]) more[side] = Math.round((more[side] * times) / model.multiple_of) * model.multiple_of;
  }
  if (task === "draw" && Number($("vary").value) > 0) {
    more.vary = Number($("vary").value);
    if (varySeed !== null) more.vary_seed = varySeed;
  }
  if (/<lora:/.test(more.prompts)) more.prompt_syntax = "a1111";
  const named = addons.filter((addon) => addon.kind === "embedding" && more.prompts.includes(bare(addon.name)));
  if (named.length) more.embeddings = named.map((addon) => `${addon.name}:${bare(addon.name)}`);
  if (guided()) more.controls = [{ net: $("control").value, scale: Number($("control-scale").value) }];
  return more;
}

const bare = (name) => name.split("/").at(-1);

export const guided = () => $("control").value !== "";
export const controlPicture = () => controlFile;
export const needsControl = () => guided() && !controlFile;

export function recall(told) {
  $("hires").value = "1";
  put($("vary"), told.vary ?? 0);
  varySeed = told.vary_seed ?? null;
  const times = told.hires_from ? String(told.width / told.hires_from[0]) : "1";
  if (told.hires_from && [...$("hires").options].some((option) => option.value === times)) $("hires").value = times;
  SIDES.forEach((side, place) => ($(side).value = told.margin?.[place] ?? 0));
  const control = told.controls?.[0];
  const known = addons.find((addon) => addon.kind === "control" && `${bare(addon.name)}.` === `${bare(control?.net ?? "")}.`.replace(/\.\w+\.$/, "."));
  $("control").value = known?.name ?? "";
  if (control) put($("control-scale"), control.scale ?? 1);
  outputs();
}

// The size to draw first where it was enlarged afterwards.
export const firstSize = (told) => told.hires_from && $("hires").value !== "1" ? told.hires_from : [told.width, told.height];

function choose(event) {
  controlFile = event.target.files[0] ?? null;
  $("control-chosen").textContent = controlFile?.name ?? "";
}

// A LoRA or a textual inversion goes into the prompt, where it can be weighed.
function insert() {
  const addon = addons[Number($("addon").value)];
  if ($("addon").value === "" || !addon) return;
  const text = addon.kind === "lora" ? `<lora:${bare(addon.name)}:1>` : bare(addon.name);
  $("prompt").value = `${$("prompt").value.trimEnd()} ${text}`.trimStart();
  $("addon").value = "";
  $("prompt").dispatchEvent(new Event("input", { bubbles: true }));
}

$("addon").addEventListener("change", insert);
$("vary").addEventListener("input", () => (varySeed = null));
$("control-image").addEventListener("change", choose);
