// A form that is sent once: pressed twice, or held down, it sends one request until the page is shown anew.

export function once(form) {
  let sent = false;
  form?.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  window.addEventListener("pageshow", () => { sent = false; });
}
