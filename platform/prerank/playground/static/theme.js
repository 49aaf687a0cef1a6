// Light, dark, or as the system has it. No module: it runs before the page is drawn.
(() => {
  const KEY = "playground-theme";
  const NEXT = { auto: "light", light: "dark", dark: "auto" };
  let theme = localStorage.getItem(KEY) ?? "auto";
  const show = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
  };
  show();
  addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      theme = NEXT[theme] ?? "auto";
      localStorage.setItem(KEY, theme);
      show();
    });
  });
})();
