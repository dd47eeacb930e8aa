"""How the pages look: light, dark, on a phone and printed, without a font or file from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --panel: #f4f6f8; --ink: #16191d; --soft: #4f5964;
  --line: #cdd4db; --ok: #00694c; --caution: #8a4b00; --refuse: #a83200; --link: #005a92; --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --panel: #1e2328; --ink: #e9edf0; --soft: #a9b4be;
  --line: #3b444d; --ok: #4fd0a5; --caution: #f2b04a; --refuse: #ff8d5c; --link: #74c0f0; --blue: #2f8fd0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
main, header, footer { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; }
footer { padding: 1rem 1rem 3rem; color: var(--soft); }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
p, ul, ol, dl { max-width: 48rem; margin: .5rem 0; }
li { margin: .25rem 0; }
a { color: var(--link); }
.soft { color: var(--soft); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; max-width: none; }
.verdict { border: 1px solid var(--line); border-left: .5rem solid var(--tone); background: var(--panel);
  padding: .75rem 1rem; margin: 1rem 0; }
.verdict > * { max-width: 60rem; }
.verdict > h2 { border: 0; margin: 0; padding: 0; }
.level { color: var(--tone); font-weight: 600; white-space: nowrap; }
.ok { --tone: var(--ok); } .caution { --tone: var(--caution); } .refuse { --tone: var(--refuse); }
.unknown { --tone: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .5rem; max-width: none; }
.facts > div { background: var(--panel); padding: .5rem .75rem; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
.facts dd small { display: block; font-weight: 400; font-size: .8rem; color: var(--soft); }
dl.words dt { font-weight: 600; margin-top: .5rem; }
dl.words dd { margin: 0 0 0 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); gap: 1rem 2rem; }
figure { margin: 1rem 0; max-width: 34rem; min-width: 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; fill: currentColor; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { font-size: .9rem; color: var(--soft); }
figcaption strong { color: var(--ink); display: block; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0; font-size: .9rem; }
.key li { display: flex; align-items: center; gap: .4rem; margin: 0; overflow-wrap: anywhere; }
.key b { width: 1.5rem; height: 1.5rem; flex: none; text-align: center; font-size: .85rem; line-height: 1.5rem;
  color: #000; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .35rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: min(60rem, calc(100vw - 2rem)); }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--line); }
tbody th { font-weight: 500; }
tbody th.name { min-width: 11rem; max-width: 22rem; overflow-wrap: anywhere; }
td.long { min-width: 16rem; max-width: 34rem; overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
thead .number { white-space: normal; min-width: 4.5rem; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .9em;
  overflow-wrap: anywhere; }
pre code { font-size: 1em; }
pre { background: var(--panel); padding: .75rem 1rem; overflow-x: auto; overflow-wrap: normal; max-width: 60rem; }
@media print { :root { color-scheme: light; --page: #ffffff; --panel: #ffffff; --ink: #000000; --soft: #333333;
  --line: #999999; --ok: #00694c; --caution: #8a4b00; --refuse: #a83200; --link: #000000;
  --blue: #0072b2; }
  @page { margin: 15mm; }
  body { font-size: 10pt; }
  nav { display: none; }
  .scroll, pre { overflow: visible; }
  pre { white-space: pre-wrap; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
  tbody th.name, td.long { min-width: 7rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  tr, .verdict, .facts > div { break-inside: avoid; } h2, h3, caption { break-after: avoid; }
  .level, .key b, .verdict { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
