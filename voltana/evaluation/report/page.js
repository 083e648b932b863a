"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  // Colours are written as c0 to c6, ink; here they become those of the theme.
  const coloured = (value, of) => {
    if (typeof value === "string") return /^(c[0-6]|ink)$/.test(value) ? of(value) : value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, of));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) =>
        [key, ["x", "y", "text", "name"].includes(key) ? item : coloured(item, of)]));
    return value;
  };

  const draw = (div) => {
    const chart = charts[div.id];
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue("--" + name).trim();
    const narrow = div.clientWidth < 560;
    const layout = coloured(chart.layout, of);
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name)))
      layout[key] = { gridcolor: of("rule"), zerolinecolor: of("rule"), linecolor: of("rule"),
        automargin: true, fixedrange: true, ...layout[key] };
    const given = Object.keys(chart.layout);
    for (const key of ["xaxis", "yaxis"]) if (!given.includes(key)) layout[key] = { automargin: true };
    Plotly.react(div, coloured(chart.traces, of), {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
      font: { color: of("ink"), size: narrow ? 11 : 13, family: "inherit" },
      margin: { l: narrow ? 48 : 64, r: 12, t: 12, b: 48 },
      legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0, font: { size: narrow ? 10 : 12 } },
      hoverlabel: { bgcolor: of("panel"), font: { color: of("ink") } },
      ...layout,
    }, { displayModeBar: false, responsive: true, showTips: false });
  };

  // Paper is white, and what can be opened on a screen has to lie open on it.
  let printing = false;
  let opened = [];
  window.addEventListener("beforeprint", () => {
    printing = true;
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => { details.open = true; });
    paint();
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    opened.forEach((details) => { details.open = false; });
    paint();
  });

  const visible = () => [...document.querySelectorAll("figure:not([hidden]) .chart")];
  const paint = () => {
    const chosen = theme.value || (system.matches ? "dark" : "light");
    root.dataset.theme = printing ? "light" : chosen;
    visible().forEach(draw);
  };
  theme.addEventListener("change", paint);
  system.addEventListener("change", paint);
  document.querySelectorAll("select[data-choice]").forEach((select) => {
    select.addEventListener("change", () => {
      const figures = select.closest("section").querySelectorAll("figure");
      figures.forEach((figure, place) => { figure.hidden = place !== select.selectedIndex; });
      visible().filter((div) => select.closest("section").contains(div)).forEach(draw);
    });
  });
  paint();
})();
