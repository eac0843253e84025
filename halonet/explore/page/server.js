// What the page asks its server, and how an answer's bytes are read.

const AWAY = "halonet explore no longer answers: was it ended? Once it runs at this port again, this page goes on.";

// status: of the answer; 0 where the server is not there.
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
    throw new Refused(AWAY, 0);
  }
  if (reply.status === 503) throw new Refused(AWAY, 0); // it ends just now
  if (!reply.ok) {
    const told = await reply.json().catch(() => ({}));
    throw new Refused(told.error ?? `the server answered ${reply.status}`, reply.status);
  }
  return reply;
}

export const get = async (path) => (await ask(path)).json();

export const bitmapOf = async (path) => createImageBitmap(await (await ask(path)).blob());

export async function post(path, body = {}) {
  const headers = { "content-type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export async function sendPicture(file, most) {
  if (file.size > most) throw new Refused(`${file.name}: a picture may have ${most / 2 ** 20} MiB at most`, 400);
  let body;
  try {
    body = await file.arrayBuffer(); // fetch would not tell a folder, or a file that is gone, from a server that is
  } catch {
    throw new Refused(`cannot read ${file.name}: a folder, or a file that is no longer there`, 400);
  }
  const headers = { "content-type": "application/octet-stream", "x-name": encodeURIComponent(file.name) };
  return (await ask("api/pictures", { method: "POST", headers, body })).json();
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
