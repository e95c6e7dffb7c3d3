"use strict";

// Edit conditions as rows: path, operator, value, not. The form still submits the text area. Editing a row updates it.
// If rows cannot express the conditions, the text area is shown. Without this script, users edit JSON.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("[data-wh-conditions]").forEach((area) => new Rule(area));
  ["input", "change"].forEach((name) => document.addEventListener(name, forgetSummary));
});

// The title of a section says how its fields are saved. That is no longer true once one of them is changed.
function forgetSummary(event) {
  const section = event.target.closest("fieldset, .tab-pane"); // Jazzmin makes tabs of them
  const summary = section?.querySelector(".wh-summary")
    ?? document.querySelector(`a[href="#${CSS.escape(section?.id)}"] .wh-summary`);
  if (summary) summary.textContent = summary.dataset.changed;
}

// The texts in the language of the reader, from condition_words.html.
const ruleWords = (name) => document.getElementById("wh-condition-words").dataset[name];

const OPERATORS = ["eq", "in", "contains", "regex", "gt", "gte", "lt", "lte", "changed", "unchanged"];
const WITHOUT_VALUE = ["changed", "unchanged"];
const KEYS = ["attr", "op", "value", "negate"];

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isPlain = (value) => value === null || ["string", "number", "boolean"].includes(typeof value);

// Whether JSON has numbers outside strings that JavaScript would change, such as 1e5.
const TEXTS = /"(\\.|[^"\\])*"/g;
const isLossy = (json) => /\d{16}|\d[eE]/.test(json.replace(TEXTS, ""));

// Read input as JSON if possible, else as text: 42, true, null, "42", active.
function typed(text) {
  if (isLossy(text)) return text;
  try {
    const value = JSON.parse(text);
    if (!isObject(value)) return value;
  } catch { /* text */ }
  return text;
}

const shown = (value) => (typeof value === "string" && typed(value) === value ? value : JSON.stringify(value));

function shownFor(op, value) {
  if (op === "regex") return value;
  if (op !== "in") return shown(value);
  const words = value.map(shown);
  const isSafe = words.every((word) => word.trim() === word && word !== "" && !/[,[\]]/.test(word));
  return isSafe && words.length ? words.join(", ") : JSON.stringify(value);
}

function typedFor(op, text) {
  if (op === "regex") return text;
  if (op !== "in") return typed(text);
  const list = typed(text);
  return Array.isArray(list) ? list : text.split(",").map((word) => word.trim()).filter(Boolean).map(typed);
}

// The conditions as {group, rows}, or null if rows would lose a part.
function read(text) {
  if (!text.trim()) return { group: "and", rows: [] };
  if (isLossy(text)) return null;
  let rule;
  try { rule = JSON.parse(text); } catch { return null; }
  if (!isObject(rule)) return null;
  const [key] = Object.keys(rule);
  const isGroup = Object.keys(rule).length === 1 && ["and", "or"].includes(key) && Array.isArray(rule[key]);
  const rows = (isGroup ? rule[key] : [rule]).map(readRow);
  if (rows.includes(null) || (key === "or" && !rows.length)) return null;
  return { group: isGroup ? key : "and", rows };
}

function readRow(node) {
  if (!isObject(node) || Object.keys(node).some((key) => !KEYS.includes(key))) return null;
  const { attr, op = "eq", value, negate = false } = node;
  if (typeof attr !== "string" || typeof negate !== "boolean") return null;
  if (!OPERATORS.includes(op)) return null;
  if (WITHOUT_VALUE.includes(op)) return value == null ? { attr, op, text: "", negate } : null;
  const fits = op === "in" ? Array.isArray(value) && value.every(isPlain)
    : op === "regex" ? typeof value === "string" : isPlain(value);
  if (!fits || (Array.isArray(value) ? value : [value]).some((one) => typeof one === "string" && /[\n\r]/.test(one))) return null;
  return { attr, op, text: shownFor(op, value), negate };
}

function write({ group, rows }) {
  const nodes = rows.filter((row) => row.attr || row.text).map(({ attr, op, text, negate }) => {
    const node = { attr };
    if (op !== "eq") node.op = op;
    if (!WITHOUT_VALUE.includes(op)) node.value = typedFor(op, text);
    if (negate) node.negate = true;
    return node;
  });
  if (!nodes.length) return "";
  return JSON.stringify(nodes.length === 1 ? nodes[0] : { [group]: nodes }, null, 2);
}

function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

class Rule {
  constructor(area) {
    this.area = area;
    this.group = make("select", { title: ruleWords("combine") },
      make("option", { value: "and", textContent: ruleWords("all") }),
      make("option", { value: "or", textContent: ruleWords("any") }));
    this.group.setAttribute("aria-label", ruleWords("combine"));
    this.list = make("ul", { className: "wh-rows" });
    this.note = make("p", { className: "help wh-note" });
    this.add = this.button(ruleWords("add"), () => { this.addRow(); this.list.lastChild.querySelector("input").focus(); });
    this.swap = this.button(ruleWords("asJson"), () => this.show(!this.asRows));
    this.try = this.button(ruleWords("try"), () => this.judge());
    this.result = make("p", { className: "wh-preview" });
    this.result.setAttribute("role", "status");
    this.head = make("p", { className: "wh-rule-head" }, `${ruleWords("sendIf")} `, this.group);
    this.box = make("div", { className: "wh-rule" });
    area.replaceWith(this.box);
    this.box.append(this.head, this.list, this.note, area,
      make("p", { className: "wh-rule-buttons" }, this.add, this.swap, this.try), this.result);
    this.group.addEventListener("change", () => this.save());
    this.show(true);
  }

  button(textContent, act) {
    const made = make("button", { type: "button", className: "wh-small", textContent });
    made.addEventListener("click", act);
    return made;
  }

  show(asRows) {
    const rule = asRows ? read(this.area.value) : null;
    this.asRows = rule !== null;
    this.list.replaceChildren();
    if (rule) {
      this.group.value = rule.group;
      rule.rows.forEach((row) => this.addRow(row));
    }
    this.note.textContent = asRows && !rule ? ruleWords("onlyJson") : "";
    this.area.hidden = this.asRows;
    this.head.hidden = this.list.hidden = this.add.hidden = !this.asRows;
    this.swap.textContent = this.asRows ? ruleWords("asJson") : ruleWords("asRows");
  }

  addRow({ attr = "", op = "eq", text = "", negate = false } = {}) {
    const path = make("input", { type: "text", value: attr, placeholder: "status.value", className: "wh-path" });
    const operator = make("select", {}, ...OPERATORS.map((value) => make("option", { value, textContent: ruleWords(value) })));
    const value = make("input", { type: "text", value: text, placeholder: "active" });
    const not = make("input", { type: "checkbox", checked: negate });
    operator.value = op;
    path.setAttribute("aria-label", ruleWords("path"));
    operator.setAttribute("aria-label", ruleWords("operator"));
    value.setAttribute("aria-label", ruleWords("value"));
    const row = make("li", {}, make("label", {}, not, ` ${ruleWords("not")}`), path, operator, value,
      this.button(ruleWords("remove"), () => { row.remove(); this.save(); }));
    const changed = () => {
      value.hidden = WITHOUT_VALUE.includes(operator.value);
      value.placeholder = operator.value === "in" ? "active, planned" : "active";
    };
    row.data = () => ({ attr: path.value.trim(), op: operator.value, text: value.hidden ? "" : value.value, negate: not.checked });
    row.addEventListener("input", () => { changed(); this.save(); });
    changed();
    this.list.append(row);
  }

  save() {
    this.area.value = write({ group: this.group.value, rows: [...this.list.children].map((row) => row.data()) });
    this.area.dispatchEvent(new Event("change", { bubbles: true }));
    this.result.textContent = "";
  }

  async judge() {
    this.result.textContent = "…";
    try {
      const body = new FormData(this.area.form);
      ["secret", "secret_headers"].forEach((name) => body.delete(name));
      const answer = await fetch(this.area.dataset.url, { method: "POST", body, credentials: "same-origin" });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      const { text } = await answer.json();
      const ignored = this.asRows && [...this.list.children].map((row) => row.data()).some((row) => !row.attr && !row.text);
      this.result.textContent = ignored ? `${text} ${ruleWords("ignored")}` : text;
    } catch (error) {
      this.result.textContent = `${ruleWords("failed")} ${error.message}`;
    }
  }
}
