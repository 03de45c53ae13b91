"use strict";
// What goes on to a side fades there: tabs and tables that are wider than the window.
(() => {
  const mark = (box) => {
    box.classList.toggle("more-left", box.scrollLeft > 1);
    box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  const watch = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));
  document.querySelectorAll(".tabs, .scroll, .matrix").forEach((box) => {
    box.addEventListener("scroll", () => mark(box), { passive: true });
    watch.observe(box);
  });
})();
