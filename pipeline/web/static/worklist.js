// The worklist: own time, keys, and a page that renews itself when something changed, without moving what one looks at.

import { once } from "./once.js";
import { localise } from "./times.js";

const RENEW_SECONDS = 45; // without news, and where there is no stream at all
const GATHER_MS = 1500; // several changes at once are one
const SILENT_SECONDS = 40; // the stream beats every fifteen
const live = document.getElementById("live");
const news = document.getElementById("news");
const stale = document.getElementById("stale");
const parser = "document"; // parsed by the browser as a document of its own: nothing in it runs

const links = () => [...document.querySelectorAll("tbody a.open")];
const isTyping = (target) => target.closest("input, select, textarea");

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || isTyping(event.target)) return;
  const rows = links();
  const at = rows.indexOf(document.activeElement);
  if (event.key === "n" && event.repeat) return;
  if (event.key === "n") document.getElementById("take-next")?.requestSubmit();
  else if (event.key === "j" || event.key === "ArrowDown") rows[Math.min(rows.length - 1, at + 1)]?.focus();
  else if (event.key === "k" || event.key === "ArrowUp") rows[Math.max(0, at - 1)]?.focus();
  else if (event.key === "/") document.getElementById("find")?.focus();
  else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  const row = event.target.closest("tbody tr[data-case]");
  if (row && !event.target.closest("a") && !String(window.getSelection())) row.querySelector("a.open").click();
});

// Going elsewhere: the list says that it is being fetched, when that takes a moment.

function showWaiting() {
  const list = document.querySelector("[data-part=lines]");
  if (!list) return;
  list.setAttribute("aria-busy", "true");
  setTimeout(() => {
    if (list.isConnected) list.replaceChildren(document.getElementById("skeleton").content.cloneNode(true));
  }, 250);
}

once(document.getElementById("take-next"));
document.querySelector(".filters")?.addEventListener("submit", showWaiting);
document.addEventListener("click", (event) => {
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
  if (plain && event.target.closest(".tabs a, .pages a")) showWaiting();
});
window.addEventListener("pageshow", (event) => event.persisted && window.location.reload());

// Renewal: only what differs is replaced, so that focus and selection stay where they are.

const told = new WeakMap(); // element -> its markup as the server sent it
const cases = (root) => new Set([...root.querySelectorAll("tr[data-case]")].map((row) => row.dataset.case));

function remember(root) {
  for (const cell of root.querySelectorAll("[data-part], tr[data-case], tr[data-case] > td")) told.set(cell, cell.outerHTML);
}

function swap(old, fresh) {
  if (told.get(old) === fresh.outerHTML) return;
  const markup = fresh.outerHTML;
  const adopted = document.adoptNode(fresh);
  old.replaceWith(adopted);
  told.set(adopted, markup);
  localise(adopted);
}

function renewRow(old, fresh) {
  if (told.get(old) === fresh.outerHTML) return old;
  told.set(old, fresh.outerHTML);
  old.className = fresh.className;
  const cells = [...fresh.children];
  [...old.children].forEach((cell, place) => swap(cell, cells[place]));
  return old;
}

function renewRows(body, fresh) {
  const known = new Map([...body.rows].map((row) => [row.dataset.case, row]));
  [...fresh.rows].forEach((row, place) => {
    const old = known.get(row.dataset.case);
    known.delete(row.dataset.case);
    const wanted = old ? renewRow(old, row) : prepared(row);
    if (body.rows[place] !== wanted) moveBefore(body, wanted, body.rows[place]);
  });
  for (const gone of known.values()) gone.remove();
}

function prepared(row) {
  const markup = new Map([row, ...row.children].map((part) => [part, part.outerHTML]));
  const adopted = document.adoptNode(row);
  for (const [part, text] of markup) told.set(part, text);
  localise(adopted);
  return adopted;
}

function moveBefore(body, row, next) {
  const focused = row.contains(document.activeElement) ? document.activeElement : null;
  body.insertBefore(row, next ?? null);
  focused?.focus({ preventScroll: true });
}

function renew(fresh) {
  const before = cases(document);
  const lost = document.activeElement?.closest("tr[data-case]");
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = document.querySelector(`[data-part=${part.dataset.part}]`);
    const [body, freshBody] = [old?.querySelector("tbody"), part.querySelector("tbody")];
    if (!old) continue;
    if (body && freshBody) {
      renewRows(body, freshBody);
      swap(old.querySelector(".pages"), part.querySelector(".pages"));
    } else if (!old.contains(document.activeElement)) swap(old, part);
    else if (part.dataset.part === "lines") swap(old, part);
    document.querySelector(`[data-part=${part.dataset.part}]`)?.removeAttribute("aria-busy");
  }
  if (lost && !lost.isConnected) document.querySelector("h1").focus();
  announce(before, cases(document));
}

function announce(before, after) {
  const came = [...after].filter((id) => !before.has(id)).length;
  const went = [...before].filter((id) => !after.has(id)).length;
  const said = [came && `${came} ${came === 1 ? "case" : "cases"} added`, went && `${went} gone`].filter(Boolean);
  if (said.length) news.textContent = `The list changed: ${said.join(", ")}.`;
}

function fetchLines() {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("GET", `/worklist/lines${window.location.search}`);
    request.responseType = parser;
    request.timeout = 15000;
    request.onload = () => {
      if (!request.responseURL.includes("/worklist/lines")) window.location.reload(); // signed out
      else if (request.status === 200 && request.response) done(request.response);
      else failed();
    };
    request.onerror = request.ontimeout = failed;
    request.send();
  });
}

let [fetching, again, timer, known] = [false, false, 0, new Date()];

async function refresh() {
  clearTimeout(timer);
  if (fetching) {
    again = true;
    return;
  }
  fetching = true;
  const list = document.querySelector("[data-part=lines]");
  list.setAttribute("aria-busy", "true");
  try {
    renew(await fetchLines());
    known = new Date();
    stale.hidden = true;
  } catch {
    const clock = known.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    stale.querySelector("span").textContent = `The list could not be renewed. It shows what was known at ${clock}.`;
    stale.hidden = false;
  }
  document.querySelector("[data-part=lines]").removeAttribute("aria-busy");
  fetching = false;
  timer = setTimeout(whenSeen, again ? GATHER_MS : RENEW_SECONDS * 1000);
  again = false;
}

function whenSeen() {
  if (document.hidden) timer = setTimeout(whenSeen, RENEW_SECONDS * 1000);
  else refresh();
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(whenSeen, GATHER_MS + Math.random() * GATHER_MS);
}

// News: a stream while the page is seen; its state is always said.

const STATES = {
  live: "Live",
  lost: "Not live: reconnecting",
  timed: `Not live: renewed every ${RENEW_SECONDS} seconds`,
};

function say(state) {
  if (live.dataset.state === state) return;
  live.dataset.state = state;
  live.textContent = STATES[state];
  live.hidden = false;
}

let [source, silence] = [null, 0];

function heard() {
  clearTimeout(silence);
  silence = setTimeout(reconnect, SILENT_SECONDS * 1000);
  say("live");
}

function reconnect() {
  say("lost");
  source?.close();
  listen();
}

function listen() {
  if (typeof EventSource === "undefined") {
    say("timed");
    return;
  }
  source = new EventSource("/worklist/events");
  source.addEventListener("live", () => {
    heard();
    soon(); // what happened since these lines were made
  });
  source.addEventListener("beat", heard);
  source.addEventListener("changed", () => {
    heard();
    soon();
  });
  source.addEventListener("ended", () => window.location.reload());
  source.onerror = () => {
    clearTimeout(silence);
    say(source.readyState === EventSource.CLOSED ? "timed" : "lost");
  };
}

document.addEventListener("visibilitychange", () => {
  if (!live) return;
  clearTimeout(silence);
  source?.close();
  if (document.hidden) return;
  listen();
  soon();
});

if (live) {
  remember(document);
  document.getElementById("renew").addEventListener("click", refresh);
  listen();
  timer = setTimeout(whenSeen, RENEW_SECONDS * 1000);
}
localise(document);
document.body.dataset.keys = "ready";
