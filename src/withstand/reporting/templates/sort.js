"use strict";
// Tables that a click on a column's heading sorts, by mouse or keyboard; without this script they stay plain.
(() => {
  const missing = /^(?:not measured|not known|not evaluated|\u2014|$)/;
  const seconds = { h: 3600, min: 60, s: 1, ms: 0.001 };
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  const textOf = (cell) => cell.textContent.trim().replace(/\s+/g, " ");

  // The cell below a heading, where one that spans several columns stands for each of them.
  const cellAt = (row, column) => {
    let place = 0;
    return [...row.cells].find((cell) => (place += cell.colSpan) > column);
  };

  const numberOf = (cell) => {
    if (!cell || cell.colSpan > 1) return NaN;
    if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
    const text = textOf(cell).replace(/,(?=\d{3})/g, "").replace("\u2212", "-");
    const time = /^(?:[\d.]+ (?:h|min|s|ms)(?: |$))+$/.test(text) ? [...text.matchAll(/([\d.]+) (h|min|s|ms)/g)] : [];
    if (time.length) return time.reduce((sum, [, number, unit]) => sum + number * seconds[unit], 0);
    const match = text.match(/^[+-]?\d+(?:\.\d+)?/);
    return match ? Number(match[0]) : NaN;
  };

  const isMissing = (cell) => !cell || cell.colSpan > 1 || (cell.dataset.sort === undefined && missing.test(textOf(cell)));

  const isNumeric = (cells) => {
    const known = cells.filter((cell) => !isMissing(cell));
    return known.length > 0 && known.every((cell) => !Number.isNaN(numberOf(cell)));
  };

  const sort = (table, headings, column, status) => {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const numeric = isNumeric(rows.map((row) => cellAt(row, column)));
    const former = headings[column].getAttribute("aria-sort");
    // Of figures the largest come first, of names those first in the alphabet.
    const next = former ? (former === "ascending" ? "descending" : "ascending") : (numeric ? "descending" : "ascending");
    const sign = next === "ascending" ? 1 : -1;
    const order = (one, other) => {
      const [first, second] = [cellAt(one, column), cellAt(other, column)];
      const lacking = isMissing(first) - isMissing(second);
      if (lacking || isMissing(first)) return lacking; // last, whichever the direction
      return sign * (numeric ? numberOf(first) - numberOf(second) : collator.compare(textOf(first), textOf(second)));
    };
    headings.forEach((heading) => heading.removeAttribute("aria-sort"));
    headings[column].setAttribute("aria-sort", next);
    body.append(...rows.sort(order));
    status.textContent = `Sorted by ${textOf(headings[column])}, ${next}.`;
  };

  document.querySelectorAll("table[data-sortable]").forEach((table) => {
    const headings = [...table.tHead.rows[0].cells];
    const status = document.createElement("p");
    status.className = "hidden";
    status.setAttribute("role", "status");
    table.closest(".scroll").after(status);
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, headings, column, status));
    });
  });
})();
