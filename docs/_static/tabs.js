// A link to an object in a tab, such as #flax_spatialdrop.nnx.Dropout, opens that tab.
function openTab() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const panel = target && target.closest(".sd-tab-content");
  if (panel) {
    panel.previousElementSibling.click();
    target.scrollIntoView();
  }
}

window.addEventListener("hashchange", openTab);
window.addEventListener("load", openTab);
