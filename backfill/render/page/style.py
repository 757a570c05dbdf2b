"""How a page looks: light and dark as the reader has it, cards on a phone, all of it on paper."""

STYLE = """
:root {
  --ink: #1c2024; --soft: #57606a; --rule: #dfe3e7; --ground: #ffffff; --raised: #f5f7f9;
  --link: #1a5fc8; --ok: #1a7f45; --warn: #9a6100; --fail: #c0272d; --shade: rgb(28 32 36 / .3);
  --series-1: #2f6fde; --series-2: #b8650f; --series-3: #2c8a55; --series-4: #b3479b;
  --series-5: #8a6d1f; --series-6: #3f7f98; --series-7: #a3464a;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ec; --soft: #a3adb6; --rule: #343b42; --ground: #15181b; --raised: #1f2428;
    --link: #8ab4ff; --ok: #5ec98d; --warn: #f0b45c; --fail: #ff8a85; --shade: rgb(0 0 0 / .7);
    --series-1: #6ea0ff; --series-2: #f0a45c; --series-3: #5ec98d; --series-4: #da82c8;
    --series-5: #d0b45c; --series-6: #8ac4da; --series-7: #e08488;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
.page { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
a { color: var(--link); }
h1 { font-size: 1.1rem; font-weight: 400; margin: 0; color: var(--soft); }
h2 { font-size: 1.2rem; margin: 0; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.now { font-size: 1.7rem; line-height: 1.25; font-weight: 600; margin: .25rem 0 0; }
#request ul, .facts ul { list-style: none; padding: 0; columns: 18rem; color: var(--soft); }
#request strong, .facts strong { color: var(--ink); font-weight: 600; }
nav ul { list-style: none; margin: .5rem 0 0; padding: 0; columns: 9rem; }
nav li { padding: .1rem 0; break-inside: avoid; }
summary { cursor: pointer; margin-top: 2.5rem; padding-bottom: .25rem; }
summary h2 { display: inline; }
section > details > summary { border-bottom: 1px solid var(--rule); }
section > details > div { scroll-margin-top: 4rem; }
section details details > summary { margin: .75rem 0; color: var(--link); }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem;
  margin: 1.25rem 0;
}
.figures div {
  display: flex; flex-direction: column-reverse; justify-content: flex-end;
  background: var(--raised); border-radius: .5rem; padding: .75rem 1rem;
}
.figures dd { margin: 0; font-size: 1.4rem; font-weight: 600; }
.figures dt { color: var(--soft); }
.mark { white-space: nowrap; }
.mark svg { width: 1em; height: 1em; margin-right: .35em; vertical-align: -.12em; }
.mark circle { fill: var(--look); }
.mark path {
  fill: none; stroke: var(--ground); stroke-width: 2; stroke-linecap: round; stroke-linejoin: round;
}
.ok { --look: var(--ok); }
.warn { --look: var(--warn); }
.fail { --look: var(--fail); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
/* What is wider than its place shows a shadow at the side where it goes on. */
.wide {
  overflow-x: auto; margin: .75rem 0;
  background:
    linear-gradient(to right, var(--ground) 50%, transparent) left / 2rem 100% no-repeat local,
    linear-gradient(to left, var(--ground) 50%, transparent) right / 2rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / .75rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / .75rem 100% no-repeat scroll;
}
figure { margin: 1rem 0; }
figure svg { display: block; min-width: 38rem; width: 100%; height: auto; }
.text-overlay text { transform: translateY(-4px); }
figcaption { color: var(--soft); margin-bottom: .5rem; }
.sign { display: none; margin: 0; color: var(--soft); text-align: right; }
table { border-collapse: collapse; font-size: .9rem; }
th, td {
  text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal;
}
th { color: var(--soft); font-weight: 600; }
code, pre { font: .85em/1.5 ui-monospace, monospace; }
pre {
  background: var(--raised); border-radius: .5rem; padding: .75rem 1rem; white-space: pre-wrap;
}
@media screen and (min-width: 76rem) {
  .page {
    max-width: 76rem; display: grid; grid-template-columns: minmax(0, 1fr) 12rem;
    column-gap: 3rem; align-items: start;
  }
  header { grid-column: 1 / -1; }
  main { grid-row: 2; }
  nav { grid-row: 2; grid-column: 2; position: sticky; top: 1rem; margin-top: 2.5rem; }
}
@media screen and (max-width: 42rem) {
  .sign { display: block; }
  td { overflow-wrap: anywhere; }
  .cards thead {
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  }
  .cards, .cards tbody, .cards tr, .cards td { display: block; }
  .cards tr {
    border: 1px solid var(--rule); border-radius: .5rem; padding: .4rem .75rem; margin: .5rem 0;
  }
  .cards td {
    display: flow-root; border: 0; padding: .1rem 0 .1rem 7.5rem; text-align: left !important;
  }
  .cards td::before {
    content: attr(data-label); float: left; width: 7rem; margin-left: -7.5rem; color: var(--soft);
  }
  .cards td[data-label=""] { padding-left: 0; }
  .cards td:empty { display: none; }
}
@media print {
  body { font-size: 10pt; }
  .page { max-width: none; padding: 0; }
  nav { display: none; }
  figure, tr, pre { break-inside: avoid; }
  summary, h3 { break-after: avoid; }
  summary { list-style: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
  figure svg { min-width: 0; }
  .wide { overflow: visible; background: none; }
  th, td { padding-right: .5rem; }
  td:last-child, code { overflow-wrap: anywhere; }
}
@page { margin: 15mm; }
"""
