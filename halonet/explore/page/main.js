// The page: what is chosen, and what follows from it.

import { Combo } from "./combo.js";
import { showDials } from "./dials.js";
import { element, fillMeasures, showAnswer, showBars, showCost, showFigures, spokenOf } from "./figures.js";
import { intake } from "./intake.js";
import { between, clamp, Picture } from "./picture.js";
import { attention, bitmapOf, get, later, newestOnly, post, Refused } from "./server.js";
import { calm, complain, following, onReturn } from "./telling.js";

const $ = (id) => document.getElementById(id);
const start = await get("api/start");
const page = Math.random().toString(36).slice(2); // tells this tab from others
const picture = new Picture($("canvas"), $("frame"), start.glow);
const state = {
  key: start.first.key ?? start.models[0].key,
  picture: null, right: null, side: start.first.side ?? null, whole: false, changes: {},
  looked: null, layer: null, head: -1, cost: null, answer: null,
};
let number = 0; // of questions, so that the server knows the newest
let latest = 0; // of looks
let abort = new AbortController();

// ---- looking: model and picture

async function look() {
  if (!state.picture) return;
  abort.abort();
  abort = new AbortController();
  number += 1;
  latest = number;
  const mine = number;
  $("veil").hidden = false;
  $("veil").textContent = "reading the picture ...";
  const { key, changes, side, whole } = state;
  const wish = { key, changes, side, whole, picture: state.picture.id, right: state.right?.id ?? null };
  const asked = () => post(`api/look?page=${page}&number=${mine}`, wish);
  try {
    const looked = await following(() => asked().catch(async (error) => {
      if (error.status !== 410 || mine !== latest) throw error;
      await giveAgain(wish);
      return asked();
    }), { veil: $("veil") });
    if (looked.old || mine !== latest) return;
    const view = await bitmapOf(`api/view/${looked.record}`);
    if (mine !== latest) return;
    calm();
    showLooked(looked, view);
  } catch (error) {
    if (mine === latest) showUnread(error);
    return;
  }
  tellCost();
  await tellAnswer();
}

// The server no longer keeps the picture: it was started anew, or the pictures of other pages took its place.
async function giveAgain(wish) {
  const { picture: left, right } = state;
  const told = left.again ? await left.again() : (await get("api/start")).first.picture;
  Object.assign(left, told);
  wish.picture = left.id;
  namePicture();
  if (right) wish.right = right.id = right.again ? (await right.again()).id : told.right;
}

// What was chosen cannot be looked at: what stands there is of something else.
function showUnread(error) {
  complain(error);
  $("veil").textContent = error.status === 0 ? "waiting for halonet explore ..." : `not read: ${error.message}`;
  Object.assign(state, { looked: null, answer: null, cost: null });
  document.body.classList.add("unread");
  $("looking").disabled = true;
}

function showLooked(looked, view) {
  const before = state.looked;
  state.looked = looked;
  state.answer = null;
  document.body.classList.remove("unread");
  $("looking").disabled = false;
  picture.setView(view, looked.view, looked.scale);
  $("veil").hidden = true;
  if (!before || before.view.join() !== looked.view.join()) picture.pinned = false;
  const inside = picture.query && picture.query.every((at, axis) => at < looked.view[axis]);
  if (!inside) picture.query = looked.view.map((side) => Math.floor(side / 2));
  fillLayers();
  fillDials();
  document.body.dataset.record = looked.record; // for scripts that wait for it
  const file = looked.model.weights;
  $("weights").className = `note ${file ? "trained" : "random"}`;
  $("weights").textContent = file ? `weights of ${file}` : "Weights are random: it has learnt nothing. Trained ones: halonet explore --weights FILE";
  $("whole-field").hidden = looked.model.task !== "classification";
  $("right-field").hidden = looked.model.task !== "stereo";
  $("answer").replaceChildren(element("p", { className: "small", textContent: "asking ..." }));
  $("show-answer").hidden = looked.model.task === "classification";
  $("show-answer-name").textContent = looked.model.task === "stereo" ? "disparity" : "objects";
  $("answer-title").textContent = { classification: "Class", detection: "Objects", stereo: "Disparity" }[looked.model.task];
  setShow(shownOf(looked, before));
  ask();
}

// What is drawn at first: as before, if this model has it.
function shownOf({ layers, model }, before) {
  if (picture.show === "answer" && model.task !== "classification") return "answer";
  if (!layers.length) return "plain";
  return before?.layers.length ? picture.show.replace("answer", "attention") : "attention";
}

function fillLayers() {
  const { layers, why } = state.looked;
  for (const id of ["by-head", "scale", "legend", "help"]) $(id).hidden = !layers.length;
  document.querySelector('input[value="attention"]').disabled = !layers.length;
  $("layer").disabled = $("head").disabled = !layers.length;
  $("layer").replaceChildren(...layers.map(({ name, label, map }) => element("option", { value: name, textContent: `${label}, ${map[0]} x ${map[1]}` })));
  if (!layers.some(({ name }) => name === state.layer)) state.layer = layers[0]?.name ?? null;
  if (state.layer) $("layer").value = state.layer;
  $("mechanism").textContent = layers.length ? "" : `Nothing attends here: ${why}`;
  if (!layers.length) {
    $("figures").replaceChildren();
    $("bars").replaceChildren();
    $("pixel").textContent = "nothing attends in this network";
    $("latency").textContent = "";
  }
  fillHeads();
}

const layerNow = () => state.looked?.layers.find(({ name }) => name === state.layer);

function fillHeads() {
  const layer = layerNow();
  const heads = layer ? layer.heads : 0;
  if (state.head >= heads) state.head = -1;
  const options = [element("option", { value: -1, textContent: heads > 1 ? `mean of ${heads}` : "its one head" })];
  for (let head = 0; head < heads && heads > 1; head += 1) options.push(element("option", { value: head, textContent: `head ${head + 1}` }));
  $("head").replaceChildren(...options);
  $("head").value = state.head;
  if (layer) $("mechanism").textContent = `${layer.mechanism}${layer.tokens ? `, ${layer.tokens} global tokens` : ""}${layer.signed ? "; weights may be negative (blue)" : ""}`;
}

// An error about what was looked at: nothing is told of what is no longer shown.
function complainOf(looked, error) {
  if (looked !== state.looked) return;
  if (error.status === 410) look();
  else complain(error);
}

// ---- attention of a pixel

const askNewest = newestOnly(async (since) => {
  const { looked, layer, head } = state;
  const query = picture.query;
  if (!looked || !layer || !query) return;
  number += 1;
  const question = { layer, row: query[0], column: query[1], head, page, number };
  try {
    const reply = await attention(looked.record, question, abort.signal);
    if (reply && looked === state.looked && layer === state.layer) await drawn(reply, query, since);
  } catch (error) {
    complainOf(looked, error);
  }
});

function ask(event) {
  askNewest(event ? event.timeStamp : performance.now());
}

// Drawn with the next frame of the screen; measured until the browser is done with it.
function drawn(reply, query, since) {
  return new Promise((resolve) => {
    requestAnimationFrame(() => {
      picture.reply = reply;
      picture.draw();
      showReply(reply, query);
      const after = new MessageChannel();
      after.port1.onmessage = () => {
        const measured = performance.measure("hover", { start: since, end: performance.now(), detail: { server: reply.server, query, layer: state.layer } });
        $("latency").textContent = `drawn after ${measured.duration.toFixed(0)} ms, ${reply.server.toFixed(1)} of them the server's`;
        if (performance.getEntriesByName("hover").length > 2000) performance.clearMeasures("hover");
        resolve();
      };
      after.port2.postMessage(0);
    });
  });
}

const speak = later((query, reply) => { $("spoken").textContent = spokenOf(query, reply, picture.pinned); }, 700);

function showReply(reply, query) {
  $("pixel").textContent = `row ${query[0]}, column ${query[1]}${picture.pinned ? ", kept" : ""}`;
  showFigures($("figures"), reply);
  fillMeasures($("measure"), reply);
  showBars($("bars"), reply, $("measure").value, state.head);
  $("largest").textContent = reply.largest.toPrecision(2);
  $("legend").hidden = !reply.frames;
  speak(query, reply);
}

function moveTo(query, event) {
  picture.query = query.map((at, axis) => clamp(at, 0, picture.size[axis] - 1));
  if (picture.show !== "attention" && state.layer) setShow("attention");
  ask(event);
}

const canvas = $("canvas");
canvas.addEventListener("pointermove", (event) => {
  if (!state.layer || picture.show !== "attention") return;
  if (event.pointerType === "mouse" ? !picture.pinned : event.buttons) moveTo(picture.at(event), event);
});
canvas.addEventListener("pointerdown", (event) => {
  if (!state.layer || event.button) return;
  picture.pinned = event.pointerType === "mouse" ? !picture.pinned : true;
  moveTo(picture.at(event), event);
});
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  const layer = layerNow();
  if (!layer || !picture.query) return;
  if (STEPS[event.key]) {
    // One pixel of the layer's map at a time: less would show the same.
    const cell = layer.map.map((side, axis) => Math.max(1, Math.round(picture.size[axis] / side)));
    const times = event.shiftKey ? 4 : 1;
    moveTo(STEPS[event.key].map((step, axis) => picture.query[axis] + step * times * cell[axis]), event);
  } else if (event.key === "Enter" || event.key === " ") {
    picture.pinned = !picture.pinned;
    ask(event);
  } else if (event.key === "Escape") {
    picture.pinned = false;
    ask(event);
  } else {
    return;
  }
  event.preventDefault();
});

// ---- answer and cost

async function tellAnswer() {
  const looked = state.looked;
  try {
    const answer = await following(() => post(`api/ask?record=${looked.record}&page=${page}&number=${latest}`));
    if (answer.old || looked !== state.looked) return;
    state.answer = answer;
    await showAnswerNow();
    if (looked.model.task === "stereo" && !looked.layers.length) setShow("answer");
  } catch (error) {
    complainOf(looked, error);
  }
}

const showAnswerNow = newestOnly(async () => {
  const { looked, answer } = state;
  if (!answer) return;
  const threshold = Number($("threshold").value);
  showAnswer($("answer"), answer, { random: !looked.model.weights, threshold, hasRight: Boolean(state.right) });
  if (looked.model.task === "classification") return;
  try {
    const drawing = await bitmapOf(`api/answer/${looked.record}?threshold=${threshold}`);
    if (looked !== state.looked) return;
    picture.answer = drawing;
    picture.draw();
    document.body.dataset.drawn = `${looked.record} ${threshold}`;
  } catch (error) {
    complainOf(looked, error);
  }
});

const tellCost = newestOnly(async () => {
  const { looked, changes, key } = state;
  // Another model that is still to be opened reads the picture at another size.
  if (looked?.model.key !== key) return;
  try {
    const cost = await post("api/cost", { key, changes, input: looked.input });
    if (key !== state.key || !state.looked) return;
    state.cost = cost;
    showCostNow();
  } catch (error) {
    complainOf(looked, error);
  }
});

function showCostNow() {
  if (state.cost) showCost($("cost").tBodies[0], $("cost-note"), state.cost, state.layer, state.looked.model.task);
}

function setShow(name) {
  picture.show = name;
  document.querySelector(`input[name="show"][value="${name}"]`).checked = true;
  $("threshold-field").hidden = !(name === "answer" && state.looked?.model.task === "detection");
  picture.draw();
}

// ---- block and halo

const lookSoon = later(look, 350);
const costSoon = later(() => tellCost(), 60);

function fillDials() {
  showDials(state.looked.dials, state.changes, (name, value) => {
    state.changes = { ...state.changes, [name]: value };
    costSoon();
    lookSoon();
  }, (told) => complain(new Refused(told, 400)));
}

$("undo").addEventListener("click", () => {
  state.changes = {};
  look();
});

// ---- pictures

function setPicture(told, right) {
  state.picture = told;
  state.right = right ?? null;
  namePicture();
  $("right-name").textContent = state.right ? "the right picture is there" : "without it nothing is told of depth";
  picture.query = null;
  picture.pinned = false;
  return look();
}

function namePicture() {
  const told = state.picture;
  const [width, height] = told.given;
  const smaller = told.width !== width || told.height !== height ? `, made smaller: ${told.width} x ${told.height}` : "";
  $("picture-name").textContent = `${told.name}: ${width} x ${height}${smaller}`;
}

intake({
  samples: start.samples,
  most: start.most_bytes,
  setPicture: (told) => setPicture(told, told.right === null ? null : { id: told.right }),
  setRight: (told) => setPicture(state.picture, told),
});

// ---- the rest of the controls

const combo = new Combo($("model"), $("model-list"), start.models, (key) => {
  state.key = key;
  state.changes = {};
  state.cost = null;
  $("dials-field").disabled = true; // they are still those of the model before
  look();
});
combo.set(state.key);
onReturn(({ models }) => {
  combo.models = models; // it may have been given other files
  look();
});
$("layer").addEventListener("change", () => { state.layer = $("layer").value; picture.reply = null; fillHeads(); showCostNow(); ask(); });
$("head").addEventListener("change", () => { state.head = Number($("head").value); ask(); });
$("measure").addEventListener("change", () => { if (picture.reply) showBars($("bars"), picture.reply, $("measure").value, state.head); });
$("side").value = state.side ?? "";
$("side").addEventListener("change", () => {
  if (!$("side").checkValidity()) {
    complain(new Refused("side: expected 1 to 2048 pixels", 400));
    return;
  }
  state.side = $("side").value === "" ? null : Number($("side").value);
  look();
});
$("whole").addEventListener("change", () => { state.whole = $("whole").checked; look(); });
document.querySelectorAll('input[name="show"]').forEach((radio) => radio.addEventListener("change", () => setShow(radio.value)));
const drawSoon = later(() => showAnswerNow(), 80);
$("threshold").addEventListener("input", () => { $("threshold-value").textContent = `${Math.round(100 * $("threshold").value)} %`; drawSoon(); });
const stops = start.glow.colours.map((_, place, all) => between(start.glow.colours, place / (all.length - 1)));
const css = stops.map(([red, green, blue, alpha]) => `rgb(${255 * red} ${255 * green} ${255 * blue} / ${alpha})`);
$("glow").style.backgroundImage = `linear-gradient(to right, ${css.join(", ")})`;

await setPicture(start.first.picture);
document.body.dataset.ready = "yes";
