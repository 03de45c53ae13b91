"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coarse = window.matchMedia("(pointer: coarse)");
  const plots = [...document.querySelectorAll(".plot")];

  const colours = (prefix) => {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(`--${prefix}${name}`).trim();
    return { ink: value("ink"), grid: value("grid"), panel: value("panel") };
  };

  const themed = ({ ink, grid, panel }) => ({
    "font.color": ink,
    "xaxis.gridcolor": grid, "yaxis.gridcolor": grid,
    "xaxis.linecolor": grid, "yaxis.linecolor": grid,
    "xaxis.tickcolor": grid, "yaxis.tickcolor": grid,
    "hoverlabel.bgcolor": panel, "hoverlabel.bordercolor": grid, "hoverlabel.font.color": ink,
  });

  // On a dark ground the palette's light blue and orange stand in for its dark ones, and back.
  const swapped = {
    "#0072B2": "#56B4E9", "#56B4E9": "#0072B2", "#D55E00": "#E69F00", "#E69F00": "#D55E00",
  };

  // What is folded away has no width yet; it is drawn when it is opened.
  const isDrawn = (plot) => plot.seriesColours !== undefined;

  const restyle = (prefix, more = {}, some = plots) => some.filter(isDrawn).forEach((plot) => {
    const isDark = dark.matches && !prefix;
    const shown = plot.seriesColours.map((colour) => (isDark && swapped[colour]) || colour);
    Plotly.update(
      plot,
      { "line.color": shown, "marker.color": shown },
      { ...themed(colours(prefix)), ...more },
    );
  });

  const draw = (plot) => {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    plot.seriesColours = data.map((series) => series.marker.color);
    // A finger that drags over a figure scrolls the page.
    if (coarse.matches) layout.dragmode = false;
    Plotly.newPlot(plot, data, layout, { responsive: true, displayModeBar: false });
  };

  const drawShown = () => {
    const fresh = plots.filter((plot) => !isDrawn(plot) && !plot.closest("details:not([open])"));
    fresh.forEach(draw);
    restyle("", {}, fresh);
  };
  drawShown();
  document.querySelectorAll("details").forEach((fold) => fold.addEventListener("toggle", drawShown));

  // A link into a folded part opens it.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (!target) return;
    const inside = target.querySelector(":scope > details");
    if (inside) inside.open = true;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", unfold);
  unfold();
  dark.addEventListener("change", () => restyle(""));
  // Paper is white and narrow, whatever the screen is.
  window.addEventListener("beforeprint", () => restyle("print-", { width: 640 }));
  window.addEventListener("afterprint", () => restyle("", { width: null, autosize: true }));

  const copy = async (button) => {
    const text = button.parentElement.querySelector("pre").textContent;
    const shown = button.innerHTML;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.innerHTML = shown; }, 2000);
  };
  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", () => copy(button));
  });
})();
