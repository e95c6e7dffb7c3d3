"use strict";

// Filter the models of a webhook by name, list the chosen ones, and choose all or none of an app.
// Texts come from the template.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("[data-wh-models]").forEach((box) => new ModelFilter(box));
});

class ModelFilter {
  constructor(box) {
    this.words = box.dataset;
    this.labels = [...box.querySelectorAll("label")];
    this.groups = [...box.querySelectorAll(".wh-models-app")];
    if (!this.labels.length) return;
    this.input = Object.assign(document.createElement("input"), { type: "search", autocomplete: "off", className: "wh-models-filter", placeholder: this.words.filter });
    this.input.setAttribute("aria-label", this.words.filter);
    this.chosen = Object.assign(document.createElement("p"), { className: "wh-models-chosen" });
    this.nothing = Object.assign(document.createElement("p"), { className: "wh-quiet", textContent: this.words.noMatch, hidden: true });
    this.nothing.setAttribute("role", "status");
    box.prepend(this.input, this.chosen);
    box.querySelector(".wh-models-list").append(this.nothing);
    this.input.addEventListener("input", () => this.filter());
    this.input.addEventListener("keydown", (event) => this.press(event));
    box.addEventListener("change", () => this.list());
    this.groups.forEach((group) => this.addButton(group));
    this.list();
  }

  // The button "all" or "none" in the heading of an app.
  addButton(group) {
    const boxes = [...group.querySelectorAll("input")], legend = group.querySelector("legend");
    if (boxes.length < 2) return;
    const button = Object.assign(document.createElement("button"), { type: "button", className: "wh-all" });
    const name = legend.textContent.trim(), areAll = () => boxes.every((box) => box.checked);
    const show = () => {
      button.textContent = areAll() ? this.words.noneOf : this.words.allOf;
      button.setAttribute("aria-label", `${name}: ${button.textContent}`);
    };
    button.addEventListener("click", () => {
      const checked = !areAll();
      boxes.forEach((box) => { box.checked = checked; });
      group.dispatchEvent(new Event("change", { bubbles: true }));
    });
    group.addEventListener("change", show);
    legend.append(button);
    show();
  }

  filter() {
    const term = this.input.value.trim().toLowerCase();
    for (const group of this.groups) {
      const isGroup = group.querySelector("legend").textContent.toLowerCase().includes(term);
      const labels = this.labels.filter((label) => group.contains(label));
      labels.forEach((label) => { label.hidden = !isGroup && !label.textContent.toLowerCase().includes(term); });
      group.hidden = labels.every((label) => label.hidden);
    }
    this.nothing.hidden = this.groups.some((group) => !group.hidden);
  }

  // Enter changes the first match, the arrow goes to it, Escape shows all.
  press(event) {
    const first = this.labels.find((label) => !label.hidden && !label.closest(".wh-models-app").hidden)?.querySelector("input");
    if (event.key === "Enter") {
      event.preventDefault();
      if (this.input.value.trim()) first?.click();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      first?.focus();
    } else if (event.key === "Escape" && this.input.value) {
      event.preventDefault();
      this.input.value = "";
      this.filter();
    }
  }

  list() {
    const names = this.labels.filter((label) => label.querySelector("input").checked).map((label) => label.textContent.trim());
    this.chosen.textContent = names.length ? `${this.words.chosen} ${names.join(", ")}` : this.words.none;
  }
}
