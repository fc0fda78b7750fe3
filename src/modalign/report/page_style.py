"""The page's style sheet: system fonts, light and dark, phone and paper."""

STYLE = """
:root { color-scheme: light dark; --text: #1c2126; --soft: #5b6670; --line: #d9dee3; --ground: #ffffff;
  --panel: #f5f7f9; --accent: #0a5c9e; --warn: #8a4b00; --warn-ground: #fff4e2; --bad: #a11a1a;
  --rank: 10, 92, 158; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --soft: #9aa6b1; --line: #333c45; --ground: #14181c;
  --panel: #1c2228; --accent: #7cbcf0; --warn: #ffc873; --warn-ground: #33270f; --bad: #ff9a94;
  --rank: 124, 188, 240; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.layout { max-width: 88rem; margin: 0 auto; padding: 0 1.25rem 4rem; }
@media (min-width: 70rem) {
  .layout { display: grid; grid-template-columns: 15rem minmax(0, 1fr); column-gap: 3rem; }
  header { grid-column: 2; }
  nav { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; grid-column: 1; grid-row: 1 / span 2;
    align-self: start; padding-top: 2.6rem; }
}
main { min-width: 0; }
h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.9rem; margin: 2.2rem 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.45rem; margin: 3.4rem 0 .8rem; padding-top: .9rem; border-top: 2px solid var(--text); }
h3 { font-size: 1.15rem; margin: 2.6rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1.8rem 0 .3rem; }
h2, h3, h4 { scroll-margin-top: .6rem; }
h3 code, h3 .tag { font-size: .95em; }
p, li, dd, .wide-text { max-width: 46rem; }
a { color: var(--accent); text-underline-offset: .15em; }
code, pre { font: .875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { background: var(--panel); padding: .9rem 1rem; overflow-x: auto; border-radius: 4px; overflow-wrap: normal; }
small, .soft, figcaption { color: var(--soft); }
.lead { font-size: 1.1rem; color: var(--soft); margin-top: 0; }
nav { font-size: .9rem; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav ul ul { margin: .1rem 0 .5rem; padding-left: .8rem; border-left: 1px solid var(--line); }
nav a { color: inherit; text-decoration: none; display: block; padding: .14rem 0; overflow-wrap: anywhere; }
nav a:hover { color: var(--accent); text-decoration: underline; }
nav ul ul a { color: var(--soft); }
nav summary { font-weight: 600; cursor: pointer; padding: .5rem 0; }
.banner { background: var(--warn-ground); border-left: 4px solid var(--warn); padding: .7rem 1rem; margin: 1.2rem 0; }
.banner p { margin: 0; max-width: none; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.2rem, 1fr)); margin: 1.4rem 0; padding: 0;
  border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
.facts div { padding: .7rem .8rem .7rem 0; }
.facts dt { margin: 0; font-size: .8rem; color: var(--soft); }
.facts dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3; }
.scroll { overflow-x: auto; margin: .6rem 0; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: separate; border-spacing: 0; font-size: .875rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .5rem; }
caption > span { display: block; position: sticky; left: 0; width: fit-content;
  max-width: min(46rem, calc(100vw - 2.5rem)); font-weight: 600; }
caption small { font-weight: 400; display: block; }
th, td { padding: .38rem .8rem .38rem .3rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th, thead td { border-bottom: 1.5px solid var(--text); vertical-align: bottom; background: var(--ground); }
thead tr:last-child th { min-width: 5.5rem; }
figure.result thead tr:last-child th[scope=col]:not(:first-child) { min-width: 8rem; }
thead small { font-weight: 400; }
dt { margin-top: .7rem; }
dd { margin-left: 1.2rem; }
sup { line-height: 0; }
thead tr:not(:last-child) > * { border-bottom: 0; color: var(--soft); font-weight: 500; }
th[scope=row], thead tr > :first-child { position: sticky; left: 0; background: var(--ground); z-index: 1;
  font-weight: 500; min-width: 7.5rem; max-width: 16rem; }
thead tr > :first-child { z-index: 2; }
thead button { all: unset; cursor: pointer; font-weight: 600; }
thead button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th[aria-sort] button::after { content: " \\25B2"; font-size: .7em; color: var(--accent); }
th[aria-sort=descending] button::after { content: " \\25BC"; }
tr.group th { font-size: .8rem; color: var(--soft); font-weight: 600; padding-top: .9rem; background: var(--ground); }
tr.proposed > *, tr.proposed th[scope=row] { background: var(--panel); }
tr.proposed th[scope=row] { font-weight: 700; }
tr.reference th[scope=row], tr.reference .value { font-style: italic; }
tbody tr:hover > * { background: var(--panel); }
td { white-space: nowrap; }
td.text, td.missing { white-space: normal; min-width: 8.5rem; max-width: 34rem; }
td.missing > em { color: var(--soft); font-style: normal; }
td .warning { display: block; color: var(--bad); font-style: normal; font-size: .8rem; white-space: normal; }
td small { font-size: .78rem; }
td .printed { border-top: 1px dotted var(--line); display: inline-block; margin-top: .15rem; }
td .printed .hint { font-variant: small-caps; }
td.best { box-shadow: inset 3px 0 0 var(--accent); padding-left: .55rem; }
td.rank { background: rgba(var(--rank), calc(var(--share) * .38)); min-width: 4rem; }
.direction { color: var(--soft); }
figure { margin: 1.4rem 0 2.2rem; }
figcaption { font-size: .85rem; max-width: 52rem; margin-top: .5rem; }
figure.plot img { width: 100%; height: auto; display: block; background: #fff; padding: 6px; border-radius: 4px; }
figure.result .warning { background: var(--warn-ground); border-left: 4px solid var(--warn); padding: .5rem .9rem;
  font-size: .82rem; max-width: 52rem; margin: 0 0 .9rem; }
figure.result .warning strong { font-weight: 500; }
.footnotes { font-size: .82rem; color: var(--soft); padding-left: 1.1rem; margin: .5rem 0 0; }
.failed { color: var(--bad); }
.tag { font-size: .78rem; font-weight: 500; border: 1px solid currentColor; border-radius: 3px; padding: 0 .35rem;
  white-space: nowrap; }
.tag.phantom { color: var(--warn); }
.tag.real { color: var(--accent); }
details { margin: 1rem 0; }
details > summary { cursor: pointer; font-weight: 600; }
footer { grid-column: 2; margin-top: 3rem; font-size: .85rem; color: var(--soft); }
@media (max-width: 40rem) {
  h1 { font-size: 1.5rem; }
  .layout { padding: 0 1rem 3rem; }
  figure.plot img { max-width: none; }
  th[scope=row], thead tr > :first-child { max-width: 9rem; overflow-wrap: anywhere; }
}
@media print {
  :root { --text: #000; --soft: #444; --line: #bbb; --ground: #fff; --panel: #f3f3f3; --accent: #000; }
  body { font-size: 10pt; }
  nav { display: none; }
  .layout { display: block; max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  figure.plot img { min-width: 0 !important; }
  table { font-size: 7.5pt; }
  th[scope=row], thead tr > :first-child { position: static; }
  h2 { break-before: page; }
  tr, figure.plot { break-inside: avoid; }
}
"""
