// What the page asks its server, and how an answer's bytes are read.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("halonet explore no longer answers: was it ended?", 0);
  }
  if (!reply.ok) {
    const told = await reply.json().catch(() => ({}));
    throw new Refused(told.error ?? `the server answered ${reply.status}`, reply.status);
  }
  return reply;
}

export const get = async (path) => (await ask(path)).json();

export async function post(path, body = {}) {
  const headers = { "content-type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export async function sendPicture(file) {
  const headers = { "content-type": "application/octet-stream", "x-name": encodeURIComponent(file.name) };
  return (await ask("api/pictures", { method: "POST", headers, body: file })).json();
}

// The attention of one pixel, null where a later question took this one's place; see halonet/explore/attention.py.
export async function attention(record, question, signal) {
  const reply = await ask(`api/attention/${record}?${new URLSearchParams(question)}`, { signal });
  if (reply.status === 204) return null;
  const bytes = await reply.arrayBuffer();
  const length = new DataView(bytes).getUint32(0, true);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  return { ...told, values: new Uint8Array(bytes, 4 + length), server: Number(reply.headers.get("x-milliseconds")) };
}

// One question at a time; of those that come meanwhile only the newest is asked, so that none waits in a row.
export function newestOnly(work) {
  let busy = false;
  let next = null;
  return async function run(...question) {
    if (busy) {
      next = question;
      return;
    }
    busy = true;
    try {
      await work(...question);
    } finally {
      busy = false;
      if (next !== null) {
        const waiting = next;
        next = null;
        run(...waiting);
      }
    }
  };
}

export function later(work, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}
