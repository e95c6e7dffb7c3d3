"use strict";

// “Try it”: offer the objects of the model that was chosen in the form, and show each problem at its field.
document.addEventListener("DOMContentLoaded", () => {
  const panel = document.querySelector("[data-wh-try]");
  if (!panel) return;
  const model = panel.querySelector("[name=try_model]");
  let isChosen = model.value !== "";
  model.addEventListener("change", (event) => { isChosen ||= event.isTrusted; });

  // Enter in the search shows the request. The form would be saved.
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target.name !== "try_find") return;
    event.preventDefault();
    panel.querySelector(".wh-try-show").click();
  });

  // The first model that is ticked in the form, until the user chooses another here.
  document.querySelectorAll("[data-wh-models]").forEach((box) => {
    const follow = () => {
      if (isChosen) return;
      const ticked = [...box.querySelectorAll("input:checked")].map((input) => input.value);
      const wanted = [...model.options].find((option) => ticked.includes(option.dataset.type))?.value ?? "";
      if (wanted === model.value) return;
      model.value = wanted;
      model.dispatchEvent(new Event("change", { bubbles: true }));
    };
    box.addEventListener("click", () => setTimeout(follow));
    follow();
  });

  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "wh-try-result") return;
    document.querySelectorAll(".wh-try-error").forEach((error) => error.remove());
    for (const problem of document.querySelectorAll("#wh-try-result [data-wh-field]")) {
      const name = problem.dataset.whField;
      const row = name && (document.querySelector(`.form-row.field-${name}`) ?? document.getElementById(`id_${name}`)?.closest(".row"));
      if (!row) continue;
      const error = Object.assign(document.createElement("p"), { className: "wh-try-error" });
      error.textContent = problem.querySelector("span").textContent;
      row.append(error);
      row.closest("details")?.setAttribute("open", "");
    }
  });
});
