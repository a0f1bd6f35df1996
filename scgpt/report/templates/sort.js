"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const downwards = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", downwards ? "descending" : "ascending");
      for (const body of table.tBodies) {
        const key = (row) => {
          const cell = row.cells[column];
          return "value" in cell.dataset ? Number.parseFloat(cell.dataset.value) : cell.textContent;
        };
        const rows = [...body.rows].filter((row) => row.cells.length === heads.length);
        rows.sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
          const order = typeof x === "number" ? x - y : x.localeCompare(y);
          return downwards ? -order : order;
        });
        body.append(...rows);
      }
    });
  });
}
