// The worklist: own time, keys, and a page that keeps itself fresh.

import { localise } from "./times.js";

const FRESH_SECONDS = 45;
localise(document);
const rows = [...document.querySelectorAll("a.open")];

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea")) return;
  const at = rows.indexOf(document.activeElement);
  if (event.key === "n") {
    document.getElementById("take-next")?.requestSubmit();
  } else if (event.key === "j" || event.key === "ArrowDown") {
    rows[Math.min(rows.length - 1, at + 1)]?.focus();
  } else if (event.key === "k" || event.key === "ArrowUp") {
    rows[Math.max(0, at - 1)]?.focus();
  } else {
    return;
  }
  event.preventDefault();
});

for (const row of document.querySelectorAll("tbody tr")) {
  row.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(window.getSelection())) row.querySelector("a.open").click();
  });
}

setInterval(() => {
  if (!document.hidden && !rows.includes(document.activeElement)) window.location.reload();
}, FRESH_SECONDS * 1000);
document.body.dataset.keys = "ready";
