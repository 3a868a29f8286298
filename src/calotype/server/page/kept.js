// Settings of a picture that the form has no field for: shown, and sent as they were, until they are dropped.

const $ = (id) => document.getElementById(id);
const AT_REST = {
  prompt_syntax: "plain", noise: "calotype", clip_skip: null, sampler_options: {}, rescale: 0, interval: null, apg: null,
  tile: null, wrap: null, loras: [], lora_live: false, embeddings: [], refiner: null, refiner_at: 0.8, toward: null, blend: 0,
  invert: null, was: null,
};

let kept = {};

export function recall(told, sampler = told.sampler) {
  kept = {};
  for (const [name, rest] of Object.entries(AT_REST)) {
    const value = told[name] ?? null;
    if (value !== null && JSON.stringify(value) !== JSON.stringify(rest)) kept[name] = value;
  }
  if (kept.sampler_options) kept.sampler = sampler;
  show();
}

// The request with them.
export function added(asked) {
  const { sampler, sampler_options, ...others } = kept;
  return { ...others, ...(sampler && sampler === asked.sampler ? { sampler_options } : {}), ...asked };
}

function show() {
  const { sampler, ...shown } = kept;
  const said = Object.entries(shown).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`);
  $("kept-now").textContent = said.join(" · ");
  $("kept").hidden = said.length === 0;
  sessionStorage.setItem("kept", JSON.stringify(kept));
}

$("kept-drop").addEventListener("click", () => recall({}));
kept = JSON.parse(sessionStorage.getItem("kept") ?? "{}");
show();
