"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Filters.
  const controls = one("#controls"), search = one("#search"), notPass = one("#not-pass"), role = one("#role");
  const rows = all("#matrix tr[data-role]"), cases = all("#cases details.case");
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  cases.forEach((item) => words.set(item, (one("summary", item).textContent + item.dataset.id).toLowerCase()));

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    for (const [item, text] of words) {
      item.hidden = !text.includes(wanted)
        || (notPass.checked && "well" in item.dataset)
        || (role.value !== "" && role.value !== item.dataset.role);
    }
    all("#matrix tbody, #cases section").forEach((group) => {
      group.hidden = !one("[data-role]:not([hidden])", group);
    });
    const shown = rows.filter((row) => !row.hidden).length;
    one("#shown").textContent = `${shown} of ${rows.length} requirements`;
    one("#nothing").hidden = shown > 0;
  }

  controls.hidden = false;
  controls.addEventListener("input", filter);
  controls.addEventListener("submit", (event) => event.preventDefault());
  filter();

  // The panel: the cases of one cell.
  const panel = one("#panel"), body = one("#panel-body");
  let current = null;

  const ill = () => all("#matrix td.cell:not(.pass) a").filter(
    (cell) => cell.parentNode.cellIndex === current.parentNode.cellIndex && !cell.closest("[hidden]"));

  function neighbour(step) {
    const follows = (cell) => current.compareDocumentPosition(cell) & Node.DOCUMENT_POSITION_FOLLOWING;
    const cells = ill().filter((cell) => cell !== current && Boolean(follows(cell)) === (step > 0));
    return step > 0 ? cells[0] : cells.at(-1);
  }

  function show(cell) {
    current = cell;
    const row = cell.closest("tr"), target = all("#matrix thead th")[cell.parentNode.cellIndex];
    one("#panel-title").textContent = `${row.id}: ${one("b", target).textContent}`;
    const text = one(".text", row).cloneNode(true);
    const copies = cell.dataset.cases.split(" ").map((id) => {
      const copy = document.getElementById(id).closest("details").cloneNode(true);
      all("[id]", copy).forEach((item) => item.removeAttribute("id"));
      copy.hidden = false;
      return copy;
    });
    copies.forEach((copy) => { copy.open = copies.length === 1 || !("well" in copy.dataset); });
    body.replaceChildren(text, ...copies);
    one("#previous").disabled = !neighbour(-1);
    one("#next").disabled = !neighbour(1);
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
    history.replaceState(null, "", `#${cell.id}`);
  }

  function showFromAddress() {
    const cell = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (cell && cell.matches("td.cell a")) show(cell);
  }

  one("#matrix").addEventListener("click", (event) => {
    const cell = event.target.closest("td.cell a");
    if (cell && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      show(cell);
    }
  });
  one("#previous").addEventListener("click", () => show(neighbour(-1)));
  one("#next").addEventListener("click", () => show(neighbour(1)));
  one("#close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (link) {
      event.preventDefault();
      current = null;
      panel.close();
      location.hash = link.hash;
    } else if (event.target === panel) {
      panel.close();
    }
  });
  panel.addEventListener("close", () => {
    if (!current) return;
    history.replaceState(null, "", `#${current.closest("tr").id}`);
    current.focus();
  });
  addEventListener("hashchange", showFromAddress);
  showFromAddress();

  // On paper nothing can be opened.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...cases, ...all(".card details")].filter((item) => !item.open && !("well" in item.dataset));
    opened.forEach((item) => { item.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((item) => { item.open = false; }));
})();
