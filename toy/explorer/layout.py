"""The page around the widgets: HTML with named places, and style sheets. Nothing here asks any other host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import panel as pn

# System fonts only: a web font would be a request to somewhere.
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# Inside widgets, which live in shadow trees that the page's own style does not reach.
WIDGETS = f"""
:host {{ font-family: {_FONT}; font-size: 14px; color: #222; }}
label {{ color: #222; font-size: 13px; }}
.bk-input, .bk-btn {{ font-family: inherit; font-size: 14px; min-height: 32px; color: #222; }}
.bk-btn.bk-active {{ background: #005a8f !important; color: #fff !important; }}
.bk-btn:disabled {{ color: #767676; }}
.bk-btn:focus-visible, .bk-input:focus-visible, .noUi-handle:focus-visible, button:focus-visible, a:focus-visible {{
  outline: 3px solid #E69F00; outline-offset: 1px; }}
.noUi-connect {{ background: #0072B2; }}
"""

# Inside HTML panes.
PANES = f"""
:host {{ font-family: {_FONT} !important; font-size: 14px; line-height: 1.45; color: #222; }}
p {{ margin: 4px 0; }}
.status {{ border-left: 6px solid #767676; background: #f4f4f4; padding: 8px 12px; }}
.status.good {{ border-color: #00684c; background: #e9f5f0; }}
.status.bound {{ border-color: #b34e00; background: #fdf1e6; }}
.status.bad {{ border-color: #b00020; background: #fdecee; }}
.wrong {{ color: #9b001c; font-weight: 600; margin: 2px 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
th, td {{ text-align: right; padding: 3px 6px; border-bottom: 1px solid #ddd; font-weight: 400; }}
thead th {{ color: #444; border-bottom: 1px solid #999; }}
th:first-child {{ text-align: left; }}
.scroll {{ overflow-x: auto; }}
.note {{ color: #555; font-size: 12px; }}
.say {{ color: #444; }}
h2 {{ font-size: 16px; margin: 12px 0 2px; }}
h3 {{ font-size: 14px; margin: 6px 0 0; }}
dl {{ margin: 6px 0 0; font-size: 13px; }}
dl div {{ display: flex; justify-content: space-between; gap: 12px; border-bottom: 1px dotted #ccc; padding: 2px 0; }}
dd {{ margin: 0; white-space: nowrap; font-variant-numeric: tabular-nums; }}
pre {{ background: #f4f4f4; padding: 10px; overflow-x: auto; font-size: 12px; margin: 6px 0; }}
a {{ color: #005a8f; }}
.key {{ display: inline-block; width: 26px; height: 0; border-top: 3px solid; vertical-align: middle;
  margin: 0 5px 0 0; }}
.entry {{ display: inline-block; white-space: nowrap; margin-right: 9px; }}
.key.q {{ height: 12px; background: #d0d0d0; border: 0; }}
.key.unwanted {{ border-color: #D55E00; border-top-style: dashed; }}
.key.target {{ border-color: #0072B2; }}
"""

# What is answered at once needs no sign of work: it would flicker.
BUSY = f"""
:host {{ font: 14px {_FONT}; background: #fff; animation: appear 0s 0.2s both; }}
@keyframes appear {{ from {{ opacity: 0; }} to {{ opacity: 1; }} }}
"""

TEMPLATE = """
{% extends base %}
{% block preamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  html, body { background: #fff; color: #222; }
  body { font-family: FONT; font-size: 15px; line-height: 1.45; height: auto; }
  header, .page { max-width: 1360px; margin: 0 auto; padding: 0 16px; }
  header { padding-top: 14px; }
  h1 { font-size: 22px; margin: 0 0 2px; }
  header p { margin: 2px 0 6px; color: #444; font-size: 14px; }
  .busy { position: fixed; top: 8px; right: 16px; z-index: 9; }
  .page { display: grid; grid-template-columns: 330px minmax(0, 1fr); gap: 24px; padding-bottom: 40px; }
  .row { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 0 24px; }
  .row > * { min-width: 0; }
  @media (max-width: 900px) {
    /* One column: status, what is dragged, the settings, and then what they lead to. */
    .page { display: flex; flex-direction: column; gap: 10px; }
    .page main, .row, #target { display: contents; }
    .page aside { order: 3; }
    .charts, .certificate { order: 4; }
    .always { order: 5; }
    .plane, #noise, #compare { order: 2; }
  }
  @media (max-width: 420px) { header, .page { padding: 0 10px; } }
</style>
{% endblock %}
{% block contents %}
<header>
  <h1>What does it cost to unlearn?</h1>
  <p>q is what a model has learned, q<sub>1</sub>, q<sub>2</sub>, … what it should unlearn, p* the optimal target
  without it. Drag a numbered mode, or the squares that set its covariance; everything is solved again at once.</p>
</header>
<div class="busy" role="status">{{ embed(roots.busy) }}</div>
<div class="page">
  <aside aria-label="Settings">{{ embed(roots.settings) }}</aside>
  <main>
    <div class="top">{{ embed(roots.top) }}</div>
    <section id="target" aria-label="Target">
      <div class="row">
        <div class="plane">{{ embed(roots.plane) }}</div>
        <div class="charts">{{ embed(roots.charts) }}</div>
        <div class="certificate">{{ embed(roots.certificate) }}</div>
      </div>
    </section>
    <section id="noise" aria-label="Noise">{{ embed(roots.noise) }}</section>
    <section id="compare" aria-label="Comparison">{{ embed(roots.compare) }}</section>
    <section class="always" aria-label="Take away">{{ embed(roots.save) }}</section>
  </main>
</div>
{{ embed(roots.location) }}
{% endblock %}
""".replace("FONT", _FONT)

# While a point is dragged Bokeh tells the server nothing until the end. This sends it along, as often as the server
# keeps up with: the next one goes when the last was answered.
SEND_WHILE_DRAGGING = """
const now = Date.now();
const mine = (window.__sent_while_dragging ??= {count: 0, at: 0});
const count = answered.data.count[0];
if ((count < mine.count && now - mine.at < 1500) || now - mine.at < 40) return;
for (const source of [modes, handles]) {
  if (source.selected.indices.length > 0) {
    mine.count = count + 1;
    mine.at = now;
    source.setv({data: source.data}, {check_eq: false});
  }
}
"""

# New widgets take a moment to be drawn, on a busy machine many.
NAME_ENTRIES = "for (const wait of [0, 60, 600, 3000, 9000]) setTimeout(window.name_entries, wait);"

# Sliders, the boxes beside them and buttons with a picture have no name that a screen reader could read: they get that
# of the text above them. Widgets live in shadow trees, so it is looked for in their own and in the two around it.
_NAMES = """
<script>
window.name_entries = () => {
  const words = (root) => {
    for (const one of root.querySelectorAll('*')) {
      const text = one.matches('.bk-slider-title, .bk-clearfix, .pn-player-title, label') ? one.textContent.trim() : '';
      const found = text || (one.shadowRoot ? words(one.shadowRoot) : '');
      if (found) return found.replace(/:$/, '');
    }
    return '';
  };
  const named = (one) => one.labels?.length > 0 && one.labels[0].textContent || one.textContent.trim() || one.title;
  const visit = (root) => {
    for (const one of root.querySelectorAll('*')) {
      if (one.shadowRoot) visit(one.shadowRoot);
      if (one.matches('button') && !named(one)) {
        const spin = one.className.match(/bk-spin-btn-(up|down)/);
        one.setAttribute('aria-label', spin ? (spin[1] === 'up' ? 'more' : 'less') : one.className.split(' ')[0]);
      } else if (one.matches('.noUi-handle, input') && !(one.matches('input') && named(one))) {
        let name = one.type === 'checkbox' ? one.nextElementSibling?.textContent ?? '' : '';
        // What is not shown has no text of its own, and would take that of something else.
        for (let k = 0, at = root; k < 3 && at && !name && one.checkVisibility(); k++) {
          name = words(at);
          at = at.host?.getRootNode();
        }
        if (name) one.setAttribute('aria-label', name);
        else one.removeAttribute('aria-label');
      }
    }
  };
  visit(document);
};
for (let wait = 1500; wait < 100000; wait *= 1.5) setTimeout(window.name_entries, wait);
// Panel's location adds an entry to the browser's history at each change: of a drag, hundreds that lead nowhere.
history.pushState = history.replaceState;
</script>
"""
TEMPLATE = TEMPLATE.replace("{% block contents %}", "{% block contents %}" + _NAMES)

# As many to a row as fit. Panels of a row stand on one line, however much is said above each.
_TILES = """
:host { display: grid !important; gap: 12px 20px; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
:host(.pair) { grid-template-columns: repeat(2, minmax(0, 1fr)); max-width: 760px; }
@media (max-width: 900px) {
  :host { gap: 8px; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); }
}
"""


def tiles(pairs: Sequence[tuple[Any, Any]], **settings: Any) -> Any:
    """Pairs of (what is said, figure) side by side."""
    below = ":host { justify-content: flex-end; min-width: 0; }"
    cells = [pn.Column(*pair, stylesheets=[below], sizing_mode="stretch_width", margin=0) for pair in pairs]
    return pn.Column(*cells, stylesheets=[_TILES], sizing_mode="stretch_width", margin=0, **settings)
