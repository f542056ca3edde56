// Filters and sorts the table of all names. What is asked for stands in the address, after "#", so that it can be linked.
"use strict";

const form = document.getElementById("zoo-filter");
const fields = [...form.elements].filter((field) => field.name);
const shown = form.querySelector("output");
const table = document.getElementById("zoo");
const heads = [...table.tHead.rows[0].cells];
const natural = new Intl.Collator("en", { numeric: true }); // ResNet-18 before ResNet-101
const networks = [...table.tBodies[0].rows].map(read);
let order = ""; // a column's key, with a minus before it from the largest down; "" as the page has them

function read(row) {
  const cells = row.cells;
  return {
    row,
    names: [...cells[0].querySelectorAll("code")].map((code) => code.textContent),
    architecture: cells[1].textContent,
    encoders: cells[2].dataset.family,
    parameters: Number(cells[3].dataset.value) / 1e6,
    gflops: Number(cells[4].dataset.value),
  };
}

// A wildcard is for whole names, as in unetzoo.list_models; other text may stand anywhere in a name.
function matcher(text) {
  const asked = text.trim().toLowerCase();
  if (!/[*?]|\[.+\]/.test(asked)) return (name) => name.includes(asked);
  const parts = asked.split(/(\*|\?|\[!?[^\]]+\])/).map((part, i) => {
    if (i % 2 === 0) return part.replace(/[.+^${}()|[\]\\]/g, "\\$&");
    if (part === "*") return ".*";
    if (part === "?") return ".";
    return part.replace(/[\\^]/g, "\\$&").replace(/^\[!/, "[^");
  });
  try {
    const pattern = new RegExp(`^${parts.join("")}$`);
    return (name) => pattern.test(name);
  } catch {
    return () => false; // [z-a]
  }
}

function filter() {
  const asked = Object.fromEntries(fields.map((field) => [field.name, field.value]));
  const fits = matcher(asked.name);
  let count = 0;
  for (const network of networks) {
    const wanted =
      network.names.some(fits) &&
      ["architecture", "encoders"].every((key) => !asked[key] || network[key] === asked[key]) &&
      ["parameters", "gflops"].every((key) => !asked[key] || network[key] <= Number(asked[key]));
    network.row.hidden = !wanted;
    count += wanted;
  }
  shown.textContent = `${count} of ${networks.length} names`;
}

function sort() {
  const key = order.replace("-", "");
  const sign = order.startsWith("-") ? -1 : 1;
  const column = heads.findIndex((head) => key && head.dataset.key === key);
  heads.forEach((head, i) => {
    if (i === column) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
  const rows = networks.map((network) => network.row);
  if (column >= 0) {
    const numbers = heads[column].dataset.sort === "number";
    const value = ({ cells }) => (numbers ? cells[column].dataset.value : cells[column].textContent);
    const compare = numbers ? (a, b) => a - b : natural.compare;
    // Rows without a number come last either way.
    rows.sort((a, b) => !value(a) - !value(b) || sign * compare(value(a) || 0, value(b) || 0));
  }
  table.tBodies[0].append(...rows);
}

function show() {
  filter();
  sort();
}

function write() {
  const asked = fields.map((field) => [field.name, field.value]);
  const state = new URLSearchParams([...asked, ["sort", order]].filter(([, value]) => value)).toString();
  history.replaceState(null, "", location.pathname + location.search + (state && `#${state}`));
}

// Returns whether the address asks for something; that of a section of the page does not.
function readAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (![...fields.map((field) => field.name), "sort"].some((key) => state.has(key))) return false;
  for (const field of fields) {
    field.value = state.get(field.name) ?? "";
    if (field.selectedIndex === -1) field.selectedIndex = 0; // no such choice
  }
  order = state.get("sort") ?? "";
  return true;
}

for (const head of heads.filter((head) => head.dataset.key)) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    order = order === head.dataset.key ? `-${head.dataset.key}` : head.dataset.key;
    sort();
    write();
  });
}
form.addEventListener("input", () => {
  filter();
  write();
});
form.addEventListener("reset", () => {
  order = "";
  setTimeout(() => {
    show(); // once the fields are empty
    write();
  });
});
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => {
  if (readAddress()) show();
});
if (readAddress()) addEventListener("load", () => form.scrollIntoView({ behavior: "instant" })); // after the browser's own
form.hidden = false;
show();
