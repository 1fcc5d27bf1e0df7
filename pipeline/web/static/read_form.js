// The read: number keys choose in the group whose turn it is, Enter commits, the draft survives a lost session.

import { local, localise } from "./times.js";

localise(document);
const form = document.getElementById("read-form");
const typing = (event) => event.target.closest("textarea, select, input:not([type=radio])");
const draftKey = (id) => `draft:${id}`;

function chosen(name) {
  return form.querySelector(`input[name=${name}]:checked`);
}

function takeTurn() {
  const turn = !chosen("finding") ? "finding" : !chosen("certainty") ? "certainty" : "commit";
  form.dataset.turn = form.dataset.back || turn;
  const unreadable = chosen("finding")?.value === "cannot_be_read";
  document.getElementById("comment").required = unreadable;
  document.getElementById("comment-hint").textContent = unreadable ? "say why" : "optional";
}

function keep() {
  const draft = { finding: chosen("finding")?.value, certainty: chosen("certainty")?.value, comment: form.comment.value };
  sessionStorage.setItem(draftKey(form.dataset.case), JSON.stringify(draft));
}

function bringBack() {
  const kept = JSON.parse(sessionStorage.getItem(draftKey(form.dataset.case)) || "{}");
  for (const name of ["finding", "certainty"]) {
    const choice = [...form.querySelectorAll(`input[name=${name}]`)].find((input) => input.value === kept[name]);
    if (choice && !chosen(name)) choice.checked = true;
  }
  if (kept.comment && !form.comment.value) form.comment.value = kept.comment;
}

function choose(key) {
  const group = form.dataset.turn === "finding" ? "finding" : "certainty";
  const choice = form.querySelector(`input[name=${group}][data-key="${key}"]`);
  if (!choice) return;
  choice.checked = true;
  choice.focus({ preventScroll: true });
  delete form.dataset.back;
  choice.dispatchEvent(new Event("change", { bubbles: true }));
  if (choice.value === "cannot_be_read") document.getElementById("comment").focus();
}

function onKey(event) {
  if (event.key === "Escape") {
    document.activeElement.blur();
    form.dataset.back = "finding";
    takeTurn();
    return;
  }
  if (typing(event) || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  if (/^[0-9]$/.test(event.key)) {
    choose(event.key);
  } else if (event.key === "Enter" && !event.target.closest("button, a, summary")) {
    form.requestSubmit(document.getElementById("commit"));
  } else {
    return;
  }
  event.preventDefault();
}

// While the reader is active the hold is lengthened; an abandoned desk lets it end.
let active = Date.now();
let until = form ? new Date(form.dataset.leaseUntil) : null;

function showLease() {
  const left = Math.ceil((until - Date.now()) / 60000);
  const line = document.getElementById("lease");
  line.className = left <= 3 ? "warn" : "";
  line.textContent = left > 0 ? `Yours until ${local(until, true)}` : "Your hold has ended; the draft is kept, claim the case again";
}

async function lengthen() {
  showLease();
  if (Date.now() - active > 4 * 60000 || document.hidden) return;
  const answer = await fetch(`/api/cases/${form.dataset.case}/extend`, {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": form.dataset.csrf },
    body: JSON.stringify({ fence: Number(form.dataset.fence) }),
  });
  until = answer.ok ? new Date((await answer.json()).lease_until) : new Date(0);
  showLease();
}

if (form) {
  bringBack();
  takeTurn();
  form.addEventListener("input", keep);
  form.addEventListener("change", () => { delete form.dataset.back; keep(); takeTurn(); });
  document.addEventListener("keydown", onKey);
  for (const name of ["keydown", "pointermove", "wheel"]) document.addEventListener(name, () => { active = Date.now(); }, { passive: true });
  setInterval(() => lengthen().catch(() => {}), 60000);
} else {
  const done = document.querySelector("form[action$='/reveal'], form.compare, #take-next");
  if (done) sessionStorage.removeItem(draftKey(window.location.pathname.split("/").pop()));
  document.addEventListener("keydown", (event) => {
    if (typing(event) || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    const button = { a: "button[value=agree]", d: "button[value=disagree]", n: "#take-next button" }[event.key];
    document.querySelector(button || "#nothing")?.click();
  });
}
document.body.dataset.keys = "ready";
