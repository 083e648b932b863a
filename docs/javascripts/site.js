// What scrolls within itself, code and wide tables, can be reached and scrolled by the keyboard.
window.addEventListener("load", () => {
  for (const part of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap, .md-typeset table")) {
    part.tabIndex = 0;
  }
});
