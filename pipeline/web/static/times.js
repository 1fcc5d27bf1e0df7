// Moments in the reader's own time; without this module the page shows them in UTC.

const today = new Date().toDateString();

export function local(moment, clockOnly) {
  const clock = moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  if (clockOnly || moment.toDateString() === today) return clock;
  return `${moment.toLocaleDateString([], { day: "2-digit", month: "short" })} ${clock}`;
}

export function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    element.title = element.textContent;
    element.textContent = local(moment, "clock" in element.dataset);
  }
}
