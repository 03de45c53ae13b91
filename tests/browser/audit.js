// Checks of an open page. Each returns what it finds fault with, as texts; an empty list is well.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const named = (element) => {
    const id = element.id ? `#${element.id}` : "";
    const words = (element.getAttribute("aria-label") || element.textContent).trim().replace(/\s+/g, " ");
    return `${element.tagName.toLowerCase()}${id}.${element.getAttribute("class") || ""} "${words.slice(0, 60)}"`;
  };
  const hasBox = (element) => {
    const { width, height } = element.getBoundingClientRect();
    return width + height > 0;
  };

  const references = ["aria-labelledby", "aria-describedby", "aria-controls", "for"];
  const nameOf = (element) => {
    const labels = (element.getAttribute("aria-labelledby") || "").split(/\s+/).filter(Boolean);
    const byLabel = labels.map((id) => document.getElementById(id)?.textContent || "").join(" ");
    const around = element.labels?.length ? element.labels[0].textContent : "";
    return (element.getAttribute("aria-label") || byLabel || around || element.textContent || element.title).trim();
  };

  // Colours, as [red, green, blue, alpha] with all but alpha up to 255.
  const channels = (colour) => {
    const [red, green, blue, alpha = 1] = (colour.match(/[\d.]+(e-\d+)?/g) || [0, 0, 0, 0]).map(Number);
    const scale = colour.startsWith("color(srgb") ? 255 : 1;
    return [red * scale, green * scale, blue * scale, alpha];
  };
  const over = (front, back) => {
    const [red, green, blue, alpha] = front;
    return [red, green, blue].map((value, at) => value * alpha + back[at] * (1 - alpha)).concat(1);
  };
  const groundOf = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const colour = channels(getComputedStyle(each).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((back, front) => over(front, back), [255, 255, 255, 1]);
  };
  const luminance = (colour) => {
    const [red, green, blue] = colour.slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((first, second) => second - first);
    return (high + 0.05) / (low + 0.05);
  };
  const ownText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());

  return {
    // The document is no wider than the window.
    overflow() {
      const wide = document.documentElement.clientWidth;
      if (document.documentElement.scrollWidth <= wide) return [];
      const out = all("body *").filter((each) => isShown(each) && each.getBoundingClientRect().right > wide + 1);
      return [`${document.documentElement.scrollWidth} px in ${wide}`, ...out.slice(0, 5).map(named)];
    },

    // What is cut off at an edge of what cannot be scrolled.
    cut() {
      return all(".card, .note, .warnings, figcaption, h1, h2, h3, h4, [role=tab]").filter((each) =>
        isShown(each) && !each.closest(".hidden") && each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0,
      ).map(named);
    },

    // Each figure in sight has something drawn in it, within the figure.
    figures() {
      return all("div.plot").filter(isShown).filter((plot) => {
        const marks = all(":is(.scatterlayer, .barlayer, .heatmaplayer) :is(path, image)", plot);
        const svg = plot.querySelector("svg.main-svg");
        return !svg || !marks.some(hasBox) || Math.abs(svg.clientWidth - plot.clientWidth) > 1;
      }).map(named);
    },

    // Words in a figure are whole, and do not lie over each other.
    labels() {
      return all("div.plot").filter(isShown).flatMap((plot) => {
        const edge = plot.getBoundingClientRect();
        const texts = all("svg :is(.xtick, .ytick, .legend, .annotation, .infolayer) text", plot).filter((each) => hasBox(each) && isShown(each));
        const boxes = texts.map((each) => each.getBoundingClientRect());
        const isOut = ({ left, right, top, bottom }) =>
          left < edge.left - 2 || right > edge.right + 2 || top < edge.top - 2 || bottom > edge.bottom + 2;
        const isOver = (one, other) =>
          Math.min(one.right, other.right) - Math.max(one.left, other.left) > 2
          && Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 4;
        const beside = all("svg .textpoint text", plot).filter((each) => hasBox(each) && isOut(each.getBoundingClientRect()));
        const words = (at) => `"${texts[at].textContent}" in ${named(plot)}`;
        return beside.map((each) => `cut: ${each.textContent} in ${named(plot)}`).concat(boxes.flatMap((box, at) => [
          ...(isOut(box) ? [`cut: ${words(at)}`] : []),
          ...boxes.flatMap((other, place) => (place > at && isOver(box, other) ? [`over "${texts[place].textContent}": ${words(at)}`] : [])),
        ]));
      });
    },

    tables() {
      const bare = all("table").filter((table) => !table.caption?.textContent.trim()).map((each) => `no caption: ${named(each)}`);
      const cells = all("th").filter((cell) => !["row", "col", "rowgroup", "colgroup"].includes(cell.scope));
      const uneven = all("table").filter((table) => {
        const widths = [...table.rows].map((row) => [...row.cells].reduce((sum, cell) => sum + cell.colSpan, 0));
        return new Set(widths).size > 1;
      });
      return [...bare, ...cells.map((each) => `no scope: ${named(each)}`), ...uneven.map((each) => `uneven: ${named(each)}`)];
    },

    headings() {
      const shown = all("h1, h2, h3, h4, h5, h6").filter(isShown);
      const levels = shown.map((each) => Number(each.tagName[1]));
      const skips = shown.filter((each, at) => levels[at] > (levels[at - 1] || 0) + 1);
      const tops = levels.filter((level) => level === 1).length;
      return [...(tops === 1 ? [] : [`${tops} headings of level 1`]), ...skips.map((each) => `skips a level: ${named(each)}`)];
    },

    names() {
      const ids = all("[id]").map((each) => each.id);
      const twice = ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => `id twice: ${id}`);
      const lost = references.flatMap((name) => all(`[${name}]`).flatMap((each) =>
        each.getAttribute(name).split(/\s+/).filter((id) => !document.getElementById(id)).map((id) => `${name} to nothing: ${id}`),
      ));
      const links = all("a[href^='#']").filter((each) => !document.getElementById(each.hash.slice(1)));
      const images = all("img").filter((each) => !each.hasAttribute("alt"));
      const controls = all("button, select, input, summary, a[href], [role=tab], [role=img], [role=region]").filter((each) => !nameOf(each));
      return [
        ...twice, ...lost, ...links.map((each) => `link to nothing: ${named(each)}`),
        ...images.map((each) => `no alt: ${named(each)}`), ...controls.map((each) => `no name: ${named(each)}`),
      ];
    },

    // What scrolls sideways can be reached with the keyboard.
    scrolling() {
      return all("body *").filter((each) => {
        const style = getComputedStyle(each);
        const scrolls = ["auto", "scroll"].includes(style.overflowX) && each.scrollWidth > each.clientWidth + 1;
        return isShown(each) && scrolls && each.tabIndex < 0 && !each.querySelector("a, button, [tabindex='0']");
      }).map(named);
    },

    // Buttons that a finger can hit: WCAG 2.2, success criterion 2.5.8.
    targets() {
      return all("button, select, input, summary, [role=tab]").filter(isShown).filter((each) => {
        const { width, height } = each.getBoundingClientRect();
        return width < 24 || height < 24;
      }).map(named);
    },

    // Text against its ground: WCAG 2.2, success criterion 1.4.3.
    contrast() {
      const poor = (element, colour) => {
        const ground = groundOf(element);
        const style = getComputedStyle(element);
        const size = parseFloat(style.fontSize);
        const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        const found = contrast(over(channels(colour), ground), ground);
        return found < (isLarge ? 3 : 4.5) ? `${found.toFixed(2)}: ${named(element)}` : null;
      };
      const words = all("body *").filter((each) => isShown(each) && ownText(each) && !each.closest("svg, script, style, .hidden"));
      const drawn = all("div.plot svg text").filter((each) => isShown(each) && !each.closest(".heatmaplayer"));
      return [
        ...words.map((each) => poor(each, getComputedStyle(each).color)),
        ...drawn.map((each) => poor(each, getComputedStyle(each).fill)),
      ].filter(Boolean);
    },
  };
})()
