"use strict";
{
  const root = document.documentElement, button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remember = (value) => { try { localStorage.setItem("crab-theme", value); } catch { /* a file may not store */ } };
  const recall = () => { try { return localStorage.getItem("crab-theme"); } catch { return null; } };
  const chosen = recall();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    remember(root.dataset.theme);
  });
  for (const audio of document.querySelectorAll("audio")) {
    const axis = audio.closest(".item").querySelector(".axis"), head = axis.querySelector(".playhead");
    const seconds = Number(axis.dataset.seconds);
    const move = () => {
      head.hidden = false;
      head.style.left = `${Math.min(audio.currentTime / seconds, 1) * 100}%`;
      if (!audio.paused) requestAnimationFrame(move);
    };
    audio.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
      move();
    });
    audio.addEventListener("seeked", move);
    axis.style.cursor = "pointer";
    axis.addEventListener("click", (event) => {
      const box = axis.getBoundingClientRect();
      audio.currentTime = ((event.clientX - box.left) / box.width) * seconds;
      audio.play();
    });
  }
}
