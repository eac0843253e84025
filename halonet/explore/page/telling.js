// What went wrong, and what the server does meanwhile.

import { get, Refused } from "./server.js";

const $ = (id) => document.getElementById(id);
const EVERY = 1000; // milliseconds between questions to a server that is away
let waiting = 0; // the timer of these questions
let returned = () => {};

// returned: called with what the page starts from, when a server that was away answers again.
export function onReturn(told) {
  returned = told;
}

export function complain(error) {
  if (error.name === "AbortError") return;
  if (error.status === 0) waiting ||= setInterval(lookOut, EVERY);
  $("error").textContent = error instanceof Refused ? error.message : `this page failed: ${error.message}`;
  $("error").hidden = false;
}

export function calm() {
  $("error").hidden = true;
}

async function lookOut() {
  const start = await get("api/start").catch(() => null);
  if (!start || !waiting) return;
  clearInterval(waiting);
  waiting = 0;
  calm();
  returned(start);
}

// The result of `work`; meanwhile it is said what is done, also on the veil where one is given.
export async function following(work, { first = "", veil = null } = {}) {
  const said = (text) => {
    $("doing").textContent = text;
    if (veil && text) veil.textContent = text;
  };
  said(first);
  let over = false; // a late answer must not be told any more
  const timer = setInterval(() => get("api/doing").then(({ doing }) => doing && !over && said(doing)).catch(() => {}), 200);
  try {
    return await work();
  } finally {
    over = true;
    clearInterval(timer);
    said("");
  }
}
