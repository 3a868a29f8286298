// The page: a form that makes jobs, a stage that watches one, a gallery of all that are done.

import { Refused, address, events, get, post, remove, send, setToken, submit } from "./api.js";
import { Behind } from "./behind.js";
import { compare } from "./compare.js";
import * as extras from "./extras.js";
import { fill, modelNow, offer, outputs, remember, request, useDefaults } from "./form.js";
import * as tasks from "./tasks.js";
import { otherLanguage, say, speak, word } from "./words.js";

const $ = (id) => document.getElementById(id);
const pictures = []; // of the gallery, the newest first: {url, prompt, seed, job}
let current = null; // the job that is watched
let shown = -1; // the place in `pictures` that the viewer shows
let older = null;
const behind = new Behind(add, work);

function complain(error) {
  if (error instanceof Refused && error.status === 401) {
    $("door-problem").textContent = $("token").value && word("wrong_token");
    return void ($("door").open || $("door").showModal());
  }
  say("problem", () => (error instanceof Refused ? error.message : word("offline")));
}

async function draw(event) {
  event?.preventDefault();
  if (!$("form").reportValidity()) return;
  say("problem", () => "");
  const lacking = tasks.lacking();
  if (lacking) return void say("problem", () => word(lacking));
  try {
    const before = tasks.restores() ? tasks.picture() : null;
    await watch(await submit(await tasks.body(request())), before);
  } catch (error) {
    complain(error);
  }
}

async function watch(job, before = null) {
  const last = current;
  const mine = (current = { id: job.id, stop: new AbortController() });
  last?.stop.abort();
  if (last) behind.follow(last.id);
  behind.drop(job.id);
  say("verdict", () => "");
  compare(null);
  say("problem", () => "");
  say("state", () => word("queued", { n: job.position ?? 0 }));
  // a server that stops, and comes back, goes on with the job
  while (current === mine && !(await seen(mine, job, before))) {
    mine.lost = true;
    await new Promise((on) => setTimeout(on, 1000));
  }
  if (current === mine) {
    current = null;
    work();
  }
}

// Shows the job's events as they come; whether there is nothing more to wait for.
async function seen(mine, job, before) {
  $("fresh").replaceChildren();
  try {
    for await (const [name, data] of events(`/v1/jobs/${job.id}/events?previews=true`, mine.stop.signal)) {
      if (current !== mine) return true;
      if (mine.lost) say("problem", () => "");
      mine.lost = false;
      if (name === "progress") progress(data);
      else if (name === "preview") show(data.image, word("preview"));
      else if (name === "picture") await finished(data, job);
      else if (name === "end" && data.position === null) {
        await over(data, before);
        return true;
      }
    }
    return false;
  } catch (error) {
    if (current !== mine) return true;
    complain(error);
    return error instanceof Refused;
  }
}

// What of this visitor's is not over: so many, and whether there is anything to cancel.
function work() {
  const mine = [...behind.ids, ...(current ? [current.id] : [])];
  localStorage.setItem("watched", mine.join(" "));
  say("status", () => (behind.ids.length ? word("waiting", { n: mine.length }) : ""));
  $("cancel").disabled = mine.length === 0;
}

function progress(data) {
  $("progress").value = data.fraction;
  if (data.steps) say("state", () => word("running", data));
  else if (data.position) say("state", () => word("queued", { n: data.position }));
}

function show(source, alt) {
  $("preview").src = source;
  $("preview").alt = alt;
  $("preview").hidden = false;
  $("empty").hidden = true;
}

async function finished(data, job) {
  show(await address(data.url), word("picture", data));
  say("verdict", () => extras.verdict(data.content));
  await add(data, job);
  $("fresh").append(await tile(pictures.find((known) => known.url === data.url)));
}

// Into the history, once.
async function add(data, job) {
  if (pictures.some((known) => known.url === data.url)) return;
  const picture = { ...data, job };
  pictures.unshift(picture);
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
  say("state", () => [word(job.state), ...job.notices].join(" · "));
  $("progress").value = job.progress.fraction;
  if (job.error) say("problem", () => job.error);
}

async function cancel() {
  const id = current?.id ?? behind.ids.at(-1);
  if (!id) return;
  try {
    await post(`/v1/jobs/${id}/cancel`, {});
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
    const { request: found } = await send("/v1/read", file);
    if (Object.keys(found).length === 0) throw new Refused(422, word("silent"));
    fill(found);
    say("problem", () => "");
    const told = tasks.needsPicture() ? "anew" : "told";
    say("state", () => word(told));
  } catch (error) {
    complain(error);
  }
}

async function begin(file) {
  try {
    const bitmap = await tasks.choose(file);
    say("problem", () => "");
    if (tasks.task() === "edit") [$("width").value, $("height").value] = tasks.sizes(bitmap, modelNow());
  } catch {
    say("problem", () => word("unreadable"));
  }
}

async function start() {
  try {
    const [offered, list, addons] = await Promise.all([get("/v1/choices"), get("/v1/models"), get("/v1/addons")]);
    extras.offer(addons.data, offered.guards);
    offer(offered, list.data);
    pictures.length = 0;
    older = null;
    $("gallery").replaceChildren();
    const jobs = await history();
    const mine = (localStorage.getItem("watched") ?? "").split(" ");
    const left = jobs.filter((job) => mine.includes(job.id) && job.position !== null).reverse();
    for (const job of current ? [] : left) watch(job);
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
