// A text field that finds models, after the combobox pattern of WAI-ARIA.

const MOST = 300;

export class Combo {
  constructor(input, list, models, chosen) {
    Object.assign(this, { input, list, models, chosen, active: -1, shown: [], current: "" });
    input.addEventListener("focus", () => { input.select(); });
    input.addEventListener("click", () => this.open(""));
    input.addEventListener("input", () => this.open(input.value));
    input.addEventListener("keydown", (event) => this.key(event));
    input.addEventListener("blur", () => this.close());
    // The field keeps the focus, whose loss closes the list; a finger that scrolls the list takes nothing.
    list.addEventListener("mousedown", (event) => event.preventDefault());
    list.addEventListener("click", (event) => {
      const item = event.target.closest("[data-place]");
      if (item) this.take(Number(item.dataset.place));
    });
  }

  set(key) {
    this.current = key;
    this.input.value = titleOf(this.models.find((model) => model.key === key) ?? { key, name: key });
  }

  open(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (model) => words.every((word) => `${model.key} ${model.name} ${model.task}`.toLowerCase().includes(word));
    this.shown = this.models.filter(matches).slice(0, MOST);
    this.active = this.shown.findIndex((model) => model.key === this.current);
    if (this.active < 0 && this.shown.length && words.length) this.active = 0;
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.fill();
  }

  fill() {
    const items = this.shown.map((model, place) => {
      const item = document.createElement("li");
      item.id = `model-${place}`;
      item.dataset.place = place;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(place === this.active));
      const small = document.createElement("small");
      small.textContent = model.weights ? `${model.name}, ${model.task}` : model.task;
      item.append(titleOf(model), small);
      return item;
    });
    if (!items.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.textContent = "no model has these words in its name";
      items.push(none);
    }
    this.list.replaceChildren(...items);
    const item = this.list.children[this.active];
    if (this.active >= 0) {
      this.input.setAttribute("aria-activedescendant", `model-${this.active}`);
      item.scrollIntoView({ block: "nearest" });
    } else {
      this.input.removeAttribute("aria-activedescendant");
    }
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.set(this.current);
  }

  key(event) {
    const { key } = event;
    if (key === "ArrowDown" || key === "ArrowUp") {
      event.preventDefault();
      if (this.list.hidden) {
        this.open("");
        return;
      }
      if (!this.shown.length) return;
      const last = this.shown.length - 1;
      if (key === "ArrowDown") this.active = this.active < last ? this.active + 1 : 0;
      else this.active = this.active > 0 ? this.active - 1 : last;
      this.fill();
    } else if (key === "Enter" && !this.list.hidden) {
      // A detector may also be named KIND/BACKBONE, of which no list could have all.
      if (this.active >= 0) this.take(this.active);
      else if (this.input.value.includes("/")) this.choose(this.input.value.trim());
    } else if (key === "Escape") {
      this.close();
    }
  }

  take(place) {
    this.choose(this.shown[place].key);
  }

  choose(key) {
    this.current = key;
    this.close();
    this.chosen(key);
  }
}

export function titleOf(model) {
  if (!model.weights) return model.name;
  const parts = model.weights.split(/[\\/]/);
  return parts.slice(-3).join("/");
}
