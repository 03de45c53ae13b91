// Parts of a run as tabs; without this script, and on paper, they follow one another.
(() => {
  "use strict";
  const bars = [...document.querySelectorAll("[data-tabs]")];
  const tabsOf = (bar) => [...bar.querySelectorAll("button")];
  const panelOf = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
  const isChosen = (tab) => tab.getAttribute("aria-selected") === "true";

  const choose = (chosen) => {
    tabsOf(chosen.parentElement).forEach((tab) => {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      panelOf(tab).hidden = tab !== chosen;
    });
    // Figures that were out of sight have their width only now.
    document.dispatchEvent(new CustomEvent("panelshown", { detail: panelOf(chosen) }));
  };

  // By hand: keeps the tab in sight, and in the address for a reload or a link.
  const turnTo = (tab) => {
    choose(tab);
    const bar = tab.parentElement;
    bar.scrollLeft = tab.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2;
    if (bar.parentElement.getBoundingClientRect().top < 0) {
      bar.parentElement.scrollIntoView({ behavior: "instant" });
    }
    history.replaceState(null, "", `#${panelOf(tab).id}`);
  };

  const steps = {
    ArrowRight: (at, number) => (at + 1) % number,
    ArrowLeft: (at, number) => (at + number - 1) % number,
    Home: () => 0,
    End: (at, number) => number - 1,
  };

  const onKey = (event) => {
    const tabs = tabsOf(event.currentTarget);
    const at = tabs.indexOf(event.target);
    if (at < 0 || !(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const tab = tabs[steps[event.key](at, tabs.length)];
    tab.focus({ preventScroll: true });
    turnTo(tab);
  };

  bars.forEach((bar) => {
    bar.setAttribute("role", "tablist");
    bar.hidden = false;
    tabsOf(bar).forEach((tab) => {
      const panel = panelOf(tab);
      tab.setAttribute("role", "tab");
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      panel.tabIndex = 0;
      tab.addEventListener("click", () => turnTo(tab));
    });
    bar.addEventListener("keydown", onKey);
    choose(tabsOf(bar)[0]);
  });

  // A link into a part opens its tab.
  const follow = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const panel = target && target.closest(".panel");
    const tab = panel && document.getElementById(panel.getAttribute("aria-labelledby"));
    if (tab && !isChosen(tab)) choose(tab);
  };
  window.addEventListener("hashchange", follow);
  follow();

  const everyTab = () => bars.flatMap(tabsOf);
  window.addEventListener("beforeprint", () => {
    everyTab().forEach((tab) => { panelOf(tab).hidden = false; });
    document.dispatchEvent(new CustomEvent("panelshown"));
  });
  window.addEventListener("afterprint", () => everyTab().forEach((tab) => {
    panelOf(tab).hidden = !isChosen(tab);
  }));
})();
