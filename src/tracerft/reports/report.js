"use strict";
(() => {
  // Absent values stay at the end in both directions.
  const compare = (a, b, numeric, sign) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
  };

  const arrange = (table, header, column, original) => {
    const first = header.dataset.first || "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const now = header.getAttribute("aria-sort");
    const next = now === "none" ? first : now === first ? second : "none";
    for (const other of table.tHead.rows[0].cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    header.setAttribute("aria-sort", next);
    const rows = original.slice(); // the third press brings back the order of the study
    if (next !== "none") {
      const numeric = header.dataset.sort === "number";
      const value = (row) => row.cells[column].dataset.value;
      rows.sort((a, b) => compare(value(a), value(b), numeric, next === "ascending" ? 1 : -1));
    }
    table.tBodies[0].append(...rows);
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const original = [...table.tBodies[0].rows];
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      if (!header.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      header.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => arrange(table, header, column, original));
    });
  }

  // A folded section must not be missing on paper, nor hide the target of a link.
  const folded = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...folded()];
    opened.forEach((d) => { d.open = true; });
  });
  window.addEventListener("afterprint", () => opened.forEach((d) => { d.open = false; }));
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const details = target && target.querySelector("details");
    if (details) details.open = true;
  };
  window.addEventListener("hashchange", reveal);
  reveal();

  document.documentElement.dataset.script = "ready";
})();
