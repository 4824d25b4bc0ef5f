// Moves the figures of a page: the server sends texts, values and points by name, and nothing that is run.
"use strict";

const source = document.querySelector("[data-live-source]");

function each(attribute, values, change) {
  for (const element of document.querySelectorAll(`[${attribute}]`)) {
    const value = values[element.getAttribute(attribute)];
    if (value !== undefined) change(element, value);
  }
}

function show(message) {
  each("data-live", message.text, (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  });
  each("data-live-value", message.value, (element, value) => { element.value = value; });
  each("data-live-points", message.draw, (element, points) => { element.setAttribute("points", points); });
  if (message.text.percent) document.title = document.title.replace(/^[\d.]+%/, message.text.percent);
}

function reveal(attribute, isShown) {
  const element = document.querySelector(`[${attribute}]`);
  if (element) element.hidden = !isShown;
}

if (source) {
  reveal("data-live-without", false);
  const stream = new EventSource(source.dataset.liveSource);
  stream.onopen = () => reveal("data-live-lost", false);
  stream.onerror = () => reveal("data-live-lost", true);
  stream.onmessage = (event) => show(JSON.parse(event.data));
  stream.addEventListener("changed", () => {
    stream.close();
    if ("liveReload" in source.dataset) window.location.reload();
    else reveal("data-live-changed", true);
  });
  window.addEventListener("pagehide", () => stream.close());
}
