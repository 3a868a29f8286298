// The page: a form that makes jobs, a stage that watches one, a gallery of all that are done.

import { Refused, address, events, get, post, remove, send, setToken, submit } from "./api.js";
import { compare } from "./compare.js";
import * as extras from "./extras.js";
import * as tasks from "./tasks.js";
import { otherLanguage, speak, word } from "./words.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["prompt", "negative", "model", "count", "width", "height", "steps", "guidance", "sampler", "grid", "seed",
  "task", "strength", "samples", "passes", "sigma", "scale", "blur", ...extras.FIELDS];
const pictures = []; // of the gallery, the newest first: {url, prompt, seed, job}
let models = [];
let current = null; // the job that is watched
let shown = -1; // the place in `pictures` that the viewer shows
let older = null;

function modelNow() {
  return models.find((model) => model.id === $("model").value);
}

function useDefaults() {
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

function outputs() {
  for (const name of ["steps", "guidance", "strength"]) $(`${name}-now`).value = $(name).value;
  extras.outputs();
}

function request() {
  if (tasks.restores()) return tasks.restoration();
  const asked = { prompts: $("prompt").value, negative: $("negative").value, model: $("model").value };
  for (const name of ["count", "width", "height", "steps", "guidance"]) {
    if ($(name).value !== "") asked[name] = Number($(name).value);
  }
  for (const name of ["sampler", "grid"]) if ($(name).value) asked[name] = $(name).value;
  // Sent as text, for a seed may be larger than the numbers of JavaScript
  if ($("seed").value.trim()) asked.seed = $("seed").value.trim();
  return extras.added(asked, tasks.task(), modelNow());
}

function fill(told, seed = told.seed) {
  if (told.model && models.some((model) => model.id === told.model)) $("model").value = told.model;
  useDefaults();
  tasks.recall(told);
  extras.recall(told);
  if (tasks.restores()) {
    $("seed").value = seed ?? "";
    return remember();
  }
  $("prompt").value = told.prompts?.[0] ?? "";
  $("negative").value = told.negative ?? "";
  for (const name of ["width", "height", "steps", "guidance", "sampler", "grid"]) {
    if (told[name] !== undefined) $(name).value = told[name];
  }
  if (told.width) [$("width").value, $("height").value] = extras.firstSize(told);
  $("count").value = 1;
  $("seed").value = seed ?? "";
  outputs();
  remember();
}

const remember = () =>
  sessionStorage.setItem("form", JSON.stringify(Object.fromEntries(FIELDS.map((name) => [name, $(name).value]))));

function recall() {
  const kept = JSON.parse(sessionStorage.getItem("form") ?? "{}");
  for (const name of FIELDS) if (kept[name] !== undefined) $(name).value = kept[name];
  if (!$("model").value) $("model").value = models.find((model) => model.default).id;
  outputs();
  tasks.arrange();
}

function complain(error) {
  if (error instanceof Refused && error.status === 401) return void $("door").showModal();
  $("problem").textContent = error instanceof Refused ? error.message : word("offline");
}

async function draw(event) {
  event?.preventDefault();
  if (!$("form").reportValidity()) return;
  $("problem").textContent = "";
  const lacking = tasks.lacking();
  if (lacking) return void ($("problem").textContent = word(lacking));
  try {
    const before = tasks.restores() ? tasks.picture() : null;
    await watch(await submit(await tasks.body(request())), before);
  } catch (error) {
    complain(error);
  }
}

async function watch(job, before = null) {
  current?.stop.abort();
  const mine = (current = { id: job.id, stop: new AbortController() });
  localStorage.setItem("watched", job.id);
  $("cancel").disabled = false;
  $("fresh").replaceChildren();
  $("verdict").textContent = "";
  compare(null);
  $("problem").textContent = "";
  $("state").textContent = word("queued", { n: job.position ?? 0 });
  try {
    for await (const [name, data] of events(`/v1/jobs/${job.id}/events?previews=true`, mine.stop.signal)) {
      if (name === "progress") progress(data);
      else if (name === "preview") show(data.image, word("preview"));
      else if (name === "picture") await finished(data, job);
      else if (name === "end") await over(data, before);
    }
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
  if (current === mine) {
    $("cancel").disabled = true;
    current = null;
  }
}

function progress(data) {
  $("progress").value = data.fraction;
  if (data.steps) $("state").textContent = word("running", data);
  else if (data.position) $("state").textContent = word("queued", { n: data.position });
}

function show(source, alt) {
  $("preview").src = source;
  $("preview").alt = alt;
  $("preview").hidden = false;
  $("empty").hidden = true;
}

async function finished(data, job) {
  const picture = { ...data, job };
  show(await address(data.url), word("picture", data));
  $("verdict").textContent = extras.verdict(data.content);
  if (pictures.some((known) => known.url === data.url)) return;
  pictures.unshift(picture);
  $("fresh").append(await tile(picture));
  $("gallery").prepend(await tile(picture));
}

async function over(job, before) {
  const of = async (kind) => {
    const found = job.pictures.find((picture) => picture.kind === kind);
    return found && address(found.url);
  };
  const after = await of("picture");
  if (before && after) {
    show(after, word("after_picture"));
    compare(before, after, await of("uncertainty"));
  }
  $("state").textContent = [word(job.state), ...job.notices].join(" · ");
  $("progress").value = job.progress.fraction;
  if (job.error) $("problem").textContent = job.error;
  localStorage.removeItem("watched");
}

async function cancel() {
  if (!current) return;
  try {
    await post(`/v1/jobs/${current.id}/cancel`, {});
  } catch (error) {
    complain(error);
  }
}

async function tile(picture) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const image = document.createElement("img");
  button.type = "button";
  image.loading = "lazy";
  image.alt = word("picture", picture);
  image.src = await address(picture.url);
  button.append(image);
  if (picture.content?.decision === "withheld" || picture.content?.decision === "flagged") {
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.dataset.word = `decision_${picture.content.decision}`;
    mark.textContent = word(mark.dataset.word);
    button.append(mark);
  }
  button.addEventListener("click", () => view(pictures.indexOf(picture)));
  item.append(button);
  return item;
}

async function history() {
  const page = await get(`/v1/jobs?limit=24${older === null ? "" : `&before=${older}`}`);
  for (const job of page.jobs) {
    for (const data of job.pictures.toReversed()) {
      if (pictures.some((known) => known.url === data.url)) continue;
      const picture = { ...data, job };
      pictures.push(picture);
      $("gallery").append(await tile(picture));
    }
  }
  older = page.next;
  $("more").hidden = older === null;
  return page.jobs;
}

async function view(place) {
  if (place < 0 || place >= pictures.length) return;
  shown = place;
  const picture = pictures[place];
  const asked = picture.job.request;
  const url = await address(picture.url);
  $("viewer-image").src = url;
  $("viewer-image").alt = word("picture", picture);
  $("viewer-prompt").textContent = picture.prompt;
  const size = asked.task ? word(`kind_${picture.kind}`) : `${asked.width}×${asked.height} · ${asked.sampler}`;
  $("viewer-facts").textContent = `${asked.model} · ${size} · ${asked.steps} · ${word("seed_of")} ${picture.seed}`;
  $("viewer-verdict").textContent = extras.verdict(picture.content);
  $("variations").hidden = Boolean(asked.task || asked.image || asked.vary !== null);
  $("save").href = url;
  $("share").href = await address(`${picture.url}?metadata=shareable`);
  $("save").download = $("share").download = `calotype-${picture.seed}.png`;
  $("before").disabled = place === 0;
  $("after").disabled = place === pictures.length - 1;
  if (!$("viewer").open) $("viewer").showModal();
}

function again() {
  const { job, prompt, seed, index } = pictures[shown];
  const vary_seed = job.request.vary ? job.request.vary_seed + index : null;
  fill({ ...job.request, prompts: [prompt], vary_seed }, seed);
  $("viewer").close();
  $("prompt").focus();
}

function variations() {
  again();
  $("vary").value = 0.2;
  $("count").value = 4;
  outputs();
  draw();
}

async function forget() {
  const { job } = pictures[shown];
  if (!confirm(word("sure"))) return;
  try {
    await remove(`/v1/jobs/${job.id}`);
  } catch (error) {
    return complain(error);
  }
  $("viewer").close();
  await start();
}

async function read(file) {
  try {
    const told = await send("/v1/read", file);
    if (Object.keys(told.request).length === 0) throw new Refused(422, word("silent"));
    fill(told.request);
    $("problem").textContent = "";
    $("state").textContent = word(tasks.needsPicture() ? "anew" : "told");
  } catch (error) {
    complain(error);
  }
}

async function begin(file) {
  try {
    const bitmap = await tasks.choose(file);
    $("problem").textContent = "";
    if (tasks.task() === "edit") [$("width").value, $("height").value] = tasks.sizes(bitmap, modelNow());
  } catch {
    $("problem").textContent = word("unreadable");
  }
}

function choices(select, names) {
  const own = new Option(word("auto"), "");
  own.dataset.word = "auto";
  select.replaceChildren(own, ...names.map((name) => new Option(name, name)));
}

async function start() {
  try {
    const [offered, list, addons] = await Promise.all([get("/v1/choices"), get("/v1/models"), get("/v1/addons")]);
    models = list.data.filter((model) => model.kind === "draw");
    const able = list.data.some((model) => model.kind === "restore");
    for (const name of tasks.RESTORE) $("task").querySelector(`[value=${name}]`).disabled = !able;
    $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id, model.default, model.default)));
    choices($("sampler"), Object.keys(offered.samplers));
    choices($("grid"), offered.grids);
    $("count").max = offered.limits.pictures;
    $("steps").max = Math.min(100, offered.limits.steps);
    extras.offer(addons.data, offered.guards);
    useDefaults();
    recall();
    pictures.length = 0;
    older = null;
    $("gallery").replaceChildren();
    const jobs = await history();
    const left = jobs.find((job) => job.id === localStorage.getItem("watched") && job.position !== null);
    if (left && !current) watch(left);
  } catch (error) {
    complain(error);
  }
}

$("form").addEventListener("submit", draw);
$("form").addEventListener("input", () => (outputs(), remember()));
$("model").addEventListener("change", useDefaults);
$("cancel").addEventListener("click", cancel);
$("more").addEventListener("click", () => history().catch(complain));
$("language").addEventListener("click", () => (speak(otherLanguage()), extras.tell()));
$("again").addEventListener("click", again);
$("variations").addEventListener("click", variations);
$("forget").addEventListener("click", forget);
$("close").addEventListener("click", () => $("viewer").close());
$("before").addEventListener("click", () => view(shown - 1));
$("after").addEventListener("click", () => view(shown + 1));
$("file").addEventListener("change", () => $("file").files[0] && read($("file").files[0]));
$("image").addEventListener("change", () => $("image").files[0] && begin($("image").files[0]));
$("door").addEventListener("close", () => {
  setToken($("token").value);
  start();
});
document.addEventListener("keydown", (event) => {
  if ($("viewer").open) {
    if (event.key === "ArrowLeft") view(shown - 1);
    if (event.key === "ArrowRight") view(shown + 1);
  } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) draw(event);
  else if (event.key === "Escape") cancel();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) {
      (event.target.closest?.("label")?.htmlFor === "image" ? begin : read)(event.dataTransfer.files[0]);
    }
  });
}
speak();
start();
