"use strict";

// Refresh the parts of the status page, each by its id, with one request every few seconds.
//
// A part that is in use is left as it is: with the focus in it, the pointer over it, text selected, or a box ticked.
// What was unfolded stays unfolded, and what is being read stays where it is on the screen. In a hidden tab, while a
// dialog is open, and after "Stop refreshing", nothing is asked for.

document.addEventListener("DOMContentLoaded", () => {
  const element = document.querySelector("[data-wh-live]");
  if (element) new Live(element);
});

const LONGEST_WAIT = 60_000; // milliseconds between two tries while the site does not answer

class Live {
  constructor(element) {
    this.element = element;
    this.texts = element.dataset;
    this.every = Number(element.dataset.every) * 1000;
    this.shownAt = Date.now();
    this.failures = 0;
    this.isStopped = sessionStorage.getItem("wh-live") === "stopped";
    this.text = element.querySelector("[data-wh-live-text]");
    this.button = element.querySelector("[data-wh-live-stop]");
    this.button.hidden = false;
    element.querySelector("[data-wh-live-link]").hidden = true;
    this.button.addEventListener("click", () => this.stop(!this.isStopped));
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.refresh(); });
    document.addEventListener("pointerover", (event) => { this.hovered = event.target.closest?.("section[id^=wh-]"); });
    document.addEventListener("pointerleave", () => { this.hovered = null; });
    setInterval(() => this.show(), 1000);
    this.stop(this.isStopped);
  }

  stop(isStopped) {
    this.isStopped = isStopped;
    sessionStorage.setItem("wh-live", isStopped ? "stopped" : "live");
    this.button.textContent = isStopped ? this.button.dataset.start : this.button.dataset.whLiveStop;
    clearTimeout(this.timer);
    if (isStopped) this.show();
    else this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    if (this.isStopped || this.isAsking) return;
    if (!document.hidden && !document.querySelector("dialog[open], .modal.show")) await this.ask();
    this.timer = setTimeout(() => this.refresh(), Math.min(this.every * 2 ** this.failures, LONGEST_WAIT));
  }

  async ask() {
    this.isAsking = true;
    this.held = false;
    const summary = document.getElementById("wh-summary")?.textContent.trim();
    this.problem = await this.read().catch(() => this.texts.lost);
    this.isAsking = false;
    this.failures = this.problem ? this.failures + 1 : 0;
    if (!this.problem) this.shownAt = Date.now();
    const now = document.getElementById("wh-summary")?.textContent.trim();
    if (now !== summary) document.querySelector("[data-wh-said]").textContent = now;
    this.show();
  }

  // Shows the parts as they are now. Returns why it cannot, or an empty text.
  async read() {
    const response = await fetch(this.texts.whLive);
    const html = await response.text();
    if (response.status !== 200) return this.texts.lost;
    // The site has sent us to the login page.
    if (new URL(response.url).pathname !== this.texts.whLive) return this.texts.loggedOut;
    for (const part of [...new DOMParser().parseFromString(html, "text/html").body.children]) {
      const shown = document.getElementById(part.id);
      if (shown) this.replace(shown, part);
    }
    return "";
  }

  show() {
    const seconds = Math.round((Date.now() - this.shownAt) / 1000);
    const text = this.isStopped ? this.texts.stopped : this.held ? this.texts.held : this.texts.live;
    this.text.textContent = this.problem || text.replace("%s", seconds);
    this.element.classList.toggle("wh-is-live", !this.isStopped && !this.problem);
  }

  isUsed(part) {
    const selection = document.getSelection();
    return part.contains(document.activeElement)
      || part === this.hovered
      || Boolean(part.querySelector("input:checked"))
      || (selection.type === "Range" && selection.containsNode(part, true));
  }

  replace(shown, part) {
    if (this.isUsed(shown)) {
      this.held = true;
      return;
    }
    // A part has the state of the server.
    for (const { id, open } of shown.querySelectorAll("details[id]")) {
      part.querySelector(`#${CSS.escape(id)}`)?.toggleAttribute("open", open);
    }
    const anchor = this.findAnchor(shown);
    const top = anchor?.getBoundingClientRect().top;
    shown.replaceWith(part);
    if (anchor) window.scrollBy(0, anchor.getBoundingClientRect().top - top);
  }

  // What must not move: the part in use, or else the first one below this one that is in view.
  findAnchor(part) {
    const parts = [...document.querySelectorAll("section[id^=wh-]")].filter((one) => one !== part);
    return parts.find((one) => this.isUsed(one))
      ?? (part.getBoundingClientRect().bottom < 0 ? parts.find((one) => one.getBoundingClientRect().bottom > 0) : null);
  }
}
