"""How the page looks, and the few lines that keep it fresh: both are part of it.

`POLICY` allows these two texts, by their hashes, and nothing else: no other script or style, and
nothing from anywhere else, whatever gets into the page.  They have no `<`, `>` and `&`, which
would be escaped.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1b2430; --faint: #5d6a7a;
  --line: #dde2e9; --mark: #2563b8; --good: #1a7f4b; --warn: #9a6200; --bad: #c0303a;
  --goodish: #e2f4ea; --warnish: #fdf0d8; --badish: #fde7e8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #10151c; --card: #18202a; --ink: #e4e9f0; --faint: #97a4b4; --line: #2b3644;
    --mark: #6ea8fe; --good: #5fd19a; --warn: #f0b94e; --bad: #ff8087;
    --goodish: #15362a; --warnish: #3a2d10; --badish: #43191e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  -webkit-text-size-adjust: 100%; }
header, main, footer { max-width: 75rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1rem; display: flex; flex-wrap: wrap; gap: .4rem .8rem; align-items: center; }
h1 { font-size: 1.25rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .6rem; }
h2 small { font-weight: normal; color: var(--faint); margin-left: .4rem; }
header p { margin: 0; color: var(--faint); flex-basis: 100%; }
a { color: var(--mark); }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .9rem 1rem; margin: 1rem 0; }
.badge { display: inline-block; padding: .05rem .55rem; border-radius: 1rem; font-size: .85rem;
  white-space: nowrap; border: 1px solid currentColor; }
.good { color: var(--good); background: var(--goodish); }
.warn { color: var(--warn); background: var(--warnish); }
.bad { color: var(--bad); background: var(--badish); }
.faint { color: var(--faint); }
.note { margin: 0; padding-left: .7rem; border-left: .25rem solid var(--warn);
  overflow-wrap: anywhere; }
.note.bad { border-color: var(--bad); background: none; }
.plots { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.plot { min-width: 0; }
.plot b { font-size: 1.35rem; font-weight: 600; display: block; line-height: 1.2; }
.plot span { color: var(--faint); font-size: .85rem; }
.plot svg { display: block; width: 100%; height: 2.6rem; margin-top: .3rem; }
svg .bar { fill: var(--mark); } svg .bad { fill: var(--bad); } svg .warn { fill: var(--warn); }
svg .base { stroke: var(--line); stroke-width: 1; }
form { display: flex; gap: .5rem; flex-wrap: wrap; margin: 0 0 .6rem; }
form input { flex: 1 1 14rem; min-width: 0; font: inherit; padding: .45rem .6rem; color: inherit;
  background: var(--paper); border: 1px solid var(--line); border-radius: .4rem; }
form button { font: inherit; padding: .45rem 1rem; border-radius: .4rem; cursor: pointer;
  color: var(--card); background: var(--mark); border: 1px solid var(--mark); }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.upstreams { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
.upstream { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .8rem;
  min-width: 0; }
.upstream h3 { margin: 0 0 .4rem; font-size: .95rem; overflow-wrap: anywhere; }
.upstream .badge { float: right; margin-left: .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .8rem; margin: 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
dl + table { margin-top: .8rem; }
details { margin-top: .4rem; } summary { cursor: pointer; color: var(--faint); }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; font-size: .85rem; color: var(--faint); }
th, td { padding: .35rem .6rem .35rem 0; vertical-align: top; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
tr:first-child th { border-top: 0; padding-top: 0; }
code, .code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace; font-size: .86em; }
.keep { white-space: nowrap; }
footer { padding-bottom: 2rem; color: var(--faint); }
@media (max-width: 44rem) {
  thead { display: none; } tr, td { display: block; } td { border: 0; padding: .05rem 0; }
  tbody tr { border-top: 1px solid var(--line); padding: .5rem 0; }
  tbody tr:first-child { border-top: 0; padding-top: 0; }
  td[data-name]::before { content: attr(data-name) " "; color: var(--faint); }
  td:empty { display: none; } .keep { white-space: normal; } }
"""

# What is open stays open, and the box that one types in stays as it is.
SCRIPT = """
async function fresh() {
  try {
    if (document.hidden) return;
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["head", "live"]) {
      const now = page.getElementById(id);
      for (const each of now.querySelectorAll("details")) {
        const before = document.getElementById(each.id);
        each.open = before !== null ? before.open : false;
      }
      document.getElementById(id).replaceWith(now);
    }
  } catch (error) { /* it may be restarting: the next time */ }
}
setInterval(fresh, 10000);
"""


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(STYLE)}",
        f"script-src {_hash(SCRIPT)}",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
