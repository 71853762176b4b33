"use strict";
// Sorting, notes on pointing and open details for report.html. Without this script the page still shows everything.

const tip = document.getElementById("tip");

function show(event) {
  const target = event.target.closest?.("[data-tip]");
  if (!target) return;
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  const at = target.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const below = at.bottom + 6 + size.height < innerHeight;
  tip.style.left = Math.max(8, Math.min(at.left, innerWidth - size.width - 8)) + "px";
  tip.style.top = Math.max(8, below ? at.bottom + 6 : at.top - size.height - 6) + "px";
}

function hide() { tip.hidden = true; }

for (const element of document.querySelectorAll("td [title]")) {
  element.dataset.tip = element.title;  // the browser's own note is slow, and cannot be had by keyboard
  element.removeAttribute("title");
  element.setAttribute("aria-describedby", "tip");
}
for (const type of ["mouseover", "focusin"]) document.addEventListener(type, show);
for (const type of ["mouseout", "focusout", "scroll"]) addEventListener(type, hide, true);
addEventListener("keydown", event => { if (event.key === "Escape") hide(); });

function value(row, column) {
  const text = row.cells[column].textContent.trim().replace("\u2212", "-");
  const number = parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

// Numbers by size, then text by alphabet, then cells without a figure, whichever way the rest goes.
function compare(a, b, sign) {
  const kinds = [a, b].map(v => typeof v === "number" ? 0 : /[\p{L}\p{N}]/u.test(v) ? 1 : 2);
  if (kinds[0] !== kinds[1]) return kinds[0] - kinds[1];
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true}));
}

function sort(table, head) {
  const body = table.tBodies[0], before = head.getAttribute("aria-sort");
  table.original ??= [...body.rows];
  for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  if (before === "descending") return body.replaceChildren(...table.original);
  const order = before ? "descending" : "ascending", column = +head.dataset.column;
  head.setAttribute("aria-sort", order);
  const sign = before ? -1 : 1, rows = table.original.filter(row => !row.classList.contains("section"));
  const text = head.classList.contains("label");
  const of = row => text ? row.cells[column].textContent.trim() : value(row, column);
  body.replaceChildren(...rows.sort((a, b) => compare(of(a), of(b), sign)));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.querySelectorAll("th[data-column]")) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head));
    head.append(button);
  }
}

function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
}

addEventListener("hashchange", unfold);
unfold();
