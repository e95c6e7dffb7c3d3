"use strict";

// What every page of the app shares: the box of all rows, questions, searches, and copy buttons.
// Texts come from the template wh-words, in the language of the page.

const words = (name) => document.getElementById("wh-words").dataset[name];

document.documentElement.classList.add("wh-js");

document.addEventListener("DOMContentLoaded", () => {
  labelToggle(document.getElementById("action-toggle"));
});

// The box that selects all rows of a page has only an invisible name. Where rows are cards, it has no column either.
// django-unfold has put it into a label.

function labelToggle(toggle) {
  if (!toggle || toggle.closest("label")) return;
  const label = document.createElement("label");
  label.className = "wh-toggle-label";
  label.htmlFor = toggle.id;
  label.textContent = toggle.getAttribute("aria-label");
  toggle.after(label);
}

// The question before a large or irreversible action: data-wh-confirm asks it, data-wh-detail says what will happen,
// and data-wh-yes is the label of the button that does it, if not that of the button itself.

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-wh-confirm]");
  if (!button) return;
  const template = document.getElementById("wh-words");
  if (button.dataset.whConfirmed !== undefined) {
    delete button.dataset.whConfirmed;
    return;
  }
  event.preventDefault();
  event.stopPropagation();
  const dialog = template.content.querySelector("dialog").cloneNode(true);
  dialog.querySelector("h2").textContent = button.dataset.whConfirm;
  dialog.querySelector("p").textContent = button.dataset.whDetail ?? "";
  const yes = dialog.querySelector(".wh-yes");
  yes.textContent = button.dataset.whYes ?? button.textContent.trim().replace(/…$/, "");
  yes.classList.toggle("wh-danger", button.classList.contains("wh-danger"));
  dialog.addEventListener("close", () => {
    const isConfirmed = dialog.returnValue === "yes";
    dialog.remove();
    button.focus();
    if (!isConfirmed) return;
    if (!button.isConnected) {
      // The page has refreshed itself meanwhile. A form that is no part of it would not be sent.
      const asked = button.closest("form") ?? button;
      asked.hidden = true;
      document.body.append(asked);
    }
    button.dataset.whConfirmed = "";
    button.click();
  });
  document.body.append(dialog);
  dialog.showModal();
}, true);

// A list without a match so far asks for older pages, until one has rows or is the last. Back leads before the search.

document.addEventListener("wh:found", (event) => location.replace(event.detail.value));

// Copy buttons: data-wh-copy holds the text, or data-wh-copy-from the id of the element with it.

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-wh-copy], [data-wh-copy-from]");
  if (!button) return;
  const text = button.dataset.whCopy ?? document.getElementById(button.dataset.whCopyFrom).textContent;
  const label = button.textContent;
  const isCopied = await copy(text);
  button.textContent = isCopied ? words("copied") : words("notCopied");
  setTimeout(() => { button.textContent = label; }, 2000);
});

async function copy(text) {
  // Browsers offer the clipboard only to pages over HTTPS. Many admin sites of an intranet have none.
  if (navigator.clipboard && window.isSecureContext) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.readOnly = true;
  area.className = "wh-off-screen";
  const active = document.activeElement;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  active?.focus();
  return isCopied;
}
