// Asks for the page again every few seconds and puts the new one in; what a reader opened or scrolled stays as it was.
(() => {
  "use strict";
  const lost = document.getElementById("lost");
  const opened = (main) => [...main.querySelectorAll("details")].map((one) => one.open);
  async function again() {
    const main = document.getElementById("live");
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = page.getElementById("live");
      const before = opened(main);
      [...next.querySelectorAll("details")].forEach((one, i) => { one.open = before[i] || false; });
      main.replaceWith(next);
      document.title = page.title;
      lost.hidden = true;
    } catch (error) {
      lost.hidden = false;
    }
    wait();
  }
  function wait() {
    const seconds = Number(document.getElementById("live").dataset.every);
    if (seconds) setTimeout(again, 1000 * seconds);
  }
  wait();
})();
