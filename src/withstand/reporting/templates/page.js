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

  // On a dark ground each colour of the palette has another in its place.
  const onDark = {{ on_dark | tojson }};

  // What is folded away has no width yet; it is drawn when it is opened.
  const isDrawn = (plot) => plot.seriesColours !== undefined;

  const restyle = (prefix, more = {}, some = plots) => some.filter(isDrawn).forEach((plot) => {
    const isDark = dark.matches && !prefix;
    const shown = plot.seriesColours.map((colour) => (isDark && onDark[colour]) || colour);
    Plotly.update(
      plot,
      { "line.color": shown, "marker.color": shown },
      { ...themed(colours(prefix)), ...more },
    );
  });

  // Words too long for a figure's side go on in further lines, for which it grows.
  const wrapped = (text, room) => {
    const lines = [""];
    text.split(/(?<=[ ,/=_-])/).forEach((part) => {
      const line = lines.at(-1) + part;
      if (line.trimEnd().length * 7.2 > room && lines.at(-1)) lines.push(part);
      else lines[lines.length - 1] = line;
    });
    return lines.map((line) => line.trimEnd()).join("<br>");
  };

  const fit = (plot, data, { xaxis, yaxis }) => {
    plot.ownHeight ??= plot.style.height;
    plot.style.height = plot.ownHeight;
    const [wide, high] = [plot.clientWidth, plot.clientHeight];
    data.filter(({ name }) => name && !name.includes("<")).forEach((series) => {
      series.name = wrapped(series.name, wide - 64);
      if (series.showlegend !== false) plot.style.height = `${plot.offsetHeight + 18 * (series.name.split("<br>").length - 1)}px`;
    });
    [[xaxis, 0.7 * wide], [yaxis, high - 96]].forEach(([axis, room]) => {
      if (axis?.title?.text && !axis.title.text.includes("<")) axis.title.text = wrapped(axis.title.text, room);
    });
  };

  // Names beside points run towards the middle, so that no edge cuts them.
  const turn = (data, { xaxis }) => {
    const place = xaxis?.type === "log" ? Math.log : Number;
    const named = data.filter((series) => series.textposition === "top right" && Array.isArray(series.x));
    const places = named.flatMap((series) => series.x.map(place));
    const middle = (Math.min(...places) + Math.max(...places)) / 2;
    named.forEach((series) => {
      series.textposition = series.x.map((x) => (place(x) > middle ? "top left" : "top right"));
    });
  };

  // Of names that would lie on one another the first stays; pointing at a mark tells every one.
  const clear = (plot) => {
    const placed = [];
    plot.querySelectorAll(".textpoint text").forEach((name) => {
      name.style.visibility = "";
      const box = name.getBoundingClientRect();
      const meets = ({ left, right, top, bottom }) => left < box.right && box.left < right && top < box.bottom && box.top < bottom;
      if (placed.some(meets)) name.style.visibility = "hidden";
      else placed.push(box);
    });
  };

  const fitted = (plot) => {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    fit(plot, data, layout);
    return { data, layout };
  };

  const draw = (plot, { data, layout } = fitted(plot)) => {
    turn(data, layout);
    plot.seriesColours = data.map((series) => series.marker.color);
    // A finger that drags over a figure scrolls the page.
    if (coarse.matches) layout.dragmode = false;
    Plotly.newPlot(plot, data, layout, { responsive: true, displayModeBar: false });
    clear(plot);
    plot.on("plotly_afterplot", () => clear(plot));
  };

  const drawShown = () => {
    const fresh = plots.filter((plot) => !isDrawn(plot) && !plot.closest("details:not([open]), [hidden]"));
    fresh.forEach((plot) => draw(plot));
    restyle("", {}, fresh);
  };
  drawShown();
  // The window may have changed its width while a figure was out of sight.
  const isOutgrown = (plot) => plot.offsetParent && plot.querySelector(".main-svg").clientWidth !== plot.clientWidth;

  // A legend is wrapped to the width it was drawn at; at one that breaks its lines elsewhere it is drawn anew.
  const refit = () => plots.filter((plot) => isDrawn(plot) && plot.offsetParent).forEach((plot) => {
    const before = plot.style.height;
    const fresh = fitted(plot);
    const names = (series) => series.map(({ name }) => name).join();
    if (names(fresh.data) === names(plot.data)) {
      plot.style.height = before;
      return;
    }
    draw(plot, fresh);
    restyle("", {}, [plot]);
  });
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refit, 200);
  });

  document.addEventListener("panelshown", ({ detail: panel }) => {
    const drawn = plots.filter((plot) => isDrawn(plot) && panel?.contains(plot));
    drawShown();
    drawn.filter(isOutgrown).forEach((plot) => Plotly.Plots.resize(plot));
    if (panel) refit();
  });
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
  // What is folded is printed too, save tables too wide for paper, the other choices and, of many runs, their
  // own sections.
  const tooWide = "thead th:nth-child(17)";
  let unfolded = [];
  window.addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open], [name], .brief > *, .contents > *)")];
    unfolded = unfolded.filter((fold) => !fold.querySelector(tooWide));
    unfolded.forEach((fold) => { fold.open = true; });
    drawShown();
    restyle("print-", { width: 640 });
  });
  window.addEventListener("afterprint", () => {
    restyle("", { width: null, autosize: true });
    unfolded.splice(0).forEach((fold) => { fold.open = false; });
  });

  // A saved figure has the colours of paper, whatever the theme of the page.
  const put = (object, path, value) => {
    const keys = path.split(".");
    const last = keys.pop();
    keys.reduce((inner, key) => (inner[key] ??= {}), object)[last] = value;
  };

  const save = (plot, title, format) => {
    const data = structuredClone(plot.data);
    data.forEach((series, place) => {
      put(series, "marker.color", plot.seriesColours[place]);
      if (series.line) put(series, "line.color", plot.seriesColours[place]);
    });
    const layout = structuredClone(plot.layout);
    Object.entries(themed(colours("print-"))).forEach(([path, value]) => put(layout, path, value));
    Object.assign(layout, { paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", autosize: false });
    const filename = title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
    const size = { width: 900, height: Math.max(plot.clientHeight, 360), scale: format === "png" ? 3 : 1 };
    return Plotly.downloadImage({ data, layout }, { format, filename, ...size });
  };

  document.querySelectorAll(".chart").forEach((chart) => {
    const plot = chart.querySelector(":scope > .plot");
    if (!plot) return;
    const title = chart.querySelector(".chart-title").textContent;
    const bar = document.createElement("div");
    bar.className = "save";
    ["svg", "png"].forEach((format) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = format.toUpperCase();
      button.title = `Save as ${button.textContent}`;
      button.setAttribute("aria-label", `${button.title}: ${title}`);
      button.dataset.save = format;
      button.addEventListener("click", () => save(plot, title, format));
      bar.append(button);
    });
    chart.append(bar);
  });

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
