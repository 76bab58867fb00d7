// Sort the table by a column; numbers as numbers, and "failed" before all of them.
const rows = document.querySelector("tbody");
const heads = [...document.querySelectorAll("thead th")];
const FINDINGS = 1;
const key = (row, column) => {
  const text = row.children[column].textContent;
  if (column === FINDINGS && text === "failed") return Infinity;
  return text !== "" && !Number.isNaN(+text) ? +text : text;
};
const compare = (a, b) => {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
};
heads.forEach((head, column) => {
  head.firstElementChild.addEventListener("click", () => {
    const was = head.getAttribute("aria-sort");
    // Names begin with A, numbers with the greatest.
    const falls = was ? was === "ascending" : typeof key(rows.firstElementChild, column) === "number";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const sign = falls ? -1 : 1;
    const sorted = [...rows.children].sort((a, b) => sign * compare(key(a, column), key(b, column)));
    rows.replaceChildren(...sorted);
  });
});
