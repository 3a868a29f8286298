// The native interface: calls, events, and pictures that may need the token to be fetched.

let token = sessionStorage.getItem("token");
export const setToken = (value) => sessionStorage.setItem("token", (token = value));

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Refused(response.status, body?.error?.message ?? `${response.status}`);
}

export const get = async (path) => (await ask(path)).json();
export const post = async (path, body) =>
  (await ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } })).json();
// A job's body is JSON, or a form that brings its pictures.
export const submit = async (body) => {
  const headers = typeof body === "string" ? { "Content-Type": "application/json" } : {};
  return (await ask("/v1/jobs", { method: "POST", body, headers })).json();
};
export const send = async (path, file) =>
  (await ask(path, { method: "POST", body: file, headers: { "Content-Type": file.type } })).json();
export const remove = (path) => ask(path, { method: "DELETE" });

// An address for <img>: without a token the picture's own, else one of the fetched bytes.
const fetched = new Map();
export async function address(url) {
  if (!token) return url;
  if (!fetched.has(url)) fetched.set(url, URL.createObjectURL(await (await ask(url)).blob()));
  return fetched.get(url);
}

// EventSource cannot send a token, so the stream is read by hand.
export async function* events(path, signal) {
  const response = await ask(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const name = /^event: (.*)$/m.exec(part)?.[1];
      if (name) yield [name, JSON.parse(/^data: (.*)$/m.exec(part)[1])];
    }
  }
}
