"use strict";

// The form of a webhook in NetBox: its scripts and “Try it” add elements with the classes of the admin. These get those
// of NetBox. A select keeps its own look ("no-ts"): NetBox's would not see what the scripts choose.

document.documentElement.classList.add("wh-js");

const LOOKS = {
  ":is(.wh-rule, .wh-try) select": "form-select no-ts",
  ".wh-rows input[type=text], .wh-models-filter, .wh-try :is(input[type=search], textarea)": "form-control",
  ".wh-rule .wh-small": "btn btn-sm btn-outline-secondary",
  ".wh-try .button": "btn btn-outline-primary",
  ".wh-rows input[type=checkbox]": "form-check-input m-0",
  ".wh-note, .wh-preview": "form-text",
};

function dress() {
  for (const [selector, look] of Object.entries(LOOKS)) {
    document.querySelectorAll(selector).forEach((element) => element.classList.add(...look.split(" ")));
  }
  // NetBox's template for inputs makes a text field of every checkbox of a list.
  document.querySelectorAll("input[type=checkbox].form-control").forEach((box) => {
    box.classList.replace("form-control", "form-check-input");
  });
}

// Before NetBox's own script, which looks for selects at DOMContentLoaded, and whenever another script adds elements.
document.addEventListener("readystatechange", () => {
  if (document.readyState !== "interactive") return;
  dress();
  const form = document.getElementById("form_fields");
  if (form) new MutationObserver(dress).observe(form, { childList: true, subtree: true });
});
