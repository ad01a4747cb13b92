"use strict";
const token = document.querySelector("meta[name=page-token]").content;
const message = document.getElementById("message");

async function post(path, body) {
  const headers = { "Content-Type": "application/json", "X-RAM-Page-Token": token };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const found = await answer.json();
  message.className = answer.ok ? "" : "bad";
  message.textContent = found.message || found.error;
  message.scrollIntoView({ block: "nearest" });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-post]");
  if (button) post(button.dataset.post, JSON.parse(button.dataset.body || "{}"));
});

document.addEventListener("submit", (event) => {
  event.preventDefault();
  post(event.target.getAttribute("action"), Object.fromEntries(new FormData(event.target)));
});

for (const part of document.querySelectorAll("[data-load]")) {
  fetch(part.dataset.load).then((answer) => answer.text()).then((html) => { part.innerHTML = html; });
}
