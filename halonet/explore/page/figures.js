// What is told in words and numbers beside the picture.

const share = (value) => `${(100 * value).toFixed(1)} %`;

// Name, what it is called, how it is written, and the most a bar stands for (null: the largest of the heads).
export const MEASURES = [
  { name: "distance", label: "mean distance", write: (value) => `${value.toFixed(1)} px`, most: null },
  { name: "entropy", label: "entropy", write: (value) => `${value.toFixed(2)} nats`, most: null },
  { name: "beside_block", label: "outside its block", write: share, most: 1 },
  { name: "padding", label: "on padding", write: share, most: 1 },
  { name: "tokens", label: "on global tokens", write: share, most: 1 },
];

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function showFigures(list, reply) {
  const rows = MEASURES.filter(({ name }) => reply.shown[name] !== null).flatMap(({ name, label, write }) => [
    element("dt", { textContent: label }),
    element("dd", { textContent: write(reply.shown[name]), id: `figure-${name}` }),
  ]);
  rows.push(element("dt", { textContent: "largest weight" }), element("dd", { textContent: reply.largest.toPrecision(3) }));
  list.replaceChildren(...rows);
}

export function showBars(bars, reply, measure, chosen) {
  const { name, label, write, most } = MEASURES.find((one) => one.name === measure) ?? MEASURES[0];
  const values = reply.heads.map((head) => head[name]);
  if (values.some((value) => value === null)) {
    bars.replaceChildren(element("p", { className: "small", textContent: "this layer has no such figure" }));
    bars.setAttribute("aria-label", "This layer has no such figure");
    return;
  }
  const longest = most ?? Math.max(...values, 1e-9);
  if (bars.querySelectorAll(".bar").length !== values.length) {
    bars.replaceChildren(...values.map((_, head) => element("div", {}, element("span", { textContent: head + 1 }),
      element("span", { className: "track" }, element("i")), element("span"))));
  }
  values.forEach((value, head) => {
    const row = bars.children[head];
    row.className = head === chosen ? "bar chosen" : "bar";
    row.children[1].firstChild.style.width = `${100 * Math.min(1, Math.max(0, value / longest))}%`;
    row.children[2].textContent = write(value);
  });
  bars.setAttribute("aria-label", `${label} by head: ${values.map((value, head) => `${head + 1}: ${write(value)}`).join(", ")}`);
}

export function fillMeasures(select, reply) {
  const named = MEASURES.filter(({ name }) => reply.shown[name] !== null);
  const names = named.map(({ name }) => name).join();
  if (select.dataset.names === names) return;
  const chosen = select.value;
  select.dataset.names = names;
  select.replaceChildren(...named.map(({ name, label }) => element("option", { value: name, textContent: label })));
  if (named.some(({ name }) => name === chosen)) select.value = chosen;
}

export function spokenOf(query, reply, kept) {
  const told = MEASURES.filter(({ name }) => reply.shown[name] !== null)
    .map(({ name, label, write }) => `${label} ${write(reply.shown[name])}`);
  return `Row ${query[0]}, column ${query[1]}${kept ? ", kept" : ""}: ${told.join(", ")}`;
}

const count = (value) => {
  if (value < 1e5) return value.toLocaleString("en");
  return value < 0.9995e9 ? `${(value / 1e6).toPrecision(3)} M` : `${(value / 1e9).toPrecision(3)} G`;
};

export function showCost(body, note, { before, after }, layer, task) {
  const ofAll = (cost) => (cost.multiply_adds ? cost.attention / cost.multiply_adds : 0);
  const rows = [
    ["parameters", (cost) => cost.parameters, count],
    ["multiply-adds", (cost) => cost.multiply_adds, count],
    ["of them in attention", (cost) => cost.attention, count],
    ["attention's share", ofAll, share],
    ["keys a query sees", (cost) => cost.keys[layer], (value) => value.toLocaleString("en")],
  ].filter(([, value]) => value(before) !== undefined && value(after) !== undefined);
  body.replaceChildren(...rows.map(([label, value, write]) => {
    const [old, now] = [value(before), value(after)];
    const changed = now > old * 1.0005 ? "more" : now < old * 0.9995 ? "less" : "";
    return element("tr", {}, element("th", { scope: "row", textContent: label }),
      element("td", { textContent: write(old) }), element("td", { textContent: write(now), className: changed }));
  }));
  note.textContent = task === "detection"
    ? "Counted with 1000 proposals and 100 detections. Keys are of the chosen layer."
    : "One multiplication with its addition is 1. Keys are of the chosen layer, zeros around the map among them.";
}

export function showAnswer(place, told, { random, threshold, hasRight }) {
  const rows = [];
  const bar = (value) => {
    const fill = element("i");
    fill.style.width = `${100 * value}%`;
    return element("span", { className: "track" }, fill);
  };
  if (random) rows.push(element("p", { className: "note random", textContent: "Weights are random: this answer means nothing." }));
  for (const { name, probability } of told.classes ?? []) {
    rows.push(element("div", { className: "answer-row" }, element("span", { textContent: name }), bar(probability),
      element("span", { textContent: share(probability) })));
  }
  if (told.objects) {
    const sure = told.objects.filter(({ score }) => score >= threshold);
    rows.push(element("p", { className: "small", textContent: sure.length
      ? `${sure.length} of ${told.objects.length} objects are surer than ${Math.round(100 * threshold)} %`
      : `none of ${told.objects.length} objects is surer than ${Math.round(100 * threshold)} %` }));
    for (const { name, score, colour } of sure.slice(0, 12)) {
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = colour;
      rows.push(element("div", { className: "answer-row" }, element("span", {}, swatch, name), bar(score),
        element("span", { textContent: share(score) })));
    }
  }
  if (told.disparity) {
    const { least, most, mean } = told.disparity;
    rows.push(element("p", { textContent: `disparity ${least.toFixed(1)} to ${most.toFixed(1)} px, ${mean.toFixed(1)} px in the mean` }));
    rows.push(element("p", { className: "small", textContent: hasRight
      ? "blue is far, red is near" : "the right picture is missing: the left one stands in for it, so this means nothing" }));
  }
  place.replaceChildren(...rows);
}
