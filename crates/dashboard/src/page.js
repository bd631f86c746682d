"use strict";
// Renews the figures in place, so that scrolling and selection outlive a renewal.
const main = document.getElementById("figures");
setInterval(async () => {
  try {
    const answer = await fetch("/figures", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    main.innerHTML = await answer.text();
    main.classList.remove("stale");
  } catch {
    main.classList.add("stale");
  }
}, 5000);
