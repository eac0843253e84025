// Block and halo, or the window: a slider and a number for each, that follow one another.

import { element } from "./figures.js";

const $ = (id) => document.getElementById(id);

// changes: what is turned now, which may be more than what is looked at.
export function showDials(dials, changes, turned, refused) {
  $("dials-field").hidden = !dials.length;
  $("dials-field").disabled = false;
  $("undo").disabled = !Object.keys(changes).length;
  const kind = JSON.stringify(dials);
  if ($("dials").dataset.kind === kind) {
    // The one that is being turned stays as it is: a new one would end the drag, or what is being typed.
    for (const { name, own } of dials) {
      for (const input of [$(`${name}-range`), $(`${name}-field`)]) {
        if (input !== document.activeElement || !(name in changes)) input.value = changes[name] ?? own[0];
      }
    }
    return;
  }
  $("dials").dataset.kind = kind;
  $("dials").replaceChildren(...dials.map(({ name, label, own, least, most, step }) => {
    const values = { min: least, max: most, step, value: changes[name] ?? own[0] };
    const range = element("input", { type: "range", id: `${name}-range`, ...values });
    const field = element("input", { type: "number", id: `${name}-field`, ...values });
    range.setAttribute("aria-label", `${label}, pixels`);
    field.setAttribute("aria-label", `${label}, pixels, as a number`);
    const follow = (from, to) => from.addEventListener("input", () => {
      if (!from.checkValidity() || from.value === "") return;
      to.value = from.value;
      $("undo").disabled = false;
      turned(name, Number(from.value));
    });
    follow(range, field);
    follow(field, range);
    field.addEventListener("change", () => {
      if (field.checkValidity() && field.value !== "") return;
      refused(`${label}: expected ${least} to ${most}${step > 1 ? ` in steps of ${step}` : ""} pixels`);
      field.value = range.value;
    });
    const told = element("span", { className: "small", textContent: `${label} (own: ${[...new Set(own)].join(", ")})` });
    return element("div", { className: "dial" }, told, range, field);
  }));
}
