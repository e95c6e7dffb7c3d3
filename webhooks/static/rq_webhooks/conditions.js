"use strict";

// Edit conditions as rows: path, operator, value, not. The form still submits the text area. Editing a row updates it.
// If rows cannot express the conditions, the text area is shown. Without this script, users edit JSON.
document.addEventListener("DOMContentLoaded", () => {
  const builder = document.getElementById("wh-condition-builder");
  if (builder) ({ operators: OPERATORS, words: WORDS } = JSON.parse(builder.textContent));
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

// From ConditionsWidget: the operators by name, each with its words and its widget (none, value, text or list), and texts.
let OPERATORS, WORDS;
const widgetOf = (op) => OPERATORS[op].widget;
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
  if (widgetOf(op) === "text") return value;
  if (widgetOf(op) !== "list") return shown(value);
  const words = value.map(shown);
  const isSafe = words.every((word) => word.trim() === word && word !== "" && !/[,[\]]/.test(word));
  return isSafe && words.length ? words.join(", ") : JSON.stringify(value);
}

function typedFor(op, text) {
  if (widgetOf(op) === "text") return text;
  if (widgetOf(op) !== "list") return typed(text);
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
  if (!Object.hasOwn(OPERATORS, op)) return null;
  if (widgetOf(op) === "none") return value == null ? { attr, op, text: "", negate } : null;
  const fits = widgetOf(op) === "list" ? Array.isArray(value) && value.every(isPlain)
    : widgetOf(op) === "text" ? typeof value === "string" : isPlain(value);
  if (!fits || (Array.isArray(value) ? value : [value]).some((one) => typeof one === "string" && /[\n\r]/.test(one))) return null;
  return { attr, op, text: shownFor(op, value), negate };
}

function write({ group, rows }) {
  const nodes = rows.filter((row) => row.attr || row.text).map(({ attr, op, text, negate }) => {
    const node = { attr };
    if (op !== "eq") node.op = op;
    if (widgetOf(op) !== "none") node.value = typedFor(op, text);
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
    this.group = make("select", { title: WORDS.combine },
      make("option", { value: "and", textContent: WORDS.all }),
      make("option", { value: "or", textContent: WORDS.any }));
    this.group.setAttribute("aria-label", WORDS.combine);
    this.list = make("ul", { className: "wh-rows" });
    this.note = make("p", { className: "help wh-note" });
    this.add = this.button(WORDS.add, () => { this.addRow(); this.list.lastChild.querySelector("input").focus(); });
    this.swap = this.button(WORDS.asJson, () => this.show(!this.asRows));
    this.try = this.button(WORDS.try, () => this.judge());
    this.result = make("p", { className: "wh-preview" });
    this.result.setAttribute("role", "status");
    this.head = make("p", { className: "wh-rule-head" }, `${WORDS.sendIf} `, this.group);
    this.box = make("div", { className: "wh-rule" });
    area.replaceWith(this.box);
    this.box.append(this.head, this.list, this.note, area,
      make("p", { className: "wh-rule-buttons" }, this.add, this.swap, this.try), this.result);
    this.group.addEventListener("change", () => this.save());
    this.try.hidden = !area.dataset.url;
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
    this.note.textContent = asRows && !rule ? WORDS.onlyJson : "";
    this.area.hidden = this.asRows;
    this.head.hidden = this.list.hidden = this.add.hidden = !this.asRows;
    this.swap.textContent = this.asRows ? WORDS.asJson : WORDS.asRows;
  }

  addRow({ attr = "", op = "eq", text = "", negate = false } = {}) {
    const path = make("input", { type: "text", value: attr, placeholder: "status.value", className: "wh-path" });
    const operator = make("select", {},
      ...Object.entries(OPERATORS).map(([value, { words }]) => make("option", { value, textContent: words })));
    const value = make("input", { type: "text", value: text, placeholder: "active" });
    const not = make("input", { type: "checkbox", checked: negate });
    operator.value = op;
    path.setAttribute("aria-label", WORDS.path);
    operator.setAttribute("aria-label", WORDS.operator);
    value.setAttribute("aria-label", WORDS.value);
    const row = make("li", {}, make("label", {}, not, ` ${WORDS.not}`), path, operator, value,
      this.button(WORDS.remove, () => { row.remove(); this.save(); }));
    const changed = () => {
      value.hidden = widgetOf(operator.value) === "none";
      value.placeholder = widgetOf(operator.value) === "list" ? "active, planned" : "active";
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
      this.area.form.querySelectorAll("[data-wh-secret]").forEach((input) => body.delete(input.name));
      const answer = await fetch(this.area.dataset.url, { method: "POST", body, credentials: "same-origin" });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      const { text } = await answer.json();
      const ignored = this.asRows && [...this.list.children].map((row) => row.data()).some((row) => !row.attr && !row.text);
      this.result.textContent = ignored ? `${text} ${WORDS.ignored}` : text;
    } catch (error) {
      this.result.textContent = `${WORDS.failed} ${error.message}`;
    }
  }
}
