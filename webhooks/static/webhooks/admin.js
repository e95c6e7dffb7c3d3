"use strict";

// Add "all" and "none" to groups of checkboxes.
document.addEventListener("DOMContentLoaded", () => {
  for (const group of document.querySelectorAll("[data-wh-group]")) {
    const boxes = [...group.querySelectorAll("tbody input[type=checkbox], label input[type=checkbox]")];
    const head = group.querySelector("[data-wh-all]");
    const legend = group.querySelector("legend");
    if (head && boxes.length) addBox(head, boxes);
    if (legend && boxes.length > 1) addButton(legend, boxes);
  }
});

const areAll = (boxes) => boxes.every((box) => box.checked);

function addBox(head, boxes) {
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Select all on this page");
  all.addEventListener("change", () => boxes.forEach((box) => { box.checked = all.checked; }));
  boxes.forEach((box) => box.addEventListener("change", () => { all.checked = areAll(boxes); }));
  head.append(all);
}

function addButton(legend, boxes) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "wh-all";
  const name = legend.textContent.trim();
  const show = () => {
    button.textContent = areAll(boxes) ? "none" : "all";
    button.setAttribute("aria-label", `Select ${button.textContent} of ${name}`);
  };
  button.addEventListener("click", () => {
    const checked = !areAll(boxes);
    boxes.forEach((box) => { box.checked = checked; });
    show();
  });
  boxes.forEach((box) => box.addEventListener("change", show));
  legend.append(button);
  show();
}
