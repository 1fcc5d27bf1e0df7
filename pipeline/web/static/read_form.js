// The read: number keys choose in the group whose turn it is, Enter commits, the draft is saved as it grows.

import { once } from "./once.js";
import { local, localise } from "./times.js";

localise(document);
const form = document.getElementById("read-form");
const typing = (event) => event.target.closest("textarea, select, input:not([type=radio]):not([type=checkbox])");
const modified = (event) => event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
const groups = form ? [...form.querySelectorAll("fieldset[data-group]")] : [];

function chosen(name) {
  return form.querySelector(`input[name="${CSS.escape(name)}"]:checked`);
}

function isAnswered(group) {
  const words = group.querySelector("input.line");
  return words ? words.value.trim() !== "" : group.querySelector("input:checked") !== null;
}

function isAsked(group) {
  const only = group.dataset.onlyFor;
  const finding = chosen("finding")?.value;
  if (only === undefined) return true;
  return only === "*" ? finding !== "cannot_be_read" : only.split(" ").includes(finding);
}

// Which group number keys choose in: the finding, why not, the certainty, then what else must be answered.
function takeTurn() {
  for (const group of groups) {
    group.hidden = group.disabled = !isAsked(group);
    const must = "required" in group.dataset && !isAnswered(group);
    for (const input of group.querySelectorAll("input")) {
      if (input.name !== "finding" && input.name !== "certainty") input.required = must && !group.disabled;
    }
  }
  const asked = groups.filter((group) => !group.disabled);
  const always = ["finding", "because", "certainty"];
  const open = asked.find((group) => !isAnswered(group) && (always.includes(group.dataset.group) || "required" in group.dataset));
  form.dataset.turn = form.dataset.at && asked.some((group) => group.dataset.group === form.dataset.at) ? form.dataset.at : open?.dataset.group || "commit";
  for (const group of groups) group.classList.toggle("turn", group.dataset.group === form.dataset.turn);
  const unreadable = chosen("finding")?.value === "cannot_be_read";
  const must = unreadable && (!chosen("because") || chosen("because").value === "OTHER");
  document.getElementById("comment").required = must;
  document.getElementById("comment-hint").textContent = must ? "say why" : "optional";
}

function goTo(group) {
  form.dataset.at = group.dataset.group;
  takeTurn();
  group.scrollIntoView({ block: "nearest" });
  const first = group.querySelector("input:checked") || group.querySelector("input");
  first.focus({ preventScroll: true });
}

function nextQuestion() {
  const asked = groups.filter((group) => !group.disabled && group.classList.contains("question"));
  if (asked.length === 0) return;
  goTo(asked[(asked.findIndex((group) => group.dataset.group === form.dataset.turn) + 1) % asked.length]);
}

function choose(key) {
  const group = groups.find((each) => each.dataset.group === form.dataset.turn) || groups.find((each) => each.dataset.group === "certainty");
  const choice = group.querySelector(`input[data-key="${key}"]`);
  if (!choice) return;
  choice.checked = choice.type === "radio" || !choice.checked;
  choice.focus({ preventScroll: true });
  if (choice.type === "radio") delete form.dataset.at;
  choice.dispatchEvent(new Event("change", { bubbles: true }));
  if (choice.value === "cannot_be_read") {
    form.dataset.at = "because";
    takeTurn();
  }
  if (choice.value === "OTHER" && choice.name === "because") document.getElementById("comment").focus();
}

function onKey(event) {
  if (event.key === "Escape") {
    document.activeElement.blur();
    form.dataset.at = "finding";
    takeTurn();
    return;
  }
  if (typing(event) || modified(event)) return;
  if (/^[0-9]$/.test(event.key)) {
    choose(event.key);
  } else if (event.key === "q") {
    nextQuestion();
  } else if (event.key === "Enter" && !event.target.closest("button, a, summary")) {
    form.requestSubmit(document.getElementById("commit"));
  } else {
    return;
  }
  event.preventDefault();
}

// The draft goes to the server a second after the last change; what it has not got yet stays in this tab.
const kept = form ? `draft:${form.dataset.reader}:${form.dataset.case}` : "";
let waiting = null;
let dirty = false;
let saving = 0; // requests under way: what the second of them follows is not known yet
let seen = form?.dataset.savedAt ?? null; // the draft that this tab's follows

function draftOf() {
  const draft = { finding: "", certainty: "", comment: "", because: "", answers: {} };
  for (const [name, value] of new FormData(form)) {
    if (name.startsWith("answer.")) (draft.answers[name.slice(7)] ||= []).push(value);
    else if (name in draft && name !== "answers") draft[name] = value;
  }
  return draft;
}

function noteDraft(words) {
  document.getElementById("draft-state").textContent = words;
}

async function saveDraft(leaving) {
  clearTimeout(waiting);
  dirty = false;
  const follows = saving > 0 ? null : seen;
  saving += 1;
  try {
    const answer = await fetch(`/api/cases/${form.dataset.case}/draft`, {
      method: "PUT",
      credentials: "same-origin",
      keepalive: leaving === true,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": form.dataset.csrf },
      body: JSON.stringify({ fence: Number(form.dataset.fence), draft: draftOf(), saved_at: follows }),
    });
    if (answer.status === 409 && (await answer.clone().json()).detail.startsWith("another tab")) {
      throw new Error("another tab has a newer draft; reload");
    }
    if (!answer.ok) throw new Error(answer.status === 401 ? "sign in again" : "your hold has ended");
    const { saved_at: at } = await answer.json();
    seen = at;
    if (!dirty) sessionStorage.removeItem(kept);
    noteDraft(`Draft saved ${local(new Date(at), true)}`);
  } catch (problem) {
    dirty = true;
    noteDraft(`Draft not saved: ${problem instanceof TypeError ? "offline" : problem.message}`);
  }
  saving -= 1;
}

function changed() {
  dirty = true;
  sessionStorage.setItem(kept, JSON.stringify(draftOf()));
  clearTimeout(waiting);
  waiting = setTimeout(saveDraft, 1000);
}

function bringBack() {
  const draft = JSON.parse(sessionStorage.getItem(kept) || "null");
  if (!draft) return;
  const fields = { ...draft.answers };
  for (const [name, values] of Object.entries({ finding: [draft.finding], certainty: [draft.certainty], because: [draft.because] })) fields[`=${name}`] = values;
  for (const [key, values] of Object.entries(fields)) {
    const name = key.startsWith("=") ? key.slice(1) : `answer.${key}`;
    for (const input of form.querySelectorAll(`input[name="${CSS.escape(name)}"]`)) {
      if (input.classList.contains("line")) input.value = values[0] || "";
      else if (values.includes(input.value)) input.checked = true;
    }
  }
  if (draft.comment) form.comment.value = draft.comment;
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
  form.addEventListener("input", changed);
  form.addEventListener("change", (event) => {
    if (event.target.type === "radio") delete form.dataset.at;
    takeTurn();
    changed();
  });
  form.addEventListener("submit", () => clearTimeout(waiting));
  window.addEventListener("pagehide", () => { if (dirty) saveDraft(true); });
  window.addEventListener("online", () => { if (dirty) saveDraft(); });
  document.addEventListener("keydown", onKey);
  for (const name of ["keydown", "pointermove", "wheel"]) document.addEventListener(name, () => { active = Date.now(); }, { passive: true });
  setInterval(() => lengthen().catch(() => {}), 60000);
} else {
  const done = document.querySelector("form[action$='/reveal'], form.compare, #take-next");
  const which = window.location.pathname.split("/").pop();
  if (done) Object.keys(sessionStorage).filter((key) => key.endsWith(`:${which}`)).forEach((key) => sessionStorage.removeItem(key));
  once(document.getElementById("take-next"));
  document.addEventListener("keydown", (event) => {
    if (typing(event) || modified(event) || event.repeat) return;
    const button = { a: "button[value=agree]", d: "button[value=disagree]", n: "#take-next button" }[event.key];
    document.querySelector(button || "#nothing")?.click();
  });
}
document.body.dataset.keys = "ready";
