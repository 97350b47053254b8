// Before anything is drawn: the theme that was chosen, so that the page doesn't flash.
try {
  const theme = localStorage.getItem("lathe.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {}
