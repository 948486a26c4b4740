"""What makes a page of tables readable by everybody: its style, and the one script that sorts and copies its tables.

The page is whole without the script. Colours have a contrast of 4.5 or more on their ground. On paper all that is
folded is open.
"""

STYLE = """
body { max-width: 66rem; margin: 0 auto; padding: 1rem; color: #1a1a1a; background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 0; display: inline; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
a { color: #00558a; }
.answer { border-left: 5px solid #0072b2; background: #f3f7fa; padding: .6rem 1rem; margin: .8rem 0; }
.answer p { margin: .2rem 0; }
.answer .headline { font-size: 1.25rem; line-height: 1.4; font-weight: 600; }
.glance { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem; margin: .8rem 0; }
.glance dt { font-weight: 600; }
.glance dd { margin: 0; }
.part { border-top: 1px solid #ccc; padding: .5rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .3rem .55rem; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; line-height: 1.2; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th.words, td.words { text-align: left; white-space: normal; min-width: 14rem; }
th button { all: unset; cursor: pointer; font-weight: bold; }
th button:hover { text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
button:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid #0072b2; }
button.copy { font: inherit; font-size: .8rem; color: #1a1a1a; background: #f3f3f3; border: 1px solid #767676;
              border-radius: 4px; margin: .3rem 0; cursor: pointer; }
.quiet, figcaption { color: #555; font-size: .9rem; }
figure { margin: 1.5rem 0; }
img { width: 100%; height: auto; display: block; }
pre { overflow-x: auto; background: #f7f7f7; padding: .8rem; font-size: .8rem; line-height: 1.35; }
summary { cursor: pointer; padding: .2rem 0; }
@media (max-width: 600px) {
  .glance { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .glance dd { margin-bottom: .5rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  button.copy, .screen { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .25rem; white-space: normal; overflow-wrap: anywhere; }
  th.words, td.words { min-width: 0; }
  figure, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; }
}
"""

SCRIPT = """
"use strict";
const cells = row => [...row.cells].map(cell => cell.innerText.trim());

// A cell's number, for sorting: its first one; null where it has none, which stands last whatever the order.
function number(text) {
  const found = /^[<>~(]*\\s*([+\\u2212-]?[\\d,]*\\.?\\d+(?:e[+-]?\\d+)?)/i.exec(text);
  return found ? Number(found[1].replace(/,/g, "").replace("\\u2212", "-")) : null;
}

function sort(table, column) {
  const header = table.rows[0].cells[column], rows = [...table.rows].slice(1);
  const falling = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const texts = new Map(rows.map(row => [row, row.cells[column].textContent.trim()]));
  const numeric = rows.every(row => ["", "-"].includes(texts.get(row)) || number(texts.get(row)) !== null);
  const value = row => numeric ? number(texts.get(row)) : texts.get(row) || null;
  rows.sort((one, two) => {
    const [a, b] = [value(one), value(two)];
    if (a === null || b === null) return (a === null) - (b === null);
    return (falling ? -1 : 1) * (numeric ? a - b : a.localeCompare(b, undefined, {numeric: true}));
  });
  rows.forEach(row => row.parentNode.append(row));
}

async function copy(table, button) {
  const text = [...table.rows].map(row => cells(row).map(cell => cell.replace(/\\s+/g, " ")).join("\\t")).join("\\n");
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(table);  // a browser that does not let a page copy: the user's key does
    button.textContent = "Selected: copy it with Ctrl+C";
  }
}

for (const table of document.querySelectorAll("table")) {
  [...table.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...header.childNodes);
    button.onclick = () => sort(table, column);
    header.append(button);
  });
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy table";
  button.onclick = () => copy(table, button);
  table.closest(".scroll").before(button);
}
for (const wide of document.querySelectorAll(".scroll, pre")) wide.tabIndex = 0;

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach(one => { one.open = true; });
});
addEventListener("afterprint", () => folded.forEach(one => { one.open = false; }));
function unfold() {
  const target = document.getElementById(location.hash.slice(1));
  target?.closest("details")?.setAttribute("open", "");
  target?.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();
"""
