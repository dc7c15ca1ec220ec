"""The looks of the report's page."""

from __future__ import annotations

from finetune_gateway.reports import charts

STYLE = (
    charts.STYLE
    + """
:root { --wide: 64rem; --error: var(--bad); --warning: #8a5300; --note: #2b5fa8;
  --here: #fff0c2; --frame: #c77700 }
@media (prefers-color-scheme: dark) { :root { --warning: #f0b660; --note: #8ab4f0;
  --here: #4a3a10; --frame: #f0b660 } }
html { scroll-padding-top: .5rem }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .15em }
a:hover { text-decoration-color: currentcolor }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--note); outline-offset: 2px }
.verdict { display: flex; flex-wrap: wrap; gap: .2rem .5rem; align-items: baseline;
  border-left: .4rem solid var(--verdict); padding: .5rem .9rem; background: var(--card) }
.verdict b, .sign { color: var(--verdict) } .sign { font-weight: 700 }
.accepted { --verdict: var(--good) } .warned { --verdict: var(--warning) }
.rejected { --verdict: var(--error) }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 1.2rem 0 0 }
.finding { border-left: .25rem solid var(--of); padding: .1rem 0 .1rem .9rem; margin: 1rem 0 }
.finding h3, .row h3 { margin: 0 0 .2rem; font-size: 1rem } .finding p { margin: .15rem 0 }
.finding h3 a { color: var(--of) } .finding h3 { font-weight: 600 }
.finding h3 code, .finding h3 .soft { font-weight: 400; font-size: .9rem }
.error { --of: var(--error) } .warning { --of: var(--warning) } .note { --of: var(--note) }
.lines a { margin-right: .2rem; font-variant-numeric: tabular-nums }
.lines .soft { margin-left: .6rem }
.row { border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; margin: .9rem 0 }
.row:target, .finding:target { outline: 3px solid var(--note); outline-offset: 3px }
.tags { list-style: none; padding: 0; margin: 0 0 .6rem; display: flex; flex-wrap: wrap;
  gap: .1rem 1rem; font-size: .9rem } .tags li::before { content: "\\25CF  "; color: var(--of) }
.turn { display: grid; grid-template-columns: 6.5rem 1fr; gap: .6rem; padding: .35rem 0;
  align-items: baseline;
  border-top: 1px solid var(--line) } .turn:first-child { border-top: 0 }
.role { color: var(--soft); font-size: .9rem } .assistant > .role { color: var(--good) }
.body, .fields { min-width: 0 }
.text { white-space: pre-wrap; overflow: hidden; margin: .1rem 0; unicode-bidi: isolate }
.text span { unicode-bidi: isolate }
.call { border-left: 2px solid var(--line); padding-left: .6rem; margin: .3rem 0 }
.call .text, .raw, details .text { font: .86rem/1.5 ui-monospace, monospace }
.raw { white-space: pre-wrap; overflow: hidden; background: var(--card); padding: .6rem;
  margin: .3rem 0; border-radius: 6px }
.key { color: var(--soft); font-size: .9rem; margin: .4rem 0 0 } .extra { font-size: .9rem;
  margin: .15rem 0 } .cut { color: var(--soft); font-size: .88rem; margin: .2rem 0 }
mark { background: var(--here); color: inherit; outline: 1px solid var(--frame);
  border-radius: 2px; -webkit-box-decoration-break: clone; box-decoration-break: clone }
.text > mark { display: block; padding: 0 .2rem; outline-offset: -1px }
.around { outline: 2px dashed var(--frame);
  outline-offset: 3px; border-radius: 2px } .here { outline-width: 2px }
.masked { background: var(--line); border-radius: 3px; padding: 0 .2em }
.odd { color: var(--error); font: .86em ui-monospace, monospace }
.unseen { position: absolute; clip-path: inset(50%); width: 1px;
  height: 1px; overflow: hidden }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding: .2rem 0 }
h3 + svg, figure { margin: .4rem 0 } figure { margin: 0 0 1.6rem }
figcaption { color: var(--soft); font-size: .9rem }
.rules td, .rules th { white-space: nowrap } .rules td:nth-child(2) { white-space: normal }
@media (max-width: 40rem) { .turn { grid-template-columns: 1fr; gap: 0 }
  .rules td { white-space: normal } .bars { font-size: .85rem }
  .bars td:last-child { width: 18% } }
@media print { :root { color-scheme: light; --ground: #ffffff; --text: #000000; --soft: #444444;
  --line: #bbbbbb; --card: #ffffff; --good: #16734a; --bad: #b3261e; --warning: #8a5300;
  --note: #2b5fa8; --here: #fff0c2; --frame: #c77700; --bar: #4a7fc1 }
  body { font-size: 11pt; padding: 0 } nav { display: none }
  .finding, .turn, figure, tr { break-inside: avoid } h2, h3 { break-after: avoid } }
"""
)
