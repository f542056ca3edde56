"""Style sheet and scripts of the page. All of it is here; nothing is fetched."""

CSS = """
.gradio-container main { width: 100%; max-width: 1180px !important; margin: 0 auto !important; }
.heading h1 { font-size: 1.6rem; font-weight: 650; margin: 0.6rem 0 0.2rem; overflow-wrap: anywhere; }
.heading p, p.note { opacity: 0.8; margin: 0; font-size: 0.9rem; overflow-wrap: anywhere; }
h2.small { font-size: 0.9rem; font-weight: 600; margin: 0 0 0.3rem; }
p.refusal, p.warning { margin: 0.3rem 0 0; padding: 0.5rem 0.75rem; border-radius: 6px; font-size: 0.9rem;
  overflow-wrap: anywhere; border: 1px solid #dc262680; background: #dc26261a; }
p.warning { border-color: #d9770680; background: #d977061a; }
table.legend, table.objects { width: 100%; border-collapse: collapse; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
table.legend caption, table.objects caption { text-align: left; font-weight: 600; padding: 0.2rem 0; }
table.legend th, table.legend td, table.objects th, table.objects td { text-align: right; padding: 0.3rem 0.5rem;
  border-bottom: 1px solid var(--border-color-primary); font-weight: 400; }
table.legend thead th, table.objects thead th { font-weight: 500; }
table.legend th:first-child, table.objects td:nth-child(2), table.objects th:nth-child(2) {
  text-align: left; overflow-wrap: anywhere; min-width: 7em; }
table.objects thead th { position: sticky; top: 0; background: var(--background-fill-primary); }
table.objects button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-decoration: underline dotted; text-underline-offset: 3px; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
.plain { color: var(--body-text-color); line-height: 1.4; }
.scroll { max-height: 300px; overflow: auto; }
.chip { display: inline-block; width: 0.9em; height: 0.9em; border-radius: 3px; margin-right: 0.6em;
  border: 1px solid #808080; vertical-align: -0.1em; }
ul.strip { list-style: none; display: flex; flex-wrap: wrap; gap: 0.5rem; margin: 0; padding: 0; max-height: 260px;
  overflow-y: auto; }
ul.strip li { width: 104px; margin: 0; }
ul.strip button, ul.strip li.undone { width: 100%; min-height: 60px; padding: 4px; border-radius: 6px; cursor: pointer;
  border: 2px solid var(--border-color-primary); background: none; color: inherit; font-size: 0.75rem; }
ul.strip li.undone { width: 104px; border-style: dashed; cursor: default; }
ul.strip button[aria-current=true] { border-color: #2563eb; box-shadow: 0 0 0 1px #2563eb; }
ul.strip img { width: 100%; height: 64px; object-fit: contain; margin: 0; }
ul.strip .name { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
ul.strip .said { display: block; opacity: 0.8; }
#overlay figure { margin: 0; position: relative; min-height: 200px; text-align: center; }
#overlay img { width: 100%; max-height: min(520px, 90vh); object-fit: contain; image-rendering: auto; margin: 0; }
#overlay figure:fullscreen { background: #000; } #overlay figure:fullscreen img { height: 100vh; max-height: 100vh; }
#overlay .full { position: absolute; right: 6px; top: 6px; font-size: 0.75rem; padding: 2px 8px; border-radius: 6px;
  color: #fff; background: #18181bcc; border: 1px solid #fff; cursor: pointer; }
button:focus-visible, a:focus-visible, input:focus-visible, [tabindex]:focus-visible, label:has(input:focus-visible) {
  outline: 3px solid #2563eb !important; outline-offset: 2px; }
.dark button:focus-visible, .dark a:focus-visible, .dark input:focus-visible, .dark [tabindex]:focus-visible,
.dark label:has(input:focus-visible) { outline-color: #93c5fd !important; }
footer { display: none !important; }
"""
CHOOSE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-number]');
  if (button) trigger('click', { number: Number(button.dataset.number) });
});
"""
"""Tells the server which button was pressed."""
ENLARGE = """
element.addEventListener('click', (event) => {
  if (!event.target.closest('button.full')) return;
  if (document.fullscreenElement) document.exitFullscreen();
  else element.querySelector('figure').requestFullscreen();
});
"""
"""Switches the image to full screen, and back."""
SORT = """
const sort = (column, upward) => {
  const table = element.querySelector('table.objects');
  if (!table || !table.tHead.rows[0].cells[column]) return;
  const value = (row) => {
    const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent;
    return column === 1 ? text : Number(text);
  };
  const compare = (a, b) => column === 1 ? a.localeCompare(b) : a - b;
  const rows = [...table.tBodies[0].rows].sort((a, b) => (upward ? 1 : -1) * compare(value(a), value(b)));
  table.tBodies[0].append(...rows);
  [...table.tHead.rows[0].cells].forEach((cell, k) => {
    if (k === column) cell.setAttribute('aria-sort', upward ? 'ascending' : 'descending');
    else cell.removeAttribute('aria-sort');
  });
  element.sorted = [column, upward];
};
element.addEventListener('click', (event) => {
  const cell = event.target.closest('thead th');
  if (!cell || !event.target.closest('button')) return;
  sort(cell.cellIndex, cell.getAttribute('aria-sort') === 'descending' || (
    cell.getAttribute('aria-sort') === null && cell.cellIndex < 2));
});
watch('value', () => { if (element.sorted) sort(...element.sorted); });
"""
"""Sorts the table of objects, and those that replace it: first numbers and names upward, measurements downward."""
SAVE = "(file) => { const a = document.createElement('a'); a.href = file.url; a.download = file.orig_name; a.click(); }"
"""Saves the file that the server has just written: files are written on request, not at each move of a slider."""
LABEL = """() => {
  const name = () => {
    document.querySelectorAll('#file [aria-label="common.upload"]').forEach((button) => {
      button.setAttribute('aria-label', 'Add images');
      button.title = 'Add images';
      button.tabIndex = -1;
    });
    document.querySelectorAll('#view').forEach((group) => group.setAttribute('aria-label', 'Show'));
    document.querySelectorAll('#view input').forEach((input) => { input.name = 'view'; });
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}"""
"""Fixes for keys and screen readers what gradio leaves: a button around that for more files has no name, and is taken
out of the keys' way, as the inner one is what they press; ways to look at an image are one group, for arrow keys."""
