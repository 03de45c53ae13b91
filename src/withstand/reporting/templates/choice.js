"use strict";
// Folds of which one is open at a time become a list to choose from; without this script they stay folds.
(() => {
  document.querySelectorAll(".choice").forEach((choice) => {
    const folds = [...choice.querySelectorAll(":scope > details")];
    const select = document.createElement("select");
    const label = document.createElement("label");
    label.className = "chooser";
    label.append(`${choice.dataset.choice} `, select);
    folds.forEach((fold, place) => {
      const name = fold.querySelector(":scope > summary").textContent;
      select.append(new Option(name, String(place), fold.open, fold.open));
      fold.addEventListener("toggle", () => {
        if (!fold.open) return;
        select.value = String(place);
        folds.filter((other) => other !== fold).forEach((other) => { other.open = false; });
      });
    });
    select.addEventListener("change", () => {
      folds.forEach((fold, place) => { fold.open = String(place) === select.value; });
    });
    choice.classList.add("chosen");
    if (folds.length > 1) choice.prepend(label);
  });
})();
