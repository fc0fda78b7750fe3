"""The page's script: tables that sort by a click on a heading, and nothing else."""

SCRIPT = """
"use strict";
(() => {
  const value = (cell) => {
    if (!cell) return null;
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.classList.contains("missing") ? null : cell.textContent.trim().toLowerCase();
  };
  const compare = (a, b) => {
    // Cells without a value stay at the end, whichever way the column is sorted.
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  };
  const sort = (table, head, index) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("thead th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
      const keyed = rows.map((row) => [value(row.cells[index]), row]);
      keyed.sort(([a], [b]) => (a === null || b === null ? compare(a, b) : down ? compare(b, a) : compare(a, b)));
      keyed.forEach(([, row]) => body.append(row));
    }
  };
  const contents = document.querySelector("nav details");
  if (contents && window.innerWidth < 700) contents.open = false;
  for (const table of document.querySelectorAll("table.result, table.sortable")) {
    const row = table.tHead && table.tHead.rows[table.tHead.rows.length - 1];
    if (!row) continue;
    [...row.cells].forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, index));
    });
  }
})();
"""
